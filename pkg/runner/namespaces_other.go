//go:build !linux

package runner

import (
	"context"
	"errors"
	"runtime"

	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
)

// Main does nothing here: only Linux has namespaces.
func Main([]string) (handled bool, code int) { return false, 0 }

type namespaces struct{}

func newNamespaces(SandboxOptions) (*namespaces, error) { return nil, errors.ErrUnsupported }

func (*namespaces) run(context.Context, string, engine.Command) error { return errors.ErrUnsupported }

func (*namespaces) remove(string) error { return errors.ErrUnsupported }

func tryNamespaces(context.Context, SandboxOptions) error {
	return failure.WithHint(failure.Input("%s has no namespaces", runtime.GOOS), "start Docker or Podman")
}
