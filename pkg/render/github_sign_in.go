package render

import (
	"net/url"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/config"
)

// dockerVariable names the secret with a Docker config.json for registries.
const dockerVariable = "PIPEGEN_DOCKER_CONFIG"

// githubSignIn says which registries jobs sign in to by the identity that
// GitHub gives them.
type githubSignIn struct {
	aws bool // ECR, by a role
	// The role; empty: the repository variable AWS_ROLE_ARN. Whom the identity is shown to.
	role, audience string
	// GitHub's own registry, by the job's token: for reading, and for publishing.
	packages, publishes bool
	// Whether pipegen itself needs the job's token: what else signs in there is
	// another registry's.
	token bool
	// Whether images are signed by the identity that GitHub gives the job, and
	// whether the controller knows the job by it.
	signs, shows bool
}

// signInFor decides by what the configuration itself names. A registry that it
// does not name may be ECR: that is what ECR_REGISTRY is for.
func signInFor(registry string, images []string) githubSignIn {
	s := githubSignIn{
		audience:  awsAudience,
		aws:       registry == "" || strings.Contains(registry, "$") || isECR(registry) || slices.ContainsFunc(images, isECR),
		publishes: isGHCR(registry),
	}
	s.packages = s.publishes || slices.ContainsFunc(images, isGHCR)
	return s
}

// publishing adds what the job needs that publishes: for the other registries
// that images go to, and for signing.
func (s githubSignIn) publishing(p config.Publish) githubSignIn {
	for _, also := range p.Also {
		s.aws = s.aws || isECR(also.Registry)
		if isGHCR(also.Registry) && !s.publishes {
			s.packages, s.publishes, s.token = true, true, true
		}
	}
	s.aws = s.aws || p.Sign.KMS()
	s.signs = p.Sign != nil && p.Sign.Keyless
	return s
}

func isGHCR(reference string) bool { return strings.HasPrefix(reference, "ghcr.io/") }

func isECR(reference string) bool {
	host, _, _ := strings.Cut(reference, "/")
	return host == "public.ecr.aws" || strings.Contains(host, ".dkr.ecr") || strings.Contains(host, ".dkr-ecr")
}

// permissions of the token of a job that uses registries.
func (s githubSignIn) permissions(packages string) *yaml.Node {
	p := mapping("contents", "read")
	if s.aws || s.signs || s.shows {
		p.Content = append(p.Content, text("id-token"), text("write"))
	}
	if s.packages {
		if !s.publishes {
			packages = "read"
		}
		p.Content = append(p.Content, text("packages"), text(packages))
	}
	return p
}

// signInSteps write what docker and pipegen sign in to registries with: below
// the runner's temporary directory, for the runner's user alone. What a job
// needs beyond the others is pipegen's own to sign in to, and not docker's.
func (g *github) signInSteps(own githubSignIn) []*yaml.Node {
	var steps []*yaml.Node
	if own.aws {
		// Jobs of a fork's pull request get no identity, and need none.
		steps = append(steps, mapping(
			"name", "Get an identity for AWS",
			"if", "env.AWS_ROLE_ARN != ''",
			"run", `if [ -n "$ACTIONS_ID_TOKEN_REQUEST_URL" ]; then `+
				`curl --silent --show-error --fail --retry 3 --header @- "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=`+url.QueryEscape(own.audience)+`" <<< "Authorization: bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN" `+
				`| jq --exit-status --raw-output .value | install -D -m 600 /dev/stdin "$RUNNER_TEMP/pipegen/aws-token" `+
				`&& echo "AWS_WEB_IDENTITY_TOKEN_FILE=$RUNNER_TEMP/pipegen/aws-token" >> "$GITHUB_ENV"; fi`,
		))
	}
	config := "secrets." + dockerVariable
	switch {
	case g.signIn.packages:
		config += ` || format('{{"auths":{{"ghcr.io":{{"username":"{0}","password":"{1}"}}}}}}', github.actor, github.token)`
	case g.signIn.role != "":
		config += ` || '{"credsStore":"ecr-login"}'`
	case g.signIn.aws:
		config += ` || vars.AWS_ROLE_ARN && '{"credsStore":"ecr-login"}'`
	}
	return append(steps, mapping(
		"name", "Sign in to registries",
		"if", "env."+dockerVariable+" != ''",
		"run", `install -D -m 600 /dev/stdin "$RUNNER_TEMP/pipegen/config.json" <<< "$PIPEGEN_DOCKER_CONFIG" && echo "DOCKER_CONFIG=$RUNNER_TEMP/pipegen" >> "$GITHUB_ENV"`,
		"env", mapping(dockerVariable, "${{ "+config+" }}"),
	))
}
