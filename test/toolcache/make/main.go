// Command make builds the named test tools for this machine and links them
// where pipegen looks for them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/pipegen/pipegen/test/toolcache"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "tools: %v\n", err)
		os.Exit(1) //nolint:gocritic // nothing is left to undo
	}
}

func run(ctx context.Context, names []string) error {
	root, err := toolcache.Root()
	if err != nil {
		return err
	}
	cache, err := toolcache.Open(root, os.Stderr)
	if err != nil {
		return err
	}
	for _, name := range names {
		tool, ok := toolcache.Named(name)
		if !ok {
			return fmt.Errorf("unknown tool %q", name)
		}
		path, err := cache.Install(ctx, tool)
		if err != nil {
			return err
		}
		fmt.Println(path)
	}
	return nil
}
