package config

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
)

// Sign says how what is published is signed, as cosign signs.
type Sign struct {
	// Private key: a file relative to the root (PEM, or cosign's own), env://NAME for a variable that holds it, or awskms:///KEY.
	Key string `yaml:"key,omitempty" json:"key,omitempty"`
	// Variable with the password of cosign's key; default: COSIGN_PASSWORD.
	PasswordEnv string `yaml:"password_env,omitempty" json:"password_env,omitempty"`
	// ARNs of roles for a key in KMS, each assumed with what the one before gave; the last one signs.
	AssumeRole []string `yaml:"assume_role,omitempty" json:"assume_role,omitempty"`
	// External id that the roles ask for.
	ExternalID string `yaml:"external_id,omitempty" json:"external_id,omitempty"`
	// Region of a key in KMS whose ARN is not given, and of the STS that gives the roles; default: AWS_REGION.
	Region string `yaml:"region,omitempty" json:"region,omitempty"`
	// Signs with the CI's identity instead of a key: Fulcio gives a certificate of some minutes.
	Keyless bool `yaml:"keyless,omitempty" json:"keyless,omitempty"`
	// Variable with the identity token; default: SIGSTORE_ID_TOKEN, and in GitHub its own service.
	TokenEnv string `yaml:"token_env,omitempty" json:"token_env,omitempty"`
	// Audience of the identity token; default: sigstore.
	Audience string `yaml:"audience,omitempty" json:"audience,omitempty"`
	// URL of Fulcio; default: https://fulcio.sigstore.dev.
	Fulcio string `yaml:"fulcio,omitempty" json:"fulcio,omitempty"`
	// URL of the log Rekor; default: https://rekor.sigstore.dev for keyless without a timestamp, else none.
	Rekor string `yaml:"rekor,omitempty" json:"rekor,omitempty"`
	// URL of an authority for timestamps (RFC 3161); default: none.
	Timestamp string `yaml:"timestamp,omitempty" json:"timestamp,omitempty"`
}

// KMS says whether the key is in AWS KMS.
func (s *Sign) KMS() bool { return s != nil && strings.HasPrefix(s.Key, "awskms://") }

// Access says how the credentials of AWS for a key in KMS come about.
func (s *Sign) Access() RegistryAccess {
	return RegistryAccess{AssumeRole: s.AssumeRole, ExternalID: s.ExternalID, Region: s.Region}
}

// PasswordVariable names the variable with the key's password.
func (s *Sign) PasswordVariable() string { return cmp.Or(s.PasswordEnv, "COSIGN_PASSWORD") }

// TokenVariable names the variable with the identity token.
func (s *Sign) TokenVariable() string { return cmp.Or(s.TokenEnv, "SIGSTORE_ID_TOKEN") }

// TokenAudience is the audience of the identity token.
func (s *Sign) TokenAudience() string { return cmp.Or(s.Audience, "sigstore") }

// FulcioURL is the address of Fulcio, without a slash at the end.
func (s *Sign) FulcioURL() string {
	return strings.TrimSuffix(cmp.Or(s.Fulcio, "https://fulcio.sigstore.dev"), "/")
}

// RekorURL is the address of Rekor, without a slash at the end; empty: none.
func (s *Sign) RekorURL() string {
	if s.Rekor == "" && s.Keyless && s.Timestamp == "" {
		return "https://rekor.sigstore.dev"
	}
	return strings.TrimSuffix(s.Rekor, "/")
}

// Credentials gives the names of the variables that signing takes secrets
// from, beside an identity token.
func (s *Sign) Credentials() []string {
	if s == nil || s.Keyless {
		return nil
	}
	name, ok := strings.CutPrefix(s.Key, "env://")
	switch {
	case ok:
		return slices.Compact([]string{name, s.PasswordVariable()})
	case strings.Contains(s.Key, "://"):
		return nil
	}
	return []string{s.PasswordVariable()}
}

// sign judges publish.sign.
func (c checker) sign(s *Sign) {
	if s == nil {
		return
	}
	c = c.below("publish", "sign")
	const shape = "a file, env://NAME for a variable, or awskms:///ID, awskms:///alias/NAME or awskms:///ARN"
	scheme, rest, isURI := strings.Cut(s.Key, "://")
	switch {
	case s.Keyless && s.Key != "":
		c.fault("bad-key", "remove one of them", at("key"), "key and keyless exclude each other")
	case !s.Keyless && s.Key == "":
		c.fault("missing-key", "write key: with "+shape+"; or keyless: true", at(), "sign has neither key nor keyless")
	case strings.Contains(s.Key, "-----BEGIN"), isURI && scheme == "env" && !isEnvName(rest):
		// It may be the key itself, written in the wrong place.
		c.fault("bad-key", shape, at("key"), "key names no key")
	case isURI && scheme != "env" && scheme != "awskms":
		c.fault("bad-key", shape, at("key"), "keys of %s are not known", show(scheme))
	case isURI && scheme == "awskms" && !strings.Contains(strings.TrimSuffix(rest, "/"), "/"):
		c.fault("bad-key", shape, at("key"), "%s names no key", show(s.Key))
	}
	c.access(s.Access())
	for _, k := range []struct {
		key   string
		given bool
	}{{"assume_role", len(s.AssumeRole) > 0}, {"region", s.Region != ""}} {
		if k.given && !s.KMS() {
			c.fault("missing-key", "write key: awskms:///ARN", at(k.key), "%s is of a key in AWS KMS", k.key)
		}
	}
	c.envName(s.PasswordEnv, at("password_env"))
	c.envName(s.TokenEnv, at("token_env"))
	for _, service := range []struct{ key, address string }{{"fulcio", s.Fulcio}, {"rekor", s.Rekor}, {"timestamp", s.Timestamp}} {
		u, err := url.Parse(service.address)
		if service.address != "" && (err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname()))) {
			c.fault("bad-address", "write https://HOST", at(service.key), "%s is not the address of a service", service.key)
		}
	}
}

func loopback(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }
