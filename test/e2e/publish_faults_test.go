//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
	"github.com/pipegen/pipegen/test/monorepo"
)

// faults are what a registry does wrong while an image is published, and what
// comes of it.
var faults = []struct {
	name string
	// Changes what the builds left.
	left func(p *publisher, made *plan.Plan)
	// Answers in the registry's stead.
	fault func() func(http.ResponseWriter, *http.Request) bool
	code  int
	says  string
}{
	{
		name: "a child is missing", code: 1, says: "hint: what the build pushed is no longer there",
		fault: always("manifests/sha256:", func(w http.ResponseWriter, _ *http.Request) {
			says(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		}),
	},
	{
		name: "a child is for another platform", code: 1, says: "it is for linux/arm64, but its image",
		left: func(p *publisher, made *plan.Plan) {
			img := &made.Images[0]
			r := p.push(img, &img.Builds[1], p.registry, made.Head, registrytest.Image(p.T, "linux/amd64", nil))
			r.Verified = false
			p.leave(r)
		},
	},
	{
		name: "a child is of another media type", code: 1, says: "was reported as application/vnd.docker",
		left: func(p *publisher, made *plan.Plan) {
			img := &made.Images[0]
			r := p.push(img, &img.Builds[1], p.registry, made.Head, registrytest.Image(p.T, "linux/arm64", nil))
			r.MediaType = "application/vnd.docker.distribution.manifest.v2+json"
			p.leave(r)
		},
	},
	{
		name: "a child has other bytes", code: 1, says: "the bytes that the registry sent have the digest sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
		fault: always("manifests/sha256:", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Docker-Content-Digest", r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
			_, _ = w.Write([]byte("{}"))
		}),
	},
	{name: "a child is cut off", code: 1, says: "unexpected EOF", fault: always("manifests/sha256:", registrytest.Truncates)},
	{
		name: "a written tag is not there", code: 1, says: "it is not there after it was written",
		fault: func() func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut {
					return false
				}
				w.WriteHeader(http.StatusCreated)
				return true
			}
		},
	},
	{
		name: "a digest is a lie", code: 1, says: "the registry stored the digest sha256:0000",
		fault: func() func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut {
					return false
				}
				w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
				w.WriteHeader(http.StatusCreated)
				return true
			}
		},
	},
	{
		name: "a right is missing", code: 1, says: "denied",
		fault: func() func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut {
					return false
				}
				says(w, http.StatusForbidden, "DENIED", "requested access to the resource is denied")
				return true
			}
		},
	},
	{name: "connections are closed", fault: twice(registrytest.HangsUp)},
	{
		name: "the server is overloaded",
		fault: twice(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}),
	},
}

// always answers what is asked below a part of the path.
func always(part string, answer func(http.ResponseWriter, *http.Request)) func() func(http.ResponseWriter, *http.Request) bool {
	return func() func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, part) {
				return false
			}
			answer(w, r)
			return true
		}
	}
}

// twice answers the third and the seventh request.
func twice(answer func(http.ResponseWriter, *http.Request)) func() func(http.ResponseWriter, *http.Request) bool {
	return func() func(http.ResponseWriter, *http.Request) bool {
		var n atomic.Int64
		return func(w http.ResponseWriter, r *http.Request) bool {
			if at := n.Add(1); at != 3 && at != 7 {
				return false
			}
			answer(w, r)
			return true
		}
	}
}

// TestPublishFaults publishes to a registry that does something wrong: the
// error says what, tags name what they did or the whole of what was published,
// and nothing that cannot succeed is tried again.
func TestPublishFaults(t *testing.T) {
	t.Parallel()
	for _, c := range faults {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFront(t, nil, monorepo.NewRegistry())
			p := newPublisher(t, f.host, "app")
			made := p.plan("plan.json")
			p.build(made, "one", f.host)
			if c.left != nil {
				c.left(p, made)
			}
			f.questions()
			if c.fault != nil {
				f.misbehave(c.fault())
			}
			out, code := p.run("manifest", "app")
			if code != c.code || !strings.Contains(out, c.says) {
				t.Errorf("exit code %d, want %d and %q", code, c.code, c.says)
			}
			asked := map[string]int{}
			for _, q := range f.questions() {
				if q.status >= 400 && q.status < 500 && q.status != http.StatusNotFound {
					asked[q.method+" "+q.path]++
				}
			}
			for what, n := range asked {
				if n > 1 {
					t.Errorf("%s was sent %d times", what, n)
				}
			}
			f.misbehave(nil)
			for _, tag := range made.Images[0].Tags {
				switch digest := holds(t, f.host, tag); {
				case c.code == 0:
					whole(t, f.host, tag, 2)
				case digest != "":
					t.Errorf("%s holds %s", tag, digest)
				}
			}
		})
	}
}

// TestPublishRedirected has blobs elsewhere, as registries in clouds have them:
// they are read there, and what the registry is shown is not shown there. Over
// plain HTTP they are not read.
func TestPublishRedirected(t *testing.T) {
	t.Parallel()
	content := monorepo.NewRegistry()
	var shown atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" {
			shown.Add(1)
		}
		content.ServeHTTP(w, r)
	}))
	defer elsewhere.Close()
	const user, password = "ci", "secret"
	for name, ca := range map[string]*authority{"http": nil, "https": newAuthority(t)} {
		t.Run(name, func(t *testing.T) {
			image := "app-" + name
			f := newFront(t, ca, registrytest.BasicAuth(user, password)(content))
			p := newPublisher(t, f.host, image)
			docker := scratch(t)
			config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, f.host, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
			if err := os.WriteFile(filepath.Join(docker, "config.json"), []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			p.env = append(p.env, "DOCKER_CONFIG="+docker)
			if ca != nil {
				p.env = append(p.env, "LOCAL_CA_CERTIFICATE="+ca.file)
			}
			made := p.plan("plan.json")
			img := &made.Images[0]
			for i := range img.Builds {
				b := &img.Builds[i]
				r := p.push(img, b, strings.TrimPrefix(elsewhere.URL, "http://"), made.Head, registrytest.Image(t, b.Platform, nil))
				r.Verified = false
				p.leave(r)
			}
			f.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
				return true
			})
			out, code := p.run("manifest", image)
			switch {
			case ca == nil && code != 0:
				t.Errorf("exit code %d", code)
			case ca != nil && (code != 1 || !strings.Contains(out, "refusing a redirect from https to http")):
				t.Errorf("exit code %d, want 1 and why", code)
			}
			if n := shown.Load(); n > 0 {
				t.Errorf("credentials were shown %d times", n)
			}
			if strings.Contains(out, password) {
				t.Error("the password is in the output")
			}
		})
	}
}

// TestPublishInterrupted ends a publication whose registry stops in the middle
// of an answer.
func TestPublishInterrupted(t *testing.T) {
	t.Parallel()
	f := newFront(t, nil, monorepo.NewRegistry())
	p := newPublisher(t, f.host, "app")
	p.build(p.plan("plan.json"), "one", f.host)
	hangs := make(chan struct{}, 10)
	f.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/sha256:") {
			return false
		}
		hangs <- struct{}{}
		registrytest.Hangs(w, r)
		return true
	})
	process := watch(t, p.command("manifest", "app"))
	<-hangs
	_ = syscall.Kill(process.cmd.Process.Pid, syscall.SIGTERM)
	end := process.wait(t)
	if end.code != 130 || !strings.Contains(end.output, "interrupted") {
		t.Errorf("exit code %d, want 130", end.code)
	}
	if holds(t, f.host, "app-latest") != "" {
		t.Error("the tag is there")
	}
}
