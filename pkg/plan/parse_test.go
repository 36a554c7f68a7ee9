package plan

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pipegen/pipegen/internal/gittest"
	"github.com/pipegen/pipegen/internal/parsecache"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/registry"
)

// project writes a project into a repository.
func project(t *testing.T, repo *gittest.Repository, dir, text, dockerfile string) {
	t.Helper()
	put(t, filepath.Join(repo.Dir, dir, "build-config.yaml"), text)
	put(t, filepath.Join(repo.Dir, dir, "Dockerfile"), dockerfile)
}

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// planned is the plan of everything in a checkout with all that is said
// beside it.
func planned(t *testing.T, dir, head, cache string) string {
	t.Helper()
	c, err := Open(t.Context(), Request{
		Dir: dir, Base: "HEAD", Head: head, Registry: "registry.example.com/images", Date: "2026-11-21", ParseCache: cache,
		Getenv: func(string) string { return "" }, ReadFile: os.ReadFile, Now: time.Now,
		Client: func(config.Publish) *registry.Client { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Repo.Close() //nolint:errcheck // only read from
	p, warnings, err := c.Plan(t.Context(), Selection{All: true})
	if err != nil {
		return fmt.Sprint(err, warnings)
	}
	data, err := p.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return string(data) + warnings.Error()
}

// cacheFile is the one file of a directory for caches.
func cacheFile(t *testing.T, dir string) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(all) != 1 {
		t.Fatalf("the directory for caches holds %q, %v", all, err)
	}
	return all[0]
}

// A cache changes nothing, whatever is in it, and wherever the files are read.
func TestParseCache(t *testing.T) {
	repo := gittest.Init(t)
	const onBase = "ARG PIPEGEN_REGISTRY\nARG V=latest\nFROM ${PIPEGEN_REGISTRY}:base-${V} AS one\nFROM scratch\nCOPY --from=one /a /b\n"
	put(t, filepath.Join(repo.Dir, "pipegen.yaml"), "defaults: {labels: {team: x}}\nrebuild_all: ['nothing/**']\n")
	project(t, repo, "p/base", "additional_tags: [latest]\n", "FROM alpine\n")
	project(t, repo, "p/app", "watch: [none]\noverrides: {linux/arm64: {target: one}}\n", onBase)
	project(t, repo, "p/two", "targets: [{name: a, target: one}, {name: b, target: missing}]\n", onBase)
	project(t, repo, "p/bad", "engine: buildkit\n", "FROM alpine\nRUM x\n")
	repo.Git("add", "-A")
	repo.Git("commit", "-q", "-m", "x")

	cache := filepath.Join(t.TempDir(), "new")
	check := func(what, head string) {
		t.Helper()
		want := planned(t, repo.Dir, head, "")
		for i := range 2 {
			if got := planned(t, repo.Dir, head, cache); got != want {
				t.Errorf("%s, run %d with a cache: got\n%s\nwithout one:\n%s", what, i, got, want)
			}
		}
	}
	check("faults", "")
	project(t, repo, "p/two", "targets: [{name: a, target: one}, {name: b}]\n", onBase+"FROM one AS b\n")
	check("work tree", "")
	repo.Git("commit", "-qam", "y")
	check("commit", "HEAD")
	check("clean work tree", "")
	file := cacheFile(t, cache)
	held := parsecache.Open(file, parsecache.Identity(), time.Now())
	if _, ok := held.Get(sha256.Sum256([]byte("Dockerfile " + config.Blob([]byte(onBase))))); !ok {
		t.Error("the cache does not hold a Dockerfile")
	}

	project(t, repo, "p/app", "name: other\n", "FROM scratch\n")
	check("change", "")
	put(t, file, "damaged")
	check("damage", "")
	if info, err := os.Stat(file); err != nil || info.Size() < 100 {
		t.Errorf("the damaged file was not replaced: %v, %v", info.Size(), err)
	}
	cache = filepath.Join(file, "below", "a file")
	check("no directory", "")
}

// Where nothing has changed nothing is written.
func TestParseCacheIsLeftAlone(t *testing.T) {
	repo := gittest.Init(t)
	project(t, repo, "p", "additional_tags: [latest]\n", "FROM alpine\n")
	repo.Git("add", "-A")
	repo.Git("commit", "-q", "-m", "x")
	cache := t.TempDir()
	planned(t, repo.Dir, "", cache)
	file := cacheFile(t, cache)
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, head := range []string{"", "HEAD"} {
		planned(t, repo.Dir, head, cache)
		if after, err := os.Stat(file); err != nil || !os.SameFile(before, after) {
			t.Errorf("head %q: the file was replaced, %v", head, err)
		}
	}
}
