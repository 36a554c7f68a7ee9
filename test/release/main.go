// Command release cross-compiles the release binaries that pipegen's own
// projects are made of: go run ./test/release [-arch amd64,arm64].
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/pipegen/pipegen/test/monorepo"
	"github.com/pipegen/pipegen/test/toolcache"
)

func main() {
	archs := flag.String("arch", "amd64,arm64", "architectures, separated by commas")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, strings.Split(*archs, ",")); err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1) //nolint:gocritic // nothing is left to undo
	}
}

func run(ctx context.Context, archs []string) error {
	root, err := toolcache.Root()
	if err != nil {
		return err
	}
	cache, err := toolcache.Open(root, os.Stderr)
	if err != nil {
		return err
	}
	return monorepo.Release(ctx, root, filepath.Join(root, "projects"), archs, cache)
}
