package diff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/internal/gittest"
	"github.com/pipegen/pipegen/pkg/failure"
)

// serve serves a repository over HTTP and gives its address there.
func (c *clone) serve(wrap ...func(http.Handler) http.Handler) (*gittest.Server, string) {
	c.t.Helper()
	s := gittest.Serve(c.t, filepath.Dir(c.dir), wrap...)
	address := s.URL + "/" + filepath.Base(c.dir)
	if _, err := os.Stat(filepath.Join(c.dir, ".git")); err == nil {
		address += "/.git"
	}
	return s, address
}

// pushed is the base of a push, or why there is none.
func pushed(t *testing.T, r *Repo, base string) (Base, Commit, error) {
	t.Helper()
	head, err := r.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.Base(t.Context(), CI{System: "gitlab", Event: EventPush, Base: base, baseFrom: "CI_COMMIT_BEFORE_SHA"}, "", head)
	return got, head, err
}

// fetchesFrom has the clone fetch from another address.
func (c *clone) fetchesFrom(address string) {
	c.t.Helper()
	name := filepath.Join(c.dir, ".git", "config")
	text, err := os.ReadFile(name)
	if err == nil {
		err = os.WriteFile(name, regexp.MustCompile(`url = .*`).ReplaceAll(text, []byte("url = "+address)), 0o600)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// state is what must not change in a clone because a fetch failed: all but its
// objects.
func (c *clone) state() string {
	c.t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(filepath.Join(c.dir, ".git"), func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "objects":
			return filepath.SkipDir
		case d.IsDir():
			return nil
		}
		text, err := os.ReadFile(name)
		fmt.Fprintf(&b, "%s %q\n", strings.TrimPrefix(name, c.dir), text)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return b.String()
}

// unharmed says that a clone is as it was, and whole.
func (c *clone) unharmed(before string) {
	c.t.Helper()
	if after := c.state(); after != before {
		c.t.Errorf("the clone was\n%s\nand is\n%s", before, after)
	}
	c.git("fsck", "--connectivity-only", "--no-dangling")
}

// answered is what a handler answers, to be changed.
func answered(next http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	next.ServeHTTP(w, r)
	return w
}

func replay(w http.ResponseWriter, res *httptest.ResponseRecorder, body []byte) {
	maps.Copy(w.Header(), res.Header())
	w.WriteHeader(res.Code)
	_, _ = w.Write(body)
}

// onPack lets f answer requests for packs.
func onPack(f func(w http.ResponseWriter, r *http.Request, next http.Handler)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			if err == nil && r.Method == http.MethodPost && bytes.Contains(body, []byte("want ")) {
				f(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// emptyPack answers as if there were nothing to send.
const emptyPack = "000dpackfile\n" + "0025\x01PACK\x00\x00\x00\x02\x00\x00\x00\x00\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e" + "0000"

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func hangs(http.Handler) http.Handler { return http.HandlerFunc(hang) }

// Whatever a remote does, there is an answer, and the clone is as good as before.
func TestBadRemotes(t *testing.T) {
	t.Parallel()
	c, ids := long(t)
	template := c.cloned("--depth=3", "--single-branch", "--no-checkout")
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"hangs":                 func(http.Handler) http.Handler { return http.HandlerFunc(hang) },
		"hangs before the pack": onPack(func(w http.ResponseWriter, r *http.Request, _ http.Handler) { hang(w, r) }),
		"hangs in the pack": onPack(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			res := answered(next, r)
			res.Header().Del("Content-Length")
			replay(w, res, res.Body.Bytes()[:res.Body.Len()/2])
			w.(http.Flusher).Flush()
			hang(w, r)
		}),
		"fails": func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) })
		},
		"fails at the pack": onPack(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			http.Error(w, "no", http.StatusInternalServerError)
		}),
		"sends nothing": onPack(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		}),
		"sends a pack without the commit": onPack(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if body, _ := io.ReadAll(r.Body); !bytes.Contains(body, []byte("done\n")) {
				r.Body = io.NopCloser(bytes.NewReader(body))
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
			_, _ = io.WriteString(w, emptyPack)
		}),
		"sends a damaged pack": onPack(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			res := answered(next, r)
			body := res.Body.Bytes()
			if at := bytes.Index(body, []byte("PACK")); at >= 0 {
				body[at+16] ^= 0x55
				body[at+17] ^= 0x55
			}
			replay(w, res, body)
		}),
		"stops in the pack": onPack(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			res := answered(next, r)
			res.Header().Del("Content-Length")
			replay(w, res, res.Body.Bytes()[:res.Body.Len()*3/4])
		}),
		"sends another commit": onPack(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(strings.NewReader(strings.ReplaceAll(string(body), "want "+ids["main~30"], "want "+ids["main~5"])))
			next.ServeHTTP(w, r)
		}),
		"sends a web page": func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>sign in</html>") })
		},
		"redirects elsewhere": func(http.Handler) http.Handler {
			return http.RedirectHandler("http://localhost:1/x", http.StatusFound)
		},
		"knows no hashes and lies about its refs": func(next http.Handler) http.Handler {
			return gittest.Version0(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				res := answered(next, r)
				replay(w, res, bytes.ReplaceAll(res.Body.Bytes(), []byte(ids["main"]), bytes.Repeat([]byte("ab"), 20)))
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, address := (&clone{t, c.dir}).serve(wrap)
			for backend, program := range backends(t) {
				t.Run(backend, func(t *testing.T) {
					down := template.copied(t)
					down.fetchesFrom(strings.Replace(address, "://", "://user:s3cr3t@", 1))
					before := down.state()
					r := opened(t, down.dir, program)
					hangs := strings.HasPrefix(name, "hangs")
					if hangs {
						r.fetchTime = 400 * time.Millisecond
					}
					base, head, err := pushed(t, r, ids["main~30"])
					if err != nil || base.Usable || !strings.Contains(base.Why, " is not in this clone (shallow): ") || strings.Contains(base.Why, "s3cr3t") {
						t.Errorf("got %+v, %v", base, err)
					}
					if hangs != strings.HasSuffix(base.Why, "the remote took longer than 400ms") {
						t.Errorf("why %q", base.Why)
					}
					t.Log(base.Why)
					down.unharmed(before)
					if left := processes(t, address); len(left) > 0 {
						t.Errorf("still running: %q", left)
					}
					if hangs {
						return
					}
					if _, err := r.Base(t.Context(), CI{System: "gitlab", Event: EventPush}, ids["main~30"], head); !errors.Is(err, failure.ErrInput) || strings.Contains(err.Error(), "s3cr3t") {
						t.Errorf("--base: %v", err)
					}
				})
			}
		})
	}
}

