// Command pipegen turns a git change in a monorepo of container images into
// multi-arch images in a registry.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/pipegen/pipegen/pkg/runner"
)

// version is set by the build.
var version = "dev"

func main() {
	if handled, code := runner.Main(os.Args); handled {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := newApp(os.Stdout, os.Stderr).execute(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
