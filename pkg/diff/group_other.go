//go:build !unix

package diff

import "os/exec"

// together does nothing where there are no process groups.
func together(*exec.Cmd, bool) (end func()) { return func() {} }
