package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// imageFor makes an image for a platform.
func imageFor(t *testing.T, platform string) v1.Image {
	t.Helper()
	img, err := random.Image(512, 2)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = p.OS, p.Architecture, p.Variant
	config.Config.Labels = map[string]string{"own": "1"}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// madeImages puts archives where a command can copy them from, and gives the
// directory. Names that end in .tar are archives of docker save, .oci.tar OCI
// archives, .both.tar hold images for amd64 and arm64, others are layouts.
func madeImages(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, platform := range files {
		img, file := imageFor(t, platform), filepath.Join(dir, name)
		var err error
		switch {
		case strings.HasSuffix(name, ".oci.tar"):
			err = archive.WriteOCITar(t.Context(), file, img, nil, "x:latest")
		case strings.HasSuffix(name, ".tar"):
			err = archive.WriteDockerTar(t.Context(), file, img, "x:latest")
		default:
			err = archive.WriteLayout(t.Context(), file, img, nil, "x:latest")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// newMake is a bench whose project builds itself with this command, in which
// $from is a directory of images.
func newMake(t *testing.T, command string, images map[string]string) *bench {
	t.Helper()
	b := newBench(t, map[string]string{"Makefile": "x:\n", "f": "1"})
	b.Sandbox, b.Shared = nil, true
	b.Build.Engine, b.Build.Dockerfile, b.Build.Command = "make", "Dockerfile", command
	b.Build.Env = map[string]string{"from": madeImages(t, images)}
	b.OutputDir = filepath.Join(t.TempDir(), "out")
	return b
}

// below lists what is below a directory, directories with a slash.
func below(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && path != dir && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			out = append(out, rel)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return out
}

func TestMake(t *testing.T) {
	const amd64, arm64 = "linux/amd64", "linux/arm64"
	tests := []struct {
		name    string
		images  map[string]string
		command string
		change  func(*bench)
		// Tags of images that are pushed, files of the output directory, and what
		// the log or the error says.
		pushed, files []string
		log, err      string
	}{
		{
			name: "one archive is the project's own", images: map[string]string{"any.tar": amd64},
			command: `mkdir release; cp "$from/any.tar" release/`, pushed: []string{"app-1-amd64"},
		},
		{
			name: "an OCI archive", images: map[string]string{"any.oci.tar": amd64},
			command: `mkdir release; cp "$from/any.oci.tar" release/x.tar`, pushed: []string{"app-1-amd64"},
		},
		{
			name: "a layout", images: map[string]string{"any": amd64},
			command: `mkdir release; cp -r "$from/any" release/`, pushed: []string{"app-1-amd64"},
		},
		{
			name: "parts", images: map[string]string{"app.tar": amd64, "worker.tar": amd64, "api": amd64},
			command: `mkdir release; cp -r "$from"/* release/`, pushed: []string{"app-1-amd64", "app-api-1-amd64", "app-worker-1-amd64"},
		},
		{
			name: "parts in repositories of their own", images: map[string]string{"image.tar": amd64, "worker.tar": amd64},
			command: `mkdir release; cp -r "$from"/* release/`,
			change: func(b *bench) {
				b.Plan.Layout, b.Image.Repository, b.Image.Tags = "repository", b.host+"/images/app", []string{"1"}
				b.Build.Destination = b.host + "/images/app:1-amd64"
			},
			pushed: []string{"/app:1-amd64", "/app-worker:1-amd64"},
		},
		{
			name: "files", images: map[string]string{"x.tar": amd64},
			command: `mkdir -p release/doc; cp "$from/x.tar" release/; echo hi > release/notes; tar cf release/src.tar f; echo d > release/doc/a; ln -s a release/doc/b`,
			pushed:  []string{"app-1-amd64"}, files: []string{"artifacts/doc/a", "artifacts/doc/b", "artifacts/notes", "artifacts/src.tar"},
		},
		{
			name: "outputs of each image, and no push", images: map[string]string{"app.tar": amd64, "worker.tar": amd64},
			command: `mkdir release; cp "$from"/* release/`,
			change:  func(b *bench) { b.Build.Outputs = []string{"docker-tar", "digest"} },
			files:   []string{"digest", "image.tar", "worker/digest", "worker/image.tar"},
		},
		{
			name: "no image at all", command: `mkdir release; echo 1 > release/tool`,
			change: func(b *bench) { b.Build.Outputs = []string{"digest"} }, files: []string{"artifacts/tool"},
		},
		{
			name: "a target", images: map[string]string{"app.tar": amd64, "worker.tar": amd64},
			command: `mkdir release; cp "$from"/* release/; echo "project $PROJECT"`,
			change: func(b *bench) {
				b.Build.Target, b.Image.Name, b.Build.ID = "worker", "app-worker", "app-worker@amd64"
				b.Build.Destination = b.host + "/images:app-worker-1-amd64"
			},
			pushed: []string{"app-worker-1-amd64"}, log: "project app\n",
		},
		{
			name: "a target without its archive", images: map[string]string{"app.tar": amd64},
			command: `mkdir release; cp "$from"/* release/`, change: func(b *bench) { b.Build.Target = "worker" },
			err: "the command left no projects/app/release/worker.tar",
		},
		{
			name: "another platform", images: map[string]string{"app.tar": arm64},
			command: `mkdir release; cp "$from"/* release/`, err: "projects/app/release/app.tar: its image is for linux/arm64, and the build for linux/amd64",
		},
		{
			name: "nothing pushed if one of them is wrong", images: map[string]string{"app.tar": amd64, "worker.tar": arm64},
			command: `mkdir release; cp "$from"/* release/`, err: "worker.tar: its image is for linux/arm64",
		},
		{name: "nothing", command: "true", err: "the command left no projects/app/release"},
		{name: "an empty directory", command: "mkdir release", err: "the command left nothing in projects/app/release"},
		{name: "no image", command: "mkdir release; echo 1 > release/tool", err: "left no image in projects/app/release"},
		{
			name: "two that are one", images: map[string]string{"app.tar": amd64, "image.tar": amd64},
			command: `mkdir release; cp "$from"/* release/`, err: "app.tar and projects/app/release/image.tar would be the same image",
		},
		{
			name: "a name that is none", images: map[string]string{"app.tar": amd64, "b c.tar": amd64},
			command: `mkdir release; cp "$from"/* release/`, err: `"app-b c" cannot be the name of an image`,
		},
		{
			name: "a name of an output", images: map[string]string{"app.tar": amd64, "rootfs": amd64},
			command: `mkdir release; cp -r "$from"/* release/`, err: `no image can be called "rootfs"`,
		},
		{
			name: "a name that is taken", images: map[string]string{"app.tar": amd64, "worker.tar": amd64},
			command: `mkdir release; cp "$from"/* release/`,
			change:  func(b *bench) { b.Plan.Skipped = []plan.Skipped{{Name: "app-worker"}} }, err: "image app-worker, which another project yields",
		},
		{
			name: "a link out of the repository", command: `mkdir release; ln -s /etc/passwd release/x`,
			err: "projects/app/release/x: leads out of the repository",
		},
		{
			name: "a release that is one", command: `ln -s /etc release`, err: "projects/app/release: leads out of the repository",
		},
		{
			name: "a link out of a directory", images: map[string]string{"app.tar": amd64},
			command: `mkdir -p release/d; cp "$from"/* release/; ln -s ../../f release/d/x`, err: `link "x" leads out of it, to "../../f"`,
		},
		{
			name: "links of a root file system", images: map[string]string{"app.tar": amd64},
			command: `mkdir -p release/rootfs; cp "$from"/* release/; ln -s /bin/busybox release/rootfs/sh`, pushed: []string{"app-1-amd64"}, files: []string{"artifacts/rootfs/sh"},
		},
		{
			name: "a damaged archive", images: map[string]string{"app.tar": amd64},
			command: `mkdir release; head -c 1000 "$from/app.tar" > release/app.tar`, err: "app.tar",
		},
		{name: "a command that fails", command: "echo no >&2; exit 3", log: "no\n", err: "make failed: exit status 3"},
		{name: "stops at the first failure", command: "false\nmkdir release", err: "make failed: exit status 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newMake(t, tt.command, tt.images)
			if tt.change != nil {
				tt.change(b)
			}
			r, err := b.run(t)
			contains(t, b.out.String(), tt.log)
			if got := fmt.Sprint(err); (err != nil) != (tt.err != "") || !strings.Contains(got, tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			var pushed, files []string
			for _, part := range r.Images(b.Image) {
				if part.Ref == "" {
					continue
				}
				pushed = append(pushed, strings.TrimPrefix(strings.TrimPrefix(part.Ref, b.host+"/images"), ":"))
				if d, err := b.Registry.Head(t.Context(), part.Ref); err != nil || d.Digest != part.Digest {
					t.Errorf("%s is %v, %v, want %s", part.Ref, d, err, part.Digest)
				}
			}
			if !slices.Equal(pushed, tt.pushed) {
				t.Errorf("pushed %q, want %q", pushed, tt.pushed)
			}
			if files = below(t, b.OutputDir); !slices.Equal(files, tt.files) {
				t.Errorf("files %q, want %q", files, tt.files)
			}
			var listed []string
			for _, o := range r.Outputs {
				listed = append(listed, o.Path)
				if _, err := os.Lstat(filepath.Join(b.OutputDir, o.Path)); err != nil {
					t.Error(err)
				}
			}
			if len(listed) == 0 && len(tt.files) > 0 {
				t.Errorf("outputs %v", r.Outputs)
			}
			if status := gitRun(t, b.Root, "status", "--porcelain"); status != "" {
				t.Errorf("the checkout has changed: %s", status)
			}
		})
	}
}

func TestMakeLabels(t *testing.T) {
	b := newMake(t, `mkdir release; cp "$from/any.tar" release/`, map[string]string{"any.tar": "linux/amd64"})
	b.Build.Outputs = []string{"image", "docker-tar"}
	r, err := b.run(t)
	if err != nil {
		t.Fatal(err)
	}
	img, _, err := b.Registry.Pull(t.Context(), r.Ref)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"own": "1", "org.opencontainers.image.revision": "r", plan.HeadLabel: b.Plan.Head, plan.KeyAnnotation: b.Image.Key, plan.CreatedAnnotation: planTime(b.Plan)}
	if !maps.Equal(config.Config.Labels, want) {
		t.Errorf("labels %v, want %v", config.Config.Labels, want)
	}
	a, err := archive.Open(t.Context(), filepath.Join(b.OutputDir, "image.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close() //nolint:errcheck // only read from
	if got, err := a.Images()[0].Image.Digest(); err != nil || got.String() != r.Digest {
		t.Errorf("image.tar holds %s, %v; pushed was %s", got, err, r.Digest)
	}
}

// TestMakeLeftovers builds in the checkout itself, as jobs of CI do.
func TestMakeLeftovers(t *testing.T) {
	b := newMake(t, `true`, map[string]string{"any.tar": "linux/amd64"})
	b.Shared = false
	release := filepath.Join(b.Root, "projects/app/release")
	write(t, release, map[string]string{"old.txt": "old"})
	data, err := os.ReadFile(filepath.Join(b.Build.Env["from"], "any.tar"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, release, map[string]string{"any.tar": string(data)})
	if _, err := b.run(t); err == nil || !strings.Contains(err.Error(), "nothing new: projects/app/release/any.tar, projects/app/release/old.txt was there before") {
		t.Errorf("what was there passes: %v", err)
	}
	b.Build.Command = `cp -p release/any.tar new; rm release/any.tar; cp -p new release/any.tar`
	r, err := b.run(t)
	if err != nil {
		t.Fatal(err)
	}
	if r.Digest == "" || len(r.Outputs) > 0 {
		t.Errorf("result %+v", r)
	}
	contains(t, b.out.String(), "warning: projects/app/release/old.txt was there before the command and is left out")
}

// TestMakeArgs has a shell pass what it is given to a program.
func TestMakeArgs(t *testing.T) {
	args := map[string]string{
		"PLAIN": "1", "BLANKS": " a  b ", "QUOTES": `it's "so"`, "COMMAS": "a,b", "DOLLAR": "$HOME $(X) $$", "LINES": "a\n'b'\n", "BACK": `a\b\`, "HASH": "#x", "EMPTY": "",
	}
	// show.sh does what docker build does with a flag without a value.
	b := newBench(t, map[string]string{
		"show.sh": "#!/bin/sh\nmkdir release\nfor a; do case $a in --build-arg) continue ;; *=*) ;; *) a=$a=$(printenv \"$a\"; echo x); a=${a%?x} ;; esac; printf '%s\\0' \"$a\" >> release/args; done\n",
	})
	b.Sandbox, b.Shared = nil, true
	b.Build.Engine, b.Build.Args, b.Build.Outputs = "make", args, []string{"digest"}
	b.Build.Command = `eval "./show.sh $BUILD_ARGS"; echo $PROJECT $PLATFORM $IMAGE $TARGETARCH`
	b.OutputDir = t.TempDir()
	if _, err := b.run(t); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(b.OutputDir, "artifacts/args"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for a := range strings.SplitSeq(strings.TrimSuffix(string(text), "\x00"), "\x00") {
		k, v, _ := strings.Cut(a, "=")
		got[k] = v
	}
	if !maps.Equal(got, args) {
		t.Errorf("got %q, want %q", got, args)
	}
	contains(t, b.out.String(), "app linux/amd64 "+b.Build.Destination+" amd64\n")
}

func TestMakeEnv(t *testing.T) {
	b := newMake(t, "mkdir release; env > release/env; echo $TOKEN", nil)
	b.Build.Outputs = []string{"digest"}
	b.Build.Env["PROJECT"] = "mine"
	b.env["TOKEN"], b.env["AWS_SECRET_ACCESS_KEY"], b.env["CI_JOB_TOKEN"] = "topsecretvalue", "neverever", "jobtoken"
	if err := os.RemoveAll(b.OutputDir); err != nil {
		t.Fatal(err)
	}
	b.Build.Secrets = append(b.Build.Secrets, secretOf("token", "TOKEN"))
	if _, err := b.run(t); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(b.OutputDir, "artifacts/env"))
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(text), "PROJECT=mine\n", "TOKEN=topsecretvalue\n", "PLATFORM=linux/amd64\n", "TARGETOS=linux\n")
	lacks(t, string(text), "neverever", "jobtoken")
	lacks(t, b.out.String(), "topsecretvalue")
}

func TestMakeRefuses(t *testing.T) {
	for name, change := range map[string]func(*plan.Build){
		"no command":  func(b *plan.Build) { b.Command = " " },
		"engine_args": func(b *plan.Build) { b.EngineArgs = []string{"-j"} },
		"a file":      func(b *plan.Build) { b.Secrets = append(b.Secrets, secretOf("x", "")) },
	} {
		b := newMake(t, "true", nil)
		change(b.Build)
		if _, err := b.run(t); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// immutable is a registry that does not let a tag be moved.
type immutable struct{ Registry }

func (r immutable) Push(ctx context.Context, ref string, img v1.Image, idx v1.ImageIndex) (registry.Descriptor, error) {
	held, err := r.Head(ctx, ref)
	if err == nil {
		return held, &registry.ImmutableError{Tag: ref, Holds: held.Digest}
	}
	return r.Registry.Push(ctx, ref, img, idx)
}

func TestMakeAgain(t *testing.T) {
	images := map[string]string{"1.tar": "linux/amd64", "2.tar": "linux/amd64"}
	b := newMake(t, `mkdir release; cp "$from/1.tar" release/`, images)
	b.Registry = immutable{b.Registry}
	b.Build.Outputs = []string{"image", "oci-layout", "digest"}
	first, err := b.run(t)
	if err != nil {
		t.Fatal(err)
	}
	b.Build.Command = `mkdir release; cp "$from/2.tar" release/; echo 1 > release/f`
	second, err := b.run(t)
	if err != nil || second.Digest != first.Digest {
		t.Fatalf("%+v, %v, want %s", second, err, first.Digest)
	}
	if text, err := os.ReadFile(filepath.Join(b.OutputDir, "digest")); err != nil || strings.TrimSpace(string(text)) != first.Digest {
		t.Errorf("digest is %s, %v", text, err)
	}
	a, err := archive.Open(t.Context(), filepath.Join(b.OutputDir, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close() //nolint:errcheck // only read from
	if got, err := a.Images()[0].Image.Digest(); err != nil || got.String() != first.Digest {
		t.Errorf("the layout holds %s, %v", got, err)
	}
	b.Plan.Head = gitRun(t, b.Root, "commit-tree", "-m", "y", "HEAD^{tree}")
	gitRun(t, b.Root, "reset", "-q", "--soft", b.Plan.Head)
	var refused *registry.ImmutableError
	if _, err := b.run(t); !errors.As(err, &refused) {
		t.Errorf("the image of another commit passes: %v", err)
	}
}

func TestMakeArgv(t *testing.T) {
	b := newMake(t, "make 'a b'", nil)
	argv, err := Argv(t.Context(), b.Job)
	if err != nil || !slices.Equal(argv, []string{"sh", "-e", "-c", "make 'a b'"}) {
		t.Errorf("%q, %v", argv, err)
	}
}

// FuzzBuildArgs asks a shell what the flags mean. make hands them to one as they
// are if they have no $ and no newline.
func FuzzBuildArgs(f *testing.F) {
	for _, s := range []string{"a", "it's", `"`, `\`, `\\`, "a b", "#", "%", "&&", "${x}", "\t", "~", "a\\", "=", "@", "-", "\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if strings.ContainsRune(value, 0) {
			return
		}
		flags, env := buildArgFlags(map[string]string{"K": value})
		if strings.ContainsAny(flags, "$\n\r") || len(env) > 0 && env["K"] != value {
			t.Fatalf("flags %q, environment %q", flags, env)
		}
		out, err := exec.Command("sh", "-c", "printf %s "+flags).Output()
		want := "--build-argK"
		if len(env) == 0 {
			want += "=" + value
		}
		if err != nil || string(out) != want {
			t.Errorf("%q gives %q, %v, by %s", value, out, err, quote.Text(flags))
		}
	})
}

func secretOf(id, env string) config.Secret {
	return config.Secret{ID: id, Env: env, File: map[bool]string{true: "f"}[env == ""]}
}
