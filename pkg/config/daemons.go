package config

import (
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/quote"
)

// daemonSchemes are how BuildKit's client reaches a daemon.
var daemonSchemes = []string{"unix", "tcp", "docker-container", "podman-container", "kube-pod"}

// BadAddress says what is wrong with the address of a BuildKit daemon, with a
// hint; problem is empty if nothing is. Over plain tcp every step of a
// Dockerfile could give the daemon orders, so a tcp address needs certificates
// on both sides, or Insecure.
func (b BuildKit) BadAddress(address string) (problem, hint string) {
	const shape = "unix:///path, tcp://host:port, docker-container://name, podman-container://name or kube-pod://pod?namespace=name"
	u, err := url.Parse(address)
	switch {
	case address == "":
		return "is empty", shape
	case err != nil || strings.ContainsAny(address, " \t\r\n"):
		return "is no address", shape
	case !slices.Contains(daemonSchemes, u.Scheme):
		return "has none of the schemes that BuildKit's client knows", shape
	case u.User != nil || u.Fragment != "":
		return "has a user or a fragment", shape
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") || u.RawQuery != "" {
			return "wants an absolute path", "unix:///run/buildkit/buildkitd.sock"
		}
	case "tcp":
		if host, port, err := net.SplitHostPort(u.Host); err != nil || host == "" || port == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return "wants a host and a port", "tcp://buildkit:1234"
		}
		if !b.Insecure && (b.CACert == "" || b.Cert == "" || b.Key == "") {
			return "is plain tcp, over which every step of a Dockerfile can give the daemon orders", "set ca_cert, cert and key of buildkit, or insecure: true"
		}
	default:
		if u.Hostname() == "" || u.Port() != "" || strings.HasPrefix(u.Host, "-") || strings.Trim(u.Path, "/") != "" {
			return "wants the name of a container or a pod", shape
		}
	}
	return "", ""
}

// daemons judges the buildkit mapping of pipegen.yaml.
func (c checker) daemons(b BuildKit) {
	seen := map[string]bool{}
	for i, address := range b.Addresses {
		if problem, hint := b.BadAddress(address); problem != "" {
			c.fault("bad-address", hint, at("buildkit", "addresses", i), "the address %s %s", show(quote.URL(address)), problem)
		} else if seen[address] {
			c.fault("duplicate-value", "", at("buildkit", "addresses", i), "%s is named twice in addresses", show(address))
		}
		seen[address] = true
	}
	files := []struct{ key, value string }{{"ca_cert", b.CACert}, {"cert", b.Cert}, {"key", b.Key}}
	some := slices.ContainsFunc(files, func(f struct{ key, value string }) bool { return f.value != "" })
	for _, f := range files {
		switch {
		case some && f.value == "":
			c.fault("missing-key", "ca_cert, cert and key go together", at("buildkit"), "buildkit has no %s", f.key)
		case strings.HasPrefix(f.value, "$") && !isEnvName(f.value[1:]):
			c.fault("bad-path", "a path, or $NAME for a variable that holds one", at("buildkit", f.key), "%s is no name of an environment variable", f.key)
		case strings.Contains(f.value, "-----BEGIN"):
			// It may be the key itself, written in the wrong place.
			c.fault("bad-path", "a path, or $NAME for a variable that holds one", at("buildkit", f.key), "%s is no path", f.key)
		}
	}
}
