package runner

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
)

// BuilderContainer is a container of a builder image in which pipegen does one
// build, on a machine that holds Docker: a file system that Kaniko may own, or
// the tools of another engine.
type BuilderContainer struct {
	// Command line of Docker, or one that understands the same; empty: docker.
	CLI string
	// Builder image, with pipegen in its PATH.
	Image string
	// Whether it may make containers of its own, as a BuildKit daemon does. It
	// is then root whatever the image says. Kaniko needs no privileges.
	Privileged bool
	// Files and directories of this machine that it sees at the same paths.
	Mounts []string
	// Arguments of pipegen.
	Args []string
	// Root of the checkout. It has the same path in the container, and is
	// where pipegen starts.
	Root string
	// Variables that pipegen gets beside those of the image, as NAME=VALUE.
	// Their values stay out of argument lists.
	Env []string
	// Docker config.json for registries, a secret; nil: none.
	DockerConfig []byte
	// Output of the container.
	Stdout, Stderr io.Writer
}

// builderDir is what Kaniko does not delete.
const builderDir = "/kaniko"

// builderGrace is how long a cancelled build may take to end.
const builderGrace = 8 * time.Second

// Run waits for the end of the build. One that ended with another code than 0
// gives an *ExitError. When ctx ends the container is stopped and removed, and
// the error is the context's cause.
func (b BuilderContainer) Run(ctx context.Context) (err error) {
	cli := b.CLI
	if cli == "" {
		cli = "docker"
	}
	if cli, err = exec.LookPath(cli); err != nil {
		return failure.WithHint(failure.Input("the builder image cannot be run: %w", err), "install Docker, or run pipegen build in a container of the builder image")
	}
	config := ""
	if b.DockerConfig != nil {
		if config, err = os.MkdirTemp("", "pipegen-docker-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(config)) }()
		if err := os.WriteFile(filepath.Join(config, "config.json"), b.DockerConfig, 0o600); err != nil {
			return err
		}
	}
	name := "pipegen-" + strings.ToLower(rand.Text()[:12])
	k := &containers{cli: cli, o: SandboxOptions{grace: builderGrace}}
	err = k.wait(ctx, name, b.arguments(name, config), b.Env, b.Stdout, b.Stderr)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// arguments of docker; config is the directory with the Docker configuration.
func (b BuilderContainer) arguments(name, config string) []string {
	argv := []string{"run", "--rm", "--name", name, "--mount", mountArg(engine.Mount{Host: b.Root, Inside: b.Root}), "--workdir", b.Root}
	if b.Privileged {
		argv = append(argv, "--privileged", "--user", "0:0")
	}
	for _, path := range b.Mounts {
		argv = append(argv, "--mount", mountArg(engine.Mount{Host: path, Inside: path}))
	}
	if config != "" {
		inside := filepath.Join(builderDir, ".docker")
		argv = append(argv, "--mount", mountArg(engine.Mount{Host: config, Inside: inside, ReadOnly: true}), "--env", "DOCKER_CONFIG="+inside)
	}
	for _, kv := range b.Env {
		key, _, _ := strings.Cut(kv, "=")
		argv = append(argv, "--env", key)
	}
	argv = append(argv, "--entrypoint", "pipegen", b.Image)
	return append(argv, b.Args...)
}

// BuilderImage gives the builder image that a build names, its CI variables
// replaced by their values. Without one it is that of PIPEGEN_IMAGE.
func BuilderImage(named string, getenv func(string) string) (string, error) {
	if named == "" {
		named = "$PIPEGEN_IMAGE"
	}
	var missing []string
	image := os.Expand(named, func(name string) string {
		value := getenv(name)
		if value == "" {
			missing = append(missing, name)
		}
		return value
	})
	if len(missing) > 0 {
		return "", failure.WithHint(failure.Input("the builder image %s cannot be known: %s is not set", named, strings.Join(missing, ", ")),
			"set the variable, or name the image in pipegen.yaml under images")
	}
	if strings.HasPrefix(image, "-") {
		return "", failure.Input("the builder image %q is no name of an image", image)
	}
	return image, nil
}
