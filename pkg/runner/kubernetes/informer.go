package kubernetes

import (
	"context"
	"math/rand/v2"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// informer lists objects of one kind and watches what becomes of them. It tells
// at once, in the goroutine that reads the watch: the library's own keeps
// another copy and hands each event on three times.
type informer[T any, P watched[T]] struct {
	objects objects
	narrow  func(*metav1.ListOptions)
	// What is there or has changed, and what is gone; gone may be nil.
	seen, gone func(P)
	// A request that failed, or a watch that ended.
	failed func(context.Context, error)
	// Closed when all that there was has been seen.
	synced chan struct{}

	all map[string]P // by name, if it is to be told what is gone
}

// watched is a pointer to an object.
type watched[T any] interface {
	pointer[T]
	metav1.Object
}

// What requests wait for one another that are not answered, or are refused.
const firstPause, longestPause, refusedPause = 200 * time.Millisecond, 5 * time.Second, 30 * time.Second

// run watches until ctx ends.
func (i *informer[T, P]) run(ctx context.Context) {
	reflector := cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			i.narrow(&options)
			return persist(ctx, i.failed, func() (runtime.Object, error) {
				return i.objects.of(i.objects.in.Get()).VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Get()
			})
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			i.narrow(&options)
			options.Watch = true
			return persist(ctx, i.failed, func() (watch.Interface, error) {
				return i.objects.of(i.objects.in.Get()).VersionedParams(&options, metav1.ParameterCodec).Watch(ctx)
			})
		},
	}, P(new(T)), i, cache.ReflectorOptions{Name: "pipegen", TypeDescription: i.objects.resource})
	for wait := firstPause; ctx.Err() == nil; wait = min(2*wait, refusedPause) {
		began := time.Now()
		if err := reflector.ListAndWatchWithContext(ctx); err != nil {
			i.failed(ctx, err)
		}
		if time.Since(began) > time.Minute {
			wait = firstPause
		}
		pause(ctx, wait)
	}
}

// persist asks until it is answered, or ctx ends. The library's own pauses grow
// to a minute, and somebody waits for an agent.
func persist[T any](ctx context.Context, failed func(context.Context, error), ask func() (T, error)) (T, error) {
	for wait := firstPause; ; wait = min(2*wait, longestPause) {
		got, err := ask()
		if err == nil || !transient(err) {
			return got, err
		}
		if wait == firstPause {
			failed(ctx, err)
		}
		if !pause(ctx, wait) {
			return got, err
		}
	}
}

// pause waits about so long, unless ctx ends.
func pause(ctx context.Context, wait time.Duration) bool {
	t := time.NewTimer(wait/2 + rand.N(wait/2)) //nolint:gosec // so that not all ask at once
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Add implements [cache.ReflectorStore].
func (i *informer[T, P]) Add(o any) error {
	p, ok := o.(P)
	if !ok {
		return nil
	}
	slim(p)
	if i.gone != nil {
		i.all[p.GetName()] = p
	}
	i.seen(p)
	return nil
}

// Update implements [cache.ReflectorStore].
func (i *informer[T, P]) Update(o any) error { return i.Add(o) }

// Delete implements [cache.ReflectorStore].
func (i *informer[T, P]) Delete(o any) error {
	p, ok := o.(P)
	if !ok || i.gone == nil {
		return nil
	}
	slim(p)
	delete(i.all, p.GetName())
	i.gone(p)
	return nil
}

// Replace implements [cache.ReflectorStore]: it is given all that there are.
func (i *informer[T, P]) Replace(all []any, _ string) error {
	before := i.all
	i.all = make(map[string]P, len(all))
	still := make(map[string]bool, len(all))
	for _, o := range all {
		if p, ok := o.(P); ok {
			still[string(p.GetUID())] = true
		}
	}
	for _, p := range before {
		if !still[string(p.GetUID())] {
			i.gone(p)
		}
	}
	for _, o := range all {
		if err := i.Add(o); err != nil {
			return err
		}
	}
	select {
	case <-i.synced:
	default:
		close(i.synced)
	}
	return nil
}

// Resync implements [cache.ReflectorStore].
func (i *informer[T, P]) Resync() error { return nil }
