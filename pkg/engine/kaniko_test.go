package engine

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/dockerfile"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// planOf makes a plan of one build.
func planOf(b plan.Build) Job {
	p := &plan.Plan{Version: 1, Head: strings.Repeat("a", 40), Registry: "r.example.org/images", Layout: "tag", Images: []plan.Image{{
		Name: "app", Key: strings.Repeat("b", 64), Repository: "r.example.org/images", Builds: []plan.Build{b},
	}}}
	return Job{Plan: p, Image: &p.Images[0], Build: &p.Images[0].Builds[0], Root: "/builds/g/p"}
}

func TestArgv(t *testing.T) {
	build := plan.Build{
		ID: "app@arm64", Platform: "linux/arm64", Engine: "kaniko", Destination: "r.example.org/images:app-1-arm64",
		Context: "projects/app", Dockerfile: "projects/app/Dockerfile",
	}
	tests := []struct {
		name   string
		change func(j *Job)
	}{
		{"sandbox", func(j *Job) { j.Sandbox = &fakeSandbox{} }},
		{"in-place", func(j *Job) { j.MetadataDir = "/builds/g/p/.pipegen" }},
		{"upstream", func(j *Job) { j.Image.Source = &plan.Source{Repo: "https://example.org/x"} }},
		{"everything", func(j *Job) {
			j.Sandbox = &fakeSandbox{}
			j.Plan.Publish.Insecure = []string{"r.example.org"}
			b := j.Build
			b.Platform, b.Target = "linux/arm/v7", "last"
			b.Args = map[string]string{"COMMA": "a,b", "QUOTES": `"a" 'b'`, "LINES": "a\nb=c", "EMPTY": "", "EQUALS": "a=b", "BUILDARCH": "mine"}
			b.Labels = map[string]string{"org.example.text": "a, b\n\"c\"", "dev.pipegen.key": "not this"}
			b.Cache = &config.Cache{Enable: true, TTL: "24h"}
			b.EngineArgs = []string{"--snapshot-mode=redo", "--registry-mirror=mirror.example.org"}
		}},
		{"cache-in-a-repository", func(j *Job) {
			j.Sandbox = &fakeSandbox{}
			j.Plan.Layout = "repository"
			j.Plan.Registry = "127.0.0.1:5000"
			j.Build.Destination = "127.0.0.1:5000/app:1-arm64"
			j.Build.Cache = &config.Cache{Enable: true}
		}},
		{"files", func(j *Job) {
			j.Sandbox = &fakeSandbox{}
			b := j.Build
			b.Outputs = []string{"docker-tar", "digest"}
			b.Reproducible = true
			b.RegistryMirrors = []string{"127.0.0.1:5000/hub", "mirror.example.org"}
			b.Secrets = []config.Secret{{ID: "s", File: "f"}, {ID: "t", Env: "T"}}
			b.Labels = map[string]string{"org.opencontainers.image.created": "0001-01-01T00:00:00Z", "org.opencontainers.image.version": "00010101-aaaaaaa"}
			no, yes := false, true
			b.Cache = &config.Cache{Enable: true, Repo: "cache.example.org/layers", CopyLayers: &yes, RunLayers: &no, Compressed: &no}
		}},
		{"image-and-files", func(j *Job) {
			j.Sandbox = &fakeSandbox{}
			j.Build.Outputs = []string{"image", "rootfs"}
		}},
		{"cache-elsewhere", func(j *Job) {
			j.Sandbox = &fakeSandbox{}
			j.Plan.Publish.Insecure = []string{"cache.example.org:5000"}
			j.Build.Cache = &config.Cache{Enable: true, Repo: "cache.example.org:5000/layers"}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := planOf(build)
			tt.change(&j)
			argv, err := Argv(t.Context(), j)
			if err != nil {
				t.Fatal(err)
			}
			lines := make([]string, len(argv))
			for i, a := range argv {
				lines[i] = strings.ReplaceAll(quote.Shell(a), "linux/"+runtime.GOARCH, "linux/MACHINE")
				if a == "--build-arg=BUILDARCH="+runtime.GOARCH {
					lines[i] = "--build-arg=BUILDARCH=MACHINE"
				}
			}
			got := strings.Join(lines, "\n") + "\n"
			file := filepath.Join("testdata", "argv", tt.name+".golden")
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

func TestKanikoRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*plan.Build)
		want   string // "": it does not
	}{
		{"output", func(b *plan.Build) { b.Outputs = []string{"image", "zip"} }, `there is no output "zip"`},
		{"outputs", func(b *plan.Build) {
			b.Outputs = []string{"image", "docker-tar", "oci-tar", "oci-layout", "rootfs", "digest"}
		}, ""},
		{"no image", func(b *plan.Build) { b.Outputs = []string{"digest"} }, ""},
		{"cache", func(b *plan.Build) { b.Cache = &config.Cache{Enable: true, Type: "registry"} }, ""},
		{"cache that is off", func(b *plan.Build) { b.Cache = &config.Cache{Type: "local", Path: "x", Mode: "max"} }, ""},
		{"inline cache", func(b *plan.Build) { b.Cache = &config.Cache{Enable: true, Type: "inline"} }, "app@amd64: engine kaniko has no cache of type inline"},
		{"local cache", func(b *plan.Build) { b.Cache = &config.Cache{Enable: true, Type: "local", Path: "x"} }, "has no cache of type local"},
		{"keys of other engines", func(b *plan.Build) {
			b.Frontend, b.FrontendOpts, b.Contexts, b.OutputOpts = "gateway.v0", map[string]string{"a": "b"}, map[string]string{"a": "b"}, map[string]string{"a": "b"}
			b.SSH, b.Cache = []config.SSH{{}}, &config.Cache{Enable: true, Mode: "max"}
		}, ""},
		{"secret with a path for an id", func(b *plan.Build) { b.Secrets = []config.Secret{{ID: "../s", Env: "S"}} }, "slash in its id: ../s"},
		{"secret for a script", func(b *plan.Build) { b.PostScript, b.Secrets = "x", []config.Secret{{ID: "s", Env: "S"}} }, ""},
		{"force", func(b *plan.Build) { b.EngineArgs = []string{"--force"} }, "--force is pipegen's to set"},
		{"force=true", func(b *plan.Build) { b.EngineArgs = []string{"--force=true"} }, "--force=true is"},
		{"destination", func(b *plan.Build) { b.EngineArgs = []string{"--destination", "x/y"} }, "--destination is"},
		{"short destination", func(b *plan.Build) { b.EngineArgs = []string{"-dx/y"} }, "-dx/y is"},
		{"digest file", func(b *plan.Build) { b.EngineArgs = []string{"--digest-file=/x"} }, "--digest-file=/x is"},
		{"no push", func(b *plan.Build) { b.EngineArgs = []string{"--no-push"} }, "--no-push is"},
		{"others", func(b *plan.Build) {
			b.EngineArgs = []string{"--reproducible", "--snapshot-mode", "redo", "-v=debug", "d", "--compressed-caching=false"}
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := plan.Build{ID: "app@amd64", Platform: "linux/amd64", Engine: "kaniko"}
			tt.change(&b)
			_, err := Argv(t.Context(), planOf(b))
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestUnusedStages(t *testing.T) {
	const unused = "FROM scratch AS unused\nRUN <<E\nE\n"
	tests := []struct {
		name, text, target string
		skip               bool
		findings           int
	}{
		{"unused stage", unused + "FROM scratch\n", "", true, 0},
		{"used stage", unused + "FROM scratch\nCOPY --from=unused x y\n", "", false, 1},
		{"by number", unused + "FROM scratch AS a\nFROM scratch\nCOPY --from=1 x y\n", "", false, 1},
		{"by a name in another case", unused + "FROM scratch AS a\nFROM scratch\nCOPY --from=A x y\n", "", false, 1},
		{"by name", unused + "FROM scratch AS a\nFROM scratch\nCOPY --from=a x y\n", "", true, 0},
		{"after the target", "FROM scratch AS a\n" + unused, "a", false, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := planOf(plan.Build{Platform: "linux/amd64", Engine: "kaniko", Target: tt.target})
			f, err := dockerfile.Parse([]byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			p := &Prepared{Job: &j, File: f}
			if got := slices.Contains((&kaniko{}).command(p).Argv, "--skip-unused-stages"); got != tt.skip {
				t.Errorf("skips: %t", got)
			}
			if got := (&kaniko{}).lacks(p); len(got) != tt.findings {
				t.Errorf("findings: %v", got)
			}
		})
	}
}

// TestKanikoDirIsLeftOut: in place, what Kaniko would leave out of the image
// is refused; in a sandbox it works elsewhere.
func TestKanikoDirIsLeftOut(t *testing.T) {
	f, err := dockerfile.Parse([]byte("FROM scratch\nCOPY a /kaniko/a\n"))
	if err != nil {
		t.Fatal(err)
	}
	j := planOf(plan.Build{Platform: "linux/amd64", Engine: "kaniko"})
	if got := (&kaniko{}).lacks(&Prepared{Job: &j, File: f}); len(got) != 1 || got[0].Line != 2 || got[0].Warning {
		t.Errorf("in place: %v", got)
	}
	j.Sandbox = &fakeSandbox{}
	if got := (&kaniko{}).lacks(&Prepared{Job: &j, File: f}); len(got) != 0 {
		t.Errorf("in a sandbox: %v", got)
	}
}

func TestKanikoEnv(t *testing.T) {
	environ := []string{
		"AWS_ACCESS_KEY_ID=id", "AWS_SECRET_ACCESS_KEY=key", "AWS_REGION=r", "CI_JOB_TOKEN=t", "HOME=/home/me", "PATH=/mine",
		"HTTPS_PROXY=http://p", "SSL_CERT_FILE=/host/certs", "container=lxc", "GOPROXY=x",
	}
	tests := []struct {
		name    string
		hosts   []string
		sandbox bool
		want    string
	}{
		{"sandbox", []string{"r.example.org"}, true, "DOCKER_CONFIG=/d/docker HOME=/root HTTPS_PROXY=http://p KANIKO_DIR=/.kaniko PATH container=docker"},
		{"in place", []string{"r.example.org"}, false, "DOCKER_CONFIG=/d/docker HOME=/root HTTPS_PROXY=http://p PATH SSL_CERT_FILE=/host/certs container=lxc"},
		{"ecr", []string{"r.example.org", "123456789012.dkr.ecr.eu-west-1.amazonaws.com"}, true,
			"DOCKER_CONFIG=/d/docker HOME=/root HTTPS_PROXY=http://p KANIKO_DIR=/.kaniko PATH container=docker"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := planOf(plan.Build{})
			j.Environ = environ
			if tt.sandbox {
				j.Sandbox = &fakeSandbox{}
			}
			got := kanikoEnv(&Prepared{Job: &j, Dir: "/d", Hosts: tt.hosts})
			for i, kv := range got {
				if strings.HasPrefix(kv, "PATH=") {
					if strings.Contains(kv, "/mine") {
						t.Error(kv)
					}
					got[i] = "PATH"
				}
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got %s, want %s", s, tt.want)
			}
		})
	}
}