// processes gives the command lines of running programs that name a server.
// Where the system does not show them there are none.
func processes(t *testing.T, address string) []string {
	t.Helper()
	host := strings.TrimPrefix(address, "http://")
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		found = nil
		for _, name := range names {
			if line, err := os.ReadFile(name); err == nil && bytes.Contains(line, []byte(host)) {
				found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
			}
		}
		if len(found) == 0 || time.Now().After(deadline) {
			return found
		}
	}
}

// A fetch ends with its context, and nothing of it is left.
func TestFetchIsCancelled(t *testing.T) {
	t.Parallel()
	c, ids := long(t)
	started := make(chan struct{}, 10)
	_, address := c.serve(onPack(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		started <- struct{}{}
		<-r.Context().Done()
	}))
	template := c.cloned("--depth=3", "--single-branch", "--no-checkout")
	template.fetchesFrom(address)
	for name, program := range backends(t) {
		t.Run(name, func(t *testing.T) {
			down := template.copied(t)
			before := down.state()
			r := opened(t, down.dir, program)
			head, err := r.Head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				<-started
				cancel()
			}()
			if base, err := r.Base(ctx, CI{System: "gitlab", Event: EventPush, Base: ids["main~30"]}, "", head); !errors.Is(err, context.Canceled) {
				t.Errorf("got %+v, %v", base, err)
			}
			if left := processes(t, address); len(left) > 0 {
				t.Errorf("still running: %q", left)
			}
			down.unharmed(before)
		})
	}
}

