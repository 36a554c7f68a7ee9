// Command demo shows pipegen's main job from end to end on a monorepo of its
// own: from a git change to a multi-arch index in a registry. It needs Go and
// git, and leaves nothing behind but what it built for next time.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/test/monorepo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted:
		fmt.Fprintln(os.Stderr, "demo: interrupted")
		os.Exit(130)
	case err != nil:
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// demo is one showing.
type demo struct {
	*monorepo.Monorepo
	env []string
}

func run(ctx context.Context) error {
	start := time.Now()
	dir, err := os.MkdirTemp("", "pipegen-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	say("Preparing a scratch monorepo, its registry and an upstream repository on loopback.")
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	m, err := monorepo.New(ctx, dir, os.Stdout)
	if err != nil {
		return err
	}
	d := demo{m, monorepo.Env(os.Environ(), "PATH="+filepath.Dir(m.Pipegen)+string(os.PathListSeparator)+os.Getenv("PATH"))}
	published, err := d.publishAll(ctx)
	if err != nil {
		return err
	}
	p, err := d.change(ctx, published)
	if err != nil {
		return err
	}
	say("What the registry says, in %s all in all:", time.Since(start).Round(time.Second))
	for _, image := range p.Images {
		if err := d.readBack(image); err != nil {
			return err
		}
	}
	return nil
}

// publishAll builds and publishes every image once, and gives the reference of
// the builder image among them.
func (d demo) publishAll(ctx context.Context) (string, error) {
	say("The first commit: every project is built once.")
	if err := d.show(ctx, 0, "validate"); err != nil {
		return "", err
	}
	if err := d.show(ctx, 0, "plan", "--select", "all"); err != nil {
		return "", err
	}
	if err := d.show(ctx, 0, "run", "--select", "all"); err != nil {
		return "", err
	}
	tags, err := d.Tags()
	if err != nil {
		return "", err
	}
	for _, tag := range tags {
		if strings.HasPrefix(tag, "builder-2") && !strings.HasSuffix(tag, "64") {
			return d.Registry + ":" + tag, nil
		}
	}
	return "", fmt.Errorf("the registry holds no builder image: %s", strings.Join(tags, " "))
}

// change commits a change of one project and takes it from the plan to the
// registry.
func (d demo) change(ctx context.Context, builder string) (*plan.Plan, error) {
	say("From now on CI builds in the builder image that was published above, and one greeting changes.")
	if err := errors.Join(
		d.Write("pipegen.yaml", d.Config(builder)),
		d.Commit(ctx, "Build in our own image"),
		d.Write("projects/greeter/greeting.txt", "Hello again from a multi-arch image.\n"),
		d.Commit(ctx, "Greet again"),
	); err != nil {
		return nil, err
	}
	if err := d.show(ctx, 0, "plan", "--base", "HEAD~1", "-f", "json", "-o", "plan.json"); err != nil {
		return nil, err
	}
	say("As a GitLab child pipeline.")
	if err := d.show(ctx, 34, "render", "gitlab", "--plan", "plan.json"); err != nil {
		return nil, err
	}
	say("Built here with Kaniko, each build in a root of its own, and published.")
	if err := d.show(ctx, 0, "run", "--plan", "plan.json"); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(d.Dir, "plan.json"))
	if err != nil {
		return nil, err
	}
	p := new(plan.Plan)
	if err := json.Unmarshal(data, p); err != nil {
		return nil, err
	}
	if len(p.Images) == 0 {
		return nil, errors.New("the plan of the change holds no image")
	}
	for _, build := range p.Images[0].Builds {
		if build.BuilderImage != builder {
			return nil, fmt.Errorf("%s is built in %q, not in %s", build.ID, build.BuilderImage, builder)
		}
	}
	return p, nil
}

// show runs pipegen in the monorepo as a person would see it. With limit, that
// many lines of its output are shown from either end.
func (d demo) show(ctx context.Context, limit int, args ...string) error {
	fmt.Printf("\n$ pipegen %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, d.Pipegen, args...)
	cmd.Dir, cmd.Env = d.Dir, d.env
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Writer(os.Stdout), os.Stderr
	if limit > 0 {
		cmd.Stdout = &output
	}
	err := cmd.Run()
	lines := slices.Collect(strings.Lines(output.String()))
	if more := len(lines) - 2*limit; limit > 0 && more > 0 {
		lines = slices.Replace(lines, limit, limit+more, fmt.Sprintf("… %d more lines …\n", more))
	}
	fmt.Print(strings.Join(lines, ""))
	if err != nil {
		return fmt.Errorf("pipegen %s: %w", args[0], err)
	}
	return nil
}

// readBack prints what the registry holds of an image, and checks it against
// the plan: one index with a child for each build, under every tag.
func (d demo) readBack(image plan.Image) error {
	var want []string
	for _, build := range image.Builds {
		want = append(want, build.Platform)
	}
	slices.Sort(want)
	var first string
	for _, tag := range image.Tags {
		digest, children, err := d.Index(tag)
		if err != nil {
			return err
		}
		if got := slices.Sorted(maps.Keys(children)); !slices.Equal(got, want) {
			return fmt.Errorf("%s holds %v, the plan says %v", tag, got, want)
		}
		if first == "" {
			first = digest.String()
			fmt.Printf("\n%s@%s\n", d.Registry, first)
			for _, platform := range want {
				child, err := children[platform].Digest()
				if err != nil {
					return err
				}
				fmt.Printf("  %-12s %s\n", platform, child)
			}
		}
		if digest.String() != first {
			return fmt.Errorf("%s is %s, other tags of the image are %s", tag, digest, first)
		}
		fmt.Printf("  tag          %s:%s\n", d.Registry, tag)
	}
	return nil
}

func say(format string, args ...any) { fmt.Printf("\n# "+format+"\n", args...) }
