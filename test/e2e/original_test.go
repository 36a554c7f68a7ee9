//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// A client of the original system speaks to the controller as to its own
// server: an archive that tar made, put into the bucket by the client itself,
// a config.yaml, and a log that ends with its verdict.
func TestOriginalClient(t *testing.T) {
	v := startVersity(t)
	o := v.options()
	const token = "the-token-of-the-original-client"
	s := startService(t, map[string]int{"app": 0}, "BUILD_CONTROLLER_TOKEN="+token,
		"S3_ENDPOINT="+o.Endpoint, "S3_SSL=false", "S3_BUCKET="+o.Bucket, "S3_REGION="+o.Region, "S3_ACCESS_KEY="+o.AccessKey, "S3_SECRET_KEY="+o.SecretKey)
	key := fmt.Sprintf("repos/%d-0a1b2c3d/repo.tar.gz", time.Now().Unix())
	archive := tarOf(t, map[string]string{
		"Dockerfile": "FROM " + s.registry + ":busybox\nARG LIST\nRUN printf %s \"$LIST\" > /list\nCOPY made /made\n",
		"Broken":     "FROM " + s.registry + ":busybox\nRUN echo BUILD SUCCEEDED; exit 3\n",
	})
	if err := openS3(t, o).Put(t.Context(), key, bytes.NewReader(archive), int64(len(archive))); err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, body string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Build-Token", token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		text, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: %d %s %v", method, path, res.StatusCode, text, err)
		}
		return string(text)
	}
	build := func(dockerfile, tag string) (messages []string) {
		t.Helper()
		config := fmt.Sprintf(`global:
  platform: k8s
  arch: amd64
  pre-script: echo "by the script" > made
  kaniko: {context-path: /workspace, destination: "%s:%s", build-args: {LIST: "a,b c"}}
bake:
- kaniko: {dockerfile: %s}
`, s.registry, tag, dockerfile)
		var started struct{ BuildID, Status string }
		query := url.Values{"context_key": {key}, "service_name": {"web"}}
		if text := ask(http.MethodPost, "/build?"+query.Encode(), config); json.Unmarshal([]byte(text), &started) != nil || started.Status != "started" {
			t.Fatal(text)
		}
		for line := range strings.Lines(ask(http.MethodGet, "/build/"+started.BuildID+"/logs", "")) {
			var l struct{ TS, Level, Message string }
			if err := json.Unmarshal([]byte(line), &l); err != nil || l.TS == "" || l.Level == "" {
				t.Fatalf("%s: %v", line, err)
			}
			messages = append(messages, l.Message)
		}
		return messages
	}

	log := build("Dockerfile", "v1")
	if log[len(log)-1] != "BUILD SUCCEEDED" || !strings.Contains(log[len(log)-2], "@sha256:") {
		t.Errorf("%q", log)
	}
	image, err := remote.Image(s.ref(t, "v1"))
	if err != nil {
		t.Fatal(err)
	}
	if made := files(t, image); string(made["list"]) != "a,b c" || string(made["made"]) != "by the script\n" {
		t.Errorf("the image has %q and %q", made["list"], made["made"])
	}
	log = build("Broken", "v2")
	if log[len(log)-1] != "BUILD FAILED" {
		t.Errorf("%q", log)
	}
	if _, err := remote.Head(s.ref(t, "v2")); err == nil {
		t.Error("what failed was published")
	}
	if kept, err := filepath.Glob(filepath.Join(v.dir, o.Bucket, "contexts/sha256/*")); err != nil || len(kept) != 1 {
		t.Errorf("one context of two builds is there %d times: %v", len(kept), err)
	}
}

// tarOf packs files as the original's client does.
func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	archive, err := exec.CommandContext(t.Context(), "tar", "-czf", "-", "-C", dir, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	return archive
}
