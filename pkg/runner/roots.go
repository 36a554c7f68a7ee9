package runner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pipegen/pipegen/pkg/engine"
)

const rootPrefix = "root-"

// certsDir holds the certificates that builds trust.
const certsDir = engine.SandboxDir + "/ssl/certs"

// newDir makes a directory for one run that only its owner can enter: a build
// may leave programs with setuid bits in it. It stays locked until unlock, or
// until this process dies, so that sweep can tell what is in use.
func newDir(parent string) (dir string, unlock func(), err error) {
	all, err := lock(filepath.Join(parent, ".lock"), true)
	if err != nil {
		return "", nil, err
	}
	defer all.Close()
	if dir, err = os.MkdirTemp(parent, rootPrefix); err != nil {
		return "", nil, err
	}
	own, err := lock(dir, false)
	if err != nil {
		return "", nil, errors.Join(err, os.Remove(dir))
	}
	return dir, func() { _ = own.Close() }, nil
}

// sweep removes the directories of runs whose process is gone. What cannot be
// removed now is tried again next time.
func sweep(parent string, remove func(dir string) error) {
	all, err := lock(filepath.Join(parent, ".lock"), true)
	if err != nil {
		return
	}
	defer all.Close()
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), rootPrefix) {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		if own, err := lock(dir, false); err == nil {
			_ = remove(dir)
			_ = own.Close()
		}
	}
}

// makeTree makes dir with what every root holds: the places of mounts,
// certificates and the host's name resolution. /kaniko is empty: Kaniko wants
// it there when it works elsewhere. The host's users are left out:
// Kaniko would put them into images whose base has none.
func makeTree(dir, caCerts string) error {
	for _, d := range []string{"dev", "etc", "kaniko", engine.SandboxDir + "/.docker", certsDir, "proc", "workspace"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil { //nolint:gosec // what is inside is for every user of the build
			return err
		}
	}
	tmp := filepath.Join(dir, "tmp")
	if err := errors.Join(os.Mkdir(tmp, 0o700), os.Chmod(tmp, 0o777|os.ModeSticky), os.Chmod(dir, 0o755)); err != nil { //nolint:gosec // as every /tmp
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, engine.SandboxDir, "executor"), nil, 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	if caCerts != "" {
		if err := copyFile(filepath.Join(dir, certsDir, "ca-certificates.crt"), caCerts); err != nil {
			return fmt.Errorf("copying certificates: %w", err)
		}
	}
	hosts := filepath.Join(dir, "etc/hosts")
	for target, source := range map[string]string{hosts: "/etc/hosts", filepath.Join(dir, "etc/resolv.conf"): "/etc/resolv.conf"} {
		err := copyFile(target, source)
		if errors.Is(err, os.ErrNotExist) {
			err = os.WriteFile(target, nil, 0o644) //nolint:gosec // as on every system
		}
		if err != nil {
			return err
		}
	}
	f, err := os.OpenFile(hosts, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "\n127.0.0.1\t%s\n", hostname)
	return errors.Join(err, f.Close())
}

// hostname is that of every sandbox, so that it makes no difference to what is built.
const hostname = "pipegen"

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644) //nolint:gosec // as on every system
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
