package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/dockerfile"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// namedContext is what FROM and --from may mean by a name, in place of an
// image: by the value of an option, and the flags that give buildctl access to
// it.
type namedContext struct {
	name, value string
	flags       []string
}

// contextName is the form of a name that BuildKit looks for: the familiar one
// of a reference.
func contextName(name string) string {
	for _, prefix := range []string{"docker.io/library/", "docker.io/"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			name = rest
			break
		}
	}
	return strings.TrimSuffix(name, ":latest")
}

// isContext says whether a reference in a Dockerfile means a named context.
func isContext(b *plan.Build, ref string) bool {
	if b.Engine != "buildkit" {
		return false
	}
	for name := range b.Contexts {
		if contextName(name) == contextName(ref) {
			return true
		}
	}
	return false
}

// plainContexts are the named contexts as they are written, for a command that
// is only shown.
func plainContexts(b *plan.Build) []namedContext {
	var out []namedContext
	for _, name := range slices.Sorted(maps.Keys(b.Contexts)) {
		out = append(out, namedContext{name: contextName(name), value: b.Contexts[name]})
	}
	return out
}

// prepareContexts finds out what the named contexts are: images are pinned to
// the digest they have now, or that was just published.
func (k *buildkit) prepareContexts(ctx context.Context, b *building) error {
	k.contexts = plainContexts(b.Job.Build)
	for i := range k.contexts {
		c := &k.contexts[i]
		image, ok := strings.CutPrefix(c.value, "docker-image://")
		if err := b.resolveContext(ctx, c, fmt.Sprintf("context-%d", i)); err != nil {
			return fmt.Errorf("context %s: %w", quote.Text(c.name), err)
		}
		if ok && b.standsOn(c.name) {
			b.markFinal(image)
		}
	}
	return b.labelBases()
}

// standsOn says whether the last stage starts from a named context.
func (b *building) standsOn(name string) bool {
	if b.File == nil {
		return false
	}
	bases, err := b.File.Bases(arguments(b.Job), b.Job.Build.Target)
	return err == nil && slices.ContainsFunc(bases, func(base dockerfile.Base) bool {
		return base.Final && contextName(base.Ref) == name
	})
}

// resolveContext completes a named context. id is what buildctl and the daemon
// call a directory by.
func (b *building) resolveContext(ctx context.Context, c *namedContext, id string) error {
	if ref, ok := strings.CutPrefix(c.value, "docker-image://"); ok {
		pinned, err := b.pin(ctx, ref)
		c.value = "docker-image://" + pinned
		return err
	}
	if layout, ok := strings.CutPrefix(c.value, "oci-layout://"); ok {
		dir, digest, err := b.layoutContext(layout)
		c.flags, c.value = []string{"--oci-layout", id + "=" + dir}, "oci-layout://"+id+"@"+digest
		return err
	}
	if u, err := url.Parse(c.value); strings.Contains(c.value, "://") || strings.HasPrefix(c.value, "git@") {
		switch {
		case err == nil && hasPassword(u):
			return failure.WithHint(failure.Input("a URL must not hold a password: every process can read it"), "BuildKit takes the one for git from a secret with the id GIT_AUTH_TOKEN")
		case err == nil && !slices.Contains([]string{"", "https", "http", "git", "ssh"}, u.Scheme):
			return failure.WithHint(failure.Input("BuildKit has no context of scheme %s", u.Scheme), "docker-image://, oci-layout://, a git URL, a directory or an image of this repository")
		}
		return nil
	}
	dir, err := b.directory(c.value)
	c.flags, c.value = []string{"--local", id + "=" + dir}, "local:"+id
	return err
}

func hasPassword(u *url.URL) bool {
	_, has := u.User.Password()
	return has
}

