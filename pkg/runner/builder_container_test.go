package runner

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
)

// fakeDocker stands in for docker: it writes down what it is given, and then
// does what its body says.
func fakeDocker(t *testing.T, body string) (cli, said string) {
	t.Helper()
	dir := t.TempDir()
	cli, said = filepath.Join(dir, "docker"), filepath.Join(dir, "said")
	script := "#!/bin/sh\n[ \"$1\" = run ] && { printf '%s\\n' \"$@\"; env; cat \"$(printf '%s\\n' \"$@\" | sed -n 's/^type=bind,source=\\(.*pipegen-docker.*\\),target=.*/\\1/p')/config.json\"; } > " + said + "\n" + body
	if err := os.WriteFile(cli, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return cli, said
}

func TestBuilderContainer(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	cli, said := fakeDocker(t, "echo out; echo err >&2\n")
	var stdout, stderr bytes.Buffer
	err := BuilderContainer{
		CLI: cli, Image: "registry.example/builder:1", Args: []string{"build", "app@amd64", "--entrypoint=no"}, Root: "/work,tree",
		Env: []string{"TOKEN=s3cret\nline", "HTTPS_PROXY=http://u:pw@proxy"}, DockerConfig: []byte(`{"auths":{"h":{"password":"hidden"}}}`),
		Stdout: &stdout, Stderr: &stderr,
	}.Run(t.Context())
	if err != nil || stdout.String() != "out\n" || stderr.String() != "err\n" {
		t.Fatalf("got %v, %q, %q", err, stdout.String(), stderr.String())
	}
	data, err := os.ReadFile(said)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	last := slices.Index(lines, "--entrypoint=no")
	argv := lines[:last+1]
	for _, secret := range []string{"s3cret", "pw@proxy", "hidden"} {
		if strings.Contains(strings.Join(argv, "\n"), secret) {
			t.Errorf("%s is an argument", secret)
		}
		if !strings.Contains(string(data), secret) {
			t.Errorf("%s was not passed on", secret)
		}
	}
	for _, want := range [][]string{
		{"--env", "TOKEN"}, {"--env", "HTTPS_PROXY"}, {"--env", "DOCKER_CONFIG=/kaniko/.docker"}, {"--workdir", "/work,tree"},
		{"--mount", `type=bind,"source=/work,tree","target=/work,tree"`},
	} {
		if i := slices.Index(argv, want[1]); i < 1 || argv[i-1] != want[0] {
			t.Errorf("no %q in %q", want, argv)
		}
	}
	tail := []string{"--entrypoint", "pipegen", "registry.example/builder:1", "build", "app@amd64", "--entrypoint=no"}
	if got := argv[len(argv)-len(tail):]; !slices.Equal(got, tail) {
		t.Errorf("ends with %q, want %q", got, tail)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "pipegen-docker-*")); len(left) > 0 {
		t.Errorf("credentials are left in %q", left)
	}
}

func TestBuilderContainerEnds(t *testing.T) {
	for _, c := range []struct {
		body string
		code int
	}{{"exit 0\n", 0}, {"exit 1\n", 1}, {"exit 2\n", 2}} {
		cli, _ := fakeDocker(t, c.body)
		err := BuilderContainer{CLI: cli, Image: "i", Root: t.TempDir()}.Run(t.Context())
		exit, _ := errors.AsType[*ExitError](err)
		if (err == nil) != (c.code == 0) || exit != nil && exit.Code != c.code {
			t.Errorf("%q: got %v", c.body, err)
		}
	}
	cli, _ := fakeDocker(t, "echo no such image >&2; exit 125\n")
	if err := (BuilderContainer{CLI: cli, Image: "i", Root: t.TempDir()}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "could not run") {
		t.Errorf("no image: got %v", err)
	}
	if err := (BuilderContainer{CLI: "/nowhere/docker", Image: "i"}).Run(t.Context()); !errors.Is(err, failure.ErrInput) {
		t.Errorf("no docker: got %v", err)
	}
}

// A cancelled build is stopped, by the name of its container.
func TestBuilderContainerStops(t *testing.T) {
	dir := t.TempDir()
	started, stopped := filepath.Join(dir, "started"), filepath.Join(dir, "stopped")
	cli, _ := fakeDocker(t, `case $1 in
run) echo $$ > `+started+`.tmp && mv `+started+`.tmp `+started+`; exec sleep 60 ;;
stop) echo "$@" > `+stopped+`; kill "$(cat `+started+`)" ;;
esac
`)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	go func() {
		for {
			if _, err := os.Stat(started); err == nil {
				cancel(cause)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	err := BuilderContainer{CLI: cli, Image: "i", Root: dir}.Run(ctx)
	if !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	if data, err := os.ReadFile(stopped); err != nil || !strings.Contains(string(data), " pipegen-") {
		t.Errorf("stopped by %q (%v)", data, err)
	}
}

func TestBuilderImage(t *testing.T) {
	getenv := func(name string) string {
		return map[string]string{"PIPEGEN_IMAGE": "registry.example/builder:1", "TAG": "2", "BAD": "--privileged"}[name]
	}
	for _, c := range []struct{ named, want string }{
		{"", "registry.example/builder:1"}, {"registry.example/x:${TAG}", "registry.example/x:2"}, {"plain", "plain"},
		{"$MISSING:1", ""}, {"$BAD", ""},
	} {
		got, err := BuilderImage(c.named, getenv)
		if got != c.want || (err != nil) != (c.want == "") || err != nil && !errors.Is(err, failure.ErrInput) {
			t.Errorf("%q: got %q, %v", c.named, got, err)
		}
	}
}
