package engine

import (
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/dockerfile"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// proxies are how programs find the network; their URLs may hold a password,
// which the log masks.
var proxies = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"}

// certificates say which authorities programs trust.
var certificates = []string{"SSL_CERT_FILE", "SSL_CERT_DIR"}

// forScripts is all that a script inherits from pipegen's environment, beside
// LC_*: how to find programs, the network and whom to trust, and where Go gets
// and keeps modules, since HOME is a new directory. No credential of the CI
// system or of a cloud is among them.
var forScripts = slices.Concat([]string{"PATH", "LANG", "TZ", "GOPROXY", "GOSUMDB", "GOMODCACHE", "GOCACHE"}, proxies, certificates)

// forAWS is what the ECR credential helper that Kaniko holds reads; the engine
// gets it only if it reads from or pushes to ECR.
var forAWS = []string{
	"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
	"AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME",
	"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
	"AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_STS_REGIONAL_ENDPOINTS",
	"AWS_EC2_METADATA_DISABLED", "AWS_ECR_IGNORE_CREDS_STORAGE",
}

// ecrHost matches the registries that AWS signs in to (Amazon ECR user guide,
// "Private registry authentication"), FIPS and dual-stack hosts included.
var ecrHost = regexp.MustCompile(`^([0-9]{12}\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.(amazonaws\.com(\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn|amazonaws\.eu|sc2s\.sgov\.gov|c2s\.ic\.gov)|public\.ecr\.aws|ecr-public\.aws\.com)$`)

// usesECR says whether any of the hosts belongs to ECR.
func usesECR(hosts []string) bool { return slices.ContainsFunc(hosts, ecrHost.MatchString) }

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
		v := j.Getenv(s.Env)
		if v == "" {
			return nil, failure.Input("secret %s: environment variable %s is not set", s.ID, s.Env)
		}
		env[s.Env] = v
	}
	return env, nil
}

// secretValues gives all values that the log must not show, as far as they
// are known before anything runs.
func secretValues(j *Job) []string {
	var values []string
	for _, s := range j.Build.Secrets {
		if s.Env != "" {
			values = append(values, j.Getenv(s.Env))
		}
	}
	if j.Image.Source != nil {
		if a := j.Image.Source.Auth; a != nil {
			values = append(values, envOf(j.Getenv, a.TokenEnv), envOf(j.Getenv, a.SSHKeyEnv))
		}
		if u, err := url.Parse(j.Image.Source.Repo); err == nil {
			values = append(values, password(u))
		}
	}
	values = append(values, j.Getenv("CI_JOB_TOKEN"), j.Getenv("CI_REGISTRY_PASSWORD"))
	for _, name := range []string{"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"} {
		values = append(values, j.Getenv(name))
	}
	for _, name := range append(slices.Clone(proxies), "GOPROXY") {
		for part := range strings.FieldsFuncSeq(j.Getenv(name), func(r rune) bool { return r == ',' || r == '|' }) {
			if u, err := url.Parse(part); err == nil {
				values = append(values, password(u))
			}
		}
	}
	return slices.DeleteFunc(values, func(v string) bool { return v == "" || filepath.IsAbs(v) })
}

func envOf(getenv func(string) string, name string) string {
	if name == "" {
		return ""
	}
	return getenv(name)
}

func password(u *url.URL) string {
	p, _ := u.User.Password()
	return p
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

// exists says whether there is something at path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
