package engine

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// kitJob is a job for a command that is only shown.
func kitJob(t *testing.T) Job {
	t.Helper()
	j := planOf(plan.Build{
		ID: "app@arm64", Platform: "linux/arm64", Engine: "buildkit", Destination: "r.example.org/images:app-1-arm64",
		Context: "projects/app", Dockerfile: "projects/app/Dockerfile", Outputs: []string{"image"},
	})
	j.Image.Dir, j.Image.Tags = "projects/app", []string{"app-1", "app-latest"}
	j.Getenv = func(string) string { return "" }
	j.Plan.BuildKit.Addresses = []string{"unix:///run/buildkit.sock"}
	return j
}

func TestBuildkitArgv(t *testing.T) {
	tests := []struct {
		name   string
		change func(j *Job)
	}{
		{"plain", func(*Job) {}},
		{"own-daemon", func(j *Job) { j.Plan.BuildKit.Addresses = nil }},
		{"upstream", func(j *Job) { j.Image.Source = &plan.Source{Repo: "https://example.org/x"} }},
		{"mtls", func(j *Job) {
			j.Plan.BuildKit = config.BuildKit{Addresses: []string{"tcp://b.example.org:1234"}, CACert: "certs/ca.pem", Cert: "$CERT", Key: "/etc/key.pem"}
			j.Getenv = func(name string) string { return map[string]string{"CERT": "/run/cert.pem"}[name] }
		}},
		{"everything", func(j *Job) {
			j.Plan.Publish.Insecure = []string{"r.example.org"}
			b := j.Build
			b.Platform, b.Target, b.Reproducible = "linux/arm/v7", "last", true
			b.Args = map[string]string{"COMMA": "a,b", "QUOTES": `"a" 'b'`, "LINES": "a\nb=c\n", "EMPTY": "", "EQUALS": "a=b", "BLANKS": " a "}
			b.Labels = map[string]string{"org.example.text": "a, b\n\"c\" ", "dev.pipegen.key": "not this"}
			b.Frontend, b.FrontendOpts = gateway, map[string]string{"source": "docker/dockerfile:1", "attest:provenance": "mode=max", "no-cache": ""}
			b.Contexts = map[string]string{"docker.io/library/alpine:latest": "docker-image://alpine:3", "src": "../lib"}
			b.Secrets = []config.Secret{{ID: "a,\"b", Env: "S"}, {ID: "c", File: "f"}}
			b.SSH = []config.SSH{{}, {ID: "key", Env: "KEY"}}
			b.Outputs = []string{"image", "rootfs"}
			b.OutputOpts = map[string]string{"compression": "zstd", "annotation.org.example.a": "x,\"y\"\nz", "name-canonical": "true"}
			b.Cache = &config.Cache{Enable: true, Mode: "min"}
			b.EngineArgs = []string{"--allow", "network.host"}
		}},
		{"no-push", func(j *Job) {
			j.Build.Outputs = []string{"oci-tar"}
			j.Plan.Publish.MediaType = "docker"
		}},
		{"push-by-digest", func(j *Job) {
			j.Build.OutputOpts = map[string]string{"push-by-digest": "true", "oci-mediatypes": "false"}
		}},
		{"cache-inline", func(j *Job) { j.Build.Cache = &config.Cache{Enable: true, Type: "inline"} }},
		{"cache-local", func(j *Job) { j.Build.Cache = &config.Cache{Enable: true, Type: "local", Path: ".cache/a,b"} }},
		{"cache-elsewhere", func(j *Job) { j.Build.Cache = &config.Cache{Enable: true, Repo: "127.0.0.1:5000/cache"} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := kitJob(t)
			tt.change(&j)
			argv, err := Argv(t.Context(), j)
			if err != nil {
				t.Fatal(err)
			}
			lines := make([]string, len(argv))
			for i, a := range argv {
				lines[i] = quote.Shell(a)
			}
			lines[0] = filepath.Base(argv[0])
			got := strings.Join(lines, "\n") + "\n"
			file := filepath.Join("testdata", "buildkit", tt.name+".golden")
			if *update {
				write(t, ".", map[string]string{file: got})
			}
			want, err := os.ReadFile(file)
			if err != nil || got != string(want) {
				t.Errorf("got\n%s\nwant\n%s%v", got, want, err)
			}
		})
	}
}

func TestBuildkitRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(j *Job)
		want   string // "": it does not
	}{
		{"plain", func(*Job) {}, ""},
		{"unknown frontend", func(j *Job) { j.Build.Frontend = "x" }, `no frontend "x"`},
		{"gateway without source", func(j *Job) { j.Build.Frontend = gateway }, "has no source"},
		{"option of pipegen's", func(j *Job) { j.Build.FrontendOpts = map[string]string{"platform": "x"} }, "frontend_opts: platform is"},
		{"exporter", func(j *Job) { j.Build.OutputOpts = map[string]string{"push": "false"} }, "output_opts: push is"},
		{"capitals", func(j *Job) { j.Build.OutputOpts = map[string]string{"annotation.A": "x"} }, "small letters"},
		{"name with =", func(j *Job) { j.Build.Labels = map[string]string{"a=b": "x"} }, `"a=b" cannot be a name`},
		{"output", func(j *Job) { j.Build.EngineArgs = []string{"--output=type=local,dest=/"} }, "engine_args: --output=type=local,dest=/ is"},
		{"one dash", func(j *Job) { j.Build.EngineArgs = []string{"-opt", "x"} }, "-opt is"},
		{"short output", func(j *Job) { j.Build.EngineArgs = []string{"-otype=local"} }, "-otype=local is"},
		{"address", func(j *Job) { j.Build.EngineArgs = []string{"--addr", "x"} }, "--addr is"},
		{"end of flags", func(j *Job) { j.Build.EngineArgs = []string{"--"} }, "-- is"},
		{"others", func(j *Job) {
			j.Build.EngineArgs = []string{"--no-cache", "--import-cache", "type=local,src=/x,tag=t", "--allow=network.host"}
		}, ""},
		{"ttl", func(j *Job) { j.Build.Cache = &config.Cache{Enable: true, TTL: "24h"} }, ""},
		{"inline max", func(j *Job) { j.Build.Cache = &config.Cache{Enable: true, Type: "inline", Mode: "max"} }, "cache.mode"},
		{"cache with a tag", func(j *Job) { j.Build.Cache = &config.Cache{Enable: true, Repo: "r.example.org/c:t"} }, "cache.repo"},
		{"ssh twice", func(j *Job) { j.Build.SSH = []config.SSH{{}, {ID: "default"}} }, "default is there twice"},
		{"plain tcp", func(j *Job) { j.Plan.BuildKit.Addresses = []string{"tcp://b:1"} }, "plain tcp"},
		{"plain tcp, allowed", func(j *Job) { j.Plan.BuildKit = config.BuildKit{Addresses: []string{"tcp://b:1"}, Insecure: true} }, ""},
		{"plain tcp from outside", func(j *Job) {
			j.Getenv = func(name string) string { return map[string]string{"BUILDKIT_HOST": "tcp://u:p@b:1"}[name] }
		}, "BUILDKIT_HOST: tcp://"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := kitJob(t)
			tt.change(&j)
			_, err := Argv(t.Context(), j)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "u:p") {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestBuildkitBuilds(t *testing.T) {
	address, _ := fakeDaemon(t, "linux/amd64")
	b := newBuildkitBench(t, map[string]string{
		"Dockerfile": "FROM scratch\nCOPY x /\n", "x": "", "shared/y": "", "Dockerfile.dockerignore": "z\n",
	}, address)
	write(t, b.Root, map[string]string{"secret": "value of the file"})
	b.env["S"], b.env["KEY"] = "value of the variable", "-----BEGIN KEY-----\nx\n-----END KEY-----"
	b.env["CI_JOB_TOKEN"], b.env["OTEL_EXPORTER_OTLP_ENDPOINT"], b.env["AWS_SECRET_ACCESS_KEY"] = "job-token", "http://otel:4317", "aws-key"
	agent := filepath.Join(t.TempDir(), "a,b")
	l, err := net.Listen("unix", agent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	b.env["SSH_AUTH_SOCK"] = agent
	b.Build.Secrets = []config.Secret{{ID: "s", Env: "S"}, {ID: "f", File: "secret"}}
	b.Build.SSH = []config.SSH{{}, {ID: "k", Env: "KEY"}}
	b.Build.Contexts = map[string]string{"shared": "shared"}
	b.Build.Env = map[string]string{"OF_SCRIPTS": "x"}
	b.Build.Outputs = []string{"image", "oci-layout", "digest"}
	r, err := b.run(t)
	if err != nil {
		t.Fatal(err)
	}
	if r.Ref != b.Build.Destination || !digestPattern.MatchString(r.Digest) || len(r.Outputs) != 2 {
		t.Errorf("result %+v", r)
	}
	log := b.out.String()
	for _, want := range []string{
		"secret s is 21 long, mode -rw-------: ***\n", "secret f is 17 long, mode -rw-------: ***\n", "ssh default is S", "ssh k is -rw-------",
		"context has x\n", "dockerfile has Dockerfile.dockerignore\n", `"context:shared=local:context-0"`, "context-0 has y\n",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://otel:4317", `dockerfile "FROM scratch`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	for _, not := range []string{"value of", "CI_JOB_TOKEN", "AWS_", "OF_SCRIPTS", "SSH_AUTH_SOCK", "S=", "KEY="} {
		if strings.Contains(log, `"`+not) || strings.Contains(log, "value of") {
			t.Errorf("the log has %q:\n%s", not, log)
		}
	}
}

func TestBuildkitFails(t *testing.T) {
	address, stop := fakeDaemon(t, "linux/amd64")
	tests := []struct {
		name, fake, want, hint string
		input                  bool
		change                 func(b *bench)
	}{
		{name: "build", fake: "fail", want: "buildkit failed", hint: "memory"},
		{name: "wrong platform", fake: "wrong platform", want: "is for linux/s390x, and the build for linux/amd64"},
		{name: "no metadata", fake: "no metadata", want: "left no metadata"},
		{name: "lost twice", fake: "lost", want: "lost while they built"},
		{name: "no secret", want: "secret s: environment variable S is not set", input: true, change: func(b *bench) { b.Build.Secrets = []config.Secret{{ID: "s", Env: "S"}} }},
		{name: "no agent", want: "SSH_AUTH_SOCK is not set", input: true, change: func(b *bench) { b.Build.SSH = []config.SSH{{}} }},
		{name: "no stage", want: "nothing", input: true, change: func(b *bench) { b.Build.Target = "nothing" }},
		{name: "context elsewhere", want: "leads out of the repository", input: true, change: func(b *bench) { b.Build.Contexts = map[string]string{"x": "../../.."} }},
		{name: "context with a password", want: "must not hold a password", input: true, change: func(b *bench) { b.Build.Contexts = map[string]string{"x": "https://u:p@example.org/x.git"} }},
		{name: "no context", want: "is no directory, and no image", input: true, change: func(b *bench) { b.Build.Contexts = map[string]string{"x": "nowhere"} }},
		{name: "image without digest", want: "there is no image", input: true, change: func(b *bench) {
			b.Build.Contexts = map[string]string{"x": "docker-image://" + b.host + "/nothing"}
		}},
		{name: "no daemon", want: "cannot be reached", hint: "start it", change: func(*bench) { stop() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBuildkitBench(t, map[string]string{"Dockerfile": "FROM scratch\n"}, address)
			if tt.fake != "" {
				b.Build.Args["FAKE"] = tt.fake
			}
			if tt.change != nil {
				tt.change(b)
			}
			_, err := b.run(t)
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, failure.ErrInput) != tt.input || !strings.Contains(failure.Hint(err), tt.hint) {
				t.Errorf("got %v (%s), want %s", err, failure.Hint(err), tt.want)
			}
		})
	}
}

// TestBuildkitMoves: a daemon that is lost while it builds is replaced by the
// next.
func TestBuildkitMoves(t *testing.T) {
	one, _ := fakeDaemon(t, "linux/amd64")
	two, _ := fakeDaemon(t, "linux/amd64")
	b := newBuildkitBench(t, map[string]string{"Dockerfile": "FROM scratch\n"}, one, two)
	order, err := daemons(&b.Job)
	if err != nil {
		t.Fatal(err)
	}
	b.Build.Args["FAKE"], b.Build.Args["LOSE"] = "lost once", order[0]
	if _, err := b.run(t); err != nil {
		t.Fatal(err)
	}
	log := b.out.String()
	first, second := strings.Index(log, "building on "+order[0]), strings.Index(log, "building on "+order[1])
	if first < 0 || second < first || !strings.Contains(log, "was lost") {
		t.Errorf("log:\n%s", log)
	}
}

func TestBuildkitEnds(t *testing.T) {
	address, _ := fakeDaemon(t, "linux/amd64")
	b := newBuildkitBench(t, map[string]string{"Dockerfile": "FROM scratch\n"}, address)
	b.Build.Args["FAKE"] = "hang"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hangs := &watcher{found: make(chan [2]int, 1)}
	b.Log, b.Environ = hangs, []string{"PATH=" + os.Getenv("PATH")}
	ended := make(chan error, 1)
	go func() {
		_, err := Run(ctx, b.Job)
		ended <- err
	}()
	pids := <-hangs.found
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	for _, pid := range pids {
		if p, ok := stat(pid); ok {
			t.Errorf("process %+v is left", p)
		}
	}
}

func TestRendezvous(t *testing.T) {
	all := []string{"unix:///a", "unix:///b", "unix:///c", "unix:///d", "unix:///b"}
	first := func(id string, addresses []string) string {
		j := kitJob(t)
		j.Build.ID, j.Plan.BuildKit.Addresses = id, addresses
		order, err := daemons(&j)
		if err != nil {
			t.Fatal(err)
		}
		if sorted := slices.Sorted(slices.Values(order)); len(slices.Compact(sorted)) != len(order) {
			t.Errorf("%v", order)
		}
		return order[0]
	}
	on := map[string]int{}
	for i := range 400 {
		id := "image" + strings.Repeat("x", i) + "@amd64"
		was := first(id, all)
		on[was]++
		if again := first(id, []string{all[3], all[1], all[0], all[2]}); again != was {
			t.Errorf("%s: %s, then %s", id, was, again)
		}
		// Without b, what was not there stays.
		if now := first(id, []string{all[0], all[2], all[3]}); was != all[1] && now != was {
			t.Errorf("%s: %s, then %s", id, was, now)
		}
	}
	for _, a := range all {
		if on[a] < 50 {
			t.Errorf("%v", on)
		}
	}
}

func TestChoose(t *testing.T) {
	foreign, _ := fakeDaemon(t, "linux/arm64", "linux/amd64")
	unfit, _ := fakeDaemon(t, "linux/arm64")
	own, _ := fakeDaemon(t, "linux/amd64", "linux/amd64/v2", "linux/386")
	gone, stop := fakeDaemon(t, "linux/amd64")
	stop()
	tests := []struct {
		name  string
		have  []string
		tried []string
		want  string
	}{
		{"native", []string{foreign, own, unfit, gone}, nil, own},
		{"emulated", []string{foreign, unfit, gone}, nil, foreign},
		{"none that fits", []string{unfit, gone}, nil, unfit},
		{"after a loss", []string{own, foreign}, []string{own}, foreign},
		{"all lost", []string{own}, []string{own}, ""},
		{"all gone", []string{gone}, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := kitJob(t)
			j.Plan.BuildKit.Addresses = tt.have
			b := &building{Prepared: &Prepared{Job: &j, Platform: config.Platform{OS: "linux", Arch: "amd64"}}, log: newLogWriter()}
			got, err := (&buildkit{}).choose(t.Context(), b, tt.tried)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

// TestSilentDaemon: one that takes connections and says nothing is given up.
func TestSilentDaemon(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("did not answer"))
	defer cancel()
	if _, err := listWorkers(ctx, "tcp://"+l.Addr().String(), nil); err == nil || err.Error() != "did not answer" {
		t.Errorf("got %v", err)
	}
}
