package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/runner"
)

// buildInContainer does a build in a container of its builder image.
func (a *app) buildInContainer(ctx context.Context, w working, p *plan.Plan, img *plan.Image, b *plan.Build, root string) error {
	image, err := runner.BuilderImage(b.BuilderImage, a.getenv)
	if err != nil {
		return err
	}
	root, file, metadata, err := below(root, w.plan, w.metadata)
	if err != nil {
		return err
	}
	// What a job finds is what the jobs before it left: without it the build
	// would silently stand on an older image.
	for _, need := range img.Needs {
		if _, err := os.Stat(plan.PublishedFile(metadata, need)); errors.Is(err, fs.ErrNotExist) {
			return failure.WithHint(fmt.Errorf("%s is built on %s, which was to be published first and was not", b.ID, need), "see the jobs of %s", need)
		} else if err != nil {
			return err
		}
	}
	// Files of root in a directory of the user's can be removed by the user.
	if err := os.MkdirAll(filepath.Dir(plan.ResultFile(metadata, b.ID)), 0o755); err != nil {
		return err
	}
	if err := createRepositories(ctx, a.registryClient(p.Publish), p, b); err != nil {
		return err
	}
	env, err := a.containerEnv(ctx, p, img, b)
	if err != nil {
		return err
	}
	mounts, privileged := a.daemonIn(p, b, root)
	if file := a.getenv(localCA); filepath.IsAbs(file) {
		mounts = append(mounts, file)
	}
	config, err := a.containerConfig(ctx, p, b)
	if err != nil {
		return err
	}
	args := []string{"build", b.ID, "--plan", file, "--metadata-dir", metadata, "--log-format", a.logFormat}
	for _, host := range w.insecure {
		args = append(args, "--insecure-registry", host)
	}
	err = runner.BuilderContainer{
		Image: image, Args: args, Root: root, Env: env, DockerConfig: config, Stdout: a.stdout, Stderr: a.stderr,
		Mounts: mounts, Privileged: privileged,
	}.Run(ctx)
	if exit, ok := errors.AsType[*runner.ExitError](err); ok && exit.Code == exitCode(failure.ErrInput) {
		return failure.Input("build %s ended in its container: %w", b.ID, err)
	}
	if err != nil {
		return fmt.Errorf("build %s in its container: %w", b.ID, err)
	}
	return nil
}

// daemonIn gives what the container of a build sees of BuildKit daemons, and
// whether it must be allowed to start one.
func (a *app) daemonIn(p *plan.Plan, b *plan.Build, root string) (mounts []string, privileged bool) {
	if b.Engine == "kaniko" {
		return nil, false
	}
	addresses := p.BuildKit.Addresses
	if host := a.getenv("BUILDKIT_HOST"); host != "" {
		addresses = []string{host}
	}
	for _, address := range addresses {
		if socket, ok := strings.CutPrefix(address, "unix://"); ok {
			mounts = append(mounts, socket)
		}
	}
	if len(addresses) > 0 {
		for _, file := range []string{p.BuildKit.CACert, p.BuildKit.Cert, p.BuildKit.Key} {
			if filepath.IsAbs(file) && !strings.HasPrefix(file, root+"/") {
				mounts = append(mounts, file)
			}
		}
	}
	return mounts, len(addresses) == 0
}

// below gives the real paths of the checkout and of two things in it, which a
// container sees at the same places.
func below(root, file, metadata string) (realRoot, realFile, realMetadata string, err error) {
	if realRoot, err = filepath.EvalSymlinks(root); err != nil {
		return "", "", "", err
	}
	working, err := os.Getwd()
	if err != nil {
		return "", "", "", err
	}
	if working, err = filepath.EvalSymlinks(working); err != nil {
		return "", "", "", err
	}
	var paths [2]string
	for i, path := range []string{file, metadata} {
		if !filepath.IsAbs(path) {
			path = filepath.Join(working, path)
		}
		if rel, err := filepath.Rel(realRoot, path); err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			return "", "", "", failure.Input("%s is not in the checkout %s, which is all that the container sees", path, realRoot)
		}
		paths[i] = path
	}
	return realRoot, paths[0], paths[1], nil
}

// containerEnv is what pipegen gets in the container: the variables that the
// build names, the network's, and credentials of AWS where images go to ECR.
func (a *app) containerEnv(ctx context.Context, p *plan.Plan, img *plan.Image, b *plan.Build) ([]string, error) {
	names := []string{"BUILDKIT_HOST", localCA, "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"}
	names = append(names, b.Credentials()...)
	if img.Source != nil && img.Source.Auth != nil {
		names = append(names, img.Source.Auth.TokenEnv, img.Source.Auth.SSHKeyEnv)
	}
	slices.Sort(names)
	var env []string
	for _, name := range slices.Compact(names) {
		if value := a.getenv(name); name != "" && value != "" {
			env = append(env, name+"="+value)
		}
	}
	// What AWS keeps is read here: the container need not be able to.
	getenv, err := a.withStored(ctx, p, a.getenv, b)
	if err != nil {
		return nil, err
	}
	for _, arn := range b.Stored() {
		if strings.Contains(arn, "=") {
			return nil, failure.WithHint(failure.Input("%s: a name with = cannot be given to a container", quote.Text(arn)), "keep the secret under another name")
		}
		env = append(env, arn+"="+getenv(arn))
	}
	aws, err := a.registryClient(p.Publish).TemporaryCredentials(ctx, host(b.Destination))
	return append(env, aws...), err
}

// containerConfig holds the credentials for where the build is pushed to, and
// for every registry that the Docker configuration names.
func (a *app) containerConfig(ctx context.Context, p *plan.Plan, b *plan.Build) ([]byte, error) {
	hosts, err := registry.ConfiguredHosts(a.getenv)
	if err != nil {
		return nil, err
	}
	hosts = append(hosts, host(b.Destination))
	if b.Cache != nil && b.Cache.Repo != "" {
		hosts = append(hosts, host(b.Cache.Repo))
	}
	slices.Sort(hosts)
	hosts = slices.DeleteFunc(slices.Compact(hosts), func(h string) bool { return h == "" })
	return a.registryClient(p.Publish).DockerConfig(ctx, hosts)
}

// host gives the registry of a reference; "" if it is none.
func host(reference string) string {
	ref, err := registry.ParseReference(reference)
	if err != nil {
		return ""
	}
	return ref.Host
}
