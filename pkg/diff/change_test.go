package diff

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func chmod(c *clone, name string, mode os.FileMode) {
	c.t.Helper()
	if err := os.Chmod(filepath.Join(c.dir, name), mode); err != nil {
		c.t.Fatal(err)
	}
}

// Each scenario changes a work tree. It is looked at three times: before it
// is staged, staged, and committed.
func TestChanges(t *testing.T) {
	template := newRepo(t)
	template.link("a", "link")
	template.write("kept/k.log", "1")
	template.git("add", "-f", "kept/k.log")
	base := template.commit("a", "1", "d/one", "1", "d/two/x", "1", "odd/n\nn\xff", "1", ".gitignore", "*.log\nout/\n")
	for _, test := range []struct {
		name string
		do   func(*clone)
		want string
	}{
		{"nothing", func(*clone) {}, ""},
		{"content", func(c *clone) { c.write("a", "2") }, `M "a"`},
		{"added, deleted", func(c *clone) { c.write("n/n", "1"); c.write("d/one", "") }, `D "d/one" A "n/n"`},
		{"renamed", func(c *clone) { c.write("d/one", ""); c.write("e/one", "1") }, `D "d/one" A "e/one"`},
		{"directory renamed", func(c *clone) { _ = os.Rename(filepath.Join(c.dir, "d"), filepath.Join(c.dir, "z")) },
			`D "d/one" D "d/two/x" A "z/one" A "z/two/x"`},
		{"mode", func(c *clone) { chmod(c, "a", 0o755) }, `M "a"`},
		{"other mode bits", func(c *clone) { chmod(c, "a", 0o600) }, ""},
		{"link text", func(c *clone) { c.write("link", ""); c.link("d", "link") }, `M "link"`},
		{"what a link names", func(c *clone) { c.write("d/one", "2") }, `M "d/one"`},
		{"file to link", func(c *clone) { c.write("a", ""); c.link("d/one", "a") }, `M "a"`},
		{"link to file", func(c *clone) { c.write("link", ""); c.write("link", "a") }, `M "link"`},
		{"file to directory", func(c *clone) { c.write("a", ""); c.write("a/x", "1") }, `D "a" A "a/x"`},
		{"directory to file", func(c *clone) { c.write("d", ""); c.write("d", "1") }, `A "d" D "d/one" D "d/two/x"`},
		{"directory to link", func(c *clone) {
			_ = os.Rename(filepath.Join(c.dir, "d"), filepath.Join(c.dir, "real"))
			c.link("real", "d")
		}, `A "d" D "d/one" D "d/two/x" A "real/one" A "real/two/x"`},
		{"sorted between", func(c *clone) { c.write("a-b", "1"); c.write("a.b", "1"); c.write("d-", "1"); c.write("d0", "1") }, `A "a-b" A "a.b" A "d-" A "d0"`},
		{"case only", func(c *clone) { c.write("a", ""); c.write("A", "1") }, `A "A" D "a"`},
		{"odd names", func(c *clone) {
			for _, name := range []string{"a b", `q"q`, "t\tt", "n\nn", "ü/日本", "bad\xff", "-rf", `back\slash`, "*", "  "} {
				c.write(name, "1")
			}
		}, `A "  " A "*" A "-rf" A "a b" A "back\\slash" A "bad\xff" A "n\nn" A "q\"q" A "t\tt" A "ü/日本"`},
		{"odd names modified", func(c *clone) { c.write("odd/n\nn\xff", "2") }, `M "odd/n\nn\xff"`},
		{"attributes", func(c *clone) { c.write(".gitattributes", "* text\n") }, `A ".gitattributes"`},
		{"ignored", func(c *clone) { c.write("x.log", "1"); c.write("d/x.log", "1"); c.write("out/f", "1") }, ""},
		{"tracked though ignored", func(c *clone) { c.write("kept/k.log", "2") }, `M "kept/k.log"`},
		{"everything", func(c *clone) { c.git("rm", "-q", "-r", "."); c.write(".gitignore", "*.log\nout/\n") },
			`D "a" D "d/one" D "d/two/x" D "kept/k.log" D "link" D "odd/n\nn\xff"`},
		{"empty file", func(c *clone) { _ = os.WriteFile(filepath.Join(c.dir, "a"), nil, 0o600) }, `M "a"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := template.copied(t)
			test.do(c)
			look := func(when, head string) {
				both(t, c.dir, func(t *testing.T, r *Repo) {
					got, err := r.Changes(t.Context(), base, head)
					if err != nil || strings.ReplaceAll(strings.TrimSpace(text(got)), "\n", " ") != test.want {
						t.Errorf("%s: got %v\n%s\nwant %s", when, err, text(got), test.want)
					}
				})
			}
			look("unstaged", "")
			c.git("add", "-A")
			look("staged", "")
			c.commit()
			look("committed", "HEAD")
		})
	}
}

func TestChangesFromNothing(t *testing.T) {
	c := newRepo(t)
	c.commit("a", "1", "d/b", "1")
	c.write("u", "1")
	both(t, c.dir, func(t *testing.T, r *Repo) {
		for head, want := range map[string]string{"HEAD": "A \"a\"\nA \"d/b\"\n", "": "A \"a\"\nA \"d/b\"\nA \"u\"\n"} {
			if got, err := r.Changes(t.Context(), "", head); err != nil || text(got) != want {
				t.Errorf("%q: got %v\n%s", head, err, text(got))
			}
		}
	})
	// A commit whose tree is empty, which no repository stores.
	c.git("rm", "-q", "-r", "--cached", ".")
	c.git("commit", "-q", "-m", "empty")
	both(t, c.dir, func(t *testing.T, r *Repo) {
		if got, err := r.Changes(t.Context(), "HEAD~1", "HEAD"); err != nil || text(got) != "D \"a\"\nD \"d/b\"\n" {
			t.Errorf("got %v\n%s", err, text(got))
		}
		if got, err := r.Changes(t.Context(), "HEAD", "HEAD~1"); err != nil || text(got) != "A \"a\"\nA \"d/b\"\n" {
			t.Errorf("got %v\n%s", err, text(got))
		}
	})
}
