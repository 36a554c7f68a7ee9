package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pipegen/pipegen/test/toolcache"
)

const (
	// How far the registry is away where it is not near: there and back.
	farAway = 20 * time.Millisecond
	// How many images are published one after the other by the other tools and
	// by one process of pipegen, and how many requests that may send a second:
	// the others do not restrain themselves.
	publishImages, publishRPS = 200, 10_000
	// What pipegen may take of crane's time for one image, and for all of them.
	shareOfOne, shareOfAll = 0.75, 0.2
)

// publishing measures pipegen manifest against the tools that people join
// images with, on one registry.
func publishing(ctx context.Context, b bench) error {
	s, err := newPublishSite(ctx, b, publishImages)
	if err != nil {
		return err
	}
	publishers, err := s.publishers(ctx)
	if err != nil {
		return err
	}
	var t [3]publishTable
	for i, of := range []publishTable{
		{title: "An index of two children, one tag", images: 1, tags: 1, rounds: often},
		{title: "An index of two children, five tags", images: 1, tags: 5, rounds: often},
		{title: fmt.Sprintf("%d indexes of two children, one tag each; pipegen in one process, the others in a loop", publishImages), images: publishImages, tags: 1, rounds: 1},
	} {
		t[i] = of
		if err := t[i].measure(ctx, s, publishers); err != nil {
			return err
		}
		t[i].print()
	}
	var g table
	for i, what := range []string{"one tag", "five tags"} {
		tags := t[i].tags
		g.goal("pipegen manifest, "+what, "requests", float64(1+len(publishPlatforms)+3*tags), t[i].requests(plainPipegen))
		g.goal("pipegen manifest, "+what+", not yet verified", "requests", float64(1+2*len(publishPlatforms)+3*tags), t[i].requests(unverifiedPipegen))
		g.goal("pipegen manifest, "+what+", 20 ms away", "× crane", shareOfOne, t[i].share(plainPipegen, "crane"))
		g.goal("pipegen manifest, "+what+", not yet verified", "× crane", shareOfOne, t[i].share(unverifiedPipegen, "crane"))
	}
	g.goal("pipegen manifest --all, 20 ms away", "× crane", shareOfAll, t[2].share(plainPipegen, "crane"))
	g.goal("pipegen manifest --all, not yet verified", "× crane", shareOfAll, t[2].share(unverifiedPipegen, "crane"))
	return nil
}

const (
	plainPipegen      = "pipegen manifest"
	unverifiedPipegen = "pipegen manifest, platforms not verified"
)

// publisher publishes the first images of a site under so many tags each.
type publisher struct {
	name    string
	process func(host string, images, tags int) (*process, error)
	// Whether it is measured for several images alone.
	several bool
}

