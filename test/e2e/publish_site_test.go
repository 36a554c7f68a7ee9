//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
	"github.com/pipegen/pipegen/test/monorepo"
)

// front stands before a registry, notes what is asked of it, and can answer in
// its stead.
type front struct {
	host string

	mu    sync.Mutex
	asked []question
	fault func(http.ResponseWriter, *http.Request) bool
}

// question is a request, when it came and what was answered.
type question struct {
	at           time.Time
	method, path string
	status       int
	pause        string // Retry-After of the answer
}

// newFront serves the registry until the test ends; with an authority over TLS.
func newFront(t *testing.T, ca *authority, content http.Handler) *front {
	t.Helper()
	f := &front{}
	f.host = serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := time.Now()
		f.mu.Lock()
		fault := f.fault
		f.mu.Unlock()
		noted := &noting{ResponseWriter: w, status: http.StatusOK}
		if fault == nil || !fault(noted, r) {
			content.ServeHTTP(noted, r)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.asked = append(f.asked, question{at, r.Method, r.URL.Path, noted.status, noted.Header().Get("Retry-After")})
	}))
	return f
}

// noting remembers the status of an answer.
type noting struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (n *noting) WriteHeader(status int) {
	n.status = status
	n.ResponseWriter.WriteHeader(status)
}

// Flush implements http.Flusher.
func (n *noting) Flush() { _ = http.NewResponseController(n.ResponseWriter).Flush() }

// Hijack implements http.Hijacker.
func (n *noting) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(n.ResponseWriter).Hijack()
}

// distribution serves Docker's Distribution, which listens at an address.
func distribution(address string) http.Handler {
	return &httputil.ReverseProxy{ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: address})
		r.Out.Host = r.In.Host
	}}
}

// misbehave has requests answered by fault from now on, if it says true.
func (f *front) misbehave(fault func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

// questions gives what was asked since the last call, in the order in which it
// came.
func (f *front) questions() []question {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asked
	f.asked = nil
	slices.SortStableFunc(asked, func(a, b question) int { return a.at.Compare(b.at) })
	return asked
}

// publisher is a checkout whose builds are done, and the registry that its
// images are published to.
type publisher struct {
	*planned
	env []string
}

// newPublisher makes a checkout with these projects for amd64 and arm64, which
// are tagged latest.
func newPublisher(t *testing.T, host string, projects ...string) *publisher {
	t.Helper()
	p := &publisher{planned: &planned{T: t, dir: filepath.Join(scratch(t), "repo"), registry: host, pipegen: binary(t)}}
	p.env = monorepo.Env(os.Environ(), "HOME="+filepath.Dir(p.dir), "PIPEGEN_CACHE=off")
	p.write("pipegen.yaml", "registry: "+host+"/images\ndefaults: {platforms: [linux/amd64, linux/arm64], additional_tags: [latest]}\n")
	p.write(".gitignore", "/.pipegen/\n/*.json\n")
	for _, project := range projects {
		p.write("projects/"+project+"/build-config.yaml", "use_local_context: true\n")
		p.write("projects/"+project+"/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	}
	p.git("init", "-q", "-b", "main")
	p.commit("projects")
	return p
}

// commitAt commits everything at a time.
func (p *publisher) commitAt(at string) {
	p.Helper()
	for _, args := range [][]string{{"add", "-A"}, {"commit", "-q", "--allow-empty", "-m", "at " + at}} {
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Env = p.dir, append(slices.Clone(p.env), "GIT_COMMITTER_DATE="+at, "GIT_AUTHOR_DATE="+at)
		if _, ok := run(p.T, cmd); !ok {
			p.FailNow()
		}
	}
}

// run runs pipegen and gives what it printed and its exit code.
func (p *publisher) run(args ...string) (output string, code int) {
	p.Helper()
	cmd := p.command(args...)
	output, _ = run(p.T, cmd)
	return output, cmd.ProcessState.ExitCode()
}

func (p *publisher) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.pipegen, args...)
	cmd.Dir, cmd.Env = p.dir, p.env
	return cmd
}

// must runs pipegen, and ends the test unless it succeeds.
func (p *publisher) must(args ...string) string {
	p.Helper()
	out, code := p.run(args...)
	if code != 0 {
		p.Fatalf("pipegen %s: exit code %d", strings.Join(args, " "), code)
	}
	return out
}

// plan plans everything, or what the arguments say, into a file.
func (p *publisher) plan(file string, args ...string) *plan.Plan {
	p.Helper()
	if len(args) == 0 {
		args = []string{"--select", "all", "--date", "2026-11-21"}
	}
	p.must(append([]string{"plan", "-q", "-f", "json", "-o", file}, args...)...)
	return p.read(file)
}

func (p *publisher) read(file string) *plan.Plan {
	p.Helper()
	f, err := os.Open(filepath.Join(p.dir, file))
	if err != nil {
		p.Fatal(err)
	}
	defer f.Close()
	made, err := plan.Read(f, file)
	if err != nil {
		p.Fatal(err)
	}
	return made
}

// build pushes to the registry what the builds of a plan would, unlike what
// those of other content push, and leaves their results. at is where the
// registry is.
func (p *publisher) build(made *plan.Plan, content, at string, options ...remote.Option) {
	p.Helper()
	for i := range made.Images {
		img := &made.Images[i]
		for j := range img.Builds {
			b := &img.Builds[j]
			p.push(img, b, at, made.Head, registrytest.Image(p.T, b.Platform, map[string]string{"content": content + " of " + b.ID}), options...)
		}
	}
}

// push pushes the image of a build, and leaves its result.
func (p *publisher) push(img *plan.Image, b *plan.Build, at, head string, made v1.Image, options ...remote.Option) plan.Result {
	p.Helper()
	_, path, _ := strings.Cut(b.Destination, "/")
	ref, err := name.ParseReference(at+"/"+path, name.Insecure)
	if err != nil {
		p.Fatal(err)
	}
	if err := remote.Write(ref, made, options...); err != nil {
		p.Fatal(err)
	}
	d, err := partial.Descriptor(made)
	if err != nil {
		p.Fatal(err)
	}
	r := plan.Result{
		ID: b.ID, Ref: b.Destination, Digest: d.Digest.String(), Size: d.Size, MediaType: string(d.MediaType),
		Platform: b.Platform, Verified: true, Bases: []plan.Base{}, Key: img.Key, Head: head,
	}
	p.leave(r)
	return r
}

// leave writes the result of a build.
func (p *publisher) leave(r plan.Result) {
	p.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		p.Fatal(err)
	}
	file := plan.ResultFile(filepath.Join(p.dir, ".pipegen"), r.ID)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, 0o644)); err != nil {
		p.Fatal(err)
	}
}

