//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/plan"
)

// daemonized is a pipegen server that is killed and started again.
type daemonized struct {
	t       *testing.T
	dir     string
	address string
	token   string
	client  *api.Client
	context string
	args    []string
	env     []string
	cmd     *exec.Cmd
	over    chan struct{}
}

// newServer starts a controller with the local runner. It and all it started are gone
// when the test ends.
func newServer(t *testing.T, limits string, args ...string) *daemonized {
	t.Helper()
	return newServerWith(t, limits, nil, args...)
}

// newServerWith is newServer with further variables of the environment.
func newServerWith(t *testing.T, limits string, env []string, args ...string) *daemonized {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &daemonized{t: t, dir: scratch(t), address: l.Addr().String(), token: rand.Text(), args: args, env: env}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "server.yaml"), []byte("limits:\n"+limits), 0o600); err != nil {
		t.Fatal(err)
	}
	if s.client, err = api.NewClient(api.ClientOptions{URL: "http://" + s.address, Token: s.token, Patience: time.Minute}); err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(func() {
		if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		select {
		case <-s.over:
		case <-time.After(30 * time.Second):
			t.Error("the controller does not end")
			s.kill()
		}
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(s.dir, "server.log"))
			t.Logf("the controller said:\n%s", text[max(0, len(text)-8000):])
		}
		eventually(t, "no agent is left", func() bool { return len(s.processes()) == 0 })
	})
	context := filepath.Join(s.dir, "context")
	if err := errors.Join(os.Mkdir(context, 0o755), os.WriteFile(filepath.Join(context, "file"), []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	file, packed, err := buildcontext.PackFile(t.Context(), context, s.dir, buildcontext.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	archive, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if _, err := s.client.UploadContext(t.Context(), api.ContextRequest{Digest: packed.Digest, Size: packed.Size}, archive, nil); err != nil {
		t.Fatal(err)
	}
	s.context = packed.Digest
	return s
}

// start starts the process, which answers soon.
func (s *daemonized) start() {
	s.t.Helper()
	out, err := os.OpenFile(filepath.Join(s.dir, "server.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	s.cmd = exec.Command(binary(s.t), append([]string{
		"server", "--listen", s.address, "--data-dir", filepath.Join(s.dir, "data"), "--config", filepath.Join(s.dir, "server.yaml"),
	}, s.args...)...)
	s.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir, "BUILD_CONTROLLER_TOKEN=" + s.token}, s.env...)
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	over := make(chan struct{})
	s.over = over
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait() // it is killed
		close(over)
	}(s.cmd)
}

// kill ends it as a power cut does.
func (s *daemonized) kill() {
	_ = s.cmd.Process.Kill()
	<-s.over
}

// ready waits until it answers.
func (s *daemonized) ready() {
	s.t.Helper()
	eventually(s.t, "the controller is ready", func() bool {
		res, err := http.Get("http://" + s.address + "/health/ready")
		if err != nil {
			return false
		}
		return res.Body.Close() == nil && res.StatusCode == http.StatusOK
	})
}

// processes gives those that work below the directory.
func (s *daemonized) processes() (pids []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, dir := range dirs {
		if at, err := os.Readlink(dir); err == nil && strings.HasPrefix(at, s.dir) {
			pids = append(pids, filepath.Base(filepath.Dir(dir)))
		}
	}
	return pids
}

// request asks for a run of one image, whose one build is a command.
func (s *daemonized) request(name, command string) api.RunRequest {
	return api.RunRequest{Context: s.context, Plan: &plan.Plan{
		Version: plan.Version, Event: "local", Layout: "tag", Registry: "registry.test/images", Skipped: []plan.Skipped{},
		Images: []plan.Image{{
			Name: name, Dir: ".", Key: "k", Reasons: []plan.Reason{}, Repository: "registry.test/images", Tags: []string{}, Needs: []string{},
			Builds: []plan.Build{{
				ID: name + "@amd64", Platform: "linux/amd64", Engine: "make", Context: ".", Dockerfile: "Dockerfile", Outputs: []string{"digest"}, Command: command,
			}},
		}},
	}}
}

// linesOf gives the lines of a log that commands of this suite print.
func linesOf(log []api.LogLine) (said []string) {
	for _, l := range log {
		if strings.HasPrefix(l.Message, "line ") {
			said = append(said, l.Message)
		}
	}
	return said
}

// follow reads a log from its first line to its end.
func (s *daemonized) follow(run string) (log []api.LogLine, end api.State, err error) {
	end, err = s.client.Patient(2*time.Minute).Logs(s.t.Context(), run, api.LogQuery{Follow: true}, func(l api.LogLine) error {
		if l.Seq != int64(len(log)) {
			return fmt.Errorf("line %d of run %s comes after line %d", l.Seq, run, len(log)-1)
		}
		log = append(log, l)
		return nil
	})
	return log, end, err
}

