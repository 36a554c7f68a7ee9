package diff

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// objects reads the object store of a repository that uses SHA-1: packs, loose
// objects and what is borrowed from other repositories; see
// gitrepository-layout(5). It may be used from several goroutines.
//
// Nothing that is read is trusted. An object is given out only if its content
// hashes to its id; where a copy of it is damaged, others are tried. Packs that
// come and go meanwhile are noticed.
type objects struct {
	dir string

	mu      sync.RWMutex // held for reading while mapped files are looked at
	lent    []string     // object directories of others, see borrow
	added   []*pack      // see add
	scanned bool
	dirs    []string // dir, and those it borrows from
	packs   []*pack
	broken  error // of packs that could not be opened
	kept    keptObjects
	last    atomic.Pointer[pack] // that held what was asked for last
}

func newObjects(commonDir string) *objects {
	return &objects{dir: filepath.Join(commonDir, "objects")}
}

// borrow makes the objects of another object directory be found here too.
func (o *objects) borrow(dir string) error {
	o.mu.Lock()
	o.lent = append(o.lent, dir)
	o.mu.Unlock()
	return o.scan()
}

// add makes the objects of a pack be found that is in none of the directories.
func (o *objects) add(p *pack) error {
	o.mu.Lock()
	o.added = append(o.added, p)
	o.mu.Unlock()
	return o.scan()
}

// close lets go of all files; the next read opens them again. What was added
// stays.
func (o *objects) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, p := range o.packs {
		if !slices.Contains(o.added, p) {
			errs = append(errs, p.close())
		}
	}
	o.scanned, o.dirs, o.packs, o.broken = false, nil, nil, nil
	o.last.Store(nil)
	o.kept.clear()
	return errors.Join(errs...)
}

// read gives an object. The error is ErrMissing if there is none, and
// errDamaged if there is no copy that is whole. Nobody may change the data.
func (o *objects) read(ctx context.Context, id oid) (k kind, data []byte, err error) {
	err = o.reading(ctx, func() error {
		k, data, err = o.look(id)
		return err
	})
	return k, data, err
}

// readAll reads many objects at once, in their order; what is missing is nil.
func (o *objects) readAll(ctx context.Context, ids []oid) ([][]byte, error) {
	all := make([][]byte, len(ids))
	err := o.reading(ctx, func() error {
		var absent atomic.Bool
		err := inParallel(ctx, len(ids), func(i int) error {
			if all[i] != nil {
				return nil
			}
			_, data, err := o.look(ids[i])
			if errors.Is(err, ErrMissing) {
				absent.Store(true)
				return nil
			}
			all[i] = data
			return err
		})
		if err == nil && absent.Load() {
			err = errAbsent
		}
		return err
	})
	if errors.Is(err, ErrMissing) {
		err = nil
	}
	return all, err
}

// reading runs f, which may call look, also from several goroutines. If f misses
// an object it is run again after looking for new packs, as what was there may
// have moved meanwhile, and again as long as there are new ones: who repacks
// twice in a row can be ahead of each look.
func (o *objects) reading(ctx context.Context, f func() error) error {
	once := func() error {
		o.mu.RLock()
		defer o.mu.RUnlock()
		if err := ctx.Err(); err != nil {
			return err
		}
		if !o.scanned {
			return errAbsent
		}
		return f()
	}
	err := once()
	for range 100 {
		if !errors.Is(err, ErrMissing) {
			break
		}
		moved, failed := o.rescan()
		if failed != nil {
			return failed
		}
		if err = once(); !moved {
			break
		}
	}
	return err
}

