package registry

import (
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// Login opens one registry with a name and a password.
type Login struct {
	// Host, with a port if it has one; also as Docker writes it, with a scheme and
	// a path.
	Registry, Username, Password string
}

// Logins gives a keychain that has these and asks next for other registries; a
// nil next has none. Of several for one registry the last counts.
func Logins(logins []Login, next authn.Keychain) authn.Keychain {
	if next == nil {
		next = authn.NewMultiKeychain()
	}
	byHost := make(map[string]authn.Authenticator, len(logins))
	for _, l := range logins {
		byHost[loginHost(l.Registry)] = authn.FromConfig(authn.AuthConfig{Username: l.Username, Password: l.Password})
	}
	return loginKeychain{byHost, next}
}

// Ambient gives the keychain of clients that are made without one: what this
// process's environment and files have. Arguments are as in Options.
func Ambient(aws AWS, getenv func(string) string, warn func(string)) authn.Keychain {
	return newKeychain(aws, getenv, warn)
}

type loginKeychain struct {
	byHost map[string]authn.Authenticator
	next   authn.Keychain
}

// Resolve implements authn.Keychain.
func (k loginKeychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	if auth, ok := k.byHost[loginHost(target.RegistryStr())]; ok {
		return auth, nil
	}
	return k.next.Resolve(target)
}

// loginHost gives the host of a registry, by whichever of its names.
func loginHost(registry string) string {
	if _, rest, ok := strings.Cut(registry, "://"); ok {
		registry = rest
	}
	host, _, _ := strings.Cut(registry, "/")
	switch host = strings.ToLower(host); host {
	case "docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return name.DefaultRegistry
	}
	return host
}
