package engine

import (
	"context"
	"errors"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// gitServer serves the repositories below a directory over git's smart HTTP,
// as git's own CGI program does it.
type gitServer struct {
	*httptest.Server
	dir string
	// Password that is asked for; empty: none.
	password string
	// Requests, and the users that were sent, in order.
	requests atomic.Int32
	mu       sync.Mutex
	users    []string
	// Breaks off the first answers.
	broken atomic.Int32
	// Where requests are sent on to; empty: nowhere.
	redirect string
}

func newGitServer(t *testing.T) *gitServer {
	t.Helper()
	s := &gitServer{dir: t.TempDir()}
	backend := &cgi.Handler{
		Path: filepath.Join(gitRun(t, s.dir, "--exec-path"), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + s.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null"},
	}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		user, password, _ := r.BasicAuth()
		s.mu.Lock()
		s.users = append(s.users, user)
		s.mu.Unlock()
		if s.broken.Add(-1) >= 0 {
			panic(http.ErrAbortHandler)
		}
		if s.redirect != "" {
			http.Redirect(w, r, s.redirect+r.URL.RequestURI(), http.StatusMovedPermanently)
			return
		}
		if s.password != "" && password != s.password {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *gitServer) seen() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.users, " ")
}

func (s *gitServer) host(t *testing.T) (host, port string) {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Hostname(), u.Port()
}

// project makes a repository with a history of three commits: v1 (annotated),
// v2 and main, and gives their names.
func (s *gitServer) project(t *testing.T, name string) (dir string, commits map[string]string) {
	t.Helper()
	dir = filepath.Join(s.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	gitRun(t, dir, "init", "-q")
	commits = map[string]string{}
	for _, step := range []string{"v1", "v2", "main"} {
		write(t, dir, map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n", "version": step, "sub/run.sh": "#!/bin/sh\n", "sub/deep/ümlaut x": step})
		if step == "v1" {
			if err := os.Symlink("sub/run.sh", filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
		}
		gitRun(t, dir, "add", "-A")
		gitRun(t, dir, "commit", "-qm", step)
		commits[step] = gitRun(t, dir, "rev-parse", "HEAD")
		switch step {
		case "v1":
			gitRun(t, dir, "tag", "-am", "one", "v1")
		case "v2":
			gitRun(t, dir, "tag", "v2")
			gitRun(t, dir, "branch", "stable")
			gitRun(t, dir, "branch", "both")
			gitRun(t, dir, "tag", "both")
		}
	}
	return dir, commits
}

func noEnv(string) string { return "" }

func TestResolveRef(t *testing.T) {
	t.Parallel()
	s := newGitServer(t)
	dir, commits := s.project(t, "app")
	gitRun(t, s.dir, "init", "-q", "empty")
	sha := strings.Repeat("0123456789", 4)
	tests := []struct{ name, repo, ref, want, err, hint string }{
		{name: "annotated tag", ref: "v1", want: commits["v1"]},
		{name: "tag", ref: "v2", want: commits["v2"]},
		{name: "branch", ref: "main", want: commits["main"]},
		{name: "full name", ref: "refs/heads/stable", want: commits["v2"]},
		{name: "full name of an annotated tag", ref: "refs/tags/v1", want: commits["v1"]},
		{name: "HEAD", ref: "HEAD", want: commits["main"]},
		{name: "commit", repo: "http://127.0.0.1:1/nowhere", ref: sha, want: sha},
		{name: "both", ref: "both", err: `"both" is both a tag and a branch`, hint: "write refs/tags/both or refs/heads/both"},
		{name: "one of both", ref: "refs/tags/both", want: commits["v2"]},
		{name: "neither", ref: "nope", err: `has no tag or branch "nope"`},
		{name: "not a full name", ref: "refs/heads/v1", err: `has no tag or branch "refs/heads/v1"`},
		{name: "part of a commit", ref: commits["v1"][:12], err: "has no tag or branch", hint: "a commit needs all 40 digits"},
		{name: "no repository", repo: s.URL + "/nope", ref: "v1", err: "/nope: not found", hint: "check upstream_repo, and upstream_auth if the repository is private"},
		{name: "empty repository", repo: s.URL + "/empty", ref: "v1", err: "the repository is empty"},
		{name: "unknown protocol", repo: "ftp://x/y", ref: "v1", err: `protocol "ftp" is not known`},
		{name: "path of this machine", repo: dir, ref: "v2", want: commits["v2"]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			repo := tt.repo
			if repo == "" {
				repo = s.URL + "/app"
			}
			got, err := ResolveRef(t.Context(), repo, tt.ref, nil, noEnv)
			if tt.err == "" {
				if err != nil || got != tt.want {
					t.Errorf("got %s, %v; want %s", got, err, tt.want)
				}
				return
			}
			if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), tt.err) || failure.Hint(err) != tt.hint {
				t.Errorf("got %q, %v (%s); want %s", got, err, failure.Hint(err), tt.err)
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	s := newGitServer(t)
	_, commits := s.project(t, "app")
	s.password = "t0ken-of-the-server"
	host, port := s.host(t)
	tests := []struct {
		name string
		auth *config.UpstreamAuth
		env  map[string]string
		user string // that the server was sent; "": an error
		err  string
	}{
		{name: "token", auth: &config.UpstreamAuth{TokenEnv: "T"}, env: map[string]string{"T": s.password}, user: "oauth2"},
		{name: "wrong token", auth: &config.UpstreamAuth{TokenEnv: "T"}, env: map[string]string{"T": "other-token"}, err: "the credential is refused"},
		{name: "no token", auth: &config.UpstreamAuth{TokenEnv: "T"}, err: "environment variable T is not set"},
		{name: "none", err: "it asks for a credential"},
		{name: "job", env: map[string]string{"CI_JOB_TOKEN": s.password, "CI_SERVER_HOST": host, "CI_SERVER_PORT": port}, user: "gitlab-ci-token"},
		{name: "job without a port", env: map[string]string{"CI_JOB_TOKEN": s.password, "CI_SERVER_HOST": host}, user: "gitlab-ci-token"},
		{name: "job of another host", env: map[string]string{"CI_JOB_TOKEN": s.password, "CI_SERVER_HOST": "localhost", "CI_SERVER_PORT": port}, err: "it asks for a credential"},
		{name: "job of another port", env: map[string]string{"CI_JOB_TOKEN": s.password, "CI_SERVER_HOST": host, "CI_SERVER_PORT": "443"}, err: "it asks for a credential"},
		{name: "key for http", auth: &config.UpstreamAuth{SSHKeyEnv: "K"}, env: map[string]string{"K": "-----BEGIN"}, err: "wants an ssh URL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.mu.Lock()
			s.users = nil
			s.mu.Unlock()
			got, err := ResolveRef(t.Context(), s.URL+"/app", "v1", tt.auth, func(name string) string { return tt.env[name] })
			if tt.user != "" {
				if err != nil || got != commits["v1"] || s.seen() != tt.user {
					t.Errorf("got %s, %v; users %q", got, err, s.seen())
				}
				return
			}
			if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "token-") || strings.Contains(err.Error(), s.password) {
				t.Errorf("got %v, want %s", err, tt.err)
			}
			if tt.auth == nil && strings.Trim(s.seen(), " ") != "" {
				t.Errorf("the server was sent %q", s.seen())
			}
		})
	}
	_, err := ResolveRef(t.Context(), "http://git.example.org/app", "v1", &config.UpstreamAuth{TokenEnv: "T"}, func(string) string { return "x" })
	if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "over https only") {
		t.Errorf("a token over plain HTTP: %v", err)
	}
	for _, key := range []string{"/nope", "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----"} {
		_, err = ResolveRef(t.Context(), "git@git.example.org:app", "v1", &config.UpstreamAuth{SSHKeyEnv: "K"}, func(string) string { return key })
		if !errors.Is(err, failure.ErrInput) || strings.Contains(err.Error(), "BEGIN") || !strings.Contains(err.Error(), "K") {
			t.Errorf("a bad key: %v", err)
		}
	}
}

func TestCredentialStaysOnRedirect(t *testing.T) {
	t.Parallel()
	s, other := newGitServer(t), newGitServer(t)
	_, commits := other.project(t, "app")
	s.redirect = other.URL
	host, port := s.host(t)
	env := map[string]string{"CI_JOB_TOKEN": "t0ken", "CI_SERVER_HOST": host, "CI_SERVER_PORT": port, "T": "t0ken"}
	for _, auth := range []*config.UpstreamAuth{nil, {TokenEnv: "T"}} {
		source := &plan.Source{Repo: s.URL + "/app", Ref: "v1", Commit: commits["v1"], Auth: auth}
		if _, err := upstream(t.Context(), source, t.TempDir(), func(name string) string { return env[name] }, func(string) {}); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.seen(); got != "gitlab-ci-token oauth2" {
		t.Errorf("the server was sent %q", got)
	}
	if got := other.seen(); strings.Trim(got, " ") != "" || other.requests.Load() < 4 {
		t.Errorf("the other server was sent %q in %d requests", got, other.requests.Load())
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	_, err := ResolveRef(t.Context(), "http://user:passw0rd@127.0.0.1:1/app", "v1", nil, noEnv)
	if err == nil || errors.Is(err, failure.ErrInput) || strings.Contains(err.Error(), "passw0rd") || strings.Contains(err.Error(), "\n") ||
		!strings.HasPrefix(err.Error(), "reading upstream http://REDACTED@127.0.0.1:1/app: ") {
		t.Errorf("got %v", err)
	}
}

func TestRetry(t *testing.T) {
	t.Parallel()
	s := newGitServer(t)
	_, commits := s.project(t, "app")
	s.broken.Store(2)
	got, err := ResolveRef(t.Context(), s.URL+"/app", "v1", nil, noEnv)
	if err != nil || got != commits["v1"] {
		t.Errorf("after two broken answers: %s, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ResolveRef(ctx, s.URL+"/app", "v1", nil, noEnv); !errors.Is(err, context.Canceled) {
		t.Errorf("when cancelled: %v", err)
	}
}

// files lists a directory: names with their modes, and what is in them.
func files(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err != nil || fi.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		b.WriteString(fi.Mode().String() + " " + rel + " " + strings.TrimSpace(string(text)) + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func tree(version string) string {
	return "-rw-r--r-- Dockerfile FROM scratch\nCOPY . /\nLrwxrwxrwx link #!/bin/sh\n-rw-r--r-- sub/deep/ümlaut x " + version + "\n-rwxr-xr-x sub/run.sh #!/bin/sh\n-rw-r--r-- version " + version + "\n"
}

func TestUpstream(t *testing.T) {
	t.Parallel()
	s := newGitServer(t)
	dir, commits := s.project(t, "app")
	bySHA := filepath.Join(s.dir, "by-sha")
	gitRun(t, s.dir, "clone", "-q", "--bare", "app", bySHA)
	gitRun(t, bySHA, "config", "uploadpack.allowReachableSHA1InWant", "true")
	gitRun(t, dir, "checkout", "-q", "--orphan", "moved")
	gitRun(t, dir, "commit", "-qm", "else")
	lost := gitRun(t, dir, "rev-parse", "HEAD")
	gitRun(t, dir, "checkout", "-q", "main")
	gitRun(t, dir, "branch", "-qD", "moved")
	tests := []struct{ name, repo, ref, commit, want, err string }{
		{name: "annotated tag", repo: "app", ref: "v1", commit: commits["v1"], want: "v1"},
		{name: "tag", repo: "app", ref: "v2", commit: commits["v2"], want: "v2"},
		{name: "branch", repo: "app", ref: "main", commit: commits["main"], want: "main"},
		{name: "full name", repo: "app", ref: "refs/heads/stable", commit: commits["v2"], want: "v2"},
		{name: "commit", repo: "by-sha", ref: commits["v2"], commit: commits["v2"], want: "v2"},
		{name: "moved branch, by its commit", repo: "by-sha", ref: "main", commit: commits["v2"], want: "v2"},
		{name: "commit below a tip of a server that gives out tips", repo: "below", ref: "main", commit: commits["v2"], want: "v2"},
		{name: "commit that is gone", repo: "app", ref: "moved", commit: lost, err: "no longer has commit " + lost},
		{name: "no commit", repo: "app", ref: "v1", commit: "v1", err: `the plan's commit "v1" is none`},
	}
	gitRun(t, s.dir, "clone", "-q", "--bare", "app", "below")
	for _, ref := range []string{"refs/tags/v2", "refs/tags/both", "refs/heads/stable", "refs/heads/both"} {
		gitRun(t, filepath.Join(s.dir, "below"), "update-ref", "-d", ref)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cache := t.TempDir()
			source := &plan.Source{Repo: s.URL + "/" + tt.repo, Ref: tt.ref, Commit: tt.commit}
			got, err := upstream(t.Context(), source, cache, noEnv, func(string) {})
			if tt.err != "" {
				if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := files(t, got); got != tree(tt.want) {
				t.Errorf("got\n%s\nwant\n%s", got, tree(tt.want))
			}
			before := s.requests.Load()
			if again, err := upstream(t.Context(), source, cache, noEnv, func(string) {}); err != nil || again != got || s.requests.Load() != before {
				t.Errorf("the second time: %s, %v, %d requests", again, err, s.requests.Load()-before)
			}
			left, err := filepath.Glob(filepath.Join(cache, "upstream", "*", ".*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestUpstreamCache(t *testing.T) {
	t.Parallel()
	s := newGitServer(t)
	_, commits := s.project(t, "app")
	source := &plan.Source{Repo: s.URL + "/app", Ref: "v1", Commit: commits["v1"]}
	cache := t.TempDir()
	var wg sync.WaitGroup
	dirs := make([]string, 4)
	for i := range dirs {
		wg.Go(func() {
			var err error
			if dirs[i], err = upstream(t.Context(), source, cache, noEnv, func(string) {}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := s.requests.Load(); n != 2 {
		t.Errorf("four builds asked %d times, want 2: references and objects", n)
	}
	for name, damage := range map[string]func() error{
		"changed": func() error { return os.WriteFile(filepath.Join(dirs[0], "version"), []byte("xx"), 0o600) },
		"removed": func() error { return os.Remove(filepath.Join(dirs[0], "version")) },
		"added":   func() error { return os.WriteFile(filepath.Join(dirs[0], "new"), nil, 0o600) },
		"mode":    func() error { return os.Chmod(filepath.Join(dirs[0], "version"), 0o755) },
		"seal":    func() error { return os.Remove(filepath.Join(filepath.Dir(dirs[0]), "seal")) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		got, err := upstream(t.Context(), source, cache, noEnv, func(string) {})
		if err != nil || files(t, got) != tree("v1") {
			t.Errorf("%s: %v\n%s", name, err, files(t, got))
		}
	}
}

func TestSubmodules(t *testing.T) {
	t.Parallel()
	s, other := newGitServer(t), newGitServer(t)
	s.password = "t0ken"
	library, _ := s.project(t, "group/library")
	_, _ = other.project(t, "elsewhere")
	app, _ := s.project(t, "group/app")
	add := func(dir, url, from, path string) {
		t.Helper()
		gitRun(t, dir, "submodule", "--quiet", "add", from, path)
		gitRun(t, dir, "config", "-f", ".gitmodules", "submodule."+path+".url", url)
		gitRun(t, dir, "commit", "-qam", "submodule "+path)
	}
	add(library, other.URL+"/elsewhere", filepath.Join(other.dir, "elsewhere"), "nested")
	add(app, "../library", library, "third/party")
	commit := gitRun(t, app, "rev-parse", "HEAD")
	env := func(name string) string { return map[string]string{"T": "t0ken"}[name] }
	source := &plan.Source{Repo: s.URL + "/group/app", Ref: "main", Commit: commit, Auth: &config.UpstreamAuth{TokenEnv: "T"}}
	got, err := upstream(t.Context(), source, t.TempDir(), env, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"version", "third/party/version", "third/party/nested/version"} {
		if text, err := os.ReadFile(filepath.Join(got, name)); err != nil || string(text) != "main" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if users := other.seen(); strings.Trim(users, " ") != "" {
		t.Errorf("the other server was sent %q", users)
	}

	gitRun(t, app, "config", "-f", ".gitmodules", "submodule.third/party.url", "file://"+library)
	gitRun(t, app, "commit", "-qam", "a path of the machine")
	source.Commit = gitRun(t, app, "rev-parse", "HEAD")
	if _, err := upstream(t.Context(), source, t.TempDir(), env, func(string) {}); !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "is a path of this machine") {
		t.Errorf("got %v", err)
	}
}

func TestSubmoduleURL(t *testing.T) {
	tests := []struct{ parent, url, want string }{
		{"https://x/g/a", "../b", "https://x/g/b"},
		{"https://x/g/a.git/", "./b", "https://x/g/a.git/b"},
		{"https://x/g/a", "../../h/b", "https://x/h/b"},
		{"git@x:g/a.git", "../b.git", "git@x:g/b.git"},
		{"https://x/g/a", "https://y/b", "https://y/b"},
		{"https://x/g/a", "git@y:b", "git@y:b"},
		{"https://x/a", "../../../b", ""},
		{"https://x/a", "/etc", ""},
		{"/srv/a", "/srv/b", "/srv/b"},
	}
	for _, tt := range tests {
		got, err := submoduleURL(tt.parent, tt.url)
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s in %s: got %q, %v; want %q", tt.url, tt.parent, got, err, tt.want)
		}
	}
}

func TestBuildFromUpstream(t *testing.T) {
	t.Parallel()
	for _, place := range []string{"sandbox", "in place"} {
		for _, script := range []string{"", "echo changed > version; pwd"} {
			t.Run(place+" "+script, func(t *testing.T) {
				t.Parallel()
				s := newGitServer(t)
				_, commits := s.project(t, "app")
				b := newBench(t, map[string]string{"Dockerfile": "not this one"})
				b.Image.Source = &plan.Source{Repo: s.URL + "/app", Ref: "v1", Commit: commits["v1"]}
				b.Build.Context, b.Build.Dockerfile, b.Build.PreScript = "sub", "Dockerfile", script
				b.Build.PostScript = script
				if place == "in place" {
					inPlace(b)
				}
				if _, err := b.run(t); err != nil {
					t.Fatal(err)
				}
				contains(t, b.out.String(), "context has run.sh\n", `dockerfile "FROM scratch\nCOPY . /\n"`)
				if script == "" {
					return
				}
				contains(t, b.out.String(), "context has version\n", "/source/sub\n")
				if place == "sandbox" {
					cached, err := upstream(t.Context(), b.Image.Source, b.CacheDir, noEnv, func(string) {})
					if err != nil || files(t, cached) != tree("v1") || s.requests.Load() != 2 {
						t.Errorf("the cache has\n%s%v; %d requests", files(t, cached), err, s.requests.Load())
					}
				}
			})
		}
	}
}

func TestCopyTree(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	write(t, from, map[string]string{"a/b/run.sh": "x", "a/ro/f": "y", ".git/config": "no", "a/.git": "gitdir: no", "a/.gitignore": "yes", "skip/f": "no", "skipped": "yes"})
	if err := errors.Join(os.Symlink("/nowhere", filepath.Join(from, "a/link")), os.Chmod(filepath.Join(from, "a/ro"), 0o555)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = archive.RemoveAll(from) })
	if err := copyTree(t.Context(), from, to, filepath.Join(from, "skip"), filepath.Join(from, "skipped")); err != nil {
		t.Fatal(err)
	}
	var names []string
	err := filepath.Walk(to, func(path string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(to, path)
		names = append(names, fi.Mode().String()+" "+rel)
		source, statErr := os.Lstat(filepath.Join(from, rel))
		if statErr == nil && fi.Mode()&os.ModeSymlink == 0 && !fi.ModTime().Equal(source.ModTime()) {
			t.Errorf("%s: another time", rel)
		}
		return errors.Join(err, statErr)
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "drwxr-xr-x .\ndrwxr-xr-x a\n-rw-r--r-- a/.gitignore\ndrwxr-xr-x a/b\n-rwxr-xr-x a/b/run.sh\nLrwxrwxrwx a/link\ndr-xr-xr-x a/ro\n-rw-r--r-- a/ro/f\n-rw-r--r-- skipped"
	if got := strings.Join(names, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := archive.RemoveAll(to); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := copyTree(ctx, from, filepath.Join(t.TempDir(), "c")); !errors.Is(err, context.Canceled) {
		t.Errorf("when cancelled: %v", err)
	}
}
