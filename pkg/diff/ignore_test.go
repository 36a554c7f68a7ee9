package diff

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestIgnorePatterns(t *testing.T) {
	c := newRepo(t)
	names := []string{
		"a", "b", "ab", "a.c", "a.log", "#c", "!d", "e ", "x/a", "x/b", "x/y/a", "x/y/z/a", "x/y/z/b.log", "dir/f", "x/dir/f", "build/out/f", "B", "é", "[", "]", "-", "a]", "a\\b", "x/.gitkeep", "*", "**", "x/**", "7", "_",
	}
	for _, name := range names {
		c.write(name, "1")
	}
	lines := []string{
		"a", "/a", "*.log", "!a.log", "x/", "x/*", "/x/y", "**/a", "x/**", "x/**/a", "**/y/**", "a*", "?", "[ab]", "[!ab]", "[^ab]", "[a-c]", "[]]", "[]-]", "[[:alpha:]]", "[[:digit:]_]", "[[:nope:]]",
		"\\#c", "#c", "\\!d", "!d", "e\\ ", "e ", "dir/", "!dir/", "dir", "build/out", "x/y/", "*", "!*/", "!x/y/z/b.log", "[", "a\\", "\\*", "**", "x**", "a**c", "**/", "/", "//", "x//a", "é", "[é]", "[a", "[a-", "a/**", "x/y/**/b.log", "\t", "x\\/a", "a\\\\b", "[\\]]", "[\\\\]", "[a-\\c]", "a ", " a", "\\", "x/**y", "*/a", "*/*/a", "/**/a", "**/*.log", "[[:]", "[[a]", "[!]a]", "[--0]", "a\r",
	}
	check := func(label, root, below string) {
		t.Helper()
		c.write(".gitignore", root)
		c.write("x/.gitignore", below)
		cmd := exec.Command("git", "-C", c.dir, "ls-files", "-z", "-o", "--exclude-standard")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		got, err := opened(t, c.dir, "").Files(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		if string(out) == "" {
			want = nil
		}
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Errorf("%s\n%q and %q:\ngot  %q\nwant %q", label, root, below, got, want)
		}
	}
	for _, line := range lines {
		check("one line", line+"\n", "")
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		var root, below string
		for range 1 + random.IntN(4) {
			root += lines[random.IntN(len(lines))] + "\n"
		}
		for range random.IntN(3) {
			below += lines[random.IntN(len(lines))] + "\n"
		}
		check(fmt.Sprintf("seed %d", seed), root, below)
	}
}

func TestIgnoreFilesOfUserAndRepository(t *testing.T) {
	c := newRepo(t)
	config := t.TempDir()
	for name, content := range map[string]string{"ignore": "*.user\n*.both\n", "other": "*.named\n"} {
		if err := os.MkdirAll(filepath.Join(config, "git"), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(config, "git", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("XDG_CONFIG_HOME", config)
	c.commit(".git/info/exclude", "!x.both\n*.repo\n", "keep", "1")
	for _, name := range []string{"a.user", "a.both", "x.both", "a.repo", "a.named"} {
		c.write(name, "1")
	}
	check := func(want string) {
		t.Helper()
		both(t, c.dir, func(t *testing.T, r *Repo) {
			got, err := r.Files(t.Context(), "")
			if err != nil || strings.Join(got, " ") != want {
				t.Errorf("got %q, %v, want %s", got, err, want)
			}
		})
	}
	check("a.named keep x.both")
	c.git("config", "core.excludesFile", filepath.Join(config, "git", "other"))
	check("a.both a.user keep x.both")
}

func FuzzIgnore(f *testing.F) {
	f.Add("*.log\n!a/**/b\n[[:alpha:]-]x\\ \n", "a/b/c.log", true)
	f.Add("[[[[", "[", false)
	f.Add(strings.Repeat("*a", 60), strings.Repeat("a", 120), false)
	f.Fuzz(func(_ *testing.T, text, path string, dir bool) {
		if len(text) > 1000 || len(path) > 300 {
			return
		}
		// It ends, and panics at nothing.
		isIgnored(parseIgnore(text, ""), path, dir)
		isIgnored(parseIgnore(text, "a"), path, dir)
	})
}
