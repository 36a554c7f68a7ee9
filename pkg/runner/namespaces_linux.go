package runner

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
)

// namespaces runs commands in mount, pid, ipc and uts namespaces: as root
// directly, as any other user inside a user namespace that maps 65,536 ids.
type namespaces struct {
	o SandboxOptions
	// Ids of the user namespace; nil as root.
	ids *idRanges
}

type idRanges struct{ uid, gid subIDs }

// order tells the process inside the new namespaces what to do. It passes over
// a pipe, where neither other users nor the command can read it.
type order struct {
	// Directory to remove; the rest is not looked at then.
	Remove string
	// Tests the root with what builds need and runs nothing.
	Probe          bool
	Root, Executor string
	Mounts         []engine.Mount
	Argv, Env      []string
	Dir            string
}

// report is what the process inside says: once the command is started, and at
// the end.
type report struct {
	Started bool
	// What failed before the command could be started.
	Failed string
	Exited bool
	Code   int
	Signal string
}

func newNamespaces(o SandboxOptions) (*namespaces, error) {
	if os.Geteuid() == 0 {
		return &namespaces{o: o}, nil
	}
	ids, err := ownRanges()
	if err != nil {
		return nil, err
	}
	return &namespaces{o: o, ids: ids}, nil
}

// ownRanges finds the caller's ranges of subordinate ids (subuid(5)).
func ownRanges() (*idRanges, error) {
	uid := strconv.Itoa(os.Getuid())
	name := uid
	if u, err := user.LookupId(uid); err == nil {
		name = u.Username
	}
	files := []string{"/etc/subuid", "/etc/subgid"}
	var texts [2]string
	for i, file := range files {
		b, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		texts[i] = string(b)
	}
	var found [2]subIDs
	for i, file := range files {
		var ok bool
		if found[i], ok = findSubIDs(texts[i], name, uid); !ok {
			free := freeSubIDs(texts[:]...)
			ids := fmt.Sprintf("%d-%d", free, free+idCount-1)
			return nil, failure.WithHint(failure.Input("%s gives user %s no range of %d ids", file, name, idCount),
				"as root: usermod --add-subuids %s --add-subgids %s %s", ids, ids, name)
		}
	}
	for _, tool := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, failure.WithHint(failure.Input("%s is not installed", tool), "as root: apt-get install uidmap (elsewhere: shadow-utils)")
		}
	}
	return &idRanges{uid: found[0], gid: found[1]}, nil
}

func (n *namespaces) run(ctx context.Context, dir string, c engine.Command) error {
	root := filepath.Join(dir, "root")
	if err := makeTree(root, n.o.CACerts); err != nil {
		return fmt.Errorf("making a root: %w", err)
	}
	return n.start(ctx, order{
		Root: root, Executor: n.o.Executor, Mounts: c.Mounts,
		Argv: c.Argv, Env: withEnvDefaults(c.Env), Dir: c.Dir,
	}, c.Stdout, c.Stderr)
}

// probe tries everything that a build needs of this machine except running a
// program.
func (n *namespaces) probe(ctx context.Context, dir string) error {
	root := filepath.Join(dir, "root")
	if err := makeTree(root, ""); err != nil {
		return err
	}
	return n.start(ctx, order{Probe: true, Root: root, Executor: n.o.Self}, nil, nil)
}

// remove removes dir, from inside the user namespace if some of it belongs to
// mapped ids.
func (n *namespaces) remove(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || n.ids == nil {
		return err
	}
	if err := n.start(context.Background(), order{Remove: dir}, nil, nil); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// startDelay is how long a cancelled command that is being started may take.
const startDelay = 500 * time.Millisecond

func (n *namespaces) start(ctx context.Context, o order, stdout, stderr io.Writer) error {
	orders, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer tell.Close() // its end ends everything inside
	reports, answer, err := os.Pipe()
	if err != nil {
		return errors.Join(err, orders.Close())
	}
	defer reports.Close()

	cmd := exec.CommandContext(context.WithoutCancel(ctx), n.o.Self, initArg) // ended in order, below
	cmd.Args[0] = "pipegen"                                                   // no path of the host is seen inside
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.ExtraFiles = []*os.File{orders, answer}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Setsid:     true, // no way to the caller's terminal
	}
	if n.ids != nil {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.Args = append(cmd.Args, unmappedArg)
	}
	done, err := engine.Begin(cmd)
	_, _ = orders.Close(), answer.Close()
	if err != nil {
		return fmt.Errorf("making namespaces: %w", err)
	}
	defer done()
	started, ended := make(chan struct{}), make(chan struct{})
	defer close(ended)
	defer context.AfterFunc(ctx, func() {
		// Before the command runs there is nobody to end in order. That it does
		// may be on its way here.
		politely := false
		select {
		case <-started:
			politely = true
		case <-ended:
			return
		case <-time.After(startDelay):
		}
		if politely && cmd.Process.Signal(syscall.SIGTERM) == nil {
			select {
			case <-ended:
				return
			case <-time.After(n.o.grace):
			}
		}
		_ = cmd.Process.Kill()
	})()

	err = n.admit(ctx, cmd.Process.Pid, tell)
	if err == nil {
		err = gob.NewEncoder(tell).Encode(o)
	}
	if err != nil {
		_ = cmd.Process.Kill()
	}
	last := make(chan report, 1)
	go func() {
		var r report
		for d := gob.NewDecoder(reports); ; {
			var next report
			if d.Decode(&next) != nil {
				last <- r
				return
			}
			if next.Started && !r.Started {
				close(started)
			}
			r = next
		}
	}()
	waitErr := cmd.Wait()
	r := <-last
	switch {
	case r.Failed != "":
		return fmt.Errorf("making a root: %s", r.Failed)
	case r.Exited && r.Code == 0 && r.Signal == "":
		return nil
	case r.Exited:
		return &ExitError{Code: r.Code, Signal: r.Signal}
	case err != nil && !errors.Is(err, syscall.EPIPE):
		return err
	}
	// It died without a word.
	if exit, ok := errors.AsType[*exec.ExitError](waitErr); ok {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return &ExitError{Code: -1, Signal: ws.Signal().String()}
		}
	}
	return fmt.Errorf("the sandbox ended early: %w", errors.Join(waitErr, err))
}

// admit gives the new user namespace its ids and lets its first process go on.
func (n *namespaces) admit(ctx context.Context, pid int, tell io.Writer) error {
	if n.ids == nil {
		return nil
	}
	for _, m := range []struct {
		tool string
		own  int
		sub  subIDs
	}{{"newuidmap", os.Getuid(), n.ids.uid}, {"newgidmap", os.Getgid(), n.ids.gid}} {
		args := []string{
			strconv.Itoa(pid), "0", strconv.Itoa(m.own), "1",
			"1", strconv.FormatUint(uint64(m.sub.first), 10), strconv.Itoa(idCount - 1),
		}
		cmd := exec.CommandContext(ctx, m.tool, args...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("mapping ids: %s: %w: %s", m.tool, err, strings.TrimSpace(string(bytes.ToValidUTF8(out, nil))))
		}
	}
	_, err := tell.Write([]byte{0})
	return err
}
