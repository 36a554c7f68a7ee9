package diff

import (
	"encoding/base64"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pipegen/pipegen/internal/gittest"
)

// Deepening through a server that wants the credentials with which CI systems
// leave a clone.
func TestCredentials(t *testing.T) {
	const user, token = "gitlab-ci-token", "s3cr3t-t0k3n"
	basic := "AUTHORIZATION: basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+token))
	c, ids := long(t)
	var mu sync.Mutex
	seen := map[string]bool{}
	_, address := c.serve(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			seen[r.Header.Get("Authorization")] = true
			mu.Unlock()
			next.ServeHTTP(w, r)
		})
	}, gittest.Authorized(user, token))
	host := address[:strings.LastIndexByte(address, '/')]
	template := c.cloned("--depth=3", "--single-branch", "--no-checkout")
	template.fetchesFrom(address)
	for _, test := range []struct {
		name string
		do   func(down *clone, env map[string]string)
		why  string // empty: the base is found
	}{
		{"GitLab, in the URL", func(down *clone, _ map[string]string) {
			down.fetchesFrom(strings.Replace(address, "://", "://"+user+":"+token+"@", 1))
		}, ""},
		{"GitLab, credential helper", func(down *clone, env map[string]string) {
			env["CI_JOB_TOKEN"], env["CI_SERVER_URL"] = token, host
			down.git("config", "credential."+host+".username", user)
			down.git("config", "credential."+host+".helper", `!f() { if [ "$1" = get ]; then echo "password=${CI_JOB_TOKEN}"; fi; }; f`)
		}, ""},
		{"GitLab, credential helper in an included file", func(down *clone, env map[string]string) {
			env["CI_JOB_TOKEN"], env["CI_SERVER_URL"] = token, host
			file := filepath.Join(down.dir, ".git", "ext.conf")
			down.git("config", "-f", file, "credential."+host+".username", user)
			down.git("config", "-f", file, "credential."+host+".helper", `!f() { if [ "$1" = get ]; then echo "password=${CI_JOB_TOKEN}"; fi; }; f`)
			down.git("config", "include.path", "ext.conf")
		}, ""},
		{"GitLab, rewritten URL in an included file", func(down *clone, _ map[string]string) {
			file := filepath.Join(down.dir, ".git", "ext.conf")
			down.git("config", "-f", file, "url."+strings.Replace(host, "://", "://"+user+":"+token+"@", 1)+".insteadOf", host)
			down.git("config", "include.path", file)
		}, ""},
		{"header in the environment", func(_ *clone, env map[string]string) {
			maps.Copy(env, map[string]string{"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http." + host + "/.extraheader", "GIT_CONFIG_VALUE_0": basic})
		}, ""},
		{"GitHub, header in .git/config", func(down *clone, _ map[string]string) {
			down.git("config", "http."+host+"/.extraheader", basic)
		}, ""},
		{"GitHub, header in a file for this repository", func(down *clone, _ map[string]string) {
			file := filepath.Join(down.t.TempDir(), "git-credentials.config")
			down.git("config", "-f", file, "http."+host+"/.extraheader", basic)
			down.git("config", "includeIf.gitdir:"+filepath.Join(down.dir, ".git")+".path", file)
			down.git("config", "includeIf.gitdir:/github/workspace/.git.path", "/nonexistent")
		}, ""},
		{"none", func(*clone, map[string]string) {}, "is not in this clone (shallow): "},
		{"wrong", func(down *clone, _ map[string]string) {
			down.fetchesFrom(strings.Replace(address, "://", "://"+user+":"+token+"wrong@", 1))
		}, "is not in this clone (shallow): "},
		{"header for another server", func(down *clone, _ map[string]string) {
			down.git("config", "http.http://127.0.0.1:1/.extraheader", basic)
			down.git("config", "http."+host+"/other/.extraheader", basic)
		}, "is not in this clone (shallow): "},
		{"job token of another server", func(_ *clone, env map[string]string) {
			env["CI_JOB_TOKEN"], env["CI_SERVER_URL"] = token, "http://127.0.0.1:1"
		}, "is not in this clone (shallow): "},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, program := range backends(t) {
				t.Run(name, func(t *testing.T) {
					down := template.copied(t)
					env := map[string]string{}
					test.do(down, env)
					for k, v := range env {
						t.Setenv(k, v)
					}
					before := down.state()
					mu.Lock()
					clear(seen)
					mu.Unlock()
					base, head, err := pushed(t, opened(t, down.dir, program), ids["main~30"])
					if err != nil || base.Usable != (test.why == "") || !strings.Contains(base.Why, test.why) || strings.Contains(base.Why, token) {
						t.Fatalf("got %+v, %v", base, err)
					}
					if test.why != "" {
						down.unharmed(before)
						mu.Lock()
						defer mu.Unlock()
						if test.name != "wrong" && len(seen) > 0 && !maps.Equal(seen, map[string]bool{"": true}) {
							t.Errorf("the server was sent %v", seen)
						}
						if program == "" && !strings.Contains(base.Why, "401") {
							t.Errorf("why %q", base.Why)
						}
						return
					}
					if base.Commit != ids["main~30"] || head.Hash != ids["main"] {
						t.Errorf("got %+v of %s", base, head.Hash)
					}
				})
			}
		})
	}
}
