package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pipegen/pipegen/pkg/engine"
)

// enterRoot builds the mounts of a root in this process's own mount namespace
// and makes it the root of everything here. Nothing of the old root stays
// reachable.
func (o order) enterRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := bind(o.Root, o.Root, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV); err != nil {
		return err
	}
	// Kaniko leaves mounted files alone and keeps them out of images.
	for _, f := range []string{"etc/hosts", "etc/resolv.conf"} {
		f = filepath.Join(o.Root, f)
		if err := bind(f, f, 0); err != nil {
			return err
		}
	}
	if err := bind(o.Executor, filepath.Join(o.Root, engine.SandboxDir, "executor"), unix.MOUNT_ATTR_RDONLY); err != nil {
		return err
	}
	if err := mountDev(filepath.Join(o.Root, "dev")); err != nil {
		return err
	}
	if err := mountProc(filepath.Join(o.Root, "proc")); err != nil {
		return err
	}
	for _, m := range o.Mounts {
		if err := o.mount(m.Host, m.Inside, m.ReadOnly); err != nil {
			return err
		}
	}
	if err := os.Chdir(o.Root); err != nil {
		return err
	}
	// pivot_root(2) says why the same directory twice works.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the old root: %w", err)
	}
	return os.Chdir("/")
}

// mount binds what the caller asked for. Its place is looked up inside the root,
// since an earlier mount may hold symbolic links that lead out.
func (o order) mount(host, inside string, readOnly bool) error {
	fi, err := os.Stat(host)
	if err != nil {
		return fmt.Errorf("mounting %s: %w", inside, err)
	}
	root, err := os.OpenRoot(o.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	place := strings.TrimPrefix(inside, "/")
	if fi.IsDir() {
		err = root.MkdirAll(place, 0o755)
	} else if err = root.MkdirAll(filepath.Dir(place), 0o755); err == nil {
		var f *os.File
		if f, err = root.OpenFile(place, os.O_CREATE|os.O_RDONLY, 0o644); err == nil {
			_ = f.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("mounting %s: %w", inside, err)
	}
	target, err := root.Open(place)
	if err != nil {
		return fmt.Errorf("mounting %s: %w", inside, err)
	}
	defer target.Close()
	attr := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if readOnly {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	return bindAt(host, int(target.Fd()), attr)
}

func bind(source, target string, attr uint64) error {
	fd, err := unix.Open(target, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("mounting %s: %w", target, err)
	}
	defer func() { _ = unix.Close(fd) }()
	return bindAt(source, fd, attr)
}

// bindAt mounts source, with what is mounted below it, over an open file or
// directory. The attributes hold before it can be seen.
func bindAt(source string, target int, attr uint64) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("mounting %s: %w", source, err)
	}
	defer func() { _ = unix.Close(tree) }()
	if attr != 0 {
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attr}); err != nil {
			return fmt.Errorf("setting attributes of the mount of %s: %w", source, err)
		}
	}
	if err := unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("mounting %s: %w", source, err)
	}
	return nil
}

// mountDev makes a /dev with the devices that every container has, by
// binding the host's: device nodes of the root's own would not work.
func mountDev(dev string) error {
	const safe = unix.MS_NOSUID | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", dev, "tmpfs", safe|unix.MS_NODEV, "mode=755,size=64k"); err != nil {
		return fmt.Errorf("mounting /dev: %w", err)
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		node := filepath.Join(dev, name)
		if err := os.WriteFile(node, nil, 0o666); err != nil {
			return err
		}
		if err := bind("/dev/"+name, node, 0); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
		"ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	for _, fs := range []struct {
		name, kind, data string
		flags            uintptr
	}{
		{"pts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5", safe},
		{"shm", "tmpfs", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	} {
		dir := filepath.Join(dev, fs.name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fs.kind, dir, fs.kind, fs.flags, fs.data); err != nil {
			return fmt.Errorf("mounting /dev/%s: %w", fs.name, err)
		}
	}
	return nil
}

// mountProc mounts /proc of the new pid namespace, and closes those parts of it
// that speak of the whole machine, as runc does (libcontainer's default masked
// and read-only paths).
func mountProc(proc string) error {
	if err := unix.Mount("proc", proc, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	for _, name := range []string{"bus", "fs", "irq", "sys", "sysrq-trigger"} {
		p := filepath.Join(proc, name)
		if err := bind(p, p, unix.MOUNT_ATTR_RDONLY); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, name := range []string{"acpi", "asound", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats"} {
		p := filepath.Join(proc, name)
		fi, err := os.Stat(p)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err == nil && fi.IsDir():
			err = unix.Mount("tmpfs", p, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k")
		case err == nil:
			err = bind("/dev/null", p, unix.MOUNT_ATTR_RDONLY)
		}
		if err != nil {
			return fmt.Errorf("closing /proc/%s: %w", name, err)
		}
	}
	return nil
}

// probeRoot checks in a finished root what unpacking and running software needs.
func probeRoot() error {
	const file = "/tmp/probe"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	if err := os.Chown(file, 1000, 1000); err != nil {
		return fmt.Errorf("giving a file to another user: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		return err
	}
	if fs.Flags&unix.ST_NOEXEC != 0 {
		return errors.New("the file system of the roots is mounted noexec")
	}
	return os.Remove(file)
}
