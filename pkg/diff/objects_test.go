package diff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pipegen/pipegen/internal/gittest"
)

// randomRepo is a repository with a random history and with files large enough
// for deltas, branches c0, c1, … at its commits.
func randomRepo(t *testing.T) *clone {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	c := newRepo(t)
	c.fastImport(gittest.Random(random, 16).Stream())
	var b strings.Builder
	words := strings.Fields(strings.Repeat("some words that a file may hold and that hardly change ", 200))
	for i := range 12 {
		words[random.IntN(len(words))] = fmt.Sprint("other", i)
		file := strings.Join(words, "\n")
		fmt.Fprintf(&b, "commit refs/heads/large%d\ncommitter C <c@example.org> %d +0000\ndata 0\n", i, 1e9+i)
		if i > 0 {
			fmt.Fprintf(&b, "from refs/heads/large%d\n", i-1)
		}
		fmt.Fprintf(&b, "M 100644 inline large\ndata %d\n%s\n", len(file), file)
		for j := range 60 { // a directory that deltas pay for
			if name := fmt.Sprintf("many/file-%02d", j); i == 0 || random.IntN(30) == 0 {
				fmt.Fprintf(&b, "M 100644 inline %s\ndata 2\n%02d\n", name, i)
			}
		}
	}
	c.fastImport(b.String())
	c.git("tag", "-a", "-m", "x", "heavy", "c3")
	return c
}

// stored is what git has stored: objects by id, each as "KIND content".
func (c *clone) stored() map[oid]string {
	c.t.Helper()
	cmd := exec.Command("git", "cat-file", "--batch-all-objects", "--batch", "--unordered")
	cmd.Dir = c.dir
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatal(err)
	}
	all := map[oid]string{}
	for len(out) > 0 {
		line, rest, _ := bytes.Cut(out, []byte("\n"))
		var text, name string
		var size int
		if _, err := fmt.Sscan(string(line), &text, &name, &size); err != nil {
			c.t.Fatalf("%q: %v", line, err)
		}
		id, _ := parseID(text)
		all[id] = name + " " + string(rest[:size])
		out = rest[size+1:]
	}
	return all
}

func (c *clone) objects() *objects {
	o := newObjects(filepath.Join(c.dir, ".git"))
	c.t.Cleanup(func() {
		if err := o.close(); err != nil {
			c.t.Error(err)
		}
	})
	return o
}

