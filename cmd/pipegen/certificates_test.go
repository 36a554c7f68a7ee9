package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// authority makes a private CA, and a certificate of it for this machine.
func authority(t *testing.T) (ca []byte, server tls.Certificate) {
	t.Helper()
	sign := func(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		if parent == nil {
			parent, by = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return made, key
	}
	root, rootKey := sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Private CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	leaf, key := sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "registry"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, root, rootKey)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
}

// private is a registry, and a git server below /git/, that nobody trusts.
type private struct {
	host string
	ca   []byte
	file string // with it
	dir  string // of git
	http *http.Transport
}

func newPrivate(t *testing.T) *private {
	t.Helper()
	p := &private{dir: t.TempDir(), file: filepath.Join(t.TempDir(), "ca.pem")}
	var certificate tls.Certificate
	p.ca, certificate = authority(t)
	if err := os.WriteFile(p.file, p.ca, 0o600); err != nil {
		t.Fatal(err)
	}
	git := &cgi.Handler{
		Path: filepath.Join(p.git(t, "--exec-path"), "git-http-backend"), Root: "/git/",
		Env: []string{"GIT_PROJECT_ROOT=" + p.dir, "GIT_HTTP_EXPORT_ALL=1"}, Stderr: io.Discard,
	}
	mux := http.NewServeMux()
	mux.Handle("/git/", git)
	mux.Handle("/", ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	server := httptest.NewUnstartedServer(mux)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	p.host = strings.TrimPrefix(server.URL, "https://")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(p.ca)
	p.http = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	return p
}

func (p *private) git(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"}, args...)...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_SSL_CAINFO="+p.file)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// files writes files by name, and makes those below repo a repository.
func files(t *testing.T, dir string, content map[string]string) {
	t.Helper()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
}

// pipegen gives a command of pipegen with as little environment as it takes.
func pipegen(t *testing.T, dir string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	home := t.TempDir()
	cmd := exec.Command("pipegen", args...)
	cmd.Dir = dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_CACHE_HOME=" + filepath.Join(home, "cache"), "TMPDIR=" + t.TempDir(),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "AWS_EC2_METADATA_DISABLED=true",
	}, env...)
	t.Cleanup(func() {
		for _, kv := range cmd.Env {
			if dir, ok := strings.CutPrefix(kv, "TMPDIR="); ok {
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Errorf("left behind: %v, %v", left, err)
				}
			}
		}
	})
	return cmd
}

func output(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), complaint.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), complaint.String(), 0
}

func TestLocalCA(t *testing.T) {
	p := newPrivate(t)
	// The upstream is found by go-git, and the base of the change, which a
	// shallow clone lacks, by git.
	files(t, filepath.Join(p.dir, "up"), map[string]string{"Dockerfile": "FROM scratch\n"})
	p.git(t, "init", "-q", "up")
	p.git(t, "-C", "up", "add", "-A")
	p.git(t, "-C", "up", "commit", "-qm", "one")
	p.git(t, "-C", "up", "tag", "v1")
	files(t, filepath.Join(p.dir, "mono"), map[string]string{
		"pipegen.yaml":                   "registry: " + p.host + "/images\n",
		"projects/up/build-config.yaml":  "upstream_repo: https://" + p.host + "/git/up\nupstream_ref: v1\nplatforms: [linux/amd64]\n",
		"projects/app/build-config.yaml": "platforms: [linux/amd64]\n",
		"projects/app/Dockerfile":        "FROM scratch\n",
	})
	p.git(t, "init", "-q", "mono")
	p.git(t, "-C", "mono", "add", "-A")
	p.git(t, "-C", "mono", "commit", "-qm", "one")
	before := p.git(t, "-C", "mono", "rev-parse", "HEAD")
	files(t, filepath.Join(p.dir, "mono"), map[string]string{"projects/app/x": "1"})
	p.git(t, "-C", "mono", "add", "-A")
	p.git(t, "-C", "mono", "commit", "-qm", "two")
	p.git(t, "-C", "mono", "commit", "-qm", "three", "--allow-empty")

	for how, value := range map[string]string{"text": string(p.ca), "path": p.file, "none": ""} {
		t.Run(how, func(t *testing.T) {
			clone := filepath.Join(t.TempDir(), "clone")
			p.git(t, "clone", "-q", "--depth=1", "https://"+p.host+"/git/mono", clone)
			env := []string{"CI=true", "CI_COMMIT_BEFORE_SHA=" + before, "CI_PIPELINE_SOURCE=push", "CI_COMMIT_BRANCH=x", "GITLAB_CI=true", "CI_DEFAULT_BRANCH=main"}
			if value != "" {
				env = append(env, localCA+"="+value)
			}
			changed, complaint, code := output(t, pipegen(t, clone, env, "diff", "-f", "names"))
			if ok := changed == "app\n" && code == 0; ok != (value != "") {
				t.Errorf("git: diff gives %q, %d\n%s", changed, code, complaint)
			}
			_, complaint, code = output(t, pipegen(t, clone, env, "plan", "up", "-q"))
			switch {
			case value == "" && (code == 0 || !strings.Contains(complaint, "unknown authority") || !strings.Contains(complaint, "hint: ") || !strings.Contains(complaint, localCA)):
				t.Errorf("go-git: plan says %q, %d", complaint, code)
			case value != "" && code != 0:
				t.Errorf("go-git: plan ends with %d: %s", code, complaint)
			}
			// The registry is asked for what was built, and takes what joins it.
			if out, complaint, code := output(t, pipegen(t, clone, nil, "plan", "app", "--registry", p.host+"/images", "-f", "json", "-o", "plan.json", "-q")); code != 0 {
				t.Fatalf("plan: %s%s", out, complaint)
			}
			p.built(t, clone)
			out, complaint, code := output(t, pipegen(t, clone, env, "manifest", "app"))
			switch {
			case value == "" && (code != 1 || !strings.Contains(complaint, "unknown authority") || !strings.Contains(complaint, "hint: ") || !strings.Contains(complaint, localCA)):
				t.Errorf("registry: manifest says %q, %d", complaint, code)
			case value != "" && (code != 0 || !strings.HasPrefix(out, "app "+p.host+"/images@sha256:")):
				t.Errorf("registry: manifest says %q, %q, %d", out, complaint, code)
			}
		})
	}
}

