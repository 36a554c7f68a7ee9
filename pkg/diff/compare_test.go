package diff

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// newTree makes a tree object of lines: MODE NAME, and a byte that its id is made of.
func newTree(lines ...string) []byte {
	var b bytes.Buffer
	for _, line := range lines {
		fields := strings.Fields(line)
		id := hashObject(kindBlob, []byte(fields[2]))
		fmt.Fprintf(&b, "%s %s\x00%s", fields[0], fields[1], id[:])
	}
	return b.Bytes()
}

// differences is what compareTrees gives, as lines of text.
func differences(was, is []byte) (string, error) {
	var lines []string
	err := compareTrees(was, is, func(name []byte, old, now side) {
		how := "M"
		switch {
		case old.mode == 0:
			how = "A"
		case now.mode == 0:
			how = "D"
		}
		if cmp.Or(old.mode, now.mode) == modeDir {
			how += "/"
		}
		lines = append(lines, fmt.Sprintf("%s %q", how, name))
	})
	return strings.Join(lines, " "), err
}

func TestCompareTrees(t *testing.T) {
	for _, test := range []struct{ name, was, is, want string }{
		{"both empty", "", "", ""},
		{"the same", "100644 a 1;40000 d 2", "100644 a 1;40000 d 2", ""},
		{"added", "", "100644 a 1;40000 d 1", `A "a" A/ "d"`},
		{"deleted", "100644 a 1;40000 d 1", "", `D "a" D/ "d"`},
		{"content", "100644 a 1;100644 b 1;100644 c 1", "100644 a 1;100644 b 2;100644 c 1", `M "b"`},
		{"mode", "100644 a 1", "100755 a 1", `M "a"`},
		{"a mode that git does not tell apart", "100664 a 1;40000 d 1", "100644 a 1;040000 d 1", ""},
		{"type", "120000 a 1", "100644 a 1", `M "a"`},
		{"directory", "40000 d 1", "40000 d 2", `M/ "d"`},
		{"submodule", "160000 m 1", "160000 m 2", `M "m"`},
		{"submodule to file", "160000 m 1", "100644 m 1", `M "m"`},
		{"file to directory", "100644 a 1;100644 a.b 1", "100644 a.b 1;40000 a 1", `D "a" A/ "a"`},
		{"directory to file", "100644 a.b 1;40000 a 1", "100644 a 1;100644 a.b 1", `A "a" D/ "a"`},
		{"in between", "100644 a 1;100644 c 1", "100644 a 1;100644 b 1;100644 c 1", `A "b"`},
		{"at the ends", "100644 b 1", "100644 a 1;100644 b 1;100644 c 1", `A "a" A "c"`},
		{"one begins with the other", "100644 a 1", "100644 aa 1", `D "a" A "aa"`},
	} {
		tree := func(text string) []byte {
			return newTree(slices.DeleteFunc(strings.Split(text, ";"), func(s string) bool { return s == "" })...)
		}
		if got, err := differences(tree(test.was), tree(test.is)); err != nil || got != test.want {
			t.Errorf("%s: got %s, %v, want %s", test.name, got, err, test.want)
		}
	}
	for name, wrong := range map[string][]byte{
		"no mode": []byte("x"), "mode": []byte("8 a\x00" + strings.Repeat("x", 20)), "no id": []byte("100644 a\x00x"), "no end": []byte("100644 a"),
		"slash": newTree("100644 a/b 1"), "dots": newTree("100644 .. 1"), "dot": newTree("40000 . 1"), "no name": []byte("100644 \x00" + strings.Repeat("x", 20)),
	} {
		if got, err := differences(wrong, nil); err == nil {
			t.Errorf("%s: got %s", name, got)
		}
	}
	if _, err := differences(newTree("100644 b 1", "100644 a 1"), newTree("100644 a 2")); !errors.Is(err, errOrder) {
		t.Errorf("not in order: %v", err)
	}
}

