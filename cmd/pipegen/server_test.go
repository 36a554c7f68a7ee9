package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/plan"
)

// served is a controller that runs in this process.
type served struct {
	url    string
	stderr *watched
	stop   func() int // ends it as a signal does, and gives the exit code
}

// watched keeps what is written, and gives the address of the line that has one.
type watched struct {
	mu      sync.Mutex
	text    bytes.Buffer
	address chan string
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range bytes.Lines(p) {
		var l struct{ Msg, Address string }
		if json.Unmarshal(line, &l) == nil && l.Msg == "listening" {
			w.address <- l.Address
		}
	}
	return w.text.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// serve starts pipegen server on a free port of loopback.
func serve(t *testing.T, env map[string]string, args ...string) *served {
	t.Helper()
	s := &served{stderr: &watched{address: make(chan string, 1)}}
	a := newApp(io.Discard, s.stderr)
	a.getenv = func(name string) string { return env[name] }
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- a.execute(ctx, slices.Concat([]string{"server", "--log-format", "json", "--listen", "127.0.0.1:0"}, args))
	}()
	s.stop = sync.OnceValue(func() int { cancel(); return <-code })
	t.Cleanup(func() { s.stop() })
	select {
	case address := <-s.stderr.address:
		s.url = "http://" + address
	case c := <-code:
		code <- c
		t.Fatalf("it ended with %d: %s", c, s.stderr)
	case <-time.After(30 * time.Second):
		t.Fatalf("it does not listen: %s", s.stderr)
	}
	return s
}

// client speaks to it with a token.
func (s *served) client(t *testing.T, o api.ClientOptions) *api.Client {
	t.Helper()
	o.URL, o.Patience = s.url, -1
	c, err := api.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ended waits for the end of a run.
func ended(t *testing.T, c *api.Client, id string) api.Run {
	t.Helper()
	if _, err := c.Logs(t.Context(), id, api.LogQuery{Follow: true}, func(api.LogLine) error { return nil }); err != nil {
		t.Fatal(err)
	}
	run, err := c.Run(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// retag is a plan that publishes an index of a registry under one more tag: a
// run of it needs no agent.
func retag(t *testing.T, host string, auth authn.Authenticator) *plan.Plan {
	t.Helper()
	repository, err := name.NewRepository(host + "/images")
	if err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(repository.Digest(digest.String()), index, remote.WithAuth(auth)); err != nil {
		t.Fatal(err)
	}
	return &plan.Plan{
		Version: plan.Version, Event: "local", Layout: "tag", Registry: repository.Name(), Head: strings.Repeat("a", 40), Skipped: []plan.Skipped{},
		Images: []plan.Image{{
			Name: "app", Dir: "app", Key: strings.Repeat("b", 64), Reasons: []plan.Reason{}, Needs: []string{}, Index: true,
			Repository: repository.Name(), Tags: []string{"app-1"}, Retag: digest.String(), Builds: []plan.Build{},
		}},
	}
}

func registryHandler() http.Handler { return ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))) }

// A run is one trace from the request that made it to the push.
func TestServerTraces(t *testing.T) {
	var mu sync.Mutex
	got := map[string]string{} // name: trace
	otlp := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var req collector.ExportTraceServiceRequest
		body, err := io.ReadAll(r.Body)
		if err != nil || proto.Unmarshal(body, &req) != nil {
			t.Errorf("%s: %v", body, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range req.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					got[s.Name] += hex.EncodeToString(s.TraceId) + " "
				}
			}
		}
	}))
	defer otlp.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.URL) // read by the exporter itself
	images := httptest.NewServer(registryHandler())
	defer images.Close()
	s := serve(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.URL}, "--dev", "--data-dir", t.TempDir())

	const trace = "0af7651916cd43dd8448eb211c80319c"
	c := s.client(t, api.ClientOptions{})
	run, err := c.Traced("00-"+trace+"-b7ad6b7169203331-01").CreateRun(t.Context(), api.RunRequest{Plan: retag(t, strings.TrimPrefix(images.URL, "http://"), authn.Anonymous)}, "")
	if err != nil {
		t.Fatal(err)
	}
	if run = ended(t, c, run.ID); run.State != api.Succeeded || run.Images[0].Published == nil || !slices.Contains(run.Images[0].Published.Tags, "app-1") {
		t.Errorf("%+v %s", run, s.stderr)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d: %s", code, s.stderr)
	}
	for _, name := range []string{"POST /v1/runs", "task queued", "task publishing", "run"} {
		if !strings.Contains(got[name], trace) {
			t.Errorf("%s is not in the trace: %v", name, got)
		}
	}
}

