package engine

import (
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/dockerfile"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// proxies are how programs find the network; their URLs may hold a password,
// which the log masks.
var proxies = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"}

// certificateFiles name a file with the authorities that programs trust: Go,
// OpenSSL and what uses it, git, curl, Python's requests and pip, Node.js, AWS's
// tools, and cargo.
var certificateFiles = []string{
	"SSL_CERT_FILE", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO",
}

// CertificateFiles gives the variables that name a file with the authorities
// that programs trust. Engines and scripts get those that are set.
func CertificateFiles() []string { return slices.Clone(certificateFiles) }

// certificates say which authorities programs trust.
var certificates = append(CertificateFiles(), "SSL_CERT_DIR")

// forScripts is all that a script inherits from pipegen's environment, beside
// LC_*: how to find programs, the network and whom to trust, and where Go gets
// and keeps modules, since HOME is a new directory. No credential of the CI
// system or of a cloud is among them.
var forScripts = slices.Concat([]string{"PATH", "LANG", "TZ", "GOPROXY", "GOSUMDB", "GOMODCACHE", "GOCACHE"}, proxies, certificates)

// inherit takes the named variables from environ.
func inherit(environ []string, names []string) map[string]string {
	out := map[string]string{}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && slices.Contains(names, k) {
			out[k] = v
		}
	}
	return out
}