// Trees that some tool wrote in another order than git's.
func TestTreesOutOfOrder(t *testing.T) {
	c := newRepo(t)
	c.commit("a", "1", "b", "1", "d/x", "1")
	blob, dir := c.git("rev-parse", "HEAD:a"), c.git("rev-parse", "HEAD:d")
	raw := func(names ...string) string {
		var b strings.Builder
		for _, name := range names {
			id, _ := parseID(blob)
			mode := "100644"
			if name == "d" {
				id, _ = parseID(dir)
				mode = "40000"
			}
			b.WriteString(mode + " " + name + "\x00" + string(id[:]))
		}
		c.write("raw", b.String())
		tree := c.git("hash-object", "--literally", "-w", "-t", "tree", "raw")
		return c.git("commit-tree", "-m", "x", tree)
	}
	wrong, twice := raw("c", "d", "b", "a"), raw("b", "a", "a")
	r := opened(t, c.dir, "")
	if got, err := r.Changes(t.Context(), "HEAD", wrong); err != nil || text(got) != "A \"c\"\n" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := r.Changes(t.Context(), "HEAD", twice); err == nil {
		t.Errorf("a name that is there twice: %v", got)
	}
}

// compareTrees finds what comparing name by name finds.
func FuzzCompareTrees(f *testing.F) {
	f.Add([]byte("aab"), []byte("abc"), uint64(1))
	f.Add([]byte(""), []byte("xyz"), uint64(2))
	f.Add([]byte("\x00\x01\x02\x03"), []byte("\x00\x01\x02\x03"), uint64(3))
	f.Fuzz(func(t *testing.T, was, is []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		modes := []string{"100644", "100755", "120000", "160000", "40000", "100664"}
		// Two trees that have much in common, each with names out of few letters.
		build := func(letters []byte) ([]byte, map[string]side) {
			entries := map[string]side{}
			var lines []string
			for i, c := range letters {
				name := strings.Repeat(string(rune('a'+c%3)), 1+int(c>>2)%3) + []string{"", ".", "-", "0"}[c>>6]
				mode := modes[int(c)%len(modes)]
				if random.IntN(8) == 0 {
					mode = modes[random.IntN(len(modes))]
				}
				if _, ok := entries[name]; ok {
					continue
				}
				content := fmt.Sprint(int(c)+i%2, random.IntN(8)/7)
				content = strings.ReplaceAll(content, " ", "-")
				line := mode + " " + name + " " + content
				e, err := parseTree(newTree(line), idSize)
				if err != nil {
					t.Fatal(err)
				}
				id, _ := parseID(e[0].id)
				entries[name] = side{e[0].mode, id}
				lines = append(lines, line)
			}
			tree, err := sortTree(newTree(lines...))
			if err != nil {
				t.Fatal(err)
			}
			return tree, entries
		}
		a, old := build(was)
		b, now := build(is)
		want := map[string]string{}
		for name := range maps.Keys(old) {
			o, n := old[name], now[name]
			switch {
			case o == n:
			case (o.mode == modeDir) != (n.mode == modeDir) && n.mode != 0:
				want[name] = "DA"
			case n.mode == 0:
				want[name] = "D"
			default:
				want[name] = "M"
			}
		}
		for name := range maps.Keys(now) {
			if _, ok := old[name]; !ok {
				want[name] = "A"
			}
		}
		got := map[string]string{}
		err := compareTrees(a, b, func(name []byte, o, n side) {
			how := "M"
			switch {
			case o.mode == 0:
				how = "A"
			case n.mode == 0:
				how = "D"
			}
			// A file and a directory of one name come in git's order.
			all := got[string(name)] + how
			if all == "AD" {
				all = "DA"
			}
			got[string(name)] = all
		})
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%q\n%q\ngot %v, %v\nwant %v", a, b, got, err, want)
		}
		// Whatever comes instead of trees does no harm.
		_ = compareTrees(was, is, func([]byte, side, side) {})
		_ = compareTrees(a, is, func([]byte, side, side) {})
		_, _ = sortTree(was)
	})
}
