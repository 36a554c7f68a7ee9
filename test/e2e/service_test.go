//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/test/monorepo"
)

// service is pipegen server with builds on this machine, for the projects of a
// site that are one context.
type service struct {
	*site
	address string
	env     []string
	process *exec.Cmd
	client  *api.Client
	archive *os.File
	packed  buildcontext.Packed
	plans   map[string]*plan.Plan
}

// startService starts a controller for projects of so many seconds each. env is
// for the controller alone.
func startService(t *testing.T, seconds map[string]int, env ...string) *service {
	t.Helper()
	s := &service{site: newSite(t, newHub(t, nil)), address: "127.0.0.1:" + freePort(t), env: env, plans: map[string]*plan.Plan{}}
	if err := remote.WriteIndex(s.ref(t, "busybox"), busybox(t)); err != nil {
		t.Fatal(err)
	}
	for name, n := range seconds {
		s.project(t, name, project(n))
	}
	s.commit(t)
	for name := range seconds {
		s.plans[name] = s.plan(t, name)
	}
	if err := os.Remove(filepath.Join(s.dir, "plan.json")); err != nil {
		t.Fatal(err)
	}
	file, packed, err := buildcontext.PackFile(t.Context(), s.dir, s.place, buildcontext.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.packed = packed
	if s.archive, err = os.Open(file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.archive.Close() })
	if s.client, err = api.NewClient(api.ClientOptions{URL: "http://" + s.address, Patience: 2 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	t.Cleanup(func() {
		s.kill(t)
		eventually(t, "no agent is left", func() bool { return len(running(t, s.place)) == 0 })
	})
	return s
}

func (s *service) start(t *testing.T) {
	t.Helper()
	s.process = exec.Command(binary(t), "server", "--dev", "--listen", s.address, "--data-dir", filepath.Join(s.place, "data"))
	s.process.Env = monorepo.Env(os.Environ(), slices.Concat(s.site.env, s.env)...)
	s.process.Stderr = t.Output()
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the controller answers", func() bool {
		res, err := http.Get("http://" + s.address + "/health/live")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

// kill ends the controller as a crash does; agents go on.
func (s *service) kill(t *testing.T) {
	t.Helper()
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	s.process = nil
}

// agents gives the command lines of agents and of what they started.
func (s *service) agents(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(running(t, s.place), func(line string) bool { return strings.Contains(line, " server --dev ") })
}

// upload brings the context, and says whether it had to be sent.
func (s *service) upload(t *testing.T) bool {
	t.Helper()
	sent, err := s.client.UploadContext(t.Context(), api.ContextRequest{Digest: s.packed.Digest, Size: s.packed.Size}, s.archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

func (s *service) submit(t *testing.T, project string) string {
	t.Helper()
	run, err := s.client.CreateRun(t.Context(), api.RunRequest{
		Plan: s.plans[project], Context: s.packed.Digest, Secrets: map[string]string{"NPM_TOKEN": buildSecret},
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	return run.ID
}

// followed is a log that is followed, through all that happens to the
// controller.
type followed struct {
	mu    sync.Mutex
	lines []api.LogLine
	end   api.State
	err   error
	done  chan struct{}
}

func (s *service) follow(ctx context.Context, run string) *followed {
	f := &followed{done: make(chan struct{})}
	go func() {
		defer close(f.done)
		end, err := s.client.Logs(ctx, run, api.LogQuery{Follow: true}, func(l api.LogLine) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.lines = append(f.lines, l)
			return nil
		})
		f.mu.Lock()
		defer f.mu.Unlock()
		f.end, f.err = end, err
	}()
	return f
}

func (f *followed) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, l := range f.lines {
		fmt.Fprintf(&b, "%d %s %s %s\n", l.Seq, l.Build, l.State, l.Message)
	}
	return b.String()
}

// until waits for words in the log.
func (f *followed) until(t *testing.T, words string) {
	t.Helper()
	for giveUp := time.After(time.Minute); !strings.Contains(f.text(), words); {
		select {
		case <-giveUp:
			t.Fatalf("the log never says %q:\n%s", words, f.text())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ends waits for the run's end, and compares the log with what is kept of it.
func (f *followed) ends(t *testing.T, s *service, run string, want api.State) {
	t.Helper()
	select {
	case <-f.done:
	case <-time.After(2 * time.Minute):
		t.Fatalf("the run does not end:\n%s", f.text())
	}
	t.Log("\n" + f.text())
	if f.err != nil || f.end != want {
		t.Errorf("the run ended %s, %v", f.end, f.err)
	}
	for i, l := range f.lines {
		if l.Seq != int64(i) {
			t.Fatalf("line %d has the number %d", i, l.Seq)
		}
	}
	again := s.follow(t.Context(), run)
	<-again.done
	if got := again.text(); got != f.text() || again.end != want {
		t.Errorf("the log is now another one, of a run that %s:\n%s", again.end, got)
	}
}

// The context of two runs is in S3 once, and nobody but the controller has keys
// of it. S3 may be away in mid-build, at the end, and when an agent wants the
// context.
func TestServiceS3(t *testing.T) {
	v := startVersity(t)
	o := v.options()
	s := startService(t, map[string]int{"app": 3, "other": 0},
		"S3_ENDPOINT="+o.Endpoint, "S3_SSL=false", "S3_BUCKET="+o.Bucket, "S3_REGION="+o.Region, "S3_ACCESS_KEY="+o.AccessKey, "S3_SECRET_KEY="+o.SecretKey)
	if !s.upload(t) {
		t.Error("the context is there before it was sent")
	}
	kept := func() []os.FileInfo {
		files, err := filepath.Glob(filepath.Join(v.dir, o.Bucket, "contexts/sha256/*"))
		if err != nil {
			t.Fatal(err)
		}
		var all []os.FileInfo
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, info)
		}
		return all
	}
	first := kept()
	if len(first) != 1 || first[0].Size() != s.packed.Size || "sha256:"+first[0].Name() != s.packed.Digest {
		t.Fatalf("the bucket has %v", first)
	}

	app := s.submit(t, "app")
	log := s.follow(t.Context(), app)
	log.until(t, "step begins")
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range environs {
		environ, _ := os.ReadFile(file)
		pid := filepath.Base(filepath.Dir(file))
		if strings.Contains(string(environ), o.SecretKey) && pid != fmt.Sprint(s.process.Process.Pid) && pid != fmt.Sprint(v.process.Process.Pid) {
			t.Errorf("process %s has the keys of S3", pid)
		}
	}
	v.stop(t)
	log.until(t, "published ")
	v.start(t)
	log.ends(t, s, app, api.Succeeded)

	if s.upload(t) {
		t.Error("the context was sent again")
	}
	v.stop(t)
	submitted := make(chan string, 1)
	go func() {
		defer close(submitted)
		run, err := s.client.CreateRun(t.Context(), api.RunRequest{
			Plan: s.plans["other"], Context: s.packed.Digest, Secrets: map[string]string{"NPM_TOKEN": buildSecret},
		}, "")
		if err != nil {
			t.Error(err)
			return
		}
		submitted <- run.ID
	}()
	time.Sleep(4 * time.Second)
	v.start(t)
	other, ok := <-submitted
	if !ok {
		t.FailNow()
	}
	s.follow(t.Context(), other).ends(t, s, other, api.Succeeded)
	if now := kept(); len(now) != 1 || !now[0].ModTime().Equal(first[0].ModTime()) {
		t.Errorf("the bucket has %v", now)
	}
	eventually(t, "both logs are in S3", func() bool {
		files, _ := filepath.Glob(filepath.Join(v.dir, o.Bucket, "logs/*"))
		return len(files) == 2
	})
	s.follow(t.Context(), app).ends(t, s, app, api.Succeeded)
}

// The controller is killed in mid-build, twice: the build goes on, and its log
// is whole.
func TestServiceKilled(t *testing.T) {
	s := startService(t, map[string]int{"app": 6})
	s.upload(t)
	run := s.submit(t, "app")
	log := s.follow(t.Context(), run)
	log.until(t, "step begins")
	agents := s.agents(t)
	for range 2 {
		s.kill(t)
		time.Sleep(time.Second)
		s.start(t)
		time.Sleep(500 * time.Millisecond)
	}
	if now := s.agents(t); !slices.Equal(now, agents) {
		t.Errorf("of the processes %q there are %q", agents, now)
	}
	log.ends(t, s, run, api.Succeeded)
	if n := strings.Count(log.text(), "downloading the context"); n != 1 {
		t.Errorf("the build was begun %d times", n)
	}
	r, err := s.client.Run(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range r.Images[0].Tasks {
		if task.Attempt != 1 || task.State != api.Succeeded {
			t.Errorf("%+v", task)
		}
		if task.Build != "" && (task.Usage == nil || task.Usage.CPUSeconds <= 0 || task.Digest == "") {
			t.Errorf("%+v", task)
		}
	}
}

// A run that is cancelled has no engine any more within ten seconds.
func TestServiceCancel(t *testing.T) {
	s := startService(t, map[string]int{"app": 120})
	s.upload(t)
	run := s.submit(t, "app")
	log := s.follow(t.Context(), run)
	log.until(t, "step begins")
	start := time.Now()
	if _, err := s.client.CancelRun(t.Context(), run, "wrong branch"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the engine is gone", func() bool {
		return len(s.agents(t)) == 0
	})
	t.Logf("gone after %s", time.Since(start).Round(time.Millisecond))
	log.ends(t, s, run, api.Cancelled)
	if !strings.Contains(log.text(), "wrong branch") {
		t.Error("nobody says why")
	}
}

// An agent that is killed in mid-build takes its engine along, and another one
// does its task.
func TestServiceLosesAgent(t *testing.T) {
	s := startService(t, map[string]int{"app": 3})
	s.upload(t)
	run := s.submit(t, "app")
	log := s.follow(t.Context(), run)
	log.until(t, "step begins")
	pids := familyOf(t, filepath.Join(s.place, "data"), run+"-0-1")
	if err := syscall.Kill(pids[1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all of it is gone", func() bool {
		return !slices.ContainsFunc(pids, func(pid int) bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err == nil && !strings.Contains(string(stat), ") Z ")
		})
	})
	log.ends(t, s, run, api.Succeeded)
	r, err := s.client.Run(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, task := range r.Images[0].Tasks {
		got = append(got, fmt.Sprint(task.Build, task.Attempt, task.State))
	}
	if want := []string{"app@amd641lost", "app@amd642succeeded", "1succeeded"}; !slices.Equal(got, want) {
		t.Errorf("the tasks are %q, want %q", got, want)
	}
}
