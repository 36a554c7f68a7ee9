package config

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
)

// memory is a cache for one test.
type memory struct {
	mu   sync.Mutex
	held map[[sha256.Size]byte]string
	hits int
}

func newMemory() *memory { return &memory{held: map[[sha256.Size]byte]string{}} }

func (m *memory) Get(key [sha256.Size]byte) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok := m.held[key]
	if ok {
		m.hits++
	}
	return value, ok
}

func (m *memory) Put(key [sha256.Size]byte, value []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[key] = string(value)
}

// hashed is a file system that knows its files' hashes.
type hashed struct{ fs.FS }

// listed is one that knows what its files are, and no more.
type listed struct{ hashed }

func (l listed) Blob(name string) (string, bool) {
	_, regular := l.hashed.Blob(name)
	return "", regular
}

func (h hashed) Blob(name string) (string, bool) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if info, err := fs.Lstat(h.FS, dir); err != nil || !info.IsDir() {
			return "", false
		}
	}
	text, err := fs.ReadFile(h.FS, name)
	if info, lerr := fs.Lstat(h.FS, name); err != nil || lerr != nil || !info.Mode().IsRegular() {
		return "", false
	}
	return Blob(text), true
}

func (h hashed) Lstat(name string) (fs.FileInfo, error) { return fs.Lstat(h.FS, name) }
func (h hashed) ReadLink(name string) (string, error)   { return fs.ReadLink(h.FS, name) }

// answers is all that a repository says, positions of faults included.
func answers(repo *Repository, err error) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n%v\n%+v\n", err, repo.Warnings, repo.Weekly)
	for _, p := range repo.Projects {
		fmt.Fprintf(&b, "%s %+v\n", p.Dir, p.Images())
		specs := []BuildConfig{p.Config}
		for _, s := range append(p.Config.Platforms, "linux/s390x") {
			if pl, err := ParsePlatform(s); err == nil {
				specs = append(specs, p.For(pl))
			}
		}
		data, jsonErr := json.Marshal(specs)
		fmt.Fprintf(&b, "%s %v\n", data, jsonErr)
		for _, path := range [][]any{{}, {"name"}, {"depends_on", 0}, {"target"}, {"overrides", "linux/arm64"}, {"timeout"}} {
			fmt.Fprintln(&b, p.Fault("r", "m", "h", path...))
		}
	}
	return b.String()
}

// sameWithCache sees that a load with an empty and with a filled cache, of
// files that are read and of such whose hashes are known, says the same as one
// without.
func sameWithCache(t *testing.T, fsys fs.FS, files []string, o Options) {
	t.Helper()
	want := strings.Split(answers(Load(fsys, files, o)), "\n")
	o.Cache = newMemory()
	for i, fsys := range []fs.FS{fsys, fsys, listed{hashed{fsys}}, hashed{fsys}} {
		got := strings.Split(answers(Load(fsys, files, o)), "\n")
		for n := range min(len(got), len(want)) {
			if got[n] != want[n] {
				t.Errorf("load %d with a cache:\n%s\nwithout:\n%s", i, got[n], want[n])
				break
			}
		}
		if len(got) != len(want) {
			t.Errorf("load %d with a cache gives %d lines, %d without", i, len(got), len(want))
		}
	}
}

func TestCache(t *testing.T) {
	files := map[string]string{
		"a/build-config.yaml": "engine_args: [--x]\ndepends_on: [b]\noverrides: {linux/arm64: {timeout: 2h}}\n",
		"a/Dockerfile":        "FROM scratch\n",
		"b/build-config.yaml": "engine: make\n",     // a warning
		"c/build-config.yaml": "upstream_repo: x\n", // an error
	}
	cache := newMemory()
	hits := func(fsys fs.FS, o Options) int {
		before := cache.hits
		o.Cache = cache
		Load(fsys, paths(tree(files)), o) //nolint:errcheck // there are faults
		return cache.hits - before
	}
	if n := hits(tree(files), Options{}); n != 0 {
		t.Errorf("%d hits in an empty cache", n)
	}
	if n := hits(tree(files), Options{}); n != 2 {
		t.Errorf("%d hits, want those of a and b: c has an error", n)
	}
	if n := hits(tree(files), Options{Getenv: func(string) string { return "repository" }}); n != 0 {
		t.Errorf("%d hits in another layout", n)
	}
	files["pipegen.yaml"] = "defaults: {timeout: 3h}\n"
	if n := hits(tree(files), Options{}); n != 0 {
		t.Errorf("%d hits with other defaults", n)
	}
	files["a/build-config.yaml"] += "# changed\n"
	if n := hits(tree(files), Options{}); n != 1 {
		t.Errorf("%d hits after a change of a", n)
	}
}

// untouchable is a file system whose build-config.yaml cannot be read.
type untouchable struct{ hashed }

func (u untouchable) Open(name string) (fs.File, error) {
	if strings.HasSuffix(name, BuildFile) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return u.hashed.FS.Open(name)
}

// Files whose hashes are known are not read at all.
func TestCacheReadsNothing(t *testing.T) {
	fsys := fstest.MapFS{"a/build-config.yaml": {Data: []byte("depends_on: [b]\n")}, "a/Dockerfile": {Data: []byte("FROM scratch\n")}}
	cache := newMemory()
	for _, fsys := range []fs.FS{fsys, untouchable{hashed{fsys}}} {
		repo, err := Load(fsys, []string{"a/Dockerfile", "a/build-config.yaml"}, Options{Cache: cache})
		if err != nil || len(repo.Projects) != 1 || repo.Projects[0].Config.DependsOn[0] != "b" {
			t.Errorf("got %v, %+v", err, repo.Projects)
		}
	}
}

// Bytes in the cache that were tampered with are read as if they were not
// there, or at worst mean another project; they never stop anything.
func FuzzKept(f *testing.F) {
	fsys := tree(map[string]string{
		"a/build-config.yaml": "name: x\nbuild_args: {A: b}\noverrides: {linux/arm64: {timeout: 2h}}\nwatch: [none]\n", "a/Dockerfile": "FROM scratch\n",
	})
	cache := newMemory()
	Load(fsys, paths(fsys), Options{Cache: cache}) //nolint:errcheck // there are none
	var key [sha256.Size]byte
	for k, value := range cache.held {
		key = k
		f.Add([]byte(value))
	}
	f.Fuzz(func(_ *testing.T, value []byte) {
		cache := newMemory()
		cache.Put(key, value)
		answers(Load(fsys, paths(fsys), Options{Cache: cache}))
	})
}
