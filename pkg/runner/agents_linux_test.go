package runner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
)

// fakeAgent is an agent without a controller.
func fakeAgent(how, file string) (code int) {
	l, err := TakeLaunchFile(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 9
	}
	// What it starts gets away in all ways: into a group and a session of its
	// own, and from a parent that ends.
	for _, script := range []string{"sleep 60", "trap '' TERM; while :; do sleep 1; done", "setsid sleep 60 & setsid sleep 60 & exit"} {
		cmd := exec.Command("sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: script == "sleep 60", Setpgid: script != "sleep 60"}
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "OF_TASK=" + l.Work}
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 9
		}
	}
	environ := strings.Join(os.Environ(), "\n")
	if err := errors.Join(os.WriteFile(filepath.Join(l.Work, "environ"), []byte(environ), 0o600), os.WriteFile(filepath.Join(l.Work, "is"), []byte(fmt.Sprint(os.Getpid())), 0o600)); err != nil {
		return 9
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	switch how {
	case "ends":
		return 0
	case "fails":
		fmt.Fprintf(os.Stderr, "pipegen: the controller at %s\x1b[31m does not answer\nhint: ask it\n", l.URL)
		return 1
	case "deaf":
		for range asked {
			_ = os.WriteFile(filepath.Join(l.Work, "asked"), nil, 0o600)
		}
	}
	<-asked
	return 130
}

