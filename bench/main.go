// Command bench measures pipegen against git, on repositories that it makes,
// against the bare engines and against clients of registries, and prints
// tables and which goals are met. It measures whole processes and gives
// medians. With arguments it measures only those of monorepo, wide, deep,
// kaniko, buildkit, publish, context, upload, controller, postgres, kubernetes and
// ecs that they name.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1) //nolint:gocritic // nothing is left to undo
	}
}

func run(ctx context.Context, names []string) error {
	if len(names) == 3 && names[0] == packCommand {
		return packContext(ctx, names[1], names[2])
	}
	if len(names) == 3 && names[0] == uploadCommand {
		return uploadContext(ctx, names[1], names[2])
	}
	if len(names) == 3 && names[0] == putCommand {
		return putContext(ctx, names[1], names[2])
	}
	if len(names) == 3 && names[0] == sayCommand {
		return say(names[1], names[2])
	}
	if len(names) == 3 && names[0] == controlCommand {
		return control(ctx, names[1], names[2])
	}
	binary, err := filepath.Abs("bin/pipegen")
	if err != nil {
		return err
	}
	git, err := exec.LookPath("git")
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "pipegen-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, s := range []struct {
		name    string
		measure func(context.Context, bench) error
	}{
		{"monorepo", monorepos}, {"wide", wideProject}, {"deep", deepHistory},
		{"kaniko", kanikoOverhead}, {"buildkit", buildkitOverhead}, {"publish", publishing},
		{"context", contexts}, {"upload", uploads}, {"controller", controllers}, {"postgres", postgres}, {"kubernetes", onKubernetes}, {"ecs", onECS},
	} {
		if len(names) > 0 && !slices.Contains(names, s.name) {
			continue
		}
		if err := s.measure(ctx, bench{pipegen: binary, git: git, work: work}); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// bench is what the measurements share.
type bench struct {
	pipegen, git string   // programs
	work         string   // directory for what they write
	env          []string // of controllers, beside their own
}

// sizes are how many projects the repositories have.
var sizes = []int{100, 1_000, 10_000}

// monorepos measures every command at each size.
func monorepos(ctx context.Context, b bench) error {
	t := table{title: "Projects of six files, 500 commits", of: "projects", sizes: sizes}
	for _, n := range sizes {
		dir, err := repository(ctx, b.git, fmt.Sprint(n), "few", monorepo(n))
		if err != nil {
			return err
		}
		r, err := b.in(dir)
		if err != nil {
			return err
		}
		all := slices.Concat(
			[]*process{r.version()},
			r.diffs("10 changed", "base", "few", few),
			r.diffs("a fifth changed", "base", "many", many(n)),
			[]*process{r.gitCommand("git status", "status", "--porcelain")},
			r.plans("changed", "base"), r.plans("all", "base"),
			[]*process{r.render("gitlab"), r.checkedIn("github"), r.checkedIn("concourse")},
		)
		if err := t.measure(ctx, all); err != nil {
			return err
		}
	}
	t.print()
	t.goal("pipegen --version", "ms", 20, t.wall("pipegen --version"))
	for _, changed := range []string{"10 changed", "a fifth changed"} {
		t.goal("diff less start, "+changed, "× git", 2, t.ratio("pipegen diff, "+changed, "git diff, "+changed))
		t.goal("diff without git less start, "+changed, "× git", 12, t.ratio("pipegen diff without git, "+changed, "git diff, "+changed))
	}
	for _, what := range []string{"changed", "all"} {
		cold, warm := "pipegen plan --select "+what+", cold", "pipegen plan --select "+what+", warm"
		t.goal(cold, "s of CPU", 4, t.cpu(cold))
		t.goal(cold+": growth", "× CPU", 11.5, t.growth(cold))
		t.goal(warm, "s of CPU", 1.5, t.cpu(warm))
		t.goal(cold, "MB", 300, t.memory(cold))
		t.goal(warm, "MB", 300, t.memory(warm))
	}
	for _, system := range []string{"gitlab", "github", "concourse"} {
		name := "pipegen render " + system
		t.goal(name, "s", 2, t.seconds(name))
		t.goal(name+": growth", "× CPU", 11.5, t.growth(name))
		t.goal(name, "MB", 400, t.memory(name))
	}
	return nil
}

// wideProject measures a project of many files.
func wideProject(ctx context.Context, b bench) error {
	dir, err := repository(ctx, b.git, "wide", "few", wide)
	if err != nil {
		return err
	}
	r, err := b.in(dir)
	if err != nil {
		return err
	}
	t := table{title: "One project", of: "files", sizes: []int{wideDirs * 1000}}
	all := slices.Concat(
		[]*process{r.version()}, r.diffs("10 changed", "base", "few", 1),
		[]*process{r.gitCommand("git status", "status", "--porcelain"), r.gitCommand("git ls-tree", "ls-tree", "-r", "few")},
		r.plans("changed", "base"), []*process{r.planOf("few")},
	)
	if err := t.measure(ctx, all); err != nil {
		return err
	}
	t.print()
	t.goal("diff less start", "× git", 2, t.ratio("pipegen diff, 10 changed", "git diff, 10 changed"))
	t.goal("diff without git less start", "× git", 12, t.ratio("pipegen diff without git, 10 changed", "git diff, 10 changed"))
	t.goal("plan of the work tree less start", "× git status", 3, t.ratio("pipegen plan --select changed, warm", "git status"))
	t.goal("plan of a commit less start", "× git ls-tree", 4, t.ratio("pipegen plan --head few", "git ls-tree"))
	return nil
}

// deepHistory measures how the merge-base is found.
func deepHistory(ctx context.Context, b bench) error {
	dir, err := repository(ctx, b.git, "deep", "topic", deep)
	if err != nil {
		return err
	}
	r, err := b.in(dir)
	if err != nil {
		return err
	}
	t := table{title: "A branch of three commits", of: "commits on main", sizes: []int{deepMain}}
	git := r.gitCommand("git diff", "diff", "--name-only", "origin/main...HEAD")
	all := []*process{
		r.version(), git, r.pipegenCommand("pipegen diff", "diff"), r.withoutGit(r.pipegenCommand("pipegen diff without git", "diff")),
		r.pipegenCommand("pipegen plan", "plan", "-f", "json"),
	}
	git.lines, all[2].lines, all[3].lines = 3, 3, 3
	if err := t.measure(ctx, all); err != nil {
		return err
	}
	t.print()
	t.goal("diff less start", "× git", 2, t.ratio("pipegen diff", "git diff"))
	t.goal("diff without git less start", "× git", 12, t.ratio("pipegen diff without git", "git diff"))
	t.goal("plan less start", "× git diff", 3, t.ratio("pipegen plan", "git diff"))
	return nil
}
