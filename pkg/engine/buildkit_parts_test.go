package engine

import (
	"encoding/csv"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// FuzzFields: what is written as CSV is read as it was, on one line or more.
func FuzzFields(f *testing.F) {
	for _, s := range []string{"", "a,b", `"`, `a "b" 'c'`, " x ", "a\nb", "\r", "é=,", `\.`, "#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if strings.ContainsRune(value, '\r') {
			return // Go's reader makes \r\n one; BuildKit's does not
		}
		text := fields("type=x", "k="+value, "z=")
		got, err := csv.NewReader(strings.NewReader(text)).Read()
		if err != nil || !slices.Equal(got, []string{"type=x", "k=" + value, "z="}) {
			t.Errorf("%q is read as %q, %v", value, got, err)
		}
		if strings.HasSuffix(text, "\n") {
			t.Errorf("%q ends in a newline", text)
		}
	})
}

func FuzzParseWorkers(f *testing.F) {
	f.Add(workersMessage("linux/amd64", "linux/arm/v7"))
	f.Add([]byte{10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(_ *testing.T, message []byte) {
		_, _ = parseWorkers(message) // it must not panic
	})
}

func TestParseWorkers(t *testing.T) {
	got, err := parseWorkers(workersMessage("linux/amd64", "linux/arm/v7"))
	want := []config.Platform{{OS: "linux", Arch: "amd64"}, {OS: "linux", Arch: "arm", Variant: "v7"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"\x0a", "\x0a\x05x", "\xff", "\x0b", "\x09\x01"} {
		if _, err := parseWorkers([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestTracing(t *testing.T) {
	tests := []struct{ environ, want string }{
		{"HOME=/x OTEL_SERVICE_NAME=s TRACEPARENT=p", "OTEL_SERVICE_NAME=s TRACEPARENT=p"},
		{"JAEGER_TRACE=jaeger:6831", "JAEGER_TRACE=jaeger:6831"},
		{"JAEGER_TRACE=http://jaeger:14268/api/traces", "JAEGER_TRACE=http://jaeger:14268/api/traces"},
		{"JAEGER_TRACE=jaeger:4317", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://jaeger:4317 OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc"},
		{"JAEGER_TRACE=https://jaeger:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://jaeger:4318/v1/traces OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf"},
		{"JAEGER_TRACE=jaeger:6831 OTEL_EXPORTER_OTLP_ENDPOINT=http://o:4317", "OTEL_EXPORTER_OTLP_ENDPOINT=http://o:4317"},
	}
	for _, tt := range tests {
		if got := strings.Join(list(tracing(strings.Fields(tt.environ))), " "); got != tt.want {
			t.Errorf("%s gives %s, want %s", tt.environ, got, tt.want)
		}
	}
}

func TestBuildctlEnv(t *testing.T) {
	j := kitJob(t)
	j.Environ = []string{
		"PATH=/bin", "HOME=/home/me", "DOCKER_CONFIG=/mine", "DOCKER_HOST=tcp://d:1", "KUBECONFIG=/k", "CI_JOB_TOKEN=t", "AWS_SECRET_ACCESS_KEY=k",
		"SSL_CERT_FILE=/ca.pem", "HTTPS_PROXY=http://p", "SOURCE_DATE_EPOCH=1", "SSH_AUTH_SOCK=/s",
	}
	common := "HTTPS_PROXY=http://p PATH=/bin SSL_CERT_FILE=/ca.pem"
	for address, want := range map[string]string{
		"unix:///s":            "DOCKER_CONFIG=/d/docker HOME=/d " + common,
		"docker-container://b": "DOCKER_CONFIG=/d/docker DOCKER_HOST=tcp://d:1 HOME=/d " + common,
		"kube-pod://b":         "DOCKER_CONFIG=/d/docker HOME=/home/me HTTPS_PROXY=http://p KUBECONFIG=/k PATH=/bin SSL_CERT_FILE=/ca.pem",
	} {
		if got := strings.Join(buildctlEnv(&Prepared{Job: &j, Dir: "/d"}, address), " "); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
}

func TestDaemonConfig(t *testing.T) {
	j := kitJob(t)
	j.Plan.Publish.Insecure = []string{"plain.example.org"}
	j.Build.RegistryMirrors = []string{"127.0.0.1:5000/hub", "mirror.example.org"}
	got := daemonConfig(&Prepared{Job: &j, Hosts: []string{"r.example.org", "127.0.0.1:5001", "plain.example.org:80"}}, "/d \"x\"")
	const http = "  http = true\n  insecure = true\n"
	want := "[otel]\n  socketPath = \"/d \\\"x\\\"/otel\"\n[registry.\"127.0.0.1:5000\"]\n" + http + "[registry.\"127.0.0.1:5001\"]\n" + http +
		"[registry.\"docker.io\"]\n  mirrors = [\"127.0.0.1:5000/hub\", \"mirror.example.org\"]\n" +
		"[registry.\"plain.example.org\"]\n" + http + "[registry.\"plain.example.org:80\"]\n" + http
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestHidesProc(t *testing.T) {
	const plain = "22 1 0:5 / /proc rw - proc proc rw\n23 22 0:6 / /proc/sys/fs/binfmt_misc rw - autofs x rw\n"
	if hidesProc(plain) {
		t.Error("nothing is hidden")
	}
	if !hidesProc(plain + "24 22 0:7 /null /proc/kcore rw - tmpfs tmpfs rw\n") {
		t.Error("kcore is hidden")
	}
}

func TestFindProgram(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"path/a-program": "", "cache/pipegen/tools/a-program": "", "own/a-program": "", "named.sh": ""})
	env := map[string]string{"PATH": "relative:" + filepath.Join(dir, "path"), "XDG_CACHE_HOME": filepath.Join(dir, "cache")}
	executable := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.Chmod(path, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	check := func(want string) {
		t.Helper()
		got, err := findProgram(func(name string) string { return env[name] }, "a-program", "A_PROGRAM", filepath.Join(dir, "own"))
		if got != want || err != nil && !errors.Is(err, failure.ErrInput) {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
	check("")
	check(executable("cache/pipegen/tools/a-program"))
	check(executable("path/a-program"))
	check(executable("own/a-program"))
	env["A_PROGRAM"] = executable("named.sh")
	check(env["A_PROGRAM"])
	env["A_PROGRAM"] = filepath.Join(dir, "nothing")
	check("")
}

func TestCacheTag(t *testing.T) {
	long := strings.Repeat("x", 120)
	a, b := cacheTag(long+"@amd64"), cacheTag(long+"@arm64")
	if len(a) > maxTag || a == b || cacheTag("app@arm-v7") != "app-arm-v7-cache" {
		t.Errorf("%s, %s", a, b)
	}
}

func TestContexts(t *testing.T) {
	source, root := t.TempDir(), map[string]string{"projects/app/shared/x": "", "other/x": "", "projects/app/oci/index.json": `{"manifests":[
		{"digest":"sha256:` + strings.Repeat("a", 64) + `","annotations":{"org.opencontainers.image.ref.name":"one"}},{"digest":"sha256:` + strings.Repeat("b", 64) + `"}]}`}
	write(t, source, root)
	if err := os.Symlink("/etc", filepath.Join(source, "projects/app/etc")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		value, want string // value and flags, or what the error says
	}{
		{"shared", "local:id --local id=projects/app/shared"},
		{"./shared/../../../other", "local:id --local id=other"},
		{"oci-layout://oci:one", "oci-layout://id@sha256:" + strings.Repeat("a", 64) + " --oci-layout id=projects/app/oci"},
		{"oci-layout://oci@sha256:" + strings.Repeat("c", 64), "oci-layout://id@sha256:" + strings.Repeat("c", 64) + " --oci-layout id=projects/app/oci"},
		{"https://example.org/x.git#main", "https://example.org/x.git#main"},
		{"git@example.org:x.git", "git@example.org:x.git"},
		{"docker-image://scratch", "docker-image://scratch"},
		{"oci-layout://oci", "holds 2 images"},
		{"oci-layout://oci:two", "no image with the tag two"},
		{"oci-layout://shared", "is no OCI layout"},
		{"etc", "leads out"},
		{"../../..", "leads out"},
		{"shared/x", "is no directory"},
		{"ftp://x/y", "no context of scheme ftp"},
		{"/etc", "leads out"},
	}
	for _, tt := range tests {
		j := kitJob(t)
		b := &building{Prepared: &Prepared{Job: &j}, source: source, log: newLogWriter()}
		c := namedContext{value: tt.value}
		err := b.resolveContext(t.Context(), &c, "id")
		got := strings.ReplaceAll(strings.Join(append([]string{c.value}, c.flags...), " "), source+"/", "")
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != tt.want || err != nil && !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %s, want %s", tt.value, got, tt.want)
		}
	}
	named := plan.Build{Engine: "buildkit", Contexts: map[string]string{"docker.io/library/alpine:latest": "x", "b": "x"}}
	for ref, want := range map[string]bool{"alpine": true, "alpine:latest": true, "alpine:3": false, "b:latest": true, "c": false} {
		if isContext(&named, ref) != want {
			t.Errorf("%s: %t", ref, !want)
		}
	}
	if got := plainContexts(&named); got[0].name != "b" || got[1].name != "alpine" {
		t.Errorf("%v", got)
	}
}
