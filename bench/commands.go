package main

import (
	"os"
	"path/filepath"
)

// How often the quick and the slow commands run.
const (
	often  = 15
	seldom = 5
)

// checkout is a repository that commands are measured in.
type checkout struct {
	bench
	dir string
	// Directory of its own for what the commands write.
	out string
}

// in gives the repository in dir, with a directory for what is written.
func (b bench) in(dir string) (checkout, error) {
	out, err := os.MkdirTemp(b.work, "")
	return checkout{b, dir, out}, err
}

func (c checkout) gitCommand(name string, args ...string) *process {
	return &process{name: name, dir: c.dir, env: environment(os.Getenv("PATH"), ""), argv: append([]string{c.git}, args...), rounds: often}
}

func (c checkout) pipegenCommand(name string, args ...string) *process {
	return &process{name: name, dir: c.dir, env: environment(os.Getenv("PATH"), ""), argv: append([]string{c.pipegen, "-q"}, args...), rounds: often}
}

// withoutGit hides git from a process.
func (c checkout) withoutGit(p *process) *process {
	p.env = environment("", "")
	return p
}

func (c checkout) version() *process { return c.pipegenCommand("pipegen --version", "--version") }

// diffs compares two revisions with git, and with pipegen with and without it.
func (c checkout) diffs(what, base, head string, projects int) []*process {
	args := []string{"diff", "--base", base, "--head", head, "-f", "names"}
	all := []*process{
		c.gitCommand("git diff, "+what, "diff", "--name-only", base, head),
		c.pipegenCommand("pipegen diff, "+what, args...),
		c.withoutGit(c.pipegenCommand("pipegen diff without git, "+what, args...)),
	}
	all[1].lines, all[2].lines = projects, projects
	return all
}

// plans makes a plan of the work tree with an empty and with a filled parse
// cache.
func (c checkout) plans(selection, base string) []*process {
	name := "pipegen plan --select " + selection
	args := []string{"plan", "--base", base, "--select", selection, "-f", "json", "-o", filepath.Join(c.out, selection+".json")}
	cold, warm := c.pipegenCommand(name+", cold", args...), c.pipegenCommand(name+", warm", args...)
	empty, filled := filepath.Join(c.out, "cold"), filepath.Join(c.out, "warm")
	cold.env, warm.env = environment(os.Getenv("PATH"), empty), environment(os.Getenv("PATH"), filled)
	cold.before = func() error { return os.RemoveAll(empty) }
	cold.rounds, warm.rounds = seldom, seldom
	return []*process{cold, warm}
}

// planOf makes a plan of a commit instead of the work tree, without a cache.
func (c checkout) planOf(head string) *process {
	return c.pipegenCommand("pipegen plan --head "+head, "plan", "--base", "base", "--head", head, "-f", "json")
}

// render renders the plan that plans has made of all projects.
func (c checkout) render(system string) *process {
	p := c.pipegenCommand("pipegen render "+system, "render", system, "--plan", filepath.Join(c.out, "all.json"), "-o", filepath.Join(c.out, system+".yml"))
	p.rounds = seldom
	return p
}

// checkedIn renders what is checked in, from the configuration, with the parse
// cache that plans has filled.
func (c checkout) checkedIn(system string) *process {
	p := c.pipegenCommand("pipegen render "+system, "render", system, "-o", filepath.Join(c.out, system))
	p.env = environment(os.Getenv("PATH"), filepath.Join(c.out, "warm"))
	p.rounds = seldom
	return p
}