// list gives variables as a process takes them, sorted.
func list(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

// arguments are those of the build: the user's over the automatic ones.
func arguments(j *Job) map[string]string {
	args := dockerfile.PlatformArgs(j.Build.Platform, machine())
	args["PIPEGEN_REGISTRY"] = j.Plan.Registry
	maps.Copy(args, j.Build.Args)
	return args
}

// scriptEnv is the environment of a script: what it inherits, the platform
// arguments, what says which build it is, the configuration's env, and the
// secrets that name a variable.
func scriptEnv(j *Job, home, tmp string) (map[string]string, error) {
	env := inherit(j.Environ, forScripts)
	for _, kv := range j.Environ {
		if k, v, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(k, "LC_") {
			env[k] = v
		}
	}
	env["HOME"], env["TMPDIR"] = home, tmp
	maps.Copy(env, dockerfile.PlatformArgs(j.Build.Platform, machine()))
	env["PIPEGEN_NAME"] = j.Image.Name
	env["PIPEGEN_BUILD"] = j.Build.ID
	env["PIPEGEN_REGISTRY"] = j.Plan.Registry
	env["PIPEGEN_REPOSITORY"] = j.Image.Repository
	env["PIPEGEN_DESTINATION"] = j.Build.Destination
	env["PIPEGEN_COMMIT"] = j.Plan.Head
	if j.Image.Source != nil {
		env["PIPEGEN_UPSTREAM_COMMIT"] = j.Image.Source.Commit
	}
	maps.Copy(env, j.Build.Env)
	for _, s := range j.Build.Secrets {
		if s.Env == "" {
			continue
		}
		v := envOf(j.Getenv, s.Variable())
		if v == "" {
			return nil, lacking(s)
		}
		env[s.Env] = v
	}
	return env, nil
}

// lacking says that a secret has no value.
func lacking(s config.Secret) error {
	if s.ARN != "" {
		return failure.WithHint(failure.Input("secret %s: %s has not been read", s.ID, quote.Text(s.ARN)), "server.secrets says who reads it; agents do so with --ambient-credentials")
	}
	return failure.Input("secret %s: environment variable %s is not set", s.ID, s.Env)
}

// hideSecrets makes the log mask the secrets of the build, and says which of
// them it cannot mask. A file that cannot be read, or is too large for a
// secret, is failure.ErrInput; a variable that is not set is for those to say
// who need it.
func (b *building) hideSecrets() error {
	j := b.Job
	b.log.hide(knownSecrets(j)...)
	hide := func(id, value string) {
		b.log.hide(value)
		if value != "" && tooShort(value) {
			b.log.say("warning: secret " + quote.Text(id) + " is too short to be masked")
		}
	}
	for _, s := range j.Build.Secrets {
		if s.File == "" {
			hide(s.ID, envOf(j.Getenv, s.Variable()))
			continue
		}
		value, err := readSecret(j, s.File)
		if err != nil {
			return failure.Input("secret %s: %w", s.ID, err)
		}
		hide(s.ID, string(value))
	}
	for _, s := range j.Build.SSH {
		b.log.hide(privateKey(envOf(j.Getenv, s.Env)))
		if s.File != "" {
			value, err := readSecret(j, s.File)
			if err != nil {
				return failure.Input("ssh %s: %w", sshID(s), err)
			}
			b.log.hide(string(value))
		}
	}
	return nil
}

// privateKey gives a key that a variable holds, or names the file of.
func privateKey(value string) string {
	if value == "" || strings.Contains(value, "-----BEGIN") {
		return value
	}
	key, err := os.ReadFile(strings.TrimSpace(value))
	if err != nil || len(key) > maxSecret {
		return ""
	}
	return string(key)
}

// likeCredentials matches the names of variables whose values are credentials.
var likeCredentials = lazyregexp.New(`(?i)(TOKEN|PASSWORD|PASSWD|SECRET|SECRET_ACCESS_KEY|PRIVATE_KEY|API_KEY|JWT)$`)

// knownSecrets gives what the log must not show beside the secrets of the build:
// the credentials of the source, of registries and proxies, and of the CI
// system and the cloud.
func knownSecrets(j *Job) []string {
	var values []string
	if j.Image.Source != nil {
		if a := j.Image.Source.Auth; a != nil {
			values = append(values, envOf(j.Getenv, a.TokenEnv), privateKey(envOf(j.Getenv, a.SSHKeyEnv)))
		}
		values = append(values, inAddress(j.Image.Source.Repo)...)
	}
	values = append(values, configSecrets([]byte(j.Getenv("DOCKER_AUTH_CONFIG")))...)
	for _, name := range append(slices.Clone(proxies), "GOPROXY") {
		for part := range strings.FieldsFuncSeq(j.Getenv(name), func(r rune) bool { return r == ',' || r == '|' }) {
			values = append(values, inAddress(part)...)
		}
	}
	for _, name := range []string{"CI_JOB_TOKEN", "CI_REGISTRY_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"} {
		values = append(values, j.Getenv(name))
	}
	for _, kv := range j.Environ {
		// Short ones are more likely words of the configuration.
		name, v, _ := strings.Cut(kv, "=")
		if len(v) >= 8 && likeCredentials.MatchString(name) && !exists(v) {
			values = append(values, v)
		}
		if strings.HasPrefix(name, "OTEL_EXPORTER_OTLP_") && strings.HasSuffix(name, "HEADERS") {
			for header := range strings.SplitSeq(v, ",") { // NAME=VALUE, escaped as in a URL
				_, value, _ := strings.Cut(header, "=")
				values = append(values, value)
				if plain, err := url.PathUnescape(value); err == nil {
					values = append(values, plain)
				}
			}
		}
	}
	return values
}

// inAddress gives the credential in a URL: the password, or the name if it
// stands alone, as tokens do.
func inAddress(address string) []string {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return nil
	}
	if p, ok := u.User.Password(); ok {
		return []string{p}
	}
	if u.Scheme == "http" || u.Scheme == "https" {
		return []string{u.User.Username()}
	}
	return nil
}

func envOf(getenv func(string) string, name string) string {
	if name == "" {
		return ""
	}
	return getenv(name)
}

// hostOf gives the registry of a reference, or "".
func hostOf(ref string) string {
	r, err := registry.ParseReference(ref)
	if err != nil {
		return ""
	}
	return r.Host
}

// platformOf parses the build's platform.
func platformOf(b *plan.Build) (config.Platform, error) {
	p, err := config.ParsePlatform(b.Platform)
	if err != nil {
		return p, failure.Input("build %s: %w", b.ID, err)
	}
	return p, nil
}

// Contained says whether this process runs in a container.
func Contained(getenv func(string) string) bool { return thisHost(getenv).contained() }

// exists says whether there is something at path.
func exists(path string) bool {
	_, err := os.Lstat(path) //nolint:gosec // nothing is read
	return err == nil
}
