package engine

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// ended is a command that ended with a code.
type ended int

func (e ended) Error() string { return "ended" }
func (e ended) ExitCode() int { return int(e) }

func TestMemoryWatch(t *testing.T) {
	long := strings.Repeat("x", 1000)
	const killed = "error building image: failed to execute command: waiting for process to exit: signal: killed\n"
	tests := []struct {
		name   string
		writes []string
		err    error
		hint   bool
	}{
		{"nothing", []string{long, "\n"}, ended(1), false},
		{"step", []string{long + killed}, ended(1), true},
		{"step's shell", []string{"waiting for process to exit: exit status 137\n"}, ended(1), true},
		{"step that fails otherwise", []string{"waiting for process to exit: exit status 13\n"}, ended(1), false},
		{"byte by byte", strings.Split(long+killed+long, ""), ended(1), true},
		{"in two", []string{long + killed[:60], killed[60:] + long}, ended(1), true},
		{"in three, later", []string{"a", killed[:50], "", killed[50:70], killed[70:], long}, ended(1), true},
		{"Go", []string{"fatal error: runtime: out of memory\n\ngoroutine 1"}, ended(2), true},
		{"killed itself", nil, ended(137), true},
		{"killed, and went well", []string{killed}, nil, false},
		{"cancelled", []string{killed}, errors.New("cancelled"), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			m := watchMemory(&out)
			for _, w := range tt.writes {
				if _, err := m.Write([]byte(w)); err != nil {
					t.Fatal(err)
				}
			}
			if out.String() != strings.Join(tt.writes, "") {
				t.Errorf("passed on %q", out.String())
			}
			err := m.explain(&plan.Build{}, tt.err)
			if !errors.Is(err, tt.err) {
				t.Errorf("got %v", err)
			}
			if got := strings.Contains(failure.Hint(err), "resources.memory"); got != tt.hint {
				t.Errorf("hint %q", failure.Hint(err))
			}
			if strings.Contains(failure.Hint(err), "compressed") {
				t.Errorf("a build without cache is told %q", failure.Hint(err))
			}
		})
	}
}

func TestMemoryHint(t *testing.T) {
	b := newBench(t, map[string]string{"Dockerfile": scratch, "f": "1"})
	fakeMode(b, "step killed")
	b.Build.Cache = &config.Cache{Enable: true}
	_, err := b.run(t)
	if err == nil || err.Error() != "build app@amd64: kaniko failed: exit status 7" {
		t.Errorf("got %v", err)
	}
	contains(t, failure.Hint(err), "for want of memory: ", "resources.memory", "cache: {compressed: false}", "--snapshot-mode=redo")
	fakeMode(b, "killed")
	_, err = b.run(t)
	if err == nil || err.Error() != "build app@amd64: kaniko was killed" {
		t.Errorf("got %v", err)
	}
	contains(t, failure.Hint(err), "for want of memory: ", "resources.memory", "cache: {compressed: false}")
}

func TestOOMKills(t *testing.T) {
	const events = "low 0\nhigh 0\nmax 7\noom 4\noom_kill 3\noom_group_kill 9\n"
	tests := []struct {
		name  string
		files map[string]string
		want  int
	}{
		{"none", nil, 0},
		{"container", map[string]string{"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.events": events}, 3},
		{"machine", map[string]string{"/proc/self/cgroup": "0::/user.slice/a.scope\n", "/sys/fs/cgroup/user.slice/a.scope/memory.events": events}, 3},
		{"host's path in a container", map[string]string{"/proc/self/cgroup": "0::/kubepods/x\n", "/sys/fs/cgroup/memory.events": events}, 3},
		{"version 1", map[string]string{"/proc/self/cgroup": "5:cpu,memory:/docker/x\n0::/\n", "/sys/fs/cgroup/memory/docker/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"}, 2},
		{"unreadable", map[string]string{"/proc/self/cgroup": "x\n\n1:2\n", "/sys/fs/cgroup/memory.events": "oom_kill x\n"}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := oomKills(func(path string) string { return tt.files[path] }); got != tt.want {
				t.Errorf("got %d", got)
			}
		})
	}
}

// counter counts what is written.
type counter struct{ n int }

func (c *counter) Write(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}

// TestLongLog has an engine write 64 MiB, which must not be kept.
func TestLongLog(t *testing.T) {
	b := newBench(t, map[string]string{"Dockerfile": scratch, "f": "1"})
	fakeMode(b, "flood")
	c := &counter{}
	b.Log = c
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if _, err := b.run(t); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if c.n < 64<<20 {
		t.Errorf("the log has %d bytes", c.n)
	}
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 32<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
}
