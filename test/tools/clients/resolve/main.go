// Command resolve pulls images into a directory as containerd does: by its
// resolver, and by its choice among the manifests of an index. For each REF
// PLATFORM it prints the digest of the config that it came to and the platform
// that this gives. Registries on loopback are reached over plain HTTP.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/platforms"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "resolve: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost)),
	})
	for ; len(args) > 0; args = args[2:] {
		if len(args) == 1 {
			return errors.New("want REF PLATFORM, again and again")
		}
		if err := pull(ctx, resolver, args[0], args[1]); err != nil {
			return fmt.Errorf("%s for %s: %w", args[0], args[1], err)
		}
	}
	return nil
}

// pull pulls an image for a platform into a store of its own.
func pull(ctx context.Context, resolver remotes.Resolver, ref, platform string) (err error) {
	want, err := platforms.Parse(platform)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "resolve-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	store, err := local.NewStore(dir)
	if err != nil {
		return err
	}
	name, top, err := resolver.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	fetcher, err := resolver.Fetcher(ctx, name)
	if err != nil {
		return err
	}
	only := platforms.Only(want)
	children := images.LimitManifests(images.FilterPlatforms(images.ChildrenHandler(store), only), only, 1)
	if err := images.Dispatch(ctx, images.Handlers(remotes.FetchHandler(store, fetcher), children), nil, top); err != nil {
		return err
	}
	config, err := images.Config(ctx, store, top, only)
	if err != nil {
		return err
	}
	made, err := images.ConfigPlatform(ctx, store, config)
	if err != nil {
		return err
	}
	_, err = fmt.Println(config.Digest, platforms.FormatAll(platforms.Normalize(made)))
	return err
}