// Servers differ in what they give out by hash, and in what they can leave out.
func TestServers(t *testing.T) {
	t.Parallel()
	c, ids := long(t)
	template := c.cloned("--depth=2", "--single-branch", "--no-checkout")
	names := map[string][]Change{}
	for from, to := range map[string]string{"main~100": "main", "topic~20": "main"} {
		names[from] = nameStatus(t, c.git("diff", "--name-status", "-z", "--no-renames", ids[from], ids[to]))
	}
	for name, server := range map[string]struct {
		settings string
		wrap     []func(http.Handler) http.Handler
	}{
		"version 2":                              {"uploadpack.allowFilter=true", nil},
		"version 2 without filters":              {"", nil},
		"version 0, reachable hashes":            {"uploadpack.allowReachableSHA1InWant=true", []func(http.Handler) http.Handler{gittest.Version0}},
		"version 0, refs alone":                  {"uploadpack.allowFilter=true", []func(http.Handler) http.Handler{gittest.Version0}},
		"version 0, refs alone, without filters": {"", []func(http.Handler) http.Handler{gittest.Version0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := c.copied(t)
			for setting := range strings.FieldsSeq(server.settings) {
				key, value, _ := strings.Cut(setting, "=")
				up.git("config", key, value)
			}
			s, address := up.serve(server.wrap...)
			for backend, program := range backends(t) {
				t.Run(backend, func(t *testing.T) {
					down := template.copied(t)
					down.fetchesFrom(address)
					before := down.state()
					r := opened(t, down.dir, program)
					s.Requests()
					base, head, err := pushed(t, r, ids["main~100"])
					if err != nil || base.Commit != ids["main~100"] {
						t.Fatalf("got %+v, %v", base, err)
					}
					t.Logf("%d requests", len(s.Requests()))
					if got, err := r.Changes(t.Context(), base.Commit, head.Hash); err != nil || !slices.Equal(got, names["main~100"]) {
						t.Errorf("%v: got\n%s\nwant\n%s", err, text(got), text(names["main~100"]))
					}
					if program == "" {
						down.unharmed(before)
					}
					if strings.Contains(name, "refs alone") {
						// Of a branch that this clone knows nothing of.
						if base, _, err := pushed(t, r, ids["topic~5"]); err != nil || base.Usable ||
							!strings.HasSuffix(base.Why, errNotOnBranches.Error()) && !strings.HasSuffix(base.Why, "this clone has the head's whole history without it") {
							t.Errorf("got %+v, %v", base, err)
						}
					}
					// A merge-base that nobody asks for by name.
					base, err = r.Base(t.Context(), CI{System: "gitlab", Event: EventMergeRequest, Base: ids["topic"]}, "", head)
					if err != nil || base.Commit != ids["topic~20"] {
						t.Fatalf("got %+v, %v", base, err)
					}
					if got, err := r.Changes(t.Context(), base.Commit, head.Hash); err != nil || !slices.Equal(got, names["topic~20"]) {
						t.Errorf("%v: got\n%s\nwant\n%s", err, text(got), text(names["topic~20"]))
					}
				})
			}
		})
	}
}

// What is fetched without git is bounded.
func TestTooMuch(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	c, ids := long(t)
	_, address := c.serve()
	down := c.cloned("--depth=3", "--single-branch", "--no-checkout")
	down.fetchesFrom(address)
	before := down.state()
	r := opened(t, down.dir, "")
	r.backend.(*store).up.left = 100
	if base, _, err := pushed(t, r, ids["main~30"]); err != nil || base.Usable || !strings.HasSuffix(base.Why, ": the remote sends more than 1024 MB") {
		t.Errorf("got %+v, %v", base, err)
	}
	down.unharmed(before)
	if left, err := filepath.Glob(filepath.Join(temporary, "pipegen-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}
