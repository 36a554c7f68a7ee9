package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

const scratch = "FROM scratch\nCOPY f /\n"

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in\n%s", p, text)
		}
	}
}

func lacks(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if strings.Contains(text, p) {
			t.Errorf("%q is in\n%s", p, text)
		}
	}
}

func TestBuild(t *testing.T) {
	b := newBench(t, map[string]string{"Dockerfile": "ARG B\nFROM ${B} AS base\nFROM base\nCOPY f /\n", "Dockerfile.dockerignore": "x\n", "f": "1"})
	digest := pushImage(t, b.host+"/base:1", "linux/amd64")
	b.Build.Args["B"] = b.host + "/base:1"
	got, err := b.run(t)
	if err != nil {
		t.Fatal(err)
	}
	want := plan.Result{
		ID: "app@amd64", Ref: b.Build.Destination, Digest: got.Digest, Size: got.Size, MediaType: "application/vnd.docker.distribution.manifest.v2+json",
		Platform: "linux/amd64", Verified: true, Bases: []plan.Base{{Ref: b.host + "/base:1", Digest: digest, Final: true}}, Key: b.Image.Key, Head: b.Plan.Head,
	}
	if !reflect.DeepEqual(got, want) || !digestPattern.MatchString(got.Digest) || got.Size == 0 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	text, err := os.ReadFile(plan.ResultFile(b.MetadataDir, "app@amd64"))
	var read plan.Result
	if err != nil || json.Unmarshal(text, &read) != nil || !reflect.DeepEqual(read, want) {
		t.Errorf("the file has %s, %v", text, err)
	}
	contains(t, b.out.String(), "context has f\n", fmt.Sprintf("dockerfile %q\n", "ARG B\nFROM "+b.host+"/base:1@"+digest+" AS base\nFROM base\nCOPY f /\n"))
	log, err := os.ReadFile(plan.LogFile(b.MetadataDir, "app@amd64"))
	if err != nil || string(log) != b.out.String() {
		t.Errorf("the log file has %q, %v", log, err)
	}
	if m := b.sandbox.calls[0].Mounts; m[0].Host != filepath.Join(b.Root, "projects/app") {
		t.Errorf("the context is %s", m[0].Host)
	}
	if status := gitRun(t, b.Root, "status", "--porcelain"); status != "" {
		t.Errorf("the checkout has changed: %s", status)
	}
}

