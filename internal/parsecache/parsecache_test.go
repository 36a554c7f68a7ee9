package parsecache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func key(name string) Key { return sha256.Sum256([]byte(name)) }

// keep writes a cache with these values.
func keep(t *testing.T, file, identity string, now time.Time, names ...string) {
	t.Helper()
	c := Open(file, identity, now)
	for _, name := range names {
		if _, ok := c.Get(key(name)); !ok {
			c.Put(key(name), []byte("value of "+name))
		}
	}
	c.Save()
}

// held gives which of the names the cache in a file holds.
func held(t *testing.T, file, identity string, names ...string) string {
	t.Helper()
	c := Open(file, identity, noon)
	var found []string
	for _, name := range names {
		value, ok := c.Get(key(name))
		if !ok {
			continue
		}
		if value != "value of "+name {
			t.Errorf("%s has the value %q", name, value)
		}
		found = append(found, name)
	}
	return strings.Join(found, " ")
}

func TestKeepAndFind(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "cache")
	if got := held(t, file, "v1", "a"); got != "" {
		t.Errorf("a cache that is not there holds %s", got)
	}
	keep(t, file, "v1", noon, "a", "b", "c", "")
	if got := held(t, file, "v1", "a", "b", "c", "", "d"); got != "a b c " {
		t.Errorf("holds %q", got)
	}
	if got := held(t, file, "v2", "a", "b", "c"); got != "" {
		t.Errorf("another build finds %q", got)
	}
	keep(t, file, "v2", noon, "d")
	if got := held(t, file, "v2", "a", "d"); got != "d" {
		t.Errorf("another build keeps %q", got)
	}
	dir, err := os.Stat(filepath.Dir(file))
	if err != nil || dir.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v, %v", dir.Mode(), err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	if all, _ := os.ReadDir(filepath.Dir(file)); len(all) != 1 {
		t.Errorf("the directory holds %v", all)
	}
}

func TestWhatIsNotUsedGoes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cache")
	day := func(n int) time.Time { return noon.AddDate(0, 0, n) }
	keep(t, file, "v", day(0), "used", "idle")
	keep(t, file, "v", day(10), "used", "new")
	keep(t, file, "v", day(maxIdle), "used", "newer")
	if got := held(t, file, "v", "used", "idle", "new", "newer"); got != "used idle new newer" {
		t.Errorf("after %d days it holds %q", maxIdle, got)
	}
	keep(t, file, "v", day(maxIdle+1), "newest")
	if got := held(t, file, "v", "used", "idle", "new", "newer", "newest"); got != "used new newer newest" {
		t.Errorf("a day later it holds %q", got)
	}
}

func TestSizeIsBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cache")
	c := Open(file, "v", noon)
	c.Put(key("too large"), make([]byte, maxValue+1))
	for i := range maxSize/maxValue + 10 {
		c.Put(key(fmt.Sprint(i)), make([]byte, maxValue))
	}
	c.Save()
	info, err := os.Stat(file)
	if err != nil || info.Size() > maxSize+int64(headerSize) || info.Size() < maxSize/2 {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
	if _, ok := Open(file, "v", noon).Get(key("too large")); ok {
		t.Error("a value of any size is kept")
	}
}

// Whatever is wrong with the file or its directory, there is no cache, and
// nothing else happens.
func TestDamage(t *testing.T) {
	good := filepath.Join(t.TempDir(), "cache")
	keep(t, good, "v", noon, "a", "b")
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 0x40
		if decode(bytes.NewReader(bad), 0, sha256.Sum256([]byte("v"))) != nil {
			t.Errorf("a change of byte %d goes unnoticed", i)
		}
		if decode(bytes.NewReader(data[:i]), i, sha256.Sum256([]byte("v"))) != nil {
			t.Errorf("the first %d bytes are taken for all", i)
		}
	}
	if err := os.WriteFile(good, data[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	keep(t, good, "v", noon, "a")
	if got := held(t, good, "v", "a"); got != "a" {
		t.Error("a damaged file is not replaced")
	}

	for name, make := range map[string]func(string) error{
		"a directory": func(f string) error { return os.MkdirAll(filepath.Join(f, "x"), 0o755) },
		"a link":      func(f string) error { return os.Symlink(good, f) },
		"below a file": func(f string) error {
			return os.WriteFile(filepath.Dir(f), nil, 0o600)
		},
	} {
		file := filepath.Join(t.TempDir(), "dir", "cache")
		if name != "below a file" {
			if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := make(file); err != nil {
			t.Fatal(err)
		}
		if got := held(t, file, "v", "a"); got != "" {
			t.Errorf("%s: holds %q", name, got)
		}
		keep(t, file, "v", noon, "a")
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	old, young := filepath.Join(dir, "old"), filepath.Join(dir, "young")
	keep(t, old, "v", noon, "a")
	keep(t, young, "v", noon, "a")
	long := noon.AddDate(0, 0, -maxCacheIdle-1)
	for _, file := range []string{old, young} {
		if err := os.Chtimes(file, long, long); err != nil {
			t.Fatal(err)
		}
	}
	keep(t, young, "v", noon, "a") // used, with nothing to write
	keep(t, filepath.Join(dir, "new"), "v", noon, "a")
	if got := held(t, young, "v", "a"); got != "a" {
		t.Error("a cache that is used was swept away")
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("a cache that nobody uses stays")
	}
}

// Several processes write the same file; each finds one whole.
func TestConcurrentWriters(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cache")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 20 {
				c := Open(file, "v", noon)
				for k := range 50 {
					name := fmt.Sprint(i, j, k)
					c.Put(key(name), []byte("value of "+name))
					if value, ok := c.Get(key(name)); !ok || value != "value of "+name {
						t.Errorf("%s: got %q, %t", name, value, ok)
					}
				}
				c.Save()
				if s := Open(file, "v", noon).stored; s.len() == 0 {
					t.Error("the file is not whole")
				}
			}
		})
	}
	all.Wait()
}

func TestIdentity(t *testing.T) {
	a, b := Identity(), Identity()
	if a != b {
		t.Errorf("%q is not %q", a, b)
	}
	if n := strings.Count(a, "\n"); n < 4 {
		t.Errorf("%q says little", a)
	}
}

func FuzzDecode(f *testing.F) {
	identity := sha256.Sum256([]byte("v"))
	f.Add(encode(identity, nil))
	f.Add(encode(identity, []entry{{key("a"), 1, "x"}, {key("b"), 2, ""}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		// What a checksum would catch shall not be what saves it.
		if len(data) > headerSize {
			whole := encode(identity, nil)[:headerSize]
			copy(whole[headerSize-4:], data[headerSize-4:headerSize])
			data = withSum(append(whole, data[headerSize:]...))
		}
		s := decode(bytes.NewReader(data), len(data), identity)
		if s == nil {
			return
		}
		for i := range s.len() {
			e := s.entry(i)
			if at, ok := s.find(e.key); !ok || at != i {
				t.Fatalf("entry %d is found at %d, %t", i, at, ok)
			}
		}
	})
}

// withSum puts the right checksum into a cache file.
func withSum(data []byte) []byte {
	at := len(magic) + sha256.Size
	binary.LittleEndian.PutUint32(data[at:], crc32.Checksum(data[headerSize:], castagnoli))
	return data
}
