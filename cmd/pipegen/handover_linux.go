package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// unnamed is what the kernel calls the file.
const unnamed = "pipegen-environment"

// handOver starts this program again, as this process, without its environment.
// It comes back only if that fails.
func handOver() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding pipegen's own program: %w", err)
	}
	fd, err := unix.MemfdCreate(unnamed, 0) // stays open in the new program
	if err != nil {
		return fmt.Errorf("handing the environment over: %w", err)
	}
	f := os.NewFile(uintptr(fd), unnamed)
	environ := os.Environ()
	if _, err = f.WriteString(strings.Join(environ, "\x00")); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		env := append(scrubbed(environ), handedOver+"="+strconv.Itoa(fd))
		err = syscall.Exec(self, os.Args, env) //nolint:gosec // this program itself
	}
	return fmt.Errorf("handing the environment over: %w", errors.Join(err, f.Close()))
}

// takeOver gives the process the environment that handOver kept for it, if it
// did, and closes the file.
func takeOver() (handed bool, err error) {
	given := os.Getenv(handedOver)
	if given == "" {
		return false, nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("taking the environment over: %w", err)
		}
	}()
	fd, err := strconv.Atoi(given)
	if err != nil || fd < 0 {
		return true, fmt.Errorf("%s names no descriptor", handedOver)
	}
	// No step of a build may read this process's memory and files.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return true, err
	}
	if name, err := os.Readlink("/proc/self/fd/" + given); err == nil && !strings.HasPrefix(name, "/memfd:"+unnamed) {
		return true, fmt.Errorf("%s names the descriptor of another file", handedOver)
	}
	f := os.NewFile(uintptr(fd), unnamed)
	environ, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return true, err
	}
	return true, restore(environ)
}