// Scripts reach what only the private authority vouches for, by the programs that
// are there.
func TestScriptsTrustLocalCA(t *testing.T) {
	p := newPrivate(t)
	files(t, p.dir, map[string]string{
		"mono/projects/app/build-config.yaml": "engine: make\ncommand: ./step.sh\nplatforms: [linux/amd64]\noutputs: [digest]\n",
		"mono/projects/app/step.sh": `#!/bin/sh
set -e
grep -c 'BEGIN CERTIFICATE' "$SSL_CERT_FILE"
for v in "$GIT_SSL_CAINFO" "$CURL_CA_BUNDLE" "$REQUESTS_CA_BUNDLE" "$PIP_CERT" "$NODE_EXTRA_CA_CERTS" "$AWS_CA_BUNDLE" "$CARGO_HTTP_CAINFO"; do
  test "$v" = "$SSL_CERT_FILE"
done
test -z "$LOCAL_CA_CERTIFICATE"
git ls-remote https://` + p.host + `/git/mono main
if command -v curl >/dev/null; then curl -sSf https://` + p.host + `/v2/; fi
mkdir -p release
echo done >release/notes
`,
	})
	p.git(t, "init", "-q", "mono")
	p.git(t, "-C", "mono", "add", "-A")
	p.git(t, "-C", "mono", "commit", "-qm", "one")
	repo := filepath.Join(p.dir, "mono")
	if out, complaint, code := output(t, pipegen(t, repo, nil, "plan", "app", "--registry", p.host+"/images", "-f", "json", "-o", "plan.json", "-q")); code != 0 {
		t.Fatalf("plan: %s%s", out, complaint)
	}
	for _, container := range []string{"docker", ""} { // the environment is handed over, too
		env := []string{"container=" + container, localCA + "=" + string(p.ca)}
		if _, complaint, code := output(t, pipegen(t, repo, env, "build", "app@amd64")); code != 0 || !strings.Contains(complaint, "refs/heads/main") {
			t.Errorf("build ends with %d: %s", code, complaint)
		}
	}
	if _, complaint, code := output(t, pipegen(t, repo, nil, "build", "app@amd64")); code == 0 {
		t.Errorf("build without it: %s", complaint)
	}
}

// built does what the build of app in plan.json leaves.
func (p *private) built(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "plan.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	made, err := plan.Read(f, "plan.json")
	if err != nil {
		t.Fatal(err)
	}
	planned, b, ok := made.Find("app@amd64")
	if !ok {
		t.Fatal("app@amd64 is not planned")
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(b.Destination)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithTransport(p.http)); err != nil {
		t.Fatal(err)
	}
	d, err := partial.Descriptor(img)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(plan.Result{
		ID: b.ID, Ref: b.Destination, Digest: d.Digest.String(), Size: d.Size, MediaType: string(d.MediaType), Platform: b.Platform, Key: planned.Key, Head: made.Head,
	})
	if err != nil {
		t.Fatal(err)
	}
	files(t, dir, map[string]string{".pipegen/builds/app@amd64.json": string(text)})
}