func TestAdopt(t *testing.T) {
	b := newBench(t, map[string]string{"Dockerfile": "FROM " + "base:1\n"})
	pushImage(t, b.host+"/base:1", "linux/amd64")
	write(t, b.Root, map[string]string{"projects/app/Dockerfile": "FROM " + b.host + "/base:1\n"})
	b.Build.PreScript = "echo pre"
	first, err := b.run(t)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*plan.Plan)
		calls  int
		log    string
	}{
		{"the same", func(*plan.Plan) {}, 0, "holds this build already"},
		{"post_script", func(p *plan.Plan) { p.Images[0].Builds[0].PostScript = "echo after $PIPEGEN_DIGEST" }, 0, "after " + first.Digest},
		{"another plan", func(p *plan.Plan) {
			p.Created = p.Created.Add(time.Hour)
			p.Images[0].Reasons = []plan.Reason{{Kind: plan.Changed, Detail: "x"}, {Kind: plan.Missing, Detail: "y"}}
		}, 0, "holds this build already"},
		{"another plan, which wants a new image", func(p *plan.Plan) {
			p.Created = p.Created.Add(time.Hour)
			p.Images[0].Reasons = []plan.Reason{{Kind: plan.Changed, Detail: "x"}, {Kind: plan.Stale, Detail: "y"}}
		}, 1, "dockerfile"},
		{"another plan, built on what is new", func(p *plan.Plan) {
			p.Created = p.Created.Add(2 * time.Hour)
			p.Images[0].Reasons = []plan.Reason{{Kind: plan.Dependency, Detail: "base"}}
		}, 1, "dockerfile"},
		{"another key", func(p *plan.Plan) { p.Images[0].Key = "other" }, 1, "dockerfile"},
		{"another platform", func(p *plan.Plan) { p.Images[0].Builds[0].Platform = "linux/s390x" }, 0, "is for linux/amd64 only"},
		{"dirty", func(p *plan.Plan) { p.Dirty = true }, 1, "dockerfile"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			again := *b
			p := *b.Plan
			p.Images = []plan.Image{*b.Image}
			p.Images[0].Builds = []plan.Build{*b.Build}
			tt.change(&p)
			again.Plan, again.Image, again.Build = &p, &p.Images[0], &p.Images[0].Builds[0]
			b.sandbox.calls = nil
			got, err := again.run(t)
			contains(t, again.out.String(), tt.log)
			if len(b.sandbox.calls) != tt.calls {
				t.Errorf("the engine ran %d times, want %d", len(b.sandbox.calls), tt.calls)
			}
			if tt.name == "another platform" {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tt.calls == 0 && !reflect.DeepEqual(got, first) {
				t.Errorf("got %+v, want %+v", got, first)
			}
			if _, err := os.Stat(plan.ResultFile(b.MetadataDir, "app@amd64")); err != nil {
				t.Error(err)
			}
		})
		if tt.calls > 0 { // back to what was there
			if err := os.RemoveAll(b.MetadataDir); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestDependencyIsPinned(t *testing.T) {
	b := newBench(t, map[string]string{"Dockerfile": "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:base-latest\nCOPY --from=tools x y\nCOPY --from=HOST/images:base-1 a b\n"})
	file := filepath.Join(b.Root, "projects/app/Dockerfile")
	write(t, b.Root, map[string]string{"projects/app/Dockerfile": "ARG PIPEGEN_REGISTRY\nFROM ${PIPEGEN_REGISTRY}:base-latest\nCOPY --from=" + b.host + "/images:base-1 a b\n"})
	old := pushImage(t, b.host+"/images:base-latest", "linux/amd64")
	fresh := pushImage(t, b.host+"/images:base-new", "linux/amd64")
	pushImage(t, b.host+"/images:base-1", "linux/amd64")
	b.Plan.Images = append(b.Plan.Images, plan.Image{Name: "base", Repository: b.host + "/images", Tags: []string{"base-1"}, Aliases: []string{"base-latest"}})
	b.Image = &b.Plan.Images[0]
	b.Image.Needs = []string{"base"}
	b.Build = &b.Image.Builds[0]

	got, err := b.run(t) // not published by this run: what the tag holds
	if err != nil {
		t.Fatal(err)
	}
	if got.Bases[0].Digest != old {
		t.Errorf("bases are %+v, want %s", got.Bases, old)
	}
	contains(t, b.out.String(), "image base: no ")

	published := plan.Published{Name: "base", Repository: b.host + "/images", Digest: fresh, Children: []plan.Child{{Platform: "linux/amd64"}}}
	save := func() {
		text, err := json.Marshal(published)
		if err != nil {
			t.Fatal(err)
		}
		write(t, b.MetadataDir, map[string]string{"indexes/base.json": string(text)})
	}
	save()
	b.Image.Key = "other"
	if got, err = b.run(t); err != nil {
		t.Fatal(err)
	}
	want := []plan.Base{{Ref: b.host + "/images:base-latest", Digest: fresh, Final: true}, {Ref: b.host + "/images:base-1", Digest: fresh}}
	if !reflect.DeepEqual(got.Bases, want) {
		t.Errorf("bases are %+v, want %+v", got.Bases, want)
	}
	pinned := b.host + "/images@" + fresh
	contains(t, b.out.String(), fmt.Sprintf("dockerfile %q", "ARG PIPEGEN_REGISTRY\nFROM "+pinned+"\nCOPY --from="+pinned+" a b\n"))
	if text, err := os.ReadFile(file); err != nil || strings.Contains(string(text), fresh) {
		t.Errorf("the Dockerfile itself has %q, %v", text, err)
	}

	published.Children[0].Platform = "linux/arm64"
	save()
	b.Image.Key = "third"
	if _, err = b.run(t); err == nil || !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "projects/app/Dockerfile:2: image base was not published for linux/amd64") {
		t.Errorf("got %v", err)
	}
	published.Digest = "x"
	save()
	if _, err = b.run(t); err == nil || !strings.Contains(err.Error(), "base.json: not what was published of base") {
		t.Errorf("got %v", err)
	}
}

func TestScripts(t *testing.T) {
	b := newBench(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY made /\n", "f": "1"})
	write(t, b.Root, map[string]string{"other/g": "2"})
	b.Build.PreScript = "set -u\npwd\ncat f ../../other/g > made\ntest ! -e ../../.git\necho \"env $TARGETPLATFORM $TARGETVARIANT $PIPEGEN_NAME $PIPEGEN_BUILD $PIPEGEN_COMMIT $MINE $TOKEN\"\necho \"$HOME\" > home\ntouch $HOME/x $TMPDIR/x\nenv | sort\ncat"
	b.Build.PostScript = "cat made\necho post $PIPEGEN_DIGEST $PIPEGEN_REF"
	b.Build.Env = map[string]string{"MINE": "a b"}
	b.Build.Secrets = []config.Secret{{ID: "token", Env: "TOKEN"}}
	for _, name := range []string{"CI_JOB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GITHUB_TOKEN", "DOCKER_AUTH_CONFIG", "SSH_AUTH_SOCK", "KUBECONFIG", "CI", "DOCKER_CONFIG"} {
		b.env[name] = "value-of-" + name
	}
	b.env["TOKEN"] = "hunter2hunter2"
	b.env["LC_ALL"] = "C"
	b.env["HTTPS_PROXY"] = "http://user:proxypass@proxy.example.org"
	got, err := b.run(t)
	if err != nil {
		t.Fatal(err)
	}
	log := b.out.String()
	contains(t, log, "/source/projects/app\n", "env linux/amd64  app app@amd64 "+b.Plan.Head+" a b ***\n", "context has made\n", "12", "post "+got.Digest+" "+b.host+"/images@"+got.Digest+"\n", "LC_ALL=C\n",
		"HTTPS_PROXY=http://user:***@proxy.example.org\n", "TOKEN=***\n")
	lacks(t, log, "value-of-", "hunter2", "proxypass")
	if status := gitRun(t, b.Root, "status", "--porcelain"); status != "?? other/" {
		t.Errorf("the checkout has changed: %s", status)
	}
	for _, kv := range b.sandbox.calls[0].Env {
		if strings.Contains(kv, "value-of-") || strings.Contains(kv, "hunter2") {
			t.Errorf("the engine is given %s", kv)
		}
	}
}

func TestFailures(t *testing.T) {
	tests := []struct {
		name   string
		files  map[string]string
		change func(t *testing.T, b *bench)
		input  bool
		want   string
		hint   string
		calls  int
	}{
		{name: "engine", change: fake("fail"), want: "build app@amd64: kaniko failed: exit status 7", calls: 1},
		{name: "killed", change: fake("killed"), want: "kaniko was killed", hint: "memory", calls: 1},
		{name: "wrong platform", change: fake("wrong platform"), want: "the image that was built is for linux/s390x, and the build for linux/amd64", calls: 1},
		{name: "no digest", change: fake("no digest"), want: "kaniko ended well but left no digest", calls: 1},
		{name: "digest is a link", change: fake("link"), want: "left no digest", calls: 1},
		{name: "pre_script", change: func(_ *testing.T, b *bench) { b.Build.PreScript = "exit 3" }, want: "pre_script failed: exit status 3"},
		{name: "post_script", change: func(_ *testing.T, b *bench) { b.Build.PostScript = "false\ntrue" }, want: "post_script failed: exit status 1", calls: 1},
		{name: "secret not set", change: func(_ *testing.T, b *bench) {
			b.Build.PreScript, b.Build.Secrets = "true", []config.Secret{{ID: "s", Env: "NOPE"}}
		}, input: true, want: "secret s: environment variable NOPE is not set"},
		{name: "no Dockerfile", change: func(_ *testing.T, b *bench) { b.Build.Dockerfile = "projects/app/Nope" }, input: true, want: "projects/app/Nope: no such file or directory"},
		{name: "Dockerfile out of the repository", change: func(t *testing.T, b *bench) {
			link := filepath.Join(b.Root, "projects/app/Link")
			if err := os.Symlink("/etc/passwd", link); err != nil {
				t.Fatal(err)
			}
			b.Build.Dockerfile = "projects/app/Link"
		}, input: true, want: "projects/app/Link: path escapes"},
		{name: "no context", change: func(_ *testing.T, b *bench) { b.Build.Context = "nope" }, input: true, want: "context nope: there is no such directory"},
		{name: "context is a file", change: func(_ *testing.T, b *bench) { b.Build.Context = "projects/app/f" }, input: true, want: "is no directory"},
		{name: "context out of the repository", change: func(_ *testing.T, b *bench) { b.Build.Context = "../.." }, input: true, want: "leads out of the repository"},
		{name: "socket in the context", change: func(t *testing.T, b *bench) {
			if err := syscall.Mkfifo(filepath.Join(b.Root, "projects/app/pipe"), 0o600); err != nil {
				t.Fatal(err)
			}
			b.Build.PreScript = "true"
		}, input: true, want: "projects/app/pipe is neither a file nor a directory nor a link"},
		{name: "syntax", files: map[string]string{"Dockerfile": "FROM scratch\n\nRUM x\n"}, input: true, want: "build app@amd64: projects/app/Dockerfile:3: unknown instruction: RUM (did you mean RUN?)"},
		{name: "target", change: func(_ *testing.T, b *bench) { b.Build.Target = "x" }, input: true, want: `there is no stage "x"`},
		{name: "unsupported", files: map[string]string{"Dockerfile": "FROM scratch\nRUN <<E\nx\nE\nRUN --mount=type=ssh x\n"}, input: true,
			want: "projects/app/Dockerfile:2: kaniko has no here-documents: RUN <<E would run nothing\nprojects/app/Dockerfile:5: kaniko has no RUN --mount=type=ssh", hint: "engine: buildkit"},
		{name: "bad reference", files: map[string]string{"Dockerfile": "FROM A:B:C\n"}, input: true, want: "projects/app/Dockerfile:1: reference"},
		{name: "no such base", files: map[string]string{"Dockerfile": "ARG PIPEGEN_REGISTRY\nFROM $PIPEGEN_REGISTRY/nope\n"}, input: true, want: "projects/app/Dockerfile:2: there is no image 127.0.0.1"},
		{name: "no registry", change: func(_ *testing.T, b *bench) { b.Plan.Registry = "" }, input: true, want: "the plan names no registry", hint: "ECR_REGISTRY"},
		{name: "another commit", change: func(t *testing.T, b *bench) { gitRun(t, b.Root, "commit", "-qm", "y", "--allow-empty") }, input: true, want: "the plan is for commit", hint: "plan again"},
		{name: "no repository", change: func(t *testing.T, b *bench) { b.Root = t.TempDir() }, input: true, want: "is no git repository"},
		{name: "other engine", change: func(_ *testing.T, b *bench) { b.Build.Engine = "podman" }, input: true, want: `there is no engine "podman"`, hint: "kaniko, buildkit and make"},
		{name: "timeout unreadable", change: func(_ *testing.T, b *bench) { b.Build.Timeout = "soon" }, input: true, want: "timeout"},
		{name: "registry gone", change: func(_ *testing.T, b *bench) { b.Build.Destination = "127.0.0.1:1/x:y" }, want: "127.0.0.1:1/x:y"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			files := tt.files
			if files == nil {
				files = map[string]string{"Dockerfile": scratch, "f": "1"}
			}
			b := newBench(t, files)
			write(t, b.MetadataDir, map[string]string{"builds/app@amd64.json": "of an earlier attempt"})
			if tt.change != nil {
				tt.change(t, b)
			}
			_, err := b.run(t)
			if err == nil {
				t.Fatal("it went well")
			}
			if errors.Is(err, failure.ErrInput) != tt.input {
				t.Errorf("input is at fault: %t", !tt.input)
			}
			contains(t, err.Error(), tt.want)
			contains(t, failure.Hint(err), tt.hint)
			if len(b.sandbox.calls) != tt.calls {
				t.Errorf("the engine ran %d times, want %d", len(b.sandbox.calls), tt.calls)
			}
			text, readErr := os.ReadFile(plan.ResultFile(b.MetadataDir, "app@amd64"))
			refused := b.out.Len() == 0 // before anything was touched
			if readErr == nil && !refused {
				t.Errorf("there is a result: %s", text)
			}
		})
	}
}

// fake has the fake executor do what mode says.
func fake(mode string) func(*testing.T, *bench) {
	return func(_ *testing.T, b *bench) { fakeMode(b, mode) }
}

func fakeMode(b *bench, mode string) { b.Build.Args["FAKE"] = mode }

func TestNothingShowsCredentials(t *testing.T) {
	b := newBench(t, map[string]string{"Dockerfile": scratch, "f": "1"})
	fake("secret")(t, b)
	b.Registry = otherConfig{b.Registry, `{"auths":{"r.example.org":{"auth":"dXNlcjpwYXNzd29yZDE=","username":"user","password":"password1"}}}`}
	if _, err := b.run(t); err != nil {
		t.Fatal(err)
	}
	contains(t, b.out.String(), `"auth":"***"`, `"password":"***"`)
	lacks(t, b.out.String(), "password1", "dXNlcjpw")
	for _, a := range append(b.sandbox.calls[0].Argv, b.sandbox.calls[0].Env...) {
		lacks(t, a, "password1", "dXNlcjpw")
	}
}

// otherConfig gives a registry another Docker configuration.
type otherConfig struct {
	Registry
	config string
}

func (c otherConfig) DockerConfig(context.Context, []string) ([]byte, error) {
	return []byte(c.config), nil
}

// gone waits until a process has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	for range 500 {
		if syscall.Kill(pid, 0) != nil {
			return
		}
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if strings.Contains(string(b), ") Z ") { // nobody has asked for it yet
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d goes on", pid)
}

func TestCancel(t *testing.T) {
	tests := []struct {
		name   string
		change func(*testing.T, *bench)
	}{
		{"engine", fake("hang")},
		{"pre_script", func(_ *testing.T, b *bench) {
			b.Build.PreScript = "sleep 1000 & echo hanging in $$ $!; wait"
		}},
		{"post_script", func(_ *testing.T, b *bench) {
			b.Build.PostScript = "sleep 1000 & echo hanging in $$ $!; wait"
		}},
		{"engine in place", func(t *testing.T, b *bench) {
			fake("hang")(t, b)
			inPlace(b)
		}},
	}
	for _, tt := range tests {
		for _, how := range []string{"cancel", "timeout"} {
			t.Run(tt.name+" by "+how, func(t *testing.T) {
				t.Parallel()
				b := newBench(t, map[string]string{"Dockerfile": scratch, "f": "1"})
				tt.change(t, b)
				b.Environ = []string{"PATH=" + os.Getenv("PATH")}
				var pids [2]int
				var err error
				// A limit that ends the build before it hangs says nothing: on a slow
				// machine a longer one is tried.
				for limit := 1500 * time.Millisecond; pids[0] == 0; limit *= 2 {
					ctx, cancel := context.WithCancel(t.Context())
					w := &watcher{found: make(chan [2]int, 1)}
					b.Log = w
					if how == "timeout" {
						b.Build.Timeout = limit.String()
					}
					failed := make(chan error, 1)
					go func() {
						_, err := Run(ctx, b.Job)
						failed <- err
					}()
					select {
					case pids = <-w.found:
						if how == "cancel" {
							cancel()
						}
						err = <-failed
					case err = <-failed:
						if how == "cancel" || limit > time.Minute {
							t.Fatalf("it did not come to hang: %v", err)
						}
					}
					cancel()
				}
				switch how {
				case "cancel":
					if !errors.Is(err, context.Canceled) {
						t.Errorf("got %v", err)
					}
				case "timeout":
					if err == nil || err.Error() != "build app@amd64: took longer than its timeout of "+b.Build.Timeout {
						t.Errorf("got %v", err)
					}
				}
				gone(t, pids[0])
				gone(t, pids[1])
			})
		}
	}
}

// TestCancelWaiting ends builds while something that they wait for does not
// come: nothing of them is left.
func TestCancelWaiting(t *testing.T) {
	tests := []struct {
		phase  string
		change func(b *bench, stuck string)
	}{
		{"asking for an earlier build", func(b *bench, stuck string) {
			b.Build.Destination = stuck + "/images:app-1-amd64"
		}},
		{"fetching the source", func(b *bench, stuck string) {
			b.Image.Source = &plan.Source{Repo: "http://" + stuck + "/x.git", Ref: "main", Commit: strings.Repeat("a", 40)}
		}},
		{"resolving a base", func(b *bench, stuck string) {
			write(t, b.Root, map[string]string{"projects/app/Dockerfile": "FROM " + stuck + "/base:1\n"})
		}},
		{"asking a mirror", func(b *bench, stuck string) {
			write(t, b.Root, map[string]string{"projects/app/Dockerfile": "FROM debian\n"})
			b.Build.RegistryMirrors = []string{stuck}
		}},
		{"verifying", func(b *bench, stuck string) {
			b.Registry = unverified{b.Registry, stuck}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.phase, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, map[string]string{"Dockerfile": scratch, "f": "1"})
			reached := make(chan struct{}, 100)
			gone := make(chan struct{})
			srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				reached <- struct{}{}
				select {
				case <-r.Context().Done():
				case <-gone:
				}
			}))
			t.Cleanup(srv.Close)
			t.Cleanup(func() { close(gone) })
			tt.change(b, strings.TrimPrefix(srv.URL, "http://"))
			ctx, cancel := context.WithCancel(t.Context())
			b.Environ = []string{"PATH=" + os.Getenv("PATH")}
			failed := make(chan error, 1)
			go func() {
				_, err := Run(ctx, b.Job)
				failed <- err
			}()
			<-reached
			cancel()
			if err := <-failed; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(plan.ResultFile(b.MetadataDir, "app@amd64")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("there is a result: %v", err)
			}
		})
	}
}

