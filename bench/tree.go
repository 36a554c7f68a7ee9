package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// watchTree watches the memory of a process and all below it until it is asked
// for: the sum of what each took at its peak, and that of pipegen alone. It
// looks so seldom that it does not slow them down.
func watchTree(pid int) (peaks func() (all, pipegen int64)) {
	done, ended := make(chan struct{}), make(chan struct{})
	memory, names := map[int]int64{}, map[int]string{}
	go func() {
		defer close(ended)
		for {
			for _, p := range below(pid) {
				if name, n := peak(p); n > 0 {
					memory[p], names[p] = n, name
				}
			}
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() (all, pipegen int64) {
		close(done)
		<-ended
		for p, n := range memory {
			all += n
			if names[p] == "pipegen" {
				pipegen += n
			}
		}
		return all, pipegen
	}
}

// below gives a process and all its descendants.
func below(pid int) []int {
	all := []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for field := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(all, below(child)...)
			}
		}
	}
	return all
}

// peak gives the name of a process and the most memory it has taken, in bytes.
func peak(pid int) (name string, memory int64) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", 0
	}
	for line := range strings.Lines(string(status)) {
		_, _ = fmt.Sscanf(line, "Name: %s", &name)
		if n, err := fmt.Sscanf(line, "VmHWM: %d kB", &memory); n == 1 && err == nil {
			return name, memory << 10
		}
	}
	return name, 0
}