func TestLocalCAIsRefused(t *testing.T) {
	ca, server := authority(t)
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	dir := t.TempDir()
	files(t, dir, map[string]string{"empty.pem": "", "key.pem": string(ca) + string(private), "large.pem": strings.Repeat("x", maxCertificates+1)})
	for name, tt := range map[string]struct{ value, want string }{
		"no file":          {dir + "/secret-name", "no such file"},
		"a directory":      {dir, "is a directory"},
		"an empty file":    {dir + "/empty.pem", "no certificate"},
		"too large":        {dir + "/large.pem", "larger than"},
		"a key in a file":  {dir + "/key.pem", "private key"},
		"a key":            {string(private), "private key"},
		"a key after it":   {string(ca) + string(private), "private key"},
		"cut short":        {string(ca[:len(ca)/2]), "cut short"},
		"second cut short": {string(ca) + string(ca[:len(ca)/2]), "cut short"},
		"garbled":          {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("secret-name")})), "broken"},
		"something else":   {string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("secret-name")})), "something else"},
		"text":             {"secret-name", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(io.Discard, io.Discard)
			a.getenv = func(name string) string {
				if name == localCA {
					return tt.value
				}
				return ""
			}
			err := a.trustLocalCA()
			if !errors.Is(err, failure.ErrInput) || !strings.HasPrefix(err.Error(), localCA+": ") || !strings.Contains(err.Error(), tt.want) || failure.Hint(err) == "" {
				t.Errorf("got %v", err)
			}
			if err != nil && (strings.Contains(err.Error(), "secret-name") || strings.Contains(err.Error(), "-----")) || a.bundle != "" {
				t.Errorf("got %v, and %q", err, a.bundle)
			}
		})
	}
	dirty := t.TempDir()
	if _, complaint, code := output(t, pipegen(t, dirty, []string{localCA + "=/nope"}, "plan")); code != 2 || !strings.Contains(complaint, localCA) {
		t.Errorf("got %q, %d", complaint, code)
	}
}

func TestTrustedNow(t *testing.T) {
	one, _ := authority(t)
	two, server := authority(t)
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files(t, dir, map[string]string{
		"one.pem": string(one), "both.pem": "a comment\n" + string(one) + string(two), "certs/two.pem": string(two), "certs/README": "no",
		"server.pem": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})) + string(two),
	})
	for name, tt := range map[string]struct {
		env       map[string]string
		one, two  int
		system    bool
		leftAlone string
	}{
		"nothing":          {nil, 0, 0, true, ""},
		"a file":           {map[string]string{"SSL_CERT_FILE": dir + "/one.pem"}, 1, 0, false, ""},
		"a file twice":     {map[string]string{"SSL_CERT_FILE": dir + "/one.pem", "GIT_SSL_CAINFO": dir + "/both.pem"}, 1, 1, false, ""},
		"a directory":      {map[string]string{"SSL_CERT_DIR": dir + "/none:" + dir + "/certs"}, 0, 1, true, ""},
		"git's alone":      {map[string]string{"GIT_SSL_CAINFO": dir + "/one.pem"}, 1, 0, true, ""},
		"a file not there": {map[string]string{"SSL_CERT_FILE": dir + "/none"}, 0, 0, true, ""},
		"a server's file":  {map[string]string{"SSL_CERT_FILE": dir + "/server.pem"}, 0, 1, false, ""},
		"of directories":   {map[string]string{"SSL_CERT_FILE": dir + "/one.pem", "REQUESTS_CA_BUNDLE": dir + "/certs"}, 1, 0, false, "REQUESTS_CA_BUNDLE"},
	} {
		t.Run(name, func(t *testing.T) {
			variables, got := trustedNow(func(name string) string { return tt.env[name] })
			if n, m := bytes.Count(got, bytes.TrimSpace(one)), bytes.Count(got, bytes.TrimSpace(two)); n != tt.one || m != tt.two {
				t.Errorf("%d and %d times there, want %d and %d", n, m, tt.one, tt.two)
			}
			if others := bytes.Count(got, []byte("BEGIN")) - tt.one - tt.two; others > 0 && !tt.system || bytes.Contains(got, []byte("PRIVATE")) {
				t.Errorf("others are there: %d", others)
			}
			var want []string
			for _, v := range engine.CertificateFiles() {
				if v != tt.leftAlone {
					want = append(want, v)
				}
			}
			if fmt.Sprint(variables) != fmt.Sprint(want) {
				t.Errorf("variables %q, want %q", variables, want)
			}
		})
	}
}
