package agent

import (
	"context"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/engine"
)

// Measure looks every second at what this process and all below it take, until
// ctx ends, and gives what they have taken so far. With alone, the container
// that this process is in is there for the task alone, and the kernel's account
// of it is taken where there is one. What is looked at now and then misses
// short peaks but those of a single process, and counts memory more than once
// that processes share.
func Measure(ctx context.Context, alone bool) func() api.Usage {
	m := &meter{alone: alone, read: func(path string) string {
		text, _ := os.ReadFile(path)
		return string(text)
	}}
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			m.look()
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return m.usage
}

type meter struct {
	alone bool
	read  func(path string) string

	mu   sync.Mutex
	peak int64
	cpu  time.Duration
}

func (m *meter) look() {
	u := engine.UsageOf()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.peak, m.cpu = max(m.peak, u.Memory, u.Peak), max(m.cpu, u.CPU)
}

func (m *meter) usage() api.Usage {
	m.look()
	m.mu.Lock()
	defer m.mu.Unlock()
	u := api.Usage{CPUSeconds: m.cpu.Seconds(), PeakMemory: m.peak}
	if !m.alone {
		return u
	}
	if cpu, ok := groupCPU(m.read); ok {
		u.CPUSeconds = cpu.Seconds()
	}
	// Linux, Documentation/admin-guide/cgroup-v2.rst; cgroup-v1/memory.rst.
	for _, file := range []string{"/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes"} {
		if n, err := strconv.ParseInt(strings.TrimSpace(m.read(file)), 10, 64); err == nil && n > 0 {
			u.PeakMemory = n
			break
		}
	}
	return u
}

// groupCPU reads the processor time of this control group (cgroup-v2.rst, cpu.stat;
// cgroup-v1/cpuacct.rst).
func groupCPU(read func(string) string) (time.Duration, bool) {
	for line := range strings.Lines(read("/sys/fs/cgroup/cpu.stat")) {
		if n, ok := strings.CutPrefix(line, "usage_usec "); ok {
			usec, err := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			return time.Duration(usec) * time.Microsecond, err == nil
		}
	}
	nsec, err := strconv.ParseInt(strings.TrimSpace(read("/sys/fs/cgroup/cpuacct/cpuacct.usage")), 10, 64)
	return time.Duration(nsec), err == nil
}
