package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pipegen/pipegen/pkg/failure"
)

// tryNamespaces makes a root and tries in it what builds need.
func tryNamespaces(ctx context.Context, o SandboxOptions) error {
	n, err := newNamespaces(o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return failure.WithHint(failure.Input("making the directory for roots: %w", err), "set XDG_CACHE_HOME to a directory of yours")
	}
	dir, unlock, err := newDir(o.Dir)
	if err != nil {
		return failure.WithHint(failure.Input("making a root: %w", err), "set XDG_CACHE_HOME to a directory of yours")
	}
	defer unlock()
	err = n.probe(ctx, dir)
	if rmErr := n.remove(dir); err == nil {
		err = rmErr
	}
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.Is(err, unix.ENOSPC) && !setTo("/proc/sys/user/max_user_namespaces", "0"):
		return fmt.Errorf("trying namespaces: %w", err)
	}
	return failure.WithHint(failure.Input("no sandbox can be made of namespaces: %w", err), "%s", namespacesFix())
}

// namespacesFix looks for the setting that forbids namespaces.
func namespacesFix() string {
	root := os.Geteuid() == 0
	switch {
	case setTo("/proc/sys/user/max_user_namespaces", "0") && !root:
		return "as root: sysctl -w user.max_user_namespaces=15000"
	case setTo("/proc/sys/kernel/unprivileged_userns_clone", "0") && !root:
		return "as root: sysctl -w kernel.unprivileged_userns_clone=1"
	case setTo("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") && !root:
		return "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	case unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}) == unix.ENOSYS:
		return "it takes Linux 5.12 or later; else use Docker or Podman"
	}
	return "in a container, run `pipegen build` there instead; else use Docker or Podman"
}

func setTo(file, value string) bool {
	b, err := os.ReadFile(file)
	return err == nil && string(bytes.TrimSpace(b)) == value
}
