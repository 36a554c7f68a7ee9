package engine

import (
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// values gives all values of a flag of buildctl, each of which is the argument
// after it.
func values(argv []string, name string) []string {
	var out []string
	for i, a := range argv {
		if a == "--"+name && i+1 < len(argv) {
			out = append(out, argv[i+1])
		}
	}
	return out
}

// options gives the values of --opt by key, those that begin with prefix.
func options(argv []string, prefix string) map[string]string {
	out := map[string]string{}
	for _, o := range values(argv, "opt") {
		k, v, _ := strings.Cut(o, "=")
		if name, ok := strings.CutPrefix(k, prefix); ok {
			out[name] = v
		}
	}
	return out
}

// csvFields reads what buildctl takes as CSV.
func csvFields(text string) (map[string]string, error) {
	record, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, f := range record {
		k, v, _ := strings.Cut(f, "=")
		out[k] = v
	}
	return out, nil
}

// fakeBuildctl builds an image with the labels and the platform it is told, and
// leaves it where --output says; what else it does the build argument FAKE says.
func fakeBuildctl(argv []string) error {
	opts := options(argv, "")
	platform, err := v1.ParsePlatform(opts["platform"])
	if err != nil {
		return err
	}
	switch opts["build-arg:FAKE"] {
	case "fail":
		return errors.New("error: failed to solve: process did not complete successfully: exit code: 137")
	case "lost":
		return errors.New("error: failed to receive status: rpc error: code = Unavailable desc = error reading from server: EOF")
	case "lost once":
		if values(argv, "addr")[0] == opts["build-arg:LOSE"] {
			return errors.New("rpc error: code = Unavailable desc = closing transport")
		}
	case "hang":
		step := exec.Command("sleep", "1000")
		step.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := step.Start(); err != nil {
			return err
		}
		fmt.Printf("hanging in %d %d\n", os.Getpid(), step.Process.Pid)
		return step.Wait()
	case "wrong platform":
		platform.Architecture = "s390x"
	case "no metadata":
		return nil
	}
	fmt.Printf("argv %q\nenv %q\n", argv, os.Environ())
	for _, s := range values(argv, "secret") {
		f, err := csvFields(s)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(f["src"])
		if err != nil {
			return err
		}
		info, err := os.Stat(f["src"])
		if err != nil {
			return err
		}
		fmt.Printf("secret %s is %d long, mode %s: %s\n", f["id"], len(text), info.Mode(), text)
	}
	for _, s := range values(argv, "ssh") {
		id, path, _ := strings.Cut(s, "=")
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		fmt.Printf("ssh %s is %s\n", id, info.Mode())
	}
	for _, l := range values(argv, "local") {
		name, dir, _ := strings.Cut(l, "=")
		files, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, f := range files {
			fmt.Printf("%s has %s\n", name, f.Name())
		}
		if name == "dockerfile" {
			text, err := os.ReadFile(filepath.Join(dir, opts["filename"]))
			if err != nil {
				return err
			}
			fmt.Printf("dockerfile %q\n", text)
		}
	}
	img, err := mutate.ConfigFile(mutate.MediaType(empty.Image, "application/vnd.oci.image.manifest.v1+json"), &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant, RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{Labels: options(argv, "label:")},
	})
	if err != nil {
		return err
	}
	return leave(img, argv)
}

// leave does what each --output says.
func leave(img v1.Image, argv []string) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	for _, o := range values(argv, "output") {
		f, err := csvFields(o)
		if err != nil {
			return err
		}
		switch f["type"] {
		case "image":
			err = push(img, f["name"])
		case "oci":
			var p layout.Path
			if p, err = layout.Write(f["dest"], empty.Index); err == nil {
				err = p.AppendImage(img)
			}
		}
		if err != nil {
			return err
		}
	}
	text, err := json.Marshal(map[string]string{"containerimage.digest": digest.String()})
	if err != nil {
		return err
	}
	return os.WriteFile(values(argv, "metadata-file")[0], text, 0o600)
}

// fakeDaemon answers ListWorkers on a unix socket, as buildkitd does, with a
// worker for these platforms; stop closes it.
func fakeDaemon(t *testing.T, platforms ...string) (address string, stop func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "bk") // a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path != "/moby.buildkit.v1.Control/ListWorkers" || len(body) != 5 || r.Header.Get("Content-Type") != "application/grpc" {
			t.Errorf("a daemon is sent %s %q", r.URL, body)
		}
		w.Header().Set("Trailer", "Grpc-Status")
		w.Header().Set("Content-Type", "application/grpc")
		message := workersMessage(platforms...)
		_, _ = w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...))
		w.Header().Set("Grpc-Status", "0")
	})}
	srv.Protocols = &http.Protocols{}
	srv.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = srv.Serve(l) }()
	stop = func() { _ = srv.Close() }
	t.Cleanup(stop)
	return "unix://" + socket, stop
}

// workersMessage is a ListWorkersResponse with one worker.
func workersMessage(platforms ...string) []byte {
	field := func(b []byte, number byte, value []byte) []byte {
		return append(binary.AppendUvarint(append(b, number<<3|2), uint64(len(value))), value...)
	}
	worker := field(nil, 1, []byte("id"))
	for _, p := range platforms {
		parts := append(strings.Split(p, "/"), "")
		var m []byte
		m = field(m, 1, []byte(parts[1]))
		m = field(m, 2, []byte(parts[0]))
		if parts[2] != "" {
			m = field(m, 3, []byte(parts[2]))
		}
		worker = field(worker, 3, m)
	}
	worker = append(worker, 6<<3, 1, 7<<3|1, 1, 2, 3, 4, 5, 6, 7, 8, 9<<3|5, 1, 2, 3, 4) // of other kinds
	return field(nil, 1, worker)
}

// newBuildkitBench is a bench for BuildKit on daemons that answer.
func newBuildkitBench(t *testing.T, files map[string]string, addresses ...string) *bench {
	t.Helper()
	b := newBench(t, files)
	b.Sandbox, b.Build.Engine = nil, "buildkit"
	b.env["BUILDCTL"] = asProgram(t, "buildctl")
	b.Plan.BuildKit.Addresses = addresses
	return b
}

// asProgram gives a path by which the test binary is this program.
func asProgram(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}