// unverified is a registry of which what was pushed is asked for elsewhere.
type unverified struct {
	Registry
	host string
}

func (u unverified) Get(ctx context.Context, ref string) (registry.Descriptor, []byte, error) {
	if host, rest, _ := strings.Cut(ref, "/"); strings.Contains(rest, "@") {
		ref = strings.Replace(ref, host, u.host, 1)
	}
	return u.Registry.Get(ctx, ref)
}

// TestCancelOutputs ends a build when its image is pushed and outputs are made.
func TestCancelOutputs(t *testing.T) {
	b := newBench(t, map[string]string{"Dockerfile": scratch, "f": "1"})
	b.Build.Outputs = []string{"image", "docker-tar", "oci-layout"}
	ctx, cancel := context.WithCancel(t.Context())
	b.Log, b.Environ = onLine{"pushed ", cancel}, []string{"PATH=" + os.Getenv("PATH")}
	_, err := Run(ctx, b.Job)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	left, err := filepath.Glob(filepath.Join(b.MetadataDir, "outputs", "app@amd64", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// onLine calls a function when a line begins so.
type onLine struct {
	start string
	do    func()
}

func (o onLine) Write(p []byte) (int, error) {
	if strings.Contains("\n"+string(p), "\n"+o.start) {
		o.do()
	}
	return len(p), nil
}

// TestFiles makes outputs that are files, with and without a push.
func TestFiles(t *testing.T) {
	for _, outputs := range [][]string{
		{"docker-tar", "oci-tar", "oci-layout", "rootfs", "digest"},
		{"image", "digest", "oci-layout"},
		{"digest"},
	} {
		t.Run(strings.Join(outputs, " "), func(t *testing.T) {
			b := newBench(t, map[string]string{"Dockerfile": scratch, "f": "1"})
			b.Build.Outputs = outputs
			pushes := slices.Contains(outputs, "image")
			if !pushes {
				b.Plan.Registry, b.Build.Destination = "", ""
			}
			got, err := b.run(t)
			if err != nil {
				t.Fatal(err)
			}
			if (got.Ref != "") != pushes || !digestPattern.MatchString(got.Digest) {
				t.Errorf("got %+v", got)
			}
			var want []plan.Output
			for _, o := range outputs {
				if o != "image" {
					want = append(want, plan.Output{Kind: o, Path: fileOutputs[o]})
				}
			}
			if !reflect.DeepEqual(got.Outputs, want) {
				t.Errorf("outputs are %+v", got.Outputs)
			}
			dir := plan.OutputDir(b.MetadataDir, "app@amd64")
			text, err := os.ReadFile(filepath.Join(dir, "digest"))
			if err != nil || string(text) != got.Digest+"\n" {
				t.Errorf("digest has %q, %v", text, err)
			}
			for _, o := range want {
				if _, err := os.Stat(filepath.Join(dir, o.Path)); err != nil {
					t.Error(err)
				}
			}
			argv := b.sandbox.calls[0].Argv
			if slices.Contains(argv, "--no-push") == pushes || (len(flags(argv, "destination")) > 0) != pushes {
				t.Errorf("argv is %q", argv)
			}
		})
	}
}

// watcher finds the processes that say where they hang.
type watcher struct {
	found chan [2]int
	done  bool
}

func (w *watcher) Write(p []byte) (int, error) {
	var pids [2]int
	if n, _ := fmt.Sscanf(string(p), "hanging in %d %d", &pids[0], &pids[1]); n == 2 && !w.done {
		w.done = true
		w.found <- pids
	}
	return len(p), nil
}

// inPlace makes the job one in a container that was made for it.
func inPlace(b *bench) {
	b.Sandbox = nil
	b.Executor = b.sandbox.executor
	b.place = &place{host{
		func(name string) string { return map[string]string{"container": "docker"}[name] },
		func(string) bool { return false }, func(string) string { return "" },
	}, filepath.Dir(b.Executor)}
}

func TestInPlace(t *testing.T) {
	b := newBench(t, map[string]string{"Dockerfile": scratch, "f": "1"})
	inPlace(b)
	b.Build.PreScript = "pwd; touch made; echo $HOME"
	b.env["SSL_CERT_DIR"], b.env["AWS_SECRET_ACCESS_KEY"] = "/kaniko/ssl/certs", "value-of-it"
	write(t, filepath.Dir(b.Executor), map[string]string{"job/docker/config.json": "of a build that was killed"})
	if _, err := b.run(t); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(b.Executor)
	contains(t, b.out.String(), filepath.Join(b.Root, "projects/app")+"\n", "context has made\n", filepath.Join(dir, "job", "script-"),
		`"DOCKER_CONFIG=`+filepath.Join(dir, "job", "docker"), `"SSL_CERT_DIR=/kaniko/ssl/certs"`)
	lacks(t, b.out.String(), "value-of-it")
	if _, err := os.Stat(filepath.Join(dir, "job")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the job's directory is left: %v", err)
	}
	argv, err := Argv(t.Context(), b.Job)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(argv, "--force") || !slices.Contains(argv, "--ignore-path="+b.Root) || !slices.Contains(argv, "--ignore-path="+b.MetadataDir) ||
		!slices.Contains(argv, "--context=dir://"+filepath.Join(b.Root, "projects/app")) {
		t.Errorf("argv is %q", argv)
	}

	b.place.host.getenv = func(string) string { return "" }
	_, err = b.run(t)
	if !errors.Is(err, failure.ErrInput) || !strings.Contains(failure.Hint(err), "pipegen run") || b.out.Len() > 0 {
		t.Errorf("on the machine itself: %v", err)
	}
	b.place.host.exists = func(path string) bool { return path == "/.dockerenv" }
	b.place.dir = kanikoDir
	if _, err = b.run(t); !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "not made for it") {
		t.Errorf("in any container: %v", err)
	}
}
