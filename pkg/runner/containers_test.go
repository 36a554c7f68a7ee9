package runner

import (
	"bytes"
	"encoding/csv"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/engine"
)

func TestRunArgs(t *testing.T) {
	argv, env := runArgs("pipegen-x", "localhost/pipegen-root:abc", "/opt/executor", engine.Command{
		Argv:   []string{"/.kaniko/executor", "--build-arg=A=b c", "--entrypoint=no"},
		Env:    []string{"TOKEN=s3cret", "PATH=/bin", "DOCKER_CONFIG=/.kaniko/.docker", "HTTPS_PROXY=http://u:pw@proxy"},
		Mounts: []engine.Mount{{Host: `/a,b"c`, Inside: "/w", ReadOnly: true}, {Host: "/d:e", Inside: "/x"}},
	})
	if line := strings.Join(argv, "\n"); strings.Contains(line, "s3cret") || strings.Contains(line, "u:pw") {
		t.Errorf("a secret is an argument:\n%s", line)
	}
	// Names that docker itself understands must not change what docker does.
	if want := []string{"TOKEN=s3cret", "HTTPS_PROXY=http://u:pw@proxy"}; !slices.Equal(env, want) {
		t.Errorf("docker's environment has %q, want %q", env, want)
	}
	for _, want := range [][]string{
		{"--env", "TOKEN"}, {"--env", "PATH=/bin"}, {"--env", "DOCKER_CONFIG=/.kaniko/.docker"}, {"--cap-drop", "ALL"}, {"--cap-add", "CHOWN"},
		{"--mount", "type=bind,source=/opt/executor,target=/.kaniko/executor,readonly"}, {"--mount", "type=bind,source=/d:e,target=/x"},
	} {
		if i := slices.Index(argv, want[1]); i < 1 || argv[i-1] != want[0] {
			t.Errorf("no %q in %q", want, argv)
		}
	}
	tail := []string{"--workdir", "/", "--entrypoint", "/.kaniko/executor", "localhost/pipegen-root:abc", "--build-arg=A=b c", "--entrypoint=no"}
	if got := argv[len(argv)-len(tail):]; !slices.Equal(got, tail) {
		t.Errorf("ends with %q, want %q", got, tail)
	}
}

func FuzzMountArg(f *testing.F) {
	f.Add(`/a,b"c`, "/w")
	f.Add("/plain", "/x y\n")
	f.Fuzz(func(t *testing.T, host, inside string) {
		if strings.Contains(host+inside, "\r") {
			return // encoding/csv reads \r\n as \n
		}
		fields, err := csv.NewReader(strings.NewReader(mountArg(engine.Mount{Host: host, Inside: inside, ReadOnly: true}))).Read()
		if want := []string{"type=bind", "source=" + host, "target=" + inside, "readonly"}; err != nil || !slices.Equal(fields, want) {
			t.Errorf("reads as %q, %v; want %q", fields, err, want)
		}
	})
}

func TestPackIsReproducible(t *testing.T) {
	certs := filepath.Join(t.TempDir(), "certs")
	if err := os.WriteFile(certs, []byte("a certificate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var archives [2][]byte
	for i := range archives {
		tree := filepath.Join(t.TempDir(), "tree")
		if err := makeTree(tree, certs); err != nil {
			t.Fatal(err)
		}
		var err error
		if archives[i], err = pack(tree); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) || !bytes.Contains(archives[0], []byte("a certificate\n")) {
		t.Errorf("the same tree packs to %d and %d other bytes", len(archives[0]), len(archives[1]))
	}
}
