// Package parsecache keeps what was read out of files between runs of the same
// build of pipegen: one file for each repository, which is replaced whole. A
// file that is damaged, of another build or not to be written is as good as
// none; nothing here is ever an error.
package parsecache

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxSize  = 64 << 20 // bytes of a cache's values
	maxValue = 1 << 20
	// How many days something stays that no run used, and a whole cache.
	maxIdle      = 14
	maxCacheIdle = 60
)

// Key names a value by all that it was made from.
type Key = [sha256.Size]byte

// Cache holds values. Its methods may be called from several goroutines.
type Cache struct {
	file     string
	identity [sha256.Size]byte
	now      time.Time

	stored *stored
	used   []atomic.Bool // as stored
	mu     sync.Mutex
	fresh  map[Key]string
}

// Open reads the cache in a file, if there is one. The identity is that of the
// program: see [Identity].
func Open(file, identity string, now time.Time) *Cache {
	c := &Cache{file: file, identity: sha256.Sum256([]byte(identity)), now: now, stored: &stored{}, fresh: map[Key]string{}}
	info, err := os.Lstat(file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > 2*maxSize {
		return c
	}
	f, err := os.Open(file)
	if err != nil {
		return c
	}
	defer f.Close()
	if s := decode(io.LimitReader(f, 2*maxSize), int(info.Size()), c.identity); s != nil {
		c.stored, c.used = s, make([]atomic.Bool, s.len())
	}
	return c
}

// Get gives the value of a key.
func (c *Cache) Get(key Key) (string, bool) {
	if i, ok := c.stored.find(key); ok {
		c.used[i].Store(true)
		return c.stored.value(i), true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	value, ok := c.fresh[key]
	return value, ok
}

// Put keeps a value. One that is too large is not kept.
func (c *Cache) Put(key Key, value []byte) {
	if len(value) > maxValue {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fresh[key] = string(value)
}

// Save writes the cache if there is something new in it. What no run has used
// for some time is left out, and what was used last stays when there is too
// much.
func (c *Cache) Save() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.fresh) == 0 {
		c.touch()
		return
	}
	dir := filepath.Dir(c.file)
	if os.MkdirAll(dir, 0o700) != nil {
		return
	}
	if replace(c.file, encode(c.identity, c.kept())) == nil {
		c.sweep(dir)
	}
}

// kept are the entries that are written.
func (c *Cache) kept() []entry {
	today := day(c.now)
	all := make([]entry, 0, c.stored.len()+len(c.fresh))
	for key, value := range c.fresh {
		all = append(all, entry{key, today, value})
	}
	for i := range c.stored.len() {
		e := c.stored.entry(i)
		if _, again := c.fresh[e.key]; again {
			continue
		}
		if c.used[i].Load() {
			e.day = today
		}
		if e.day+maxIdle >= today {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b entry) int {
		if a.day != b.day {
			return int(b.day) - int(a.day)
		}
		return bytes.Compare(a.key[:], b.key[:])
	})
	size := 0
	for i, e := range all {
		if size += len(e.value) + recordSize; size > maxSize {
			return all[:i]
		}
	}
	return all
}

// touch keeps a cache that is used from being swept away.
func (c *Cache) touch() {
	if info, err := os.Lstat(c.file); err == nil && c.now.Sub(info.ModTime()) > 24*time.Hour {
		os.Chtimes(c.file, c.now, c.now) //nolint:errcheck // at worst it is made again
	}
}

// sweep removes caches that nobody has used for long, and what writers that
// were killed left behind.
func (c *Cache) sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && c.now.Sub(info.ModTime()) > maxCacheIdle*24*time.Hour {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// replace writes a file under another name first, with mode 0600.
func replace(file string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// day counts the days since 1970.
func day(t time.Time) uint32 { return uint32(max(t.Unix(), 0) / (24 * 60 * 60)) } //nolint:gosec // enough for ten million years