// publishers are pipegen and the other tools.
func (s *publishSite) publishers(ctx context.Context) ([]publisher, error) {
	root, err := toolcache.Root()
	if err != nil {
		return nil, err
	}
	cache, err := toolcache.Open(root, io.Discard)
	if err != nil {
		return nil, err
	}
	pipegen := func(verified bool, flags ...string) func(string, int, int) (*process, error) {
		return func(host string, images, tags int) (*process, error) {
			args, err := s.plan(host, images, tags, verified)
			return s.command(append(append([]string{s.pipegen, "-q"}, args...), flags...)...), err
		}
	}
	free := "--registry-rps=" + strconv.Itoa(publishRPS)
	all := []publisher{
		{plainPipegen, pipegen(true, free), false},
		{unverifiedPipegen, pipegen(false, free), false},
		{"pipegen manifest, 50 requests a second", pipegen(true), true},
	}
	// What each tool is run with for an image. No word of it has a blank.
	for _, other := range []struct {
		tool toolcache.Tool
		argv func(program, host, image string, tags []string) [][]string
	}{
		{toolcache.Crane, func(program, host, image string, tags []string) [][]string {
			lines := [][]string{{program, "index", "append", "-t", host + "/images:" + tags[0]}}
			for _, platform := range publishPlatforms {
				lines[0] = append(lines[0], "-m", host+"/images@"+s.digest(image, platform))
			}
			for _, tag := range tags[1:] {
				lines = append(lines, []string{program, "tag", host + "/images:" + tags[0], tag})
			}
			return lines
		}},
		{toolcache.RegCtl, func(program, host, image string, tags []string) [][]string {
			program += " --host reg=" + host + ",tls=disabled"
			lines := [][]string{{program, "index", "create", host + "/images:" + tags[0]}}
			for _, platform := range publishPlatforms {
				lines[0] = append(lines[0], "--ref", host+"/images@"+s.digest(image, platform))
			}
			for _, tag := range tags[1:] {
				lines = append(lines, []string{program, "image", "copy", host + "/images:" + tags[0], host + "/images:" + tag})
			}
			return lines
		}},
		{toolcache.ManifestTool, func(program, host, image string, tags []string) [][]string {
			line := []string{
				program, "--plain-http", "push", "from-args", "--platforms", strings.Join(publishPlatforms, ","),
				"--template", host + "/images:" + image + "-ARCH", "--target", host + "/images:" + tags[0],
			}
			if len(tags) > 1 {
				line = append(line, "--tags", strings.Join(tags[1:], ","))
			}
			return [][]string{line}
		}},
	} {
		program, err := cache.Install(ctx, other.tool)
		if err != nil {
			return nil, err
		}
		all = append(all, publisher{other.tool.Name, func(host string, images, tags int) (*process, error) {
			var lines []string
			for _, img := range s.images[:images] {
				for _, argv := range other.argv(program, host, img.Name, tagsOf(img.Name, tags)) {
					lines = append(lines, strings.Join(argv, " "))
				}
			}
			if len(lines) == 1 {
				return s.command(strings.Fields(lines[0])...), nil // no shell
			}
			script := filepath.Join(s.dir, other.tool.Name+".sh")
			return s.command("/bin/sh", "-e", script), os.WriteFile(script, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
		}, false})
	}
	return all, nil
}

func (s *publishSite) digest(image, platform string) string {
	return s.results[image+"@"+strings.TrimPrefix(platform, "linux/")].Digest
}

func (s *publishSite) command(argv ...string) *process {
	return &process{dir: s.dir, env: environment(os.Getenv("PATH"), ""), argv: argv}
}

// publishTable holds what publishers took for so many images and tags.
type publishTable struct {
	title                string
	images, tags, rounds int

	names []string
	rows  map[string]*publishRow
}

type publishRow struct {
	requests  int64
	near, far []sample
}

// measure has all publish in turns, from a registry that is near and from one
// that is far, after a look at whether they do.
func (t *publishTable) measure(ctx context.Context, s *publishSite, publishers []publisher) error {
	t.rows = map[string]*publishRow{}
	for round := range t.rounds + 1 {
		for _, p := range publishers {
			if p.several && t.images == 1 {
				continue
			}
			row := t.rows[p.name]
			if row == nil {
				row = &publishRow{}
				t.rows[p.name], t.names = row, append(t.names, p.name)
			}
			for host, samples := range map[string]*[]sample{s.near: &row.near, s.far: &row.far} {
				if round == 0 && (host == s.far || t.images > 1) {
					continue // warm
				}
				if err := s.forget(ctx, t.images, t.tags); err != nil {
					return err
				}
				process, err := p.process(host, t.images, t.tags)
				if err != nil {
					return err
				}
				before := s.requests.Load()
				took, err := process.run(ctx)
				if err != nil {
					return fmt.Errorf("%s: %w", p.name, err)
				}
				row.requests = s.requests.Load() - before
				if round > 0 {
					*samples = append(*samples, took)
				}
				if round > 1 {
					continue
				}
				if err := s.published(t.images, t.tags); err != nil {
					return fmt.Errorf("%s: %w", p.name, err)
				}
			}
		}
	}
	return nil
}

func (t *publishTable) print() {
	fmt.Printf("\n%s; medians of whole processes\n\n%-*s%12s%12s%22s\n", t.title, nameWidth, "", "requests", "wall ms", "wall ms, 20 ms away")
	for _, name := range t.names {
		row := t.rows[name]
		fmt.Printf("%-*s%12d%12.1f%22.1f\n", nameWidth, name, row.requests, milliseconds(median(row.near).wall), milliseconds(median(row.far).wall))
	}
	fmt.Println()
}

func (t *publishTable) requests(name string) column {
	return column{{float64(t.rows[name].requests), true}}
}

// share is what a publisher takes of another's time, far from the registry.
func (t *publishTable) share(name, of string) column {
	return column{{float64(median(t.rows[name].far).wall) / float64(median(t.rows[of].far).wall), true}}
}