// Images are published with the credentials of their run, never with those of
// the user that the controller runs as.
func TestServerPublishesWithTheRunsCredentials(t *testing.T) {
	inner := registryHandler()
	images := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "hush-hush" {
			w.Header().Set("WWW-Authenticate", `Basic realm="images"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer images.Close()
	host := strings.TrimPrefix(images.URL, "http://")
	own := t.TempDir()
	config := `{"auths":{"` + host + `":{"username":"me","password":"hush-hush"}}}`
	if err := os.WriteFile(filepath.Join(own, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", own)
	data := t.TempDir()
	s := serve(t, map[string]string{"DOCKER_CONFIG": own, "DOCKER_AUTH_CONFIG": config}, "--dev", "--data-dir", data)
	c := s.client(t, api.ClientOptions{})
	p := retag(t, host, &authn.Basic{Username: "me", Password: "hush-hush"})
	for _, tt := range []struct {
		creds []api.Credential
		want  api.State
	}{
		{nil, api.Failed},
		{[]api.Credential{{Registry: host, Username: "me", Password: "wrong-hush"}}, api.Failed},
		{[]api.Credential{{Registry: host, Username: "me", Password: "hush-hush"}}, api.Succeeded},
	} {
		run, err := c.CreateRun(t.Context(), api.RunRequest{Plan: p, Credentials: tt.creds}, "")
		if err != nil {
			t.Fatal(err)
		}
		if run = ended(t, c, run.ID); run.State != tt.want {
			t.Errorf("%d credentials: %s, %s", len(tt.creds), run.State, run.Reason)
		}
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	// What was given is nowhere to be read.
	if strings.Contains(s.stderr.String(), "hush-hush") {
		t.Error("a password is in the controller's log")
	}
	err := filepath.WalkDir(data, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte("hush-hush")) {
			t.Errorf("a password is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Over TLS with a token of the command line, which is refused once it is removed.
func TestServerWithTLS(t *testing.T) {
	data, files := t.TempDir(), t.TempDir()
	cert, key := filepath.Join(files, "tls.crt"), filepath.Join(files, "tls.key")
	writeCertificate(t, cert, key)
	secret := strings.TrimSpace(commandLine(t, "server", "token", "add", "ci", "--data-dir", data, "--registry", "registry.test/team"))
	s := serve(t, nil, "--data-dir", data, "--tls-cert", cert, "--tls-key", key)
	if !strings.Contains(s.stderr.String(), `"url":"https://pipegen.test:`) {
		t.Errorf("agents are not told a name of the certificate: %s", s.stderr)
	}
	s.url = strings.Replace(s.url, "http://", "https://", 1)
	pemCert, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	s.url = "https://localhost:" + port // the second name of the certificate
	c := s.client(t, api.ClientOptions{Token: secret, CACerts: pemCert})
	if _, err := c.Runs(t.Context(), api.RunQuery{}); err != nil {
		t.Error(err)
	}
	commandLine(t, "server", "token", "remove", "ci", "--data-dir", data)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := c.Runs(t.Context(), api.RunQuery{}); err != nil {
			if !strings.Contains(err.Error(), "not known") {
				t.Error(err)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a token that was removed is still good")
		}
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d: %s", code, s.stderr)
	}
}

// commandLine runs a command line that must succeed, and gives its output.
func commandLine(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := newApp(&stdout, &stderr)
	a.getenv = func(string) string { return "" }
	if code := a.execute(t.Context(), args); code != 0 {
		t.Fatalf("%v: %d: %s", args, code, stderr.String())
	}
	return stdout.String()
}

// writeCertificate writes one for pipegen.test and localhost.
func writeCertificate(t *testing.T, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"*.pipegen.test", "pipegen.test", "localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// An index joins what was built, though the tag that it was pushed under is
// another image's by now.
func TestServerJoinsByDigest(t *testing.T) {
	images := httptest.NewServer(registryHandler())
	defer images.Close()
	host := strings.TrimPrefix(images.URL, "http://")
	push := func(tag string) (v1.Hash, int64) {
		t.Helper()
		img, err := random.Image(64, 1)
		if err == nil {
			img, err = mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
		}
		ref, perr := name.ParseReference(host + "/images:" + tag)
		if err = errors.Join(err, perr); err == nil {
			err = remote.Write(ref, img)
		}
		if err != nil {
			t.Fatal(err)
		}
		digest, err := img.Digest()
		size, serr := img.Size()
		if err = errors.Join(err, serr); err != nil {
			t.Fatal(err)
		}
		return digest, size
	}
	built, size := push("app-1-amd64")
	another, _ := push("app-1-amd64")
	p := retag(t, host, authn.Anonymous)
	img := &p.Images[0]
	img.Retag = ""
	img.Builds = []plan.Build{{ID: "app@amd64", Platform: "linux/amd64", Engine: "kaniko", Destination: host + "/images:app-1-amd64", Outputs: []string{"image"}}}
	results := []plan.Result{{
		ID: "app@amd64", Ref: host + "/images:app-1-amd64", Digest: built.String(), Size: size, Platform: "linux/amd64", MediaType: string(types.DockerManifestSchema2),
		Key: img.Key, Head: p.Head, Bases: []plan.Base{},
	}}
	a := newApp(io.Discard, io.Discard)
	done, err := a.publishRun(nil)(t.Context(), p, img, results, nil, func(level, msg string) { t.Log(level, msg) })
	if err != nil {
		t.Fatal(err)
	}
	if len(done.Children) != 1 || done.Children[0].Digest != built.String() || built == another {
		t.Errorf("the index has %+v, and %s was built", done.Children, built)
	}
}

// A bucket that is not there ends the controller at once; one that cannot be
// reached for now does not.
func TestServerBucket(t *testing.T) {
	s3 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>NoSuchBucket</Code><Message>no</Message></Error>`)
	}))
	defer s3.Close()
	env := map[string]string{"S3_BUCKET": "contexts", "S3_ENDPOINT": s3.URL, "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "hush-hush"}
	var stderr bytes.Buffer
	a := newApp(io.Discard, &stderr)
	a.getenv = func(name string) string { return env[name] }
	code := a.execute(t.Context(), []string{"server", "--dev", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir()})
	if said := stderr.String(); code != 2 || !strings.Contains(said, "the bucket contexts at "+s3.URL+": there is no such bucket") || !strings.Contains(said, "hint: create the bucket contexts") {
		t.Errorf("%d %s", code, said)
	}
	s3.Close()
	s := serve(t, env, "--dev", "--data-dir", t.TempDir())
	if _, err := s.client(t, api.ClientOptions{}).Runs(t.Context(), api.RunQuery{}); err != nil {
		t.Error(err)
	}
	if said := s.stderr.String(); !strings.Contains(said, "cannot be kept for now") || strings.Contains(said, "hush-hush") {
		t.Error(said)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d: %s", code, s.stderr)
	}
}