// A controller that is killed again and again, at any moment, loses no task and
// no line, and runs and says nothing twice.
func TestControllerKilled(t *testing.T) {
	const kills, lines = 16, 200
	s := newServer(t, "  tasks: {local: 4}\n  requests_per_second: 10000\n")
	ran := filepath.Join(s.dir, "ran")
	if err := os.Mkdir(ran, 0o755); err != nil {
		t.Fatal(err)
	}
	var killed atomic.Int32
	var wg sync.WaitGroup
	var mu sync.Mutex
	logs := map[string][]api.LogLine{}
	submit := func(n int) {
		name := fmt.Sprintf("app%d", n)
		command := fmt.Sprintf("echo begun >>%s/%s; i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); [ $((i %% 40)) -ne 0 ] || sleep 0.1; done; mkdir release; echo x >release/x", ran, name, lines)
		run, err := s.client.CreateRun(t.Context(), s.request(name, command), name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		log, end, err := s.follow(run.ID)
		if err != nil || end != api.Succeeded {
			t.Errorf("%s: %s, %v; %+v", name, end, err, log[max(0, len(log)-3):])
			return
		}
		mu.Lock()
		logs[run.ID] = log
		mu.Unlock()
	}
	wg.Go(func() {
		for n := 0; killed.Load() < kills && !t.Failed(); n++ {
			wg.Go(func() { submit(n) })
			time.Sleep(120 * time.Millisecond)
		}
	})
	for range kills {
		time.Sleep(time.Duration(50+mathrand.IntN(900)) * time.Millisecond)
		s.kill()
		s.start()
		killed.Add(1)
	}
	wg.Wait()
	t.Logf("%d runs, %d kills", len(logs), killed.Load())
	s.kill()
	s.start()
	s.ready()
	for id, log := range logs {
		run, err := s.client.Run(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		tasks := run.Images[0].Tasks
		if run.State != api.Succeeded || len(tasks) != 1 || tasks[0].Attempt != 1 {
			t.Errorf("%+v", run)
		}
		begun, err := os.ReadFile(filepath.Join(ran, run.Images[0].Name))
		if err != nil || string(begun) != "begun\n" {
			t.Errorf("%s ran: %q, %v", run.Images[0].Name, begun, err)
		}
		said := linesOf(log)
		for i := range lines {
			if i >= len(said) || said[i] != fmt.Sprint("line ", i) {
				t.Errorf("%s: %d lines, not %d; line %d is another", run.Images[0].Name, len(said), lines, i)
				break
			}
		}
		again, _, err := s.follow(id)
		if err != nil || !slices.Equal(again, log) {
			t.Errorf("%s: the log reads otherwise the second time: %d lines, then %d, %v", run.Images[0].Name, len(log), len(again), err)
		}
	}
	// Nobody is forgotten that this test did not hear of.
	list, err := s.client.Runs(t.Context(), api.RunQuery{Limit: 200, States: []api.State{api.Queued, api.Running, api.Failed, api.Cancelled}})
	if err != nil || len(list.Runs) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

// While the disk of the database is full nothing is lost that was promised, and
// all goes on when there is room.
func TestDatabaseDiskFull(t *testing.T) {
	disk := scratch(t)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatalf("mounting a small disk (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	s := newServer(t, "  requests_per_second: 10000\n", "--database", filepath.Join(disk, "pipegen.db"))
	s.ready()
	const lines = 3000
	run, err := s.client.CreateRun(t.Context(), s.request("app", fmt.Sprintf(
		"i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); [ $((i %% 100)) -ne 0 ] || sleep 0.2; done; mkdir release; echo x >release/x", lines)), "")
	if err != nil {
		t.Fatal(err)
	}
	var seen atomic.Int64
	var log []api.LogLine
	done := make(chan error)
	go func() {
		end, err := s.client.Patient(2*time.Minute).Logs(t.Context(), run.ID, api.LogQuery{Follow: true}, func(l api.LogLine) error {
			seen.Add(1)
			log = append(log, l)
			return nil
		})
		if err == nil && end != api.Succeeded {
			err = fmt.Errorf("the run %s", end)
		}
		done <- err
	}()
	eventually(t, "lines come", func() bool { return seen.Load() > 300 })
	filler := filepath.Join(disk, "filler")
	if err := fill(filler); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if _, err := s.client.Patient(-1).CreateRun(t.Context(), s.request("other", "true"), ""); err == nil {
		t.Error("a run is taken that cannot be kept")
	}
	at := seen.Load()
	time.Sleep(2 * time.Second)
	if more := seen.Load() - at; more > 500 {
		t.Errorf("%d lines came that cannot be kept", more)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	said := linesOf(log)
	if len(said) != lines || said[0] != "line 0" || said[lines-1] != fmt.Sprint("line ", lines-1) {
		t.Errorf("%d lines of %d", len(said), lines)
	}
	for i, l := range log {
		if l.Seq != int64(i) {
			t.Fatalf("line %d comes in place of %d", l.Seq, i)
		}
	}
}

// fill writes until there is no room.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 4096)
	zeros := make([]byte, 4096)
	for err == nil {
		_, err = w.Write(zeros)
	}
	return errors.Join(err, f.Close())
}

// Two hundred readers of one log over HTTP, some of which vanish, each get every
// line once and in order, and the build is not held up.
func TestManyReaders(t *testing.T) {
	s := newServer(t, "  requests_per_second: 10000\n")
	s.ready()
	const lines, readers = 2000, 200
	run, err := s.client.CreateRun(t.Context(), s.request("app", fmt.Sprintf(
		"i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); [ $((i %% 100)) -ne 0 ] || sleep 0.1; done; mkdir release; echo x >release/x", lines)), "")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range readers {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			next := int64(n % 50)
			end, err := s.client.Logs(ctx, run.ID, api.LogQuery{From: next, Follow: true}, func(l api.LogLine) error {
				if l.Seq != next {
					return fmt.Errorf("line %d comes in place of %d", l.Seq, next)
				}
				if next++; n%10 == 7 && next > 400 {
					cancel()
				}
				return nil
			})
			switch {
			case n%10 == 7 && errors.Is(err, context.Canceled):
			case err != nil || end != api.Succeeded || next < lines:
				t.Errorf("reader %d: %d lines, %s, %v", n, next, end, err)
			}
		})
	}
	wg.Wait()
}