func newAgents(t *testing.T, data, how string) *Agents {
	t.Helper()
	a, err := NewAgents(AgentsOptions{
		DataDir: data, Args: []string{"fake-agent", how}, Interval: 5 * time.Millisecond, grace: 300 * time.Millisecond,
		Environ: append(os.Environ(), "AWS_SECRET_ACCESS_KEY=controllers-own", "LC_ALL=C"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func launch(task string) Launch {
	return Launch{Task: task, Run: "r", Build: "app@amd64", Platform: "linux/amd64", URL: "http://127.0.0.1:9/", Token: "t0ken-of-the-task"}
}

// belonging gives the processes that an agent of a task started.
func belonging(data, task string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && slices.Contains(strings.Split(string(text), "\x00"), "OF_TASK="+filepath.Join(data, "agents", task, workName)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if p, ok := engine.FindProcess(pid); ok && p.Runs() {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// eventually waits for something that must come.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

// watch collects what a launcher tells.
func watch(t *testing.T, a *Agents) (told func() []AgentStatus) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var all []AgentStatus
	over := make(chan error)
	go func() {
		over <- a.Watch(ctx, func(s AgentStatus) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, s)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-over; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return func() []AgentStatus {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

func agentPID(t *testing.T, data, task string) int {
	t.Helper()
	var pid int
	eventually(t, "the agent says who it is", func() bool {
		text, err := os.ReadFile(filepath.Join(data, "agents", task, workName, "is"))
		pid, _ = strconv.Atoi(string(text))
		return err == nil && pid > 0 && len(belonging(data, task)) >= 4
	})
	return pid
}

// Whatever becomes of an agent, nothing that it started is left, and the
// launcher says how it was.
func TestAgentEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		how  string
		then func(t *testing.T, a *Agents, agent, above int)
		want AgentStatus
		code int
	}{
		"well":       {"ends", nil, AgentStatus{}, 0},
		"badly":      {"fails", nil, AgentStatus{Infrastructure: true, Reason: `the agent ended with exit status 1: the controller at http://127.0.0.1:9/\x1b[31m does not answer`}, 1},
		"terminated": {"waits", func(_ *testing.T, _ *Agents, agent, _ int) { _ = syscall.Kill(agent, syscall.SIGTERM) }, AgentStatus{Infrastructure: true, Reason: "the agent ended with exit status 130"}, 130},
		"killed":     {"waits", func(_ *testing.T, _ *Agents, agent, _ int) { _ = syscall.Kill(agent, syscall.SIGKILL) }, AgentStatus{Infrastructure: true, Reason: "the agent was killed"}, -1},
		"orphaned":   {"waits", func(_ *testing.T, _ *Agents, _, above int) { _ = syscall.Kill(above, syscall.SIGKILL) }, AgentStatus{Infrastructure: true, Reason: "the agent was killed"}, -2},
	} {
		t.Run(name, func(t *testing.T) {
			data := t.TempDir()
			a := newAgents(t, data, tt.how)
			told := watch(t, a)
			if err := a.Start(t.Context(), launch("r-0-1")); err != nil {
				t.Fatal(err)
			}
			var p started
			if err := readJSON(filepath.Join(data, "agents/r-0-1", pidName), &p); err != nil {
				t.Fatal(err)
			}
			if tt.then != nil {
				agent := agentPID(t, data, "r-0-1")
				if s, err := a.Find(t.Context(), "r-0-1"); err != nil || s.State != AgentRunning {
					t.Errorf("%+v, %v", s, err)
				}
				tt.then(t, a, agent, p.PID)
			}
			if tt.code == -2 { // nobody is above it any more: stopping ends the rest
				eventually(t, "the agent ends with what is above it", func() bool { return !p.Runs() })
				if err := a.Stop(t.Context(), "r-0-1"); err != nil {
					t.Error(err)
				}
				if left := belonging(data, "r-0-1"); len(left) > 0 {
					t.Errorf("left running: %v", left)
				}
				return
			}
			eventually(t, "the end is told", func() bool {
				all := told()
				return len(all) > 0 && all[len(all)-1].State == AgentExited
			})
			if left := belonging(data, "r-0-1"); len(left) > 0 {
				t.Errorf("left running: %v", left)
			}
			s, err := a.Find(t.Context(), "r-0-1")
			if err != nil || s != told()[len(told())-1] && s.ExitCode == nil {
				t.Errorf("%+v, %v", s, err)
			}
			if s.ExitCode == nil || *s.ExitCode != tt.code || s.Reason != tt.want.Reason || s.Infrastructure != tt.want.Infrastructure || (s.Hint != "") != (name == "killed") {
				t.Errorf("got %+v", s)
			}
			// One that ended is not started again, until it is forgotten.
			if err := a.Start(t.Context(), launch("r-0-1")); err != nil {
				t.Error(err)
			}
			if s, err := a.Find(t.Context(), "r-0-1"); err != nil || s.State != AgentExited {
				t.Errorf("%+v, %v", s, err)
			}
			for range 2 {
				if err := a.Stop(t.Context(), "r-0-1"); err != nil {
					t.Error(err)
				}
			}
			if _, err := a.Find(t.Context(), "r-0-1"); !errors.Is(err, ErrNoAgent) {
				t.Error(err)
			}
		})
	}
}

// A launcher that knows nothing finds what another one started, starts nothing
// twice, and stops it with all below it.
func TestAgentsOfEarlierLaunchers(t *testing.T) {
	for _, how := range []string{"waits", "deaf"} {
		t.Run(how, func(t *testing.T) {
			data := t.TempDir()
			if err := newAgents(t, data, how).Start(t.Context(), launch("r-0-1")); err != nil {
				t.Fatal(err)
			}
			pid := agentPID(t, data, "r-0-1")
			a := newAgents(t, data, how)
			told := watch(t, a)
			var wait sync.WaitGroup
			for range 5 {
				wait.Go(func() {
					if err := a.Start(t.Context(), launch("r-0-1")); err != nil {
						t.Error(err)
					}
				})
			}
			wait.Wait()
			eventually(t, "it is told", func() bool { return len(told()) == 1 })
			if s := told()[0]; s.State != AgentRunning || s.Task != "r-0-1" {
				t.Errorf("%+v", s)
			}
			if now := agentPID(t, data, "r-0-1"); now != pid {
				t.Errorf("another agent: %d, not %d", now, pid)
			}
			if err := a.Stop(t.Context(), "r-0-1"); err != nil {
				t.Error(err)
			}
			if left := belonging(data, "r-0-1"); len(left) > 0 {
				t.Errorf("left running: %v", left)
			}
			if p, ok := engine.FindProcess(pid); ok && p.Runs() {
				t.Error("the agent runs")
			}
			if _, err := os.Stat(filepath.Join(data, "agents/r-0-1")); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		})
	}
}

// Launchers in several processes start one agent between them, and those whose
// start was cut short leave nothing in the way.
func TestOneAgentATask(t *testing.T) {
	data := t.TempDir()
	if err := os.MkdirAll(filepath.Join(data, "agents/r-0-1"), 0o700); err != nil { // killed before it began
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for range 4 {
		a := newAgents(t, data, "waits")
		wait.Go(func() { _ = a.Start(t.Context(), launch("r-0-1")) })
	}
	wait.Wait()
	a := newAgents(t, data, "waits")
	agentPID(t, data, "r-0-1")
	if pids := belonging(data, "r-0-1"); len(pids) > 6 {
		t.Errorf("more than one agent has started: %v", pids)
	}
	if err := a.Stop(t.Context(), "r-0-1"); err != nil {
		t.Error(err)
	}
}

// Neither the token nor the controller's environment can be seen.
func TestAgentsKnowLittle(t *testing.T) {
	data := t.TempDir()
	a := newAgents(t, data, "waits")
	if err := a.Start(t.Context(), launch("r-0-1")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Stop(t.Context(), "r-0-1"); err != nil {
			t.Error(err)
		}
	}()
	pid := agentPID(t, data, "r-0-1")
	var p started
	if err := readJSON(filepath.Join(data, "agents/r-0-1", pidName), &p); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{pid, p.PID} {
		for _, name := range []string{"environ", "cmdline"} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
			if err != nil || strings.Contains(string(text), "t0ken") || strings.Contains(string(text), "controllers-own") || strings.Contains(string(text), "127.0.0.1:9") {
				t.Errorf("%s: %q, %v", name, text, err)
			}
		}
	}
	environ, err := os.ReadFile(filepath.Join(data, "agents", "r-0-1", "work", "environ"))
	if lines := strings.Split(string(environ), "\n"); err != nil || !slices.Contains(lines, "LC_ALL=C") || !slices.Contains(lines, "PATH="+os.Getenv("PATH")) {
		t.Errorf("%q, %v", lines, err)
	}
	err = filepath.WalkDir(filepath.Join(data, "agents"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
		if !d.IsDir() {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			for s := bufio.NewScanner(f); s.Scan(); {
				if strings.Contains(s.Text(), "t0ken") {
					t.Errorf("%s keeps the token", path)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAgentsFail(t *testing.T) {
	data := t.TempDir()
	a := newAgents(t, data, "waits")
	for _, task := range []string{"", "..", "a/b", "A", "-a", strings.Repeat("a", 64)} {
		_, found := a.Find(t.Context(), task)
		for _, err := range []error{a.Start(t.Context(), launch(task)), a.Stop(t.Context(), task), found} {
			if !errors.Is(err, failure.ErrInput) {
				t.Errorf("task %q: %v", task, err)
			}
		}
	}
	a.o.Self = filepath.Join(data, "nothing")
	if err := a.Start(t.Context(), launch("r-0-1")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := a.Find(t.Context(), "r-0-1"); !errors.Is(err, ErrNoAgent) {
		t.Error(err)
	}
	if text, err := os.ReadFile(filepath.Join(data, "agents/r-0-1", launchName)); err == nil {
		t.Errorf("the token stays behind: %s", text)
	}
	// Of before the machine was started anew nothing is looked for.
	if err := writeJSON(filepath.Join(data, "agents/r-0-1", pidName), started{engine.Process{PID: os.Getpid(), Start: "1"}, "another"}); err != nil {
		t.Fatal(err)
	}
	if s, err := a.Find(t.Context(), "r-0-1"); err != nil || s.State != AgentExited || s.ExitCode != nil || !s.Infrastructure {
		t.Errorf("%+v, %v", s, err)
	}
	if err := a.Stop(t.Context(), "r-0-1"); err != nil {
		t.Error(err)
	}
}
