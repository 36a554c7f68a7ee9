package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pipegen/pipegen/internal/parsecache"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/dockerfile"
)

// OpenCache opens the cache, in the directory dir for caches, of what was read
// out of the files of the checkout at root; save keeps what is new in it. With
// dir "" there is none: cache is nil.
func OpenCache(dir, root string, now time.Time) (cache config.FileCache, save func()) {
	if dir == "" {
		return nil, func() {}
	}
	name := sha256.Sum256([]byte(root))
	c := parsecache.Open(filepath.Join(dir, hex.EncodeToString(name[:16])), parsecache.Identity(), now)
	return c, c.Save
}

// openCache opens the cache of this checkout, once.
func (c *Checkout) openCache() {
	if c.saveCache == nil {
		c.cache, c.saveCache = OpenCache(c.request.ParseCache, c.Repo.Root(), c.request.Now())
	}
}

// dockerfiles reads what Dockerfiles are built on.
type dockerfiles struct {
	fsys  fs.FS
	cache config.FileCache // may be nil
}

// parsed is a Dockerfile that was read, or why it could not be.
type parsed struct {
	graph *dockerfile.Graph
	err   error
}

// read reads many files at a time.
func (d dockerfiles) read(files []string) map[string]parsed {
	slices.Sort(files)
	files = slices.Compact(files)
	results := make([]parsed, len(files))
	var workers sync.WaitGroup
	var next atomic.Int64
	for range min(len(files), runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(files)); i = next.Add(1) - 1 {
				results[i].graph, results[i].err = d.one(files[i])
			}
		})
	}
	workers.Wait()
	all := make(map[string]parsed, len(files))
	for i, file := range files {
		all[file] = results[i]
	}
	return all
}

func (d dockerfiles) one(file string) (*dockerfile.Graph, error) {
	var text []byte
	blob := ""
	if l, ok := d.fsys.(config.Listed); ok && d.cache != nil {
		blob, _ = l.Blob(file)
	}
	hashed := blob != ""
	if !hashed {
		var err error
		if text, err = fs.ReadFile(d.fsys, file); err != nil {
			return nil, err
		}
		if d.cache == nil {
			return parseGraph(text)
		}
		blob = config.Blob(text)
	}
	key := sha256.Sum256([]byte("Dockerfile " + blob))
	if data, ok := d.cache.Get(key); ok {
		if g, err := dockerfile.DecodeGraph(data); err == nil {
			return g, nil
		}
	}
	if hashed {
		var err error
		if text, err = fs.ReadFile(d.fsys, file); err != nil {
			return nil, err
		}
	}
	g, err := parseGraph(text)
	if err == nil {
		if data, ok := g.Append(nil); ok {
			d.cache.Put(key, data)
		}
	}
	return g, err
}

func parseGraph(text []byte) (*dockerfile.Graph, error) {
	f, err := dockerfile.Parse(text)
	if err != nil {
		return nil, err
	}
	// Not &f.Graph, which would keep all of f.
	g := f.Graph
	return &g, nil
}
