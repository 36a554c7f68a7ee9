package diff

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/internal/gittest"
	"github.com/pipegen/pipegen/pkg/failure"
)

// many is a bare repository with two commits and 300 projects, all of which
// the second changes.
func many(t *testing.T) (c *clone, base, head string) {
	t.Helper()
	c = newRepo(t, "--bare")
	var b strings.Builder
	for n, name := range []string{"base", "main"} {
		fmt.Fprintf(&b, "commit refs/heads/%s\ncommitter C <c@example.org> %d +0000\ndata 0\n", name, 1_000_000_000+n)
		if n > 0 {
			b.WriteString("from refs/heads/base\n")
		}
		for i := range 300 {
			text := fmt.Sprintf("name: p%d-%d", i, n)
			fmt.Fprintf(&b, "M 644 inline area%d/team/p%d/build-config.yaml\ndata %d\n%s\n", i%10, i, len(text), text)
		}
	}
	c.fastImport(b.String())
	ids := strings.Fields(c.git("rev-parse", "base", "main"))
	c.git("config", "uploadpack.allowFilter", "true")
	c.git("config", "uploadpack.allowAnySHA1InWant", "true")
	return c, ids[0], ids[1]
}

// What a partial clone lacks is fetched in a few requests, however much it is.
func TestPartialCloneIsFilledInBulk(t *testing.T) {
	t.Parallel()
	c, base, head := many(t)
	var paths []string
	for i := range 300 {
		paths = append(paths, fmt.Sprintf("area%d/team/p%d/build-config.yaml", i%10, i))
	}
	server, address := c.serve()
	for filter, depth := range map[string]string{"blob:none": "2", "tree:0": "1", "tree:2": "2"} {
		template := c.cloned("--filter="+filter, "--depth="+depth, "--no-checkout")
		template.fetchesFrom(address)
		for backend, program := range backends(t) {
			t.Run(filter+"/"+backend, func(t *testing.T) {
				down := template.copied(t)
				before := down.state()
				r := opened(t, down.dir, program)
				server.Requests()
				got, err := r.Base(t.Context(), CI{System: "gitlab", Event: EventPush, Base: base}, "", Commit{Hash: head, Parents: []string{base}})
				if err != nil || got.Commit != base {
					t.Fatalf("got %+v, %v", got, err)
				}
				changes, err := r.Changes(t.Context(), base, head)
				if err != nil || len(changes) != 300 {
					t.Fatalf("got %d changes, %v", len(changes), err)
				}
				trees := posts(server)
				for _, rev := range []string{head, base} {
					contents, err := r.Contents(t.Context(), rev, paths)
					if err != nil || len(contents) != 300 || !strings.HasPrefix(string(contents[paths[7]]), "name: p7-") {
						t.Fatalf("got %d files, %q, %v", len(contents), contents[paths[7]], err)
					}
					entries, err := r.Entries(t.Context(), rev)
					if err != nil || len(entries) != 300 {
						t.Fatalf("got %d entries, %v", len(entries), err)
					}
				}
				blobs := posts(server)
				t.Logf("requests: %d for the changes, %d for 600 files", trees, blobs)
				if trees > 3 || blobs > 3 {
					t.Errorf("%d requests for the changes, %d for the files", trees, blobs)
				}
				if program == "" {
					down.unharmed(before)
				}
			})
		}
	}
}

func posts(s *gittest.Server) int {
	return len(slices.DeleteFunc(s.Requests(), func(r string) bool { return !strings.HasPrefix(r, "POST") }))
}

// The files of a base that was fetched can be read.
func TestFilesOfAFetchedBase(t *testing.T) {
	t.Parallel()
	c, base, _ := many(t)
	server, address := c.serve()
	template := c.cloned("--depth=1", "--no-checkout")
	template.fetchesFrom(address)
	for name, program := range backends(t) {
		r := opened(t, template.copied(t).dir, program)
		if got, _, err := pushed(t, r, base); err != nil || got.Commit != base {
			t.Fatalf("%s: got %+v, %v", name, got, err)
		}
		server.Requests()
		paths := []string{"area0/team/p0/build-config.yaml", "area1/team/p1/build-config.yaml"}
		files, err := r.Contents(t.Context(), base, paths)
		if err != nil || string(files[paths[0]]) != "name: p0-0" || string(files[paths[1]]) != "name: p1-0" || posts(server) > 1 {
			t.Errorf("%s: got %q, %v", name, files, err)
		}
	}
}

// What a partial clone lacks and nobody gives is an error that says so, not an
// unchanged file.
func TestPartialCloneCutOff(t *testing.T) {
	t.Parallel()
	c, base, head := many(t)
	for _, filter := range []string{"blob:none", "tree:0"} {
		template := c.cloned("--filter="+filter, "--no-checkout")
		template.fetchesFrom("http://user:s3cr3t@127.0.0.1:1/x.git")
		for name, program := range backends(t) {
			r := opened(t, template.dir, program)
			check := func(what string, err error) {
				t.Helper()
				if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "what this partial clone left out is not in this clone, and fetching it failed: ") ||
					strings.Contains(err.Error(), "s3cr3t") || failure.Hint(err) == "" {
					t.Errorf("%s, %s: %v", name, what, err)
				}
			}
			changes, err := r.Changes(t.Context(), base, head)
			if filter == "blob:none" {
				if err != nil || len(changes) != 300 {
					t.Errorf("%d changes, %v", len(changes), err)
				}
			} else {
				check("changes", err)
			}
			_, err = r.Contents(t.Context(), head, []string{"area1/team/p1/build-config.yaml"})
			check("contents", err)
			if filter != "blob:none" {
				_, err = r.Entries(t.Context(), head)
				check("entries", err)
			}
		}
	}
}

func TestPartialCloneOfARemoteThatHangs(t *testing.T) {
	t.Parallel()
	c, base, head := many(t)
	_, address := c.serve(hangs)
	template := c.cloned("--filter=tree:0", "--no-checkout")
	template.fetchesFrom(address)
	for _, program := range backends(t) {
		r := opened(t, template.dir, program)
		switch b := r.backend.(type) {
		case *store:
			b.time = 500 * time.Millisecond
		case *gitProgram:
			b.own.time = 500 * time.Millisecond
		}
		if _, err := r.Changes(t.Context(), base, head); !errors.Is(err, ErrMissing) || !strings.HasSuffix(err.Error(), "the remote took longer than 500ms") {
			t.Errorf("got %v", err)
		}
		if left := processes(t, address); len(left) > 0 {
			t.Errorf("still running: %q", left)
		}
	}
}
