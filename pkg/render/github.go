package render

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// The workflows that GitHub gives, in .github/workflows.
const (
	githubMain  = "pipegen.yml"
	githubImage = "pipegen-image.yml"
)

// GitHubOptions say what workflows depend on beside the plan.
type GitHubOptions struct {
	// Registry that pipegen.yaml names; empty: the repository variable
	// ECR_REGISTRY. How jobs sign in depends on it.
	Registry string
}

// GitHubFile is a file in .github/workflows.
type GitHubFile struct {
	Name string
	Data []byte
}

// GitHub gives the workflows of a repository: one that plans and starts the
// images of the plan in waves, and one that it calls for each image. everything
// is a plan of all images. Of it only the depth of the graph, the number of
// images, platforms, runners, the names of secrets and overlays show, so that
// most new projects change no workflow. GitHubOutputs gives the running
// workflow its matrices.
//
// The error is a failure.ErrInput for values that GitHub cannot carry, overlays
// that would break a job, and workflows over GitHub's limits.
func GitHub(everything *plan.Plan, o GitHubOptions) ([]GitHubFile, error) {
	g, err := newGitHub(everything, o)
	if err != nil {
		return nil, err
	}
	image, permissions, err := g.imageWorkflow()
	if err != nil {
		return nil, err
	}
	main, err := g.mainWorkflow(permissions)
	if err != nil {
		return nil, err
	}
	const comment = "Written by pipegen render github. Do not edit: change build-config.yaml or\npipegen.yaml (overlays), and render again.\n"
	files := []GitHubFile{{Name: githubMain}, {Name: githubImage}}
	for i, root := range []*yaml.Node{main, image} {
		if files[i].Data, err = encode(comment, root); err != nil {
			return nil, err
		}
		if n := len(files[i].Data); n > maxWorkflow {
			return nil, failure.WithHint(
				failure.Input("%s would have %d KB, GitHub's limit is %d KB: the images are built on each other in %d levels", files[i].Name, n/1000, maxWorkflow/1000, len(g.waves)),
				"shorten the longest chain of images")
		}
	}
	return files, nil
}

// github is what of a plan shows in the workflows.
type github struct {
	overlays map[string]config.Overlay
	// Ids of the jobs that call the workflow of an image: for each level of the
	// graph, one for each chunk of images.
	waves [][]string
	// Labels of the runners by the suffix of their platform.
	labels map[string]string
	// Longest time limit of a build, 0 for none.
	limit time.Duration
	// Container image that pipegen is taken from.
	image string
	// Repository variables that builder images name.
	variables []string
	// Environment variables that hold secrets: for resolving upstreams, and for builds.
	upstream, secrets []string
	// Environment variables that hold secrets for signing.
	signing []string
	// Secrets that overlays of the jobs of an image name.
	overlaid []string

	// Whether any build leaves outputs that are files, and whether any image is
	// not pushed.
	files, unpublished bool

	// Whether the controller builds any image, and the longest that it may
	// take for one; 0: one has no limit.
	controlled      bool
	controllerLimit time.Duration
	// Whom the identity of the job is shown to that has it build one; empty: the
	// job has a token.
	audience string

	// How jobs sign in, and how that does which publishes.
	signIn, publish githubSignIn
	// Whether images go to a registry that only a repository variable names.
	registryVariable bool
}

