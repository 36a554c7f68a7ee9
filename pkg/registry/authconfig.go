package registry

import (
	"encoding/json"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// authVariable holds a Docker config.json, of which auths counts, as Docker's
// own client and GitLab's runners read it: for jobs that have no such file.
const authVariable = "DOCKER_AUTH_CONFIG"

// parseAuths reads the auths of a Docker config.json.
func parseAuths(text string) (map[string]authn.AuthConfig, error) {
	var config struct {
		Auths map[string]authn.AuthConfig `json:"auths"`
	}
	err := json.Unmarshal([]byte(text), &config)
	return config.Auths, err
}

// fromVariable gives what the variable has for a repository or its registry;
// nil: nothing.
func (k *keychain) fromVariable(target authn.Resource) authn.Authenticator {
	text := k.getenv(authVariable)
	if text == "" {
		return nil
	}
	auths, err := parseAuths(text)
	if err != nil {
		k.warnOnce("$" + authVariable + " is no Docker config.json, and is not used") // what is wrong with it may be a secret
		return nil
	}
	for _, key := range []string{target.String(), target.RegistryStr(), "https://" + target.RegistryStr()} {
		if target.RegistryStr() == name.DefaultRegistry && key == target.RegistryStr() {
			key = authn.DefaultAuthKey
		}
		if auth := auths[key]; auth != (authn.AuthConfig{}) {
			return authn.FromConfig(auth)
		}
	}
	return nil
}
