package engine

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// releaseDir is where a project's own build leaves what it makes, below the
// context.
const releaseDir = "release"

// projectMake is the project's own build: its command leaves archives of images
// and other files in releaseDir.
type projectMake struct {
	before stamps // what was there before the command
}

// check refuses what a command cannot be given.
func (*projectMake) check(b *plan.Build) error {
	if strings.TrimSpace(b.Command) == "" {
		return failure.WithHint(failure.Input("build %s: engine make has no command", b.ID), "command: make clean release")
	}
	for _, s := range b.Secrets {
		if s.Env == "" {
			return failure.WithHint(failure.Input("build %s: secret %s: the command of engine make cannot use a file", b.ID, s.ID),
				"it sees secrets that name a variable (env)")
		}
	}
	if len(b.EngineArgs) > 0 {
		return failure.WithHint(failure.Input("build %s: engine make takes no engine_args", b.ID), "write them into command")
	}
	return nil
}

func (*projectMake) place(p *Prepared, _ bool) error {
	p.Program, p.Context = "sh", filepath.Join(p.Job.Root, filepath.FromSlash(p.Job.Build.Context))
	return nil
}

// prepare notes what is there of an earlier run.
func (m *projectMake) prepare(_ context.Context, b *building) (err error) {
	if b.Job.OutputDir == plan.OutputDir(b.Job.MetadataDir, b.Job.Build.ID) {
		err = archive.RemoveAll(b.Job.OutputDir) // with the parts of an earlier run
	} else {
		err = archive.RemoveAll(filepath.Join(b.Job.OutputDir, artifactsDir))
	}
	if err == nil {
		m.before, err = stampsOf(filepath.Join(b.contextDir(), releaseDir))
	}
	return err
}

func (*projectMake) command(p *Prepared) Command {
	return Command{Argv: []string{p.Program, "-e", "-c", p.Job.Build.Command}}
}

// run runs the command as scripts are run.
func (*projectMake) run(ctx context.Context, b *building, _ Command) error {
	env := makeEnv(b.Job, b.localName())
	b.log.say("running " + quote.Text(b.Job.Build.Command))
	return b.shell(ctx, "command", b.Job.Build.Command, env)
}

// makeEnv is what the command gets beside what scripts get. What the
// configuration sets itself stays.
func makeEnv(j *Job, image string) map[string]string {
	args, byName := buildArgFlags(j.Build.Args)
	env := map[string]string{
		"PROJECT": project(j), "IMAGE": image, "PLATFORM": j.Build.Platform, "BUILD_ARGS": args,
	}
	// How to build images: addresses of daemons, and BuildKit's client, beside
	// which its daemon is looked for.
	for _, name := range []string{"BUILDKIT_HOST", "BUILDKITD_FLAGS", "DOCKER_HOST"} {
		if value := j.Getenv(name); value != "" {
			env[name] = value
		}
	}
	if program, err := FindBuildctl(j.Getenv); err == nil {
		env["BUILDCTL"] = program
	}
	maps.Copy(env, byName)
	maps.DeleteFunc(env, func(name, _ string) bool {
		_, own := j.Build.Env[name]
		return own
	})
	return env
}

// project is the name of the project that an image is of. That of an entry of
// targets stands before the target's.
func project(j *Job) string {
	if j.Build.Target == "" {
		return j.Image.Name
	}
	return strings.TrimSuffix(j.Image.Name, "-"+j.Build.Target)
}

// buildArgFlags gives build arguments as flags, quoted for a shell, that mean the
// same in a recipe of a Makefile as $(BUILD_ARGS). Make takes $ and newlines of
// a variable for its own: an argument with one is a bare --build-arg NAME, whose
// value docker build, podman build, buildah and pipegen take from the environment.
func buildArgFlags(args map[string]string) (flags string, env map[string]string) {
	env = map[string]string{}
	var words []string
	for _, k := range slices.Sorted(maps.Keys(args)) {
		word := k + "=" + args[k]
		if strings.ContainsAny(args[k], "$\n\r") {
			word, env[k] = k, args[k]
		}
		words = append(words, "--build-arg "+quote.Shell(word))
	}
	return strings.Join(words, " "), env
}