// anyIndex has Distribution show what is no image for Docker of old.
const anyIndex = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"

// holds gives the digest of a tag's manifest; empty: there is no such tag.
func holds(t *testing.T, at, tag string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodHead, "http://"+at+"/v2/images/manifests/"+tag, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", anyIndex)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		switch {
		case response.StatusCode == http.StatusOK:
			return response.Header.Get("Docker-Content-Digest")
		case response.StatusCode == http.StatusNotFound:
			return ""
		case time.Now().After(deadline): // Distribution says 500 while a tag is written
			t.Fatalf("tag %s: %s", tag, response.Status)
		}
	}
}

// whole checks that what a tag holds is an index, and that all of it is there.
func whole(t *testing.T, at, tag string, children int) {
	t.Helper()
	ref, err := name.ParseReference(at+"/images:"+tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Errorf("tag %s: %v", tag, err)
		return
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Errorf("tag %s: %v", tag, err)
		return
	}
	if len(manifest.Manifests) != children {
		t.Errorf("tag %s has %d children, want %d", tag, len(manifest.Manifests), children)
	}
	for _, d := range manifest.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Errorf("tag %s: %v", tag, err)
			continue
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Errorf("tag %s: %v", tag, err)
			continue
		}
		if d.Platform == nil || config.OS != d.Platform.OS || config.Architecture != d.Platform.Architecture {
			t.Errorf("tag %s: %s is for %s/%s, and the index says %v", tag, d.Digest, config.OS, config.Architecture, d.Platform)
		}
	}
}

// says is an answer in a registry's format for errors.
func says(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

// existing says whether a request writes a tag that is there already.
func existing(content http.Handler, r *http.Request) bool {
	if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/manifests/") || strings.Contains(r.URL.Path, "/manifests/sha256:") {
		return false
	}
	request := httptest.NewRequestWithContext(r.Context(), http.MethodHead, "http://"+r.Host+r.URL.Path, nil)
	request.Header.Set("Accept", anyIndex)
	held := httptest.NewRecorder()
	content.ServeHTTP(held, request)
	return held.Code == http.StatusOK
}
