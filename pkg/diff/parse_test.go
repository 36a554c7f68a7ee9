package diff

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

func TestAttribute(t *testing.T) {
	change := func(path string) Change { return Change{path, Modified} }
	byDir, rest := Attribute([]Change{change("a/b/c/f"), change("a/b/f"), change("a/bc"), change("a"), change("x/y"), change("a/b")}, []string{"a/b", "a/b/c", "x/y", "unused"})
	want := "map[a/b:[{a/b/f modified} {a/b modified}] a/b/c:[{a/b/c/f modified}] x/y:[{x/y modified}]] [{a/bc modified} {a modified}]"
	if got := fmt.Sprint(byDir, rest); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	byDir, rest = Attribute([]Change{change("a/f"), change("top")}, []string{".", "a"})
	if got := fmt.Sprint(byDir, rest); got != "map[.:[{top modified}] a:[{a/f modified}]] []" {
		t.Errorf("got %s", got)
	}
}

func FuzzAttribute(f *testing.F) {
	f.Add("a/b/c\na/d", "a\na/b")
	f.Add("x\ny/z", ".\ny")
	f.Fuzz(func(t *testing.T, paths, dirs string) {
		var changes []Change
		for p := range strings.SplitSeq(paths, "\n") {
			if checkPath(p) == nil {
				changes = append(changes, Change{p, Added})
			}
		}
		var known []string
		for d := range strings.SplitSeq(dirs, "\n") {
			if d == "." || checkPath(d) == nil {
				known = append(known, d)
			}
		}
		want, wantRest := map[string][]Change{}, []Change(nil)
		for _, c := range changes {
			best := ""
			for _, d := range known {
				if (d == "." || c.Path == d || strings.HasPrefix(c.Path, d+"/")) && (best == "" || best == "." || d != "." && len(d) > len(best)) {
					best = d
				}
			}
			if best == "" {
				wantRest = append(wantRest, c)
			} else {
				want[best] = append(want[best], c)
			}
		}
		got, rest := Attribute(changes, known)
		if fmt.Sprint(got, rest) != fmt.Sprint(want, wantRest) {
			t.Errorf("got %v %v\nwant %v %v", got, rest, want, wantRest)
		}
	})
}

func FuzzRawDiff(f *testing.F) {
	id := strings.Repeat("a", 40)
	f.Add([]byte(":100644 100644 " + id + " " + id + " M\x00a\nb\x00:000000 100644 " + id + " " + id + " A\x00c\x00"))
	f.Add([]byte(":100644 100644 " + id + " " + id + " R100\x00a\x00b\x00"))
	f.Add([]byte("\x00\x00"))
	f.Fuzz(func(t *testing.T, out []byte) {
		var again bytes.Buffer
		err := parseRawDiff(out, func(status byte, path string) error {
			if checkPath(path) != nil {
				t.Errorf("path %q", path)
			}
			fmt.Fprintf(&again, "%c\x00%s\x00", status, path)
			return nil
		})
		// Whatever is accepted is all there is: nothing is dropped in silence.
		if err == nil {
			fields := strings.Split(string(out), "\x00")
			var want strings.Builder
			for i := 0; i+1 < len(fields); i += 2 {
				fmt.Fprintf(&want, "%c\x00%s\x00", fields[i][len(fields[i])-1], fields[i+1])
			}
			if again.String() != want.String() {
				t.Errorf("got %q, want %q", again.String(), want.String())
			}
		}
	})
}

func FuzzTree(f *testing.F) {
	id := strings.Repeat("\xab", 20)
	f.Add([]byte("100644 a\x00"+id+"40000 d\x00"+id), 20)
	f.Add([]byte("100664 a\x00"+strings.Repeat("x", 32)), 32)
	f.Add([]byte("100644 ..\x00"+id), 20)
	f.Fuzz(func(t *testing.T, data []byte, idLen int) {
		if idLen != 20 && idLen != 32 {
			return
		}
		entries, err := parseTree(data, idLen)
		if err != nil {
			return
		}
		size := 0
		for _, e := range entries {
			if checkPath(e.name) != nil || strings.Contains(e.name, "/") {
				t.Errorf("name %q", e.name)
			}
			id, err := hex.DecodeString(e.id)
			if err != nil || !bytes.Contains(data, append([]byte(e.name+"\x00"), id...)) {
				t.Errorf("entry %v is not in %q", e, data)
			}
			size += len(e.name) + 2 + idLen
		}
		if size > len(data) || len(data) > size+7*len(entries) {
			t.Errorf("%d bytes gave %v", len(data), entries)
		}
	})
}
