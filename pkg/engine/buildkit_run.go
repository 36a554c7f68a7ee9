package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// run builds on the daemon that is chosen for the image. If that one is lost
// while it builds, the build is tried once more, on the next. Without any it
// starts a daemon for this one build.
func (k *buildkit) run(ctx context.Context, b *building, _ Command) (err error) {
	addresses, err := daemons(b.Job)
	if err != nil {
		return err
	}
	if len(addresses) == 0 {
		return k.runOwn(ctx, b)
	}
	if k.address, err = k.choose(ctx, b, nil); err != nil {
		return err
	}
	lost, err := k.build(ctx, b)
	if !lost {
		return err
	}
	first := k.address
	b.log.say(fmt.Sprintf("the BuildKit daemon %s was lost: the build is tried once more", quote.Text(quote.URL(first))))
	next, cerr := k.choose(ctx, b, []string{first})
	if errors.Is(cerr, errNoneLeft) { // it may be back
		next, cerr = k.choose(ctx, b, nil)
	}
	if cerr != nil {
		return errors.Join(fmt.Errorf("the BuildKit daemon %s was lost: %w", quote.Text(quote.URL(first)), err), cerr)
	}
	k.address = next
	if lost, err = k.build(ctx, b); lost {
		return failure.WithHint(fmt.Errorf("the BuildKit daemons %s and %s were lost while they built: %w",
			quote.Text(quote.URL(first)), quote.Text(quote.URL(next)), err), "see their logs; most likely they had too little memory for this build")
	}
	return err
}

// runOwn builds on a daemon of pipegen's own.
func (k *buildkit) runOwn(ctx context.Context, b *building) error {
	d, err := startDaemon(ctx, b)
	if err != nil {
		return err
	}
	k.address = d.address
	lost, err := k.build(ctx, b)
	if lost {
		err = fmt.Errorf("buildkitd ended while it built: %w", err)
		if d.killed() {
			err = failure.WithHint(err, "most likely for want of memory: give the build more (resources.memory)")
		}
		b.log.say("buildkitd said last:\n" + d.said.String())
	}
	return errors.Join(err, d.stop(ctx))
}

// build runs buildctl on the chosen daemon, and says whether it failed because
// that one was lost.
func (k *buildkit) build(ctx context.Context, b *building) (lost bool, err error) {
	for _, name := range []string{layoutDir, metadataFile} { // of an attempt before
		if err := archive.RemoveAll(filepath.Join(b.HostDir, name)); err != nil {
			return false, err
		}
	}
	b.log.say("building on " + quote.Text(quote.URL(k.address)))
	said := &tail{}
	c := k.command(b.Prepared)
	c.Stdout = io.MultiWriter(b.log, said)
	watched, end := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer end(nil)
	watching.Go(func() { k.watch(watched, b, end) })
	if err = command(watched, c); err == nil || ctx.Err() != nil {
		return false, err
	}
	if errors.Is(err, errHangs) {
		return true, err
	}
	// A daemon that is gone tells buildctl nothing; one that a supervisor has
	// started again meanwhile answers, and knows nothing of the build.
	if _, probe := k.workers(ctx, b, k.address); probe != nil || said.has("rpc error: code = Unavailable") || said.has("no such job") {
		return ctx.Err() == nil, err
	}
	if hint := said.hint(); hint != "" {
		err = failure.WithHint(err, "%s", hint)
	}
	return false, err
}

// errHangs ends a build whose daemon stopped answering.
var errHangs = errors.New("the BuildKit daemon does not answer any more")

// A daemon that builds answers at once; one that has not for so many times in a
// row is taken for lost.
const (
	watchInterval = 15 * time.Second
	watchFailures = 3
)

// watch asks the daemon now and then whether it lives, and calls end with
// errHangs if it does not: buildctl would wait for ever. It returns when ctx
// ends.
func (k *buildkit) watch(ctx context.Context, b *building, end context.CancelCauseFunc) {
	if s := scheme(k.address); s != "unix" && s != "tcp" {
		return // of others each question is a program
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for failures := 0; failures < watchFailures; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, err := k.workers(ctx, b, k.address); err != nil {
			failures++
		} else {
			failures = 0
		}
	}
	end(errHangs)
}

// tail keeps the last bytes that were written to it. It is safe for concurrent
// use.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

// tailSize is how much a tail keeps, in bytes.
const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p[max(0, len(p)-tailSize):]...)
	if n := len(t.kept); n > 2*tailSize {
		t.kept = append(t.kept[:0], t.kept[n-tailSize:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept[max(0, len(t.kept)-tailSize):])
}

func (t *tail) has(s string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Contains(t.kept, []byte(s))
}

// last gives the last line with anything in it.
func (t *tail) last() string {
	lines := strings.Split(strings.TrimSpace(t.String()), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// hint says what can be done about a failure that is often seen; empty: nothing
// is known.
func (t *tail) hint() string {
	switch {
	case t.has("exit code: 137"):
		return "a step was killed, most likely for want of memory: give the daemon more, or the build (resources.memory)"
	case t.has("exec format error"):
		return "the daemon cannot execute this platform: add one that can to buildkit.addresses, or install an interpreter there (qemu-user-static)"
	case t.has("server gave HTTP response to HTTPS client"):
		return "the daemon pulls over HTTPS: name the registry in its buildkitd.toml with http = true"
	}
	return ""
}
