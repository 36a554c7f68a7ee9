// Command pipegen turns a git change in a monorepo of container images into
// multi-arch images in a registry.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	_ "github.com/pipegen/pipegen/internal/startheap" // no collection of garbage before main runs
	"github.com/pipegen/pipegen/pkg/runner"
)

// version is set by the build.
var version = "dev"

func main() {
	if handled, code := runner.Main(os.Args); handled {
		os.Exit(code)
	}
	handed, err := takeOver()
	a := newApp(os.Stdout, os.Stderr)
	a.handed = handed
	if err != nil {
		a.report(err)
		os.Exit(exitCode(err))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := a.execute(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
