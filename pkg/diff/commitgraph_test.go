package diff

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// merges is a repository with a branchy history and merges of up to five
// parents.
func merges(t *testing.T, commits int) *clone {
	t.Helper()
	c := newRepo(t)
	random := rand.New(rand.NewPCG(uint64(commits), 1))
	var b strings.Builder
	for i := range commits {
		fmt.Fprintf(&b, "commit refs/heads/c%d\nmark :%d\ncommitter C <c@example.org> %d +0000\ndata 0\n", i, i+1, 1e9+i*10-random.IntN(40))
		seen := map[int]bool{}
		for n := range min(i, 1+random.IntN(2)*random.IntN(5)) {
			parent := max(1, i-random.IntN(8))
			if seen[parent] {
				continue
			}
			seen[parent] = true
			fmt.Fprintf(&b, "%s :%d\n", []string{"from", "merge"}[min(n, 1)], parent)
		}
		fmt.Fprintf(&b, "M 100644 inline f\ndata 4\n%04d\n", i)
	}
	c.fastImport(b.String())
	return c
}

// Histories are the same with and without a graph, and as git says.
func TestCommitGraph(t *testing.T) {
	c := merges(t, 120)
	var ids []string
	for i := range 120 {
		ids = append(ids, c.git("rev-parse", fmt.Sprintf("c%d", i)))
	}
	split := func(tips ...string) {
		for _, tip := range tips {
			cmd := exec.Command("git", "commit-graph", "write", "--stdin-commits", "--split=no-merge")
			cmd.Dir, cmd.Stdin = c.dir, strings.NewReader(c.git("rev-parse", tip)+"\n")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
	}
	info := filepath.Join(c.dir, ".git", "objects", "info")
	for _, form := range []struct {
		name   string
		write  func()
		layers int
	}{
		{"no graph", func() {}, 0},
		{"a chain", func() { split("c20", "c60", "c100") }, 3},
		{"one file", func() {
			if err := os.RemoveAll(filepath.Join(info, "commit-graphs")); err != nil {
				t.Fatal(err)
			}
			c.git("commit-graph", "write", "--reachable")
		}, 1},
		{"of a part", func() {
			if err := os.Remove(filepath.Join(info, "commit-graph")); err != nil {
				t.Fatal(err)
			}
			split("c50")
		}, 1},
	} {
		form.write()
		o := c.objects()
		g := openGraph(o)
		if got := 0; g != nil {
			if got = len(g.layers); got != form.layers {
				t.Errorf("%s: %d layers, want %d", form.name, got, form.layers)
			}
			for _, text := range ids {
				id, _ := parseID(text)
				found, ok, err := g.links(id)
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					continue
				}
				_, data, err := o.read(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				if want, err := parseLinks(id, data); err != nil || !slices.Equal(found.parents, want.parents) || found.time != want.time {
					t.Fatalf("%s: %s: got %v, want %v, %v", form.name, text, found, want, err)
				}
			}
			if err := g.close(); err != nil {
				t.Fatal(err)
			}
		} else if form.layers > 0 {
			t.Errorf("%s: not opened", form.name)
		}
		r := opened(t, c.dir, "")
		random := rand.New(rand.NewPCG(7, 7))
		for range 40 {
			base, head := ids[random.IntN(len(ids))], ids[random.IntN(len(ids))]
			out, _ := exec.Command("git", "-C", c.dir, "merge-base", "--all", base, head).Output() // fails if there is none
			common := strings.Fields(string(out))
			rel, err := r.backend.relation(t.Context(), base, head)
			if err != nil || rel.ancestor != slices.Contains(common, base) || rel.mergeBase != "" && !slices.Contains(common, rel.mergeBase) || (rel.mergeBase == "") != (len(common) == 0) {
				t.Fatalf("%s: %s %s: got %+v, %v, want one of %s", form.name, base, head, rel, err, common)
			}
		}
	}
}

// What is wrong with a graph only costs time, or is an error.
func TestDamagedCommitGraph(t *testing.T) {
	c := merges(t, 60)
	c.git("commit-graph", "write", "--reachable")
	name := filepath.Join(c.dir, ".git", "objects", "info", "commit-graph")
	data, err := os.ReadFile(name)
	if err = errors.Join(err, os.Chmod(name, 0o644)); err != nil {
		t.Fatal(err)
	}
	base, head := c.git("rev-parse", "c10"), c.git("rev-parse", "c59")
	want := opened(t, c.dir, "")
	rel, err := want.backend.relation(t.Context(), base, head)
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range [][]byte{{}, data[:7], data[:100], data[:len(data)-1], bytes.Replace(data, []byte("CGPH\x01"), []byte("CGPH\x02"), 1), bytes.ReplaceAll(data, []byte("CDAT"), []byte("XDAT"))} {
		if err := os.WriteFile(name, wrong, 0o600); err != nil {
			t.Fatal(err)
		}
		both(t, c.dir, func(t *testing.T, r *Repo) {
			if got, err := r.backend.relation(t.Context(), base, head); err != nil || got.mergeBase != rel.mergeBase || got.ancestor != rel.ancestor {
				t.Errorf("%d bytes: got %+v, %v, want %+v", len(wrong), got, err, rel)
			}
		})
	}
}

func FuzzCommitGraph(f *testing.F) {
	f.Add([]byte("CGPH\x01\x01\x03\x00OIDF"), []byte{0})
	chunk := func(name string, at int) string {
		return name + string([]byte{0, 0, 0, 0, 0, 0, byte(at >> 8), byte(at)})
	}
	fanout := bytes.Repeat([]byte{0, 0, 0, 1}, 256)
	const first = 8 + 5*12
	whole := "CGPH\x01\x01\x04\x00" + chunk("OIDF", first) + chunk("OIDL", first+1024) + chunk("CDAT", first+1024+20) + chunk("EDGE", first+1024+56) + chunk("\x00\x00\x00\x00", first+1024+64) +
		string(fanout) + strings.Repeat("\x00", 20) + strings.Repeat("t", 20) + "\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x08\x00\x00\x00\x07" + "\x00\x00\x00\x00\x80\x00\x00\x00" + strings.Repeat("s", 20)
	f.Add([]byte(whole), []byte{0})
	f.Fuzz(func(t *testing.T, data, prefix []byte) {
		g := &commitGraph{}
		if g.add(data) != nil {
			return
		}
		var id oid
		copy(id[:], prefix)
		for range 2 {
			found, ok, err := g.links(id)
			if !ok || err != nil {
				return
			}
			for _, parent := range found.parents {
				if _, ok, _ := g.links(parent); ok {
					id = parent
				}
			}
		}
	})
}

// Reading less of a commit must not read something else.
func FuzzCommit(f *testing.F) {
	id := strings.Repeat("ab", 20)
	f.Add([]byte("tree " + id + "\nparent " + id + "\nauthor A <a> 1 +0000\ncommitter C <c> 1700000000 +0000\n\ntext\nparent " + id + "\n"))
	f.Add([]byte("tree " + id + "\ncommitter C > x <c> 12\n"))
	f.Add([]byte("tree " + id + "\nparent x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseCommit(id, data)
		if err != nil {
			return
		}
		of, _ := parseID(id)
		l, err := parseLinks(of, data)
		if err != nil {
			return // of two lines, one of which is no parent's
		}
		for i, p := range l.parents {
			if i >= len(c.Parents) || c.Parents[i] != p.String() {
				t.Errorf("%q: parents %v, want %v", data, l.parents, c.Parents)
			}
		}
	})
}
