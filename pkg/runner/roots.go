package runner

import (
	"errors"
	"fmt"
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
	hosts, err := readIfThere("/etc/hosts")
	if err != nil {
		return err
	}
	resolv, err := readIfThere("/etc/resolv.conf")
	if err != nil {
		return err
	}
	hosts = fmt.Appendf(hosts, "\n127.0.0.1\t%s\n", hostname)
	const open = os.ModeDir | 0o755
	type file struct {
		name string
		mode os.FileMode
		data []byte
	}
	files := []file{
		{"", open, nil},
		{"dev", open, nil},
		{"etc", open, nil},
		{"etc/hosts", 0o644, hosts},
		{"etc/resolv.conf", 0o644, resolv},
		{"kaniko", open, nil},
		{engine.SandboxDir, open, nil},
		{engine.SandboxDir + "/.docker", open, nil},
		{engine.SandboxDir + "/executor", 0o755, nil},
		{filepath.Dir(certsDir), open, nil},
		{certsDir, open, nil},
		{"proc", open, nil},
		{"tmp", os.ModeDir | os.ModeSticky | 0o777, nil},
		{"workspace", open, nil},
	}
	if caCerts != "" {
		pem, err := os.ReadFile(caCerts)
		if err != nil {
			return fmt.Errorf("reading certificates: %w", err)
		}
		files = append(files, file{certsDir + "/ca-certificates.crt", 0o644, pem})
	}
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		if f.mode.IsDir() {
			err = os.Mkdir(path, 0o700)
		} else {
			err = os.WriteFile(path, f.data, 0o600)
		}
		// Not by the calls above, which the caller's umask restricts.
		if err = errors.Join(err, os.Chmod(path, f.mode)); err != nil {
			return err
		}
	}
	return nil
}

// hostname is that of every sandbox, so that it makes no difference to what is built.
const hostname = "pipegen"

func readIfThere(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return b, err
}