// pin gives a reference with its digest, and notes that the image is built on
// it.
func (b *building) pin(ctx context.Context, text string) (string, error) {
	if text == "scratch" {
		return text, nil
	}
	ref, err := registry.ParseReference(text)
	if err != nil {
		return "", err
	}
	if !slices.Contains(b.Hosts, ref.Host) {
		b.Hosts = append(b.Hosts, ref.Host)
	}
	published, err := b.published()
	if err != nil {
		return "", err
	}
	pinned, digest, err := b.resolveBase(ctx, dockerfile.Base{Ref: text}, ref, published)
	if errors.Is(err, registry.ErrNotFound) {
		return "", failure.Input("there is no image %s", quote.Text(text))
	}
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(b.bases, func(base plan.Base) bool { return base.Ref == text }) {
		b.bases = append(b.bases, plan.Base{Ref: text, Digest: digest})
		b.log.say(fmt.Sprintf("base %s is %s", quote.Text(text), digest))
	}
	return pinned, nil
}

// directory gives the path of a directory in the source: relative to the
// project's, or to the root of an upstream repository.
func (b *building) directory(name string) (string, error) {
	at := b.source
	if b.Job.Image.Source == nil {
		at = filepath.Join(at, filepath.FromSlash(b.Job.Image.Dir))
	}
	root, err := filepath.EvalSymlinks(b.source)
	if err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(at, filepath.FromSlash(name)))
	if err != nil {
		return "", failure.WithHint(failure.Input("%s is no directory, and no image of this repository", quote.Text(name)), "a path is relative to the project's directory")
	}
	if dir != root && !strings.HasPrefix(dir, strings.TrimSuffix(root, "/")+"/") || filepath.IsAbs(name) {
		return "", failure.Input("%s leads out of the repository", quote.Text(name))
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return "", failure.Input("%s is no directory", quote.Text(name))
	}
	return dir, nil
}

// layoutContext finds the image that PATH[:TAG][@DIGEST] names in an OCI layout
// of the source.
func (b *building) layoutContext(name string) (dir, digest string, err error) {
	name, digest, _ = strings.Cut(name, "@")
	tag := ""
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, tag = name[:i], name[i+1:]
	}
	if dir, err = b.directory(name); err != nil {
		return "", "", err
	}
	if digest != "" {
		if !digestPattern.MatchString(digest) {
			return "", "", failure.Input("%s is no digest", quote.Text(digest))
		}
		return dir, digest, nil
	}
	text, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return "", "", failure.Input("%s is no OCI layout: %w", quote.Text(name), pathless(err))
	}
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return "", "", failure.Input("%s is no OCI layout: %w", quote.Text(name), err)
	}
	for _, m := range index.Manifests {
		// Key of the OCI image layout specification's references.
		if tag == "" && len(index.Manifests) == 1 || tag != "" && m.Annotations["org.opencontainers.image.ref.name"] == tag {
			if !digestPattern.MatchString(m.Digest) {
				return "", "", failure.Input("%s is no OCI layout: %s is no digest", quote.Text(name), quote.Text(m.Digest))
			}
			return dir, m.Digest, nil
		}
	}
	if tag == "" {
		return "", "", failure.WithHint(failure.Input("%s holds %d images", quote.Text(name), len(index.Manifests)), "name one: oci-layout://PATH:TAG or oci-layout://PATH@sha256:…")
	}
	return "", "", failure.Input("%s holds no image with the tag %s", quote.Text(name), quote.Text(tag))
}

// prepareFrontend pins the image that is the frontend; one that pipegen cannot
// reach the daemon may.
func (k *buildkit) prepareFrontend(ctx context.Context, b *building) error {
	source := b.Job.Build.FrontendOpts["source"]
	if b.Job.Build.Frontend != gateway {
		return nil
	}
	pinned, err := b.pin(ctx, source)
	if errors.Is(err, failure.ErrInput) || ctx.Err() != nil {
		return fmt.Errorf("frontend %s: %w", quote.Text(source), err)
	}
	if err != nil {
		b.log.say(fmt.Sprintf("frontend %s is taken for what it is to the daemon: %v", quote.Text(source), err))
		return nil
	}
	k.source = pinned
	return nil
}

// everyHost lets buildctl have the credentials of every registry that the
// Docker configuration names: which of them the build needs is not known.
func (k *buildkit) everyHost(b *building) {
	all, err := registry.ConfiguredHosts(b.Job.Getenv)
	if err != nil {
		return // the client says so when it is asked for credentials
	}
	for _, h := range all {
		if !slices.Contains(b.Hosts, h) {
			b.Hosts = append(b.Hosts, h)
		}
	}
}
