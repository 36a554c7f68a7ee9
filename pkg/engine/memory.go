package engine

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// outOfMemory are the words of Kaniko, of a step's end as Kaniko tells it, and
// of Go's runtime that mean: there was too little memory.
var outOfMemory = [][]byte{
	[]byte("waiting for process to exit: signal: killed"),
	[]byte("waiting for process to exit: exit status 137"),
	[]byte("fatal error: runtime: out of memory"),
	[]byte("cannot allocate memory"), // ENOMEM
}

// memoryWatch passes on what an engine writes, and looks for signs that it had
// too little memory.
type memoryWatch struct {
	out    io.Writer
	before int // processes that the kernel had killed

	mu   sync.Mutex
	tail []byte
	seen bool
}

func watchMemory(out io.Writer) *memoryWatch {
	return &memoryWatch{out: out, before: oomKills(readText)}
}

// Write never fails for its own reasons.
func (m *memoryWatch) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.seen {
		m.look(p)
	}
	return m.out.Write(p)
}

// look finds the words also where writes cut them in two.
func (m *memoryWatch) look(p []byte) {
	const longest = 64
	m.tail = append(m.tail, p[:min(len(p), longest)]...)
	for _, words := range outOfMemory {
		m.seen = m.seen || bytes.Contains(m.tail, words) || bytes.Contains(p, words)
	}
	if len(p) >= longest {
		m.tail = m.tail[:0]
		p = p[len(p)-longest:]
		m.tail = append(m.tail, p...)
	} else if n := len(m.tail) - longest; n > 0 {
		m.tail = append(m.tail[:0], m.tail[n:]...)
	}
}

// explain gives err, if the engine had too little memory, a hint about that.
func (m *memoryWatch) explain(b *plan.Build, err error) error {
	if err == nil {
		return nil
	}
	m.mu.Lock()
	seen := m.seen
	m.mu.Unlock()
	why := "most likely for want of memory"
	switch {
	case oomKills(readText) > m.before:
		why = "the kernel killed a process for want of memory"
	case !seen && !wasKilled(err):
		return err
	}
	less := ""
	if c := b.Cache; c != nil && c.Enable && (c.Compressed == nil || *c.Compressed) {
		less = "cache: {compressed: false}, "
	}
	return failure.WithHint(err, "%s: give the build more (resources.memory), or have kaniko keep less (%sengine_args: [--snapshot-mode=redo])", why, less)
}

func readText(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

// oomKills gives how many processes of this control group the kernel has killed
// for want of memory (Linux, Documentation/admin-guide/cgroup-v2.rst,
// memory.events; cgroup-v1/memory.rst, memory.oom_control); 0 where it cannot
// be told.
func oomKills(read func(path string) string) int {
	const mount = "/sys/fs/cgroup"
	files := []string{mount + "/memory.events", mount + "/memory/memory.oom_control"}
	for line := range strings.Lines(read("/proc/self/cgroup")) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(fields) != 3:
		case fields[0] == "0":
			files = append([]string{filepath.Join(mount, fields[2], "memory.events")}, files...)
		case strings.Contains(","+fields[1]+",", ",memory,"):
			files = append([]string{filepath.Join(mount, "memory", fields[2], "memory.oom_control")}, files...)
		}
	}
	for _, file := range files {
		for line := range strings.Lines(read(file)) {
			if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
				kills, _ := strconv.Atoi(n)
				return kills
			}
		}
	}
	return 0
}
