package render_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/render"
)

// checkout is the files of a repository by path.
type checkout map[string]string

// load reads the configuration of a checkout and plans all of it.
func (files checkout) load(t testing.TB) (*plan.Plan, *config.Repository) {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	cfg, err := config.Load(fsys, slices.Sorted(maps.Keys(files)), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := plan.Compute(t.Context(), plan.Input{
		Config: cfg, FS: fsys, Selection: plan.Selection{All: true}, Head: diff.Commit{Hash: head}, Created: time.Unix(0, 0),
		Registry: cfg.Pipegen.Registry, Getenv: func(string) string { return "" },
		Resolve: func(context.Context, string, string, *config.UpstreamAuth) (string, error) { return head, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return p, cfg
}

func (files checkout) concourse(t testing.TB) ([]byte, error) {
	t.Helper()
	p, cfg := files.load(t)
	return render.Concourse(p, cfg, render.ConcourseOptions{})
}

// with gives the files and some more.
func (files checkout) with(more checkout) checkout {
	out := maps.Clone(files)
	maps.Copy(out, more)
	return out
}

const onBase = "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:base-latest\n"

// project is a directory with a Dockerfile.
func project(dir, build, dockerfile string) checkout {
	return checkout{dir + "/build-config.yaml": build, dir + "/Dockerfile": dockerfile}
}

func concourseCheckouts() map[string]checkout {
	settings := checkout{"pipegen.yaml": "registry: registry.example/images\nimages: {kaniko: \"registry.example/images:builder-latest\"}\n"}
	one := settings.with(project("projects/app", "additional_tags: [latest]\n", "FROM scratch\n"))
	chain := one.with(project("projects/base", "additional_tags: [latest]\nwatch: [\"libs/**\", go.mod]\n", "FROM scratch\n")).
		with(project("projects/app", "additional_tags: [latest]\n", onBase)).
		with(project("projects/top", "depends_on: [app, side]\n", "FROM scratch\n")).
		with(project("projects/side", "depends_on: [base]\nplatforms: [linux/arm64, linux/arm/v7]\n", "FROM scratch\n")).
		with(checkout{"rebuild-weekly.txt": "base\n"})
	return map[string]checkout{
		"empty": {},
		"one":   one,
		"chain": chain,
		"targets": settings.with(project("projects/tools", "targets: [{name: slim}, {name: debug}]\n", "FROM scratch AS slim\nFROM scratch AS debug\n")).
			with(project("projects/on", "depends_on: [tools-slim]\n", "FROM scratch\n")),
		"odd": checkout{
			"pipegen.yaml":       "layout: git\nrebuild_all: [\"ci/{a,b}/**\", \"*.lock\"]\nignore: [\"**/README.md\", \"docs/*.md\", \"_notes/**\", \"**/*.txt\", LICENSE]\ndefaults: {timeout: 45m}\nrunners: {linux/amd64: {concourse: [big, \"a: b\", \"yes\"]}}\n",
			"rebuild-weekly.txt": "x/**\n",
		}.with(project("x/My App; $(id)", "name: my.app\nwatch: [\"a?c/**/[x-z]*.go\"]\n", "FROM scratch\n")).
			with(project("x", "name: \"1st\"\n", "FROM scratch\n")).
			with(project("x/y", "name: weekly\nbuilder_image: docker.io/tools/builder@sha256:"+strings.Repeat("a", 64)+"\n", "FROM scratch\n")).
			with(project("z", "name: z--z\nbuilder_image: 123456789012.dkr.ecr.eu-central-1.amazonaws.com/images:builder\n", "FROM scratch\n")),
		"names": settings.with(project("x/My App", "name: MyApp\n", "FROM scratch\n")).with(project("z", "name: _z\n", "FROM scratch\n")),
		"secrets": settings.with(checkout{
			"projects/tool/build-config.yaml": "upstream_repo: https://git.example/tool\nupstream_ref: v1\nupstream_auth: {token_env: GIT_TOKEN}\nsecrets: [{id: key, env: NPM_TOKEN}]\npre_script: \"true\"\n",
		}).with(project("projects/app", "depends_on: [tool]\n", "FROM scratch\n")),
		"also": checkout{"pipegen.yaml": settings["pipegen.yaml"] + `publish:
  also: [{registry: public.ecr.aws/acme/images}, {registry: registry.example.org/images, images: [app]}]
  sign: {key: "env://COSIGN_PRIVATE_KEY"}
overlays: {concourse: {manifest: {config: {params: {COSIGN_PASSWORD: null}}}}}
`}.with(project("projects/app", "platforms: [linux/amd64]\n", "FROM scratch\n")),
		"controller": chain.with(project("projects/base", "runner: kubernetes\nsecrets: [{id: npm, env: NPM_TOKEN}]\ntimeout: 90m\n", "FROM scratch\n")).
			with(project("projects/top", "runner: ecs\nplatforms: [linux/arm64]\ndepends_on: [app, side]\nupstream_repo: https://git.example/top\nupstream_ref: v1\nupstream_auth: {token_env: GIT_TOKEN}\n", "FROM scratch\n")).
			with(checkout{"pipegen.yaml": settings["pipegen.yaml"] + "publish: {also: [{registry: registry.example.org/images}]}\noverlays: {concourse: {run: {attempts: 2}}}\n"}),
		"identity": checkout{"pipegen.yaml": settings["pipegen.yaml"] + `publish:
  also: [{registry: public.ecr.aws/acme/images}]
  sign: {keyless: true, fulcio: "https://fulcio.example.org"}
  id_token: {role: "arn:aws:iam::123456789012:role/ci"}
`}.with(project("projects/app", "platforms: [linux/amd64]\n", "FROM scratch\n")),
		"engines": settings.with(project("projects/buildkit", "engine: buildkit\noutputs: [image, rootfs]\nssh: [{env: DEPLOY_KEY}]\n", "FROM scratch\n")).
			with(project("projects/unpushed", "outputs: [oci-layout]\n", "FROM scratch\n")).
			with(checkout{"projects/made/build-config.yaml": "engine: make\n", "projects/made/Makefile": "release:\n"}),
		"daemons": checkout{"pipegen.yaml": settings["pipegen.yaml"] + "buildkit: {addresses: [\"unix:///run/buildkit/buildkitd.sock\"]}\n"}.
			with(project("projects/app", "engine: buildkit\n", "FROM scratch\n")),
		"overlay": chain.with(checkout{"pipegen.yaml": settings["pipegen.yaml"] + `overlays:
  concourse:
    prepare: {attempts: 2}
    build:
      tags: [large]
      timeout: null
      config:
        image_resource: {source: {username: ((registry.user)), password: ((registry.password))}}
        params: {AWS_REGION: eu-central-1, AWS_SECRET_ACCESS_KEY: ((aws.secret))}
    manifest: {params: {CI_REGISTRY_PASSWORD: ((registry.password))}}
    job:
      build_log_retention: {builds: 50}
      on_failure: {put: notify, params: {text: "$BUILD_JOB_NAME failed"}}
    resource:
      check_every: 10m
      source: {uri: git@git.example:images.git, private_key: ((git.key)), branch: main}
    weekly: {source: {days: [Sunday]}}
    set_pipeline: {vars: {a: ((b))}}
    pipeline:
      resource_types: [{name: slack, type: registry-image, source: {repository: cfcommunity/slack-notification-resource}}]
      resources: [{name: notify, type: slack, source: {url: ((slack.url))}}]
`}),
	}
}

func TestConcourseGolden(t *testing.T) {
	for name, files := range concourseCheckouts() {
		t.Run(name, func(t *testing.T) {
			got, err := files.concourse(t)
			if err != nil {
				t.Fatal(err)
			}
			again, err := files.concourse(t)
			if err != nil || !bytes.Equal(got, again) {
				t.Errorf("the second rendering differs (%v)", err)
			}
			file := filepath.Join("testdata", name+".concourse.yml")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s is not what the configuration gives; renew it with -update\n%s", file, render.TextDiff(file, want, "now", got))
			}
			p, cfg := files.load(t)
			checkConcourse(t, p, cfg, got)
		})
	}
}

// What depends on time, commit, base or selection is not in the pipeline.
func TestConcourseDependsOnConfigurationAlone(t *testing.T) {
	p, cfg := concourseCheckouts()["chain"].load(t)
	want, err := render.Concourse(p, cfg, render.ConcourseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Head, p.Base, p.Event, p.Pipeline = strings.Repeat("b", 40), strings.Repeat("c", 40), "schedule", "77"
	p.Created, p.Committed, p.Dirty = time.Now(), time.Now(), true
	for i := range p.Images {
		p.Images[i].Key, p.Images[i].Tags, p.Images[i].Reasons = strings.Repeat("d", 64), []string{"other"}, nil
	}
	got, err := render.Concourse(p, cfg, render.ConcourseOptions{})
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the pipeline changed (%v):\n%s", err, render.TextDiff("before", want, "after", got))
	}
}

func TestConcourseRefuses(t *testing.T) {
	one := concourseCheckouts()["one"]
	build := func(text string) checkout { return one.with(checkout{"projects/app/build-config.yaml": text}) }
	settings := func(text string) checkout { return one.with(checkout{"pipegen.yaml": text}) }
	for name, c := range map[string]struct {
		files checkout
		want  string // the error, with its position
	}{
		"builder":          {build("name: app\nbuilder_image: ((image))\n"), "projects/app/build-config.yaml:2:16: "},
		"builder variable": {build("builder_image: $PIPEGEN_IMAGE\n"), "projects/app/build-config.yaml:1:16: "},
		"image":            {settings("images: {pipegen: \"((image))\"}\n"), "images.pipegen in pipegen.yaml"},
		"tag":              {settings("runners: {linux/arm64: {concourse: [arm, \"((tag))\"]}}\n"), "runners.linux/arm64.concourse.1 in pipegen.yaml"},
		"tag rtl":          {settings("runners: {linux/arm64: {concourse: [\"a\u202eb\"]}}\n"), "U+202E"},
		"overlay run":      {settings("overlays: {concourse: {build: {config: {run: {path: sh}}}}}\n"), "overlays.concourse.build.config.run in pipegen.yaml"},
		"overlay config":   {settings("overlays: {concourse: {build: {config: null}}}\n"), "overlays.concourse.build.config in pipegen.yaml"},
		"overlay image":    {settings("overlays: {concourse: {build: {config: {image_resource: null}}}}\n"), "overlays.concourse.build.config.image_resource"},
		"overlay own":      {settings("overlays: {concourse: {build: {params: {PIPEGEN_CI: x}}}}\n"), "overlays.concourse.build.params.PIPEGEN_CI"},
		"overlay own deep": {settings("overlays: {concourse: {build: {config: {params: {PIPEGEN_CI: x}}}}}\n"), "overlays.concourse.build.config.params.PIPEGEN_CI"},
		"overlay paths":    {settings("overlays: {concourse: {resource: {source: {paths: [a]}}}}\n"), "overlays.concourse.resource.source.paths"},
		"overlay uri":      {settings("overlays: {concourse: {resource: {source: {uri: null}}}}\n"), "overlays.concourse.resource.source.uri"},
		"overlay source":   {settings("overlays: {concourse: {resource: {source: null}}}\n"), "overlays.concourse.resource.source in"},
		"overlay typo":     {settings("overlays: {concourse: {build: {attempt: 2}}}\n"), "overlays.concourse.build.attempt in"},
		"overlay kind":     {settings("overlays: {concourse: {weekly: {attempts: 2}}}\n"), "overlays.concourse.weekly.attempts"},
		"overlay shape":    {settings("overlays: {concourse: {build: {tags: arm}}}\n"), "overlays.concourse.build.tags"},
		"unknown put":      {settings("overlays: {concourse: {job: {on_failure: {do: [{put: chat}]}}}}\n"), "overlays.concourse.job.on_failure.do.0.put"},
		"unused resource":  {settings("overlays: {concourse: {pipeline: {resources: [{name: chat, type: git}]}}}\n"), "overlays.concourse.pipeline.resources.0"},
		"second resource":  {settings("overlays: {concourse: {job: {ensure: {put: app}}, pipeline: {resources: [{name: app, type: git}]}}}\n"), "overlays.concourse.pipeline.resources.0"},
		"own source":       {settings("overlays: {concourse: {pipeline: {var_sources: [{name: pipegen-signing, type: vault}]}}}\n"), "overlays.concourse.pipeline.var_sources.0"},
		"signed":           {settings("publish: {sign: {keyless: true}}\n").with(checkout{"projects/app/build-config.yaml": "runner: ecs\n"}), `image "app" is published by the controller`},
		"nameless":         {settings("overlays: {concourse: {pipeline: {resources: [{type: git}]}}}\n"), "overlays.concourse.pipeline.resources.0"},
	} {
		data, err := c.files.concourse(t)
		if !errors.Is(err, failure.ErrInput) || !strings.Contains(fmt.Sprint(err), c.want) || data != nil {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
	p, cfg := one.load(t)
	for _, file := range []string{"/a.yml", "../a.yml", "a b.yml", "((a)).yml", "a/../b", "$(id)"} {
		if _, err := render.Concourse(p, cfg, render.ConcourseOptions{File: file}); !errors.Is(err, failure.ErrInput) {
			t.Errorf("file %q: got %v", file, err)
		}
	}
	p.Images[0].Builds[0].Runner = "kubernetes"
	if _, err := render.Concourse(p, cfg, render.ConcourseOptions{}); !errors.Is(err, failure.ErrInput) {
		t.Errorf("runner: got %v", err)
	}
}

// What the documentation shows is right.
func TestConcourseDocumentation(t *testing.T) {
	page, err := os.ReadFile("../../docs/concourse.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	for i, block := range strings.Split(string(page), "```") {
		if text, ok := strings.CutPrefix(block, "yaml\n"); i%2 == 1 && ok {
			examples++
			files := concourseCheckouts()["chain"].with(checkout{"pipegen.yaml": text})
			data, err := files.concourse(t)
			if err != nil {
				t.Errorf("%v\n%s", err, text)
				continue
			}
			p, cfg := files.load(t)
			checkConcourse(t, p, cfg, data)
		}
	}
	if examples < 5 {
		t.Errorf("the page has %d examples", examples)
	}
}
