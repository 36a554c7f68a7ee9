package engine

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestNothingOutlivesACommand(t *testing.T) {
	testFamily(t, "TMPDIR="+t.TempDir())
}

// testFamily lets a command start processes that get away in all ways, and end
// in all ways.
func testFamily(t *testing.T, mark string) {
	t.Helper()
	for _, how := range []string{"ends", "fails", "dies", "stays"} {
		t.Run(how, func(t *testing.T) {
			ready := filepath.Join(t.TempDir(), "ready")
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			var pids []int
			r, w := io.Pipe()
			read := make(chan struct{})
			go func() {
				defer close(read)
				for lines := bufio.NewScanner(r); lines.Scan(); {
					if pid, ok := strings.CutPrefix(lines.Text(), "pid "); ok {
						n, err := strconv.Atoi(pid)
						if err != nil {
							t.Error(err)
						}
						if pids = append(pids, n); len(pids) == 5 {
							if err := os.WriteFile(ready, nil, 0o600); err != nil {
								t.Error(err)
							}
							if how == "stays" {
								cancel(errors.New("enough"))
							}
						}
					}
				}
			}()
			err := commandWithin(ctx, Command{
				Argv: []string{asProcess(t), "family", how, ready}, Env: []string{mark}, Stdout: w, mark: mark,
			}, 100*time.Millisecond)
			_ = w.Close()
			<-read
			code := -2
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				code = exit.ExitCode()
			}
			switch {
			case how == "ends" && err == nil, how == "fails" && code == 3, how == "dies" && code == -1, how == "stays" && err != nil && err.Error() == "enough":
			default:
				t.Errorf("got %v", err)
			}
			if len(pids) != 5 {
				t.Errorf("saw %d processes", len(pids))
			}
			for _, pid := range pids {
				if p, ok := stat(pid); ok {
					t.Errorf("process %d is still there: %+v", pid, p)
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		})
	}
}

func TestCommandLeavesOthersAlone(t *testing.T) {
	other := exec.Command(asProcess(t), "stay")
	other.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	other.Env = []string{"TMPDIR=/tmp"}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	var out strings.Builder
	if err := command(t.Context(), Command{Argv: []string{asProcess(t), "none"}, Stdout: &out, mark: "TMPDIR=" + t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	if _, ok := stat(other.Process.Pid); !ok {
		t.Error("a process of somebody else is gone")
	}
}

// Without a mark, what left everything behind is found by its new parent.
func TestAdoptOrphans(t *testing.T) {
	if adoptsOrphans() {
		t.Fatal("orphans are adopted unasked")
	}
	if err := AdoptOrphans(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	}()
	if !adoptsOrphans() {
		t.Fatal("orphans are not adopted")
	}
	testFamily(t, "")
	TestCommandLeavesOthersAlone(t)
	commandsLeaveEachOtherAlone(t)
}

// commandsLeaveEachOtherAlone has one command end while another runs that
// began after it, in whichever order.
func commandsLeaveEachOtherAlone(t *testing.T) {
	t.Helper()
	first := make(chan error)
	go func() {
		first <- command(t.Context(), Command{Argv: []string{"/bin/sh", "-c", "sleep 0.2"}, Stdout: io.Discard})
	}()
	time.Sleep(50 * time.Millisecond)
	if err := command(t.Context(), Command{Argv: []string{"/bin/sh", "-c", "sleep 0.4"}, Stdout: io.Discard}); err != nil {
		t.Errorf("the second: %v", err)
	}
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
}