func newGitHub(p *plan.Plan, o GitHubOptions) (*github, error) {
	g := &github{overlays: p.CI.Overlays["github"], labels: map[string]string{}, registryVariable: o.Registry == "", audience: p.CI.Audience}
	if faults := githubOverlays.check(g.overlays); len(faults) > 0 {
		return nil, faults[0]
	}
	levels, err := levelsOf(p)
	if err != nil {
		return nil, err
	}
	g.waves = waveJobs(levels)
	g.image = "${{ vars.PIPEGEN_IMAGE }}"
	if p.CI.Image != "" {
		if g.image, _, err = githubVariables(p.CI.Image); err != nil {
			return nil, err
		}
	}
	images := []string{p.CI.Image}
	variables, upstream, secrets := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i := range p.Images {
		img := &p.Images[i]
		g.unpublished = g.unpublished || !img.Pushes()
		if img.Source != nil && img.Source.Auth != nil {
			upstream[img.Source.Auth.TokenEnv], upstream[img.Source.Auth.SSHKeyEnv] = true, true
		}
		runner, err := checkedRunner(p, img)
		if err != nil {
			return nil, err
		}
		if runner != "" {
			if err := g.addControlled(img); err != nil {
				return nil, err
			}
		}
		for j := range img.Builds {
			b := &img.Builds[j]
			for _, name := range b.Credentials() {
				secrets[name] = true
			}
			_, names, err := githubVariables(b.BuilderImage)
			if err != nil {
				return nil, fmt.Errorf("build %s: %w", b.ID, err)
			}
			for _, name := range names {
				variables[name] = true
			}
			if runner != "" {
				continue // no job builds it
			}
			if err := g.addBuild(img, b); err != nil {
				return nil, err
			}
			g.files = g.files || b.Files()
			images = append(images, b.BuilderImage)
		}
	}
	maps.Copy(secrets, upstream)
	g.variables, g.upstream, g.secrets = named(variables), named(upstream), named(secrets)
	g.signing = p.Publish.Sign.Credentials()
	for _, name := range slices.Concat(g.secrets, g.signing) {
		if name != "GITHUB_TOKEN" && strings.HasPrefix(strings.ToUpper(name), "GITHUB_") || slices.Contains(githubOwn, name) {
			return nil, failure.Input("%s cannot hold a secret in a workflow: that name is GitHub's or pipegen's own", name)
		}
	}
	g.overlaid = secretsNamed(g.overlays[kindBuild], g.overlays[kindManifest], g.overlays[kindRun])
	g.signIn = signInFor(o.Registry, images)
	if t := p.Publish.IDToken; t != nil {
		g.signIn.aws, g.signIn.role, g.signIn.audience = true, t.Role, cmp.Or(t.Audience, awsAudience)
	}
	g.publish = g.signIn.publishing(p.Publish)
	return g, nil
}

func (g *github) addBuild(img *plan.Image, b *plan.Build) error {
	suffix, ok := strings.CutPrefix(b.ID, img.Name+"@")
	if !ok || !plainName.MatchString(suffix) {
		return failure.Input("build %q of image %q cannot be rendered: want the id IMAGE@ARCH", b.ID, img.Name)
	}
	if b.RunsOn.GitHub == "" {
		return failure.WithHint(failure.Input("build %s: no runner of GitHub is known for %s", b.ID, b.Platform), "name its label in pipegen.yaml: runners: {%s: {github: LABEL}}", b.Platform)
	}
	label, known := g.labels[suffix]
	switch {
	case !utf8.ValidString(b.RunsOn.GitHub):
		return failure.Input("build %s: the label %q of its runner is not UTF-8", b.ID, b.RunsOn.GitHub)
	case known && label != b.RunsOn.GitHub:
		return failure.Input("build %s runs on %q, others for %s on %q", b.ID, b.RunsOn.GitHub, b.Platform, label)
	}
	g.labels[suffix] = b.RunsOn.GitHub
	limit, err := limitOf(b, maxGitHubJob-githubAside)
	g.limit = max(g.limit, limit)
	return err
}

// addControlled adds an image that the controller builds.
func (g *github) addControlled(img *plan.Image) error {
	limit, err := controllerLimit(img, maxGitHubJob-githubAside)
	if err != nil {
		return err
	}
	switch {
	case !g.controlled:
		g.controllerLimit = limit
	case limit == 0 || g.controllerLimit == 0:
		g.controllerLimit = 0
	default:
		g.controllerLimit = max(g.controllerLimit, limit)
	}
	g.controlled = true
	return nil
}

func named(set map[string]bool) []string {
	delete(set, "")
	return slices.Sorted(maps.Keys(set))
}

// ciVariable is a CI variable in the name of a container image.
var ciVariable = lazyregexp.New(`\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))`)

// githubVariables gives the name of a container image with its CI variables as
// expressions that read the repository's variables, and their names.
func githubVariables(image string) (expression string, names []string, err error) {
	var b strings.Builder
	end := 0
	for _, m := range ciVariable.FindAllStringSubmatchIndex(image, -1) {
		name := ""
		for _, group := range [][2]int{{m[2], m[3]}, {m[4], m[5]}} {
			if group[0] >= 0 {
				name = image[group[0]:group[1]]
			}
		}
		if strings.HasPrefix(strings.ToUpper(name), "GITHUB_") {
			return "", nil, failure.Input("the container image %q names %s: no variable of a repository can have that name", image, name)
		}
		names = append(names, name)
		b.WriteString(literally(image[end:m[0]]) + "${{ vars." + name + " }}")
		end = m[1]
	}
	return b.String() + literally(image[end:]), names, nil
}

// literally gives text as it stands in a workflow where GitHub would look for
// expressions.
func literally(s string) string { return strings.ReplaceAll(s, "${{", "${{ '${{' }}") }

// quoted gives text as a string of GitHub's expressions.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