// What git stores is read as git reads it, however it is stored.
func TestObjects(t *testing.T) {
	template := randomRepo(t)
	want := template.stored()
	for name, store := range map[string]func(c *clone){
		"as imported": func(*clone) {},
		"loose":       func(c *clone) { c.unpack() },
		"packed":      func(c *clone) { c.git("repack", "-q", "-a", "-d") },
		"long chains of deltas": func(c *clone) {
			c.git("repack", "-q", "-a", "-d", "-f", "--depth=50", "--window=250")
		},
		"bases by id": func(c *clone) {
			c.git("-c", "repack.useDeltaBaseOffset=false", "repack", "-q", "-a", "-d", "-f")
		},
		"index of version 1": func(c *clone) {
			c.git("-c", "pack.indexVersion=1", "repack", "-q", "-a", "-d", "-f")
		},
		"large offsets in the index": func(c *clone) {
			c.git("repack", "-q", "-a", "-d")
			pack := c.packs()[0]
			c.git("index-pack", "--index-version=2,0x40", pack)
		},
		"several packs and loose objects": func(c *clone) {
			c.unpack()
			for i := range 3 {
				// What a branch leads to, in a pack of its own.
				cmd := exec.Command("git", "pack-objects", "-q", "--revs", ".git/objects/pack/pack")
				cmd.Dir, cmd.Stdin = c.dir, strings.NewReader(fmt.Sprintf("c%d\n", 5*i))
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			c.git("prune-packed", "-q")
		},
		"multi-pack index and bitmap": func(c *clone) {
			c.git("repack", "-q", "-a", "-d", "--write-bitmap-index")
			c.git("multi-pack-index", "write")
		},
		"borrowed": func(c *clone) {
			far, near := template.copied(t), filepath.Join(t.TempDir(), "near")
			c.git("clone", "-q", "--shared", far.dir, near)
			for _, dir := range []string{"objects", "packed-refs"} {
				if err := errors.Join(os.RemoveAll(filepath.Join(c.dir, ".git", dir)), os.Rename(filepath.Join(near, ".git", dir), filepath.Join(c.dir, ".git", dir))); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := template.copied(t)
			store(c)
			o := c.objects()
			ids := slices.Collect(maps.Keys(want))
			for range 2 { // the second time from what is kept
				for id, object := range want {
					k, data, err := o.read(t.Context(), id)
					if got := k.name() + " " + string(data); err != nil || got != object {
						t.Fatalf("%s: got %.80q, %v, want %.80q", id, got, err, object)
					}
				}
				all, err := o.readAll(t.Context(), ids)
				if err != nil {
					t.Fatal(err)
				}
				for i, data := range all {
					if _, object, _ := strings.Cut(want[ids[i]], " "); string(data) != object {
						t.Fatalf("%s: got %.80q, want %.80q", ids[i], data, object)
					}
				}
			}
			none := hashObject(kindBlob, []byte("none"))
			if _, _, err := o.read(t.Context(), none); !errors.Is(err, ErrMissing) {
				t.Errorf("an object that is not there: %v", err)
			}
			if all, err := o.readAll(t.Context(), []oid{ids[0], none}); err != nil || all[0] == nil || all[1] != nil {
				t.Errorf("an object that is not there: %q, %v", all, err)
			}
			for _, id := range ids[:20] {
				digits := id.String()[:5]
				var same []oid
				for other := range want {
					if strings.HasPrefix(other.String(), digits) {
						same = append(same, other)
					}
				}
				if got, err := o.withPrefix(digits); err != nil || len(got) != len(same) || !slices.Contains(got, id) {
					t.Errorf("%s: got %v, %v, want %v", digits, got, err, same)
				}
			}
		})
	}
}

// name is String that takes 0 as well.
func (k kind) name() string { return kindNames[k] }

func (c *clone) packs() []string {
	c.t.Helper()
	packs, err := filepath.Glob(filepath.Join(c.dir, ".git", "objects", "pack", "*.pack"))
	if err != nil {
		c.t.Fatal(err)
	}
	return packs
}

// unpack makes all objects loose.
func (c *clone) unpack() {
	c.t.Helper()
	for _, pack := range c.packs() {
		data, err := os.ReadFile(pack)
		if err == nil {
			err = errors.Join(os.Remove(pack), os.Remove(strings.TrimSuffix(pack, ".pack")+".idx"))
		}
		if err != nil {
			c.t.Fatal(err)
		}
		cmd := exec.Command("git", "unpack-objects", "-q")
		cmd.Dir, cmd.Stdin = c.dir, bytes.NewReader(data)
		if out, err := cmd.CombinedOutput(); err != nil {
			c.t.Fatalf("%v\n%s", err, out)
		}
	}
}

// Whoever collects garbage meanwhile does not get in the way.
func TestReadingWhileObjectsMove(t *testing.T) {
	c := randomRepo(t)
	want := c.stored()
	ids := slices.Collect(maps.Keys(want))
	o := c.objects()
	ctx, stop := context.WithCancel(t.Context())
	var moving sync.WaitGroup
	defer moving.Wait()
	moving.Go(func() {
		defer stop()
		for i := range 6 {
			cmd := exec.Command("git", "repack", "-q", "-a", "-d", fmt.Sprintf("--depth=%d", 1+7*i), "-f")
			if i%3 == 2 {
				cmd = exec.Command("git", "gc", "-q", "--prune=now")
			}
			cmd.Dir = c.dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
	})
	for n := 0; ctx.Err() == nil; n++ {
		if n%40 == 0 {
			if err := o.close(); err != nil {
				t.Error(err)
			}
		}
		all, err := o.readAll(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		for i, data := range all {
			if _, object, _ := strings.Cut(want[ids[i]], " "); string(data) != object {
				t.Fatalf("%s: got %.80q, want %.80q", ids[i], data, object)
			}
		}
	}
}

// What the clone holds is read without starting git.
func TestNoProcess(t *testing.T) {
	c := randomRepo(t)
	c.git("update-ref", "refs/remotes/origin/main", "c9")
	c.git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
	base, head := c.git("rev-parse", "c2"), c.git("rev-parse", "c15")
	for _, packed := range []bool{false, true} {
		if packed {
			c.git("gc", "-q")
		}
		r := opened(t, c.dir, filepath.Join(t.TempDir(), "no-git-here"))
		for _, rev := range []string{"c15", "refs/heads/c15", "heads/c15", "heavy", "tags/heavy", "large3~2", "heavy^{commit}", "origin", "origin/main", base} {
			if got, err := r.Commit(t.Context(), rev); err != nil || got.Hash != c.git("rev-parse", rev+"^{commit}") {
				t.Errorf("%s: %+v, %v", rev, got, err)
			}
		}
		if _, err := r.Changes(t.Context(), base, "c15"); err != nil {
			t.Error(err)
		}
		entries, err := r.Entries(t.Context(), head)
		if err != nil {
			t.Error(err)
		}
		var paths []string
		for _, e := range entries {
			if e.Mode == "100644" {
				paths = append(paths, e.Path)
			}
		}
		if got, err := r.Contents(t.Context(), head, paths); err != nil || len(got) != len(paths) {
			t.Errorf("got %d of %d files, %v", len(got), len(paths), err)
		}
		if _, err := r.Ancestor(t.Context(), "c0", head); err != nil {
			t.Error(err)
		}
	}
}

// What is read here is what git says when it is asked.
func TestGitSaysTheSame(t *testing.T) {
	c := randomRepo(t)
	ours, asked := opened(t, c.dir, backends(t)["git"]), opened(t, c.dir, backends(t)["git"])
	asked.backend.(*gitProgram).own = nil
	for i := range 15 {
		base, head := fmt.Sprintf("c%d", i), fmt.Sprintf("c%d", (i*7+3)%16)
		changes, err := ours.Changes(t.Context(), base, head)
		want, askedErr := asked.Changes(t.Context(), base, head)
		if err = errors.Join(err, askedErr); err != nil || !slices.Equal(changes, want) {
			t.Errorf("%s..%s: %v\n%s\nwant\n%s", base, head, err, text(changes), text(want))
		}
		entries, err := ours.Entries(t.Context(), head)
		wantEntries, askedErr := asked.Entries(t.Context(), head)
		if err = errors.Join(err, askedErr); err != nil || !slices.Equal(entries, wantEntries) {
			t.Errorf("%s: %v\n%s\nwant\n%s", head, err, listing(entries), listing(wantEntries))
		}
		var paths []string
		for _, ch := range changes {
			paths = append(paths, ch.Path, ch.Path+"/x", strings.TrimSuffix(ch.Path, "a"))
		}
		contents, err := ours.Contents(t.Context(), head, paths)
		wantContents, askedErr := asked.Contents(t.Context(), head, paths)
		if (err == nil) != (askedErr == nil) || !maps.EqualFunc(contents, wantContents, bytes.Equal) {
			t.Errorf("%s: got %q, %v, want %q, %v", head, contents, err, wantContents, askedErr)
		}
	}
}