// inParallel calls f for the numbers below n, on as many processors as there are.
func inParallel(ctx context.Context, n int, f func(i int) error) error {
	// Small shares, so that all end at the same time.
	const share = 32
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), (n+share-1)/share) {
		group.Go(func() error {
			for {
				from := int(next.Add(share)) - share
				if from >= n {
					return nil
				}
				for i := from; i < min(from+share, n); i++ {
					if err := f(i); err != nil {
						return err
					}
				}
				if err := ctx.Err(); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// look reads an object from the files that are known, within reading.
func (o *objects) look(id oid) (kind, []byte, error) {
	var fault error
	last := o.last.Load()
	if last != nil {
		if k, data, err := o.lookIn(last, id); !errors.Is(err, ErrMissing) {
			if err == nil {
				return k, data, nil
			}
			fault = err
		}
	}
	for _, p := range o.packs {
		if p == last {
			continue
		}
		k, data, err := o.lookIn(p, id)
		if err == nil {
			o.last.Store(p)
			return k, data, nil
		}
		if !errors.Is(err, ErrMissing) {
			fault = err
		}
	}
	for _, dir := range o.dirs {
		k, data, err := readLoose(dir, id)
		if err == nil && hashObject(k, data) != id {
			err = fmt.Errorf("%s: %w", loosePath(dir, id), damaged("its content has another hash"))
		}
		if err == nil {
			return k, data, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			fault = err
		}
	}
	if fault == nil {
		fault = o.broken
	}
	if fault == nil {
		return 0, nil, fmt.Errorf("object %s is %w", id, ErrMissing)
	}
	return 0, nil, fmt.Errorf("reading object %s: %w", id, fault)
}

var errAbsent = fmt.Errorf("it is %w", ErrMissing)

func (o *objects) lookIn(p *pack, id oid) (kind, []byte, error) {
	found, ok, err := p.read(id, &o.kept)
	if errors.Is(err, fs.ErrNotExist) || !ok && err == nil {
		return 0, nil, errAbsent // not in it, or the pack went away
	}
	return found.kind, found.data, err
}

// directories gives the object directories, the repository's own first.
func (o *objects) directories() ([]string, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.scanned {
		return o.dirs, nil
	}
	return borrowed(append([]string{o.dir}, o.lent...))
}

// scan looks for packs. Those that are known stay open.
func (o *objects) scan() error {
	_, err := o.rescan()
	return err
}

// rescan is scan and tells whether packs came or went since the last time. The
// first time they may have: a directory that is read while files are renamed in
// it can show neither the old nor the new.
func (o *objects) rescan() (moved bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	dirs, err := borrowed(append([]string{o.dir}, o.lent...))
	if err != nil {
		return false, fmt.Errorf("reading the object store: %w", err)
	}
	moved = !o.scanned
	known := map[string]*pack{}
	for _, p := range o.packs {
		if !slices.Contains(o.added, p) {
			known[p.name] = p
		}
	}
	o.scanned, o.dirs, o.packs, o.broken = true, dirs, slices.Clone(o.added), nil
	var errs []error
	for _, dir := range dirs {
		entries, err := os.ReadDir(filepath.Join(dir, "pack"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			name, isIndex := strings.CutSuffix(filepath.Join(dir, "pack", e.Name()), ".idx")
			if !isIndex {
				continue
			}
			p := known[name+".pack"]
			if p == nil {
				p, err = openPack(name + ".idx")
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					o.broken = errors.Join(o.broken, err)
					continue
				}
				moved = true
				if err != nil {
					continue // gone already
				}
			}
			delete(known, p.name)
			o.packs = append(o.packs, p)
		}
	}
	o.last.Store(nil)
	for _, p := range known {
		moved = true
		errs = append(errs, p.close())
	}
	return moved, errors.Join(errs...)
}

// borrowed gives object directories and those that they borrow from, and they
// in turn, as deep as git goes.
func borrowed(dirs []string) ([]string, error) {
	level := dirs
	for range 6 {
		var next []string
		for _, d := range level {
			others, err := alternates(d)
			if err != nil {
				return nil, err
			}
			for _, other := range others {
				if !slices.Contains(dirs, other) {
					dirs, next = append(dirs, other), append(next, other)
				}
			}
		}
		level = next
	}
	return dirs, nil
}

// withPrefix gives the ids that begin with these digits, four at least, in order.
func (o *objects) withPrefix(digits string) ([]oid, error) {
	if err := o.scan(); err != nil {
		return nil, err
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	var found []oid
	for _, p := range o.packs {
		err := guard(func() error {
			found = append(found, p.index.withPrefix(digits)...)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	for _, dir := range o.dirs {
		more, err := looseWithPrefix(dir, digits)
		if err != nil {
			return nil, fmt.Errorf("reading the object store: %w", err)
		}
		found = append(found, more...)
	}
	slices.SortFunc(found, func(a, b oid) int { return strings.Compare(string(a[:]), string(b[:])) })
	return slices.Compact(found), o.broken
}
