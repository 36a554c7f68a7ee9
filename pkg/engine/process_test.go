package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// processMain is a process of a build, by what it is asked to do: "stay" stays
// and heeds no SIGTERM; "leave" starts one that stays, in a session of its own,
// and leaves it alone; "family" starts several, in all ways of getting away, and
// ends as its next argument says.
func processMain(args []string) int {
	start := func(how *syscall.SysProcAttr, args ...string) *exec.Cmd {
		self, err := os.Executable()
		if err != nil {
			panic(err)
		}
		cmd := exec.Command(self, args...)
		cmd.Args[0] = "process"
		cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = os.Stdout, os.Stderr, how
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		return cmd
	}
	switch args[0] {
	case "stay":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("pid", os.Getpid())
		time.Sleep(time.Minute)
	case "leave":
		start(&syscall.SysProcAttr{Setsid: true}, "stay")
	case "family":
		signal.Ignore(syscall.SIGTERM)
		start(nil, "stay")
		start(&syscall.SysProcAttr{Setpgid: true}, "stay")
		start(&syscall.SysProcAttr{Setsid: true}, "stay")
		if err := start(&syscall.SysProcAttr{Setsid: true}, "leave").Wait(); err != nil {
			panic(err)
		}
		fmt.Println("pid", os.Getpid())
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err == nil {
			panic("standard input is not empty")
		}
		for range 1000 { // until the others are there, too
			if exists(args[2]) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		switch args[1] {
		case "ends":
		case "fails":
			return 3
		case "dies":
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case "stays":
			time.Sleep(time.Minute)
		}
	}
	return 0
}

// asProcess gives a path by which the test binary is processMain.
func asProcess(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "process")
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// The context may end before anything runs, and a program may not be there.
func TestCommandThatDoesNotStart(t *testing.T) {
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if err := command(gone, Command{Argv: []string{"/bin/sh"}}); err == nil || err.Error() != "enough" {
		t.Errorf("got %v", err)
	}
	before := open(t)
	if err := command(t.Context(), Command{Argv: []string{"/no/such/program"}, Stdout: io.Discard}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if after := open(t); len(after) > len(before) {
		t.Errorf("left open: %v, before %v", after, before)
	}
}

// open gives the open files of this process, where the system tells.
func open(t *testing.T) []string {
	t.Helper()
	entries, _ := os.ReadDir("/proc/self/fd")
	var out []string
	for _, e := range entries {
		if link, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			out = append(out, link)
		}
	}
	return slices.Compact(out)
}
