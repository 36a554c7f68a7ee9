//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// TestEngineSecrets builds with a secret and a password, which everything that
// runs tries to tell, and looks for them wherever they could be found.
func TestEngineSecrets(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	s := newSite(t, h)
	s.use(buildKit(t, []*hub{h}, ""))
	secret, password := random(), random()
	file := filepath.Join(s.place, "secret")
	if err := os.WriteFile(file, []byte("file-"+secret), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := func(text string) string { return fmt.Sprintf("%x\n", sha256.Sum256([]byte(text))) }
	const tell = `echo "it is $THE_SECRET"; printf %s "$THE_SECRET" | base64; printf %.10s "$THE_SECRET"; sleep 0.2; printf '%s\n' "${THE_SECRET#??????????}"`
	const steal = `RUN cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline > /stolen 2>&1 || true` + "\n"
	cases := map[string]imageCase{
		"kaniko": {
			config: "secrets: [{id: s, env: THE_SECRET}]\npre_script: |\n  " + tell + "\n  printf %s \"$THE_SECRET\" | sha256sum | cut -d ' ' -f 1 > sum\n",
			files:  map[string]string{"Dockerfile": "FROM @REGISTRY@:busybox\nCOPY sum /\n" + steal},
			want:   all(map[string]string{"sum": sum(secret)}),
		},
		"buildkit": {
			config: "secrets: [{id: s, env: THE_SECRET}, {id: f, file: " + file + "}]\npre_script: |\n  " + tell + "\n",
			files: map[string]string{"Dockerfile": "FROM @REGISTRY@:busybox\n" +
				"RUN --mount=type=secret,id=s THE_SECRET=\"$(cat /run/secrets/s)\" && " + strings.ReplaceAll(tell, "base64", "busybox base64") +
				" && printf %s \"$THE_SECRET\" | busybox sha256sum | busybox cut -d ' ' -f 1 > /sum\n" +
				"RUN --mount=type=secret,id=f cat /run/secrets/f; busybox sha256sum < /run/secrets/f | busybox cut -d ' ' -f 1 > /file\n" + steal},
			want: all(map[string]string{"sum": sum(secret), "file": sum("file-" + secret)}),
		},
		"make": {
			config: "secrets: [{id: s, env: THE_SECRET}]\ncommand: sh build.sh\n",
			files: map[string]string{
				"build.sh":   tell + "\nprintf %s \"$THE_SECRET\" | sha256sum | cut -d ' ' -f 1 > sum\nmake\n",
				"Dockerfile": "FROM @REGISTRY@:busybox\nCOPY sum /\n" + steal,
			},
			want: all(map[string]string{"sum": sum(secret)}),
		},
	}
	for _, engine := range engines {
		c := cases[engine]
		c.name = "secret"
		s.add(t, c, engine, strings.NewReplacer())
	}
	s.commit(t)

	// Writing to the registry takes a password, which Docker's configuration holds.
	auth := base64.StdEncoding.EncodeToString([]byte("user:" + password))
	h.misbehave(t, func(w http.ResponseWriter, r *http.Request) bool {
		reads := (r.Method == http.MethodGet || r.Method == http.MethodHead) && r.URL.Path != "/v2/"
		if reads || r.Header.Get("Authorization") == "Basic "+auth {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="images"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
		return true
	})
	if err := os.MkdirAll(filepath.Join(s.place, "home", ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.place, "home", ".docker", "config.json"), []byte(fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, h.host, auth)), 0o600); err != nil {
		t.Fatal(err)
	}
	forbidden := []string{secret, password, auth}
	for _, text := range []string{secret, "file-" + secret, password} {
		forbidden = append(forbidden, base64.StdEncoding.EncodeToString([]byte(text)))
	}

	seen := eavesdrop(t, forbidden)
	cmd := s.command(t, "run", "--select", "all", "-v")
	cmd.Env = append(cmd.Env, "THE_SECRET="+secret)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("pipegen run: %v", err)
	}
	for _, line := range seen() {
		t.Errorf("a secret is in an argument: %s", line)
	}
	where := map[string][]byte{"the output": out}
	for _, dir := range []string{".pipegen", "../tmp"} {
		if err := filepath.WalkDir(filepath.Join(s.dir, dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			where[path], err = os.ReadFile(path)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range where {
		lacksAll(t, name, text, forbidden)
	}
	if !bytes.Contains(out, []byte("it is ")) {
		t.Errorf("the output is not shown at all:\n%s", out)
	}
	h.misbehave(t, nil)
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			c := cases[engine]
			c.name = "secret"
			id := "secret-" + engine + "@amd64"
			image := s.built(t, id)
			content := files(t, image)
			for path, want := range c.want[""] {
				if string(content[path]) != want {
					t.Errorf("%s holds %q, want %q:\n%s", path, content[path], want, s.log(t, id))
				}
			}
			if len(content["stolen"]) == 0 {
				t.Error("the step saw no process at all")
			}
			lacksAllImage(t, image, forbidden)
		})
	}
}

// random gives 40 hex digits.
func random() string {
	b := make([]byte, 20)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// lacksAll fails the test if a text holds any of the forbidden.
func lacksAll(t *testing.T, name string, text []byte, forbidden []string) {
	t.Helper()
	for _, f := range forbidden {
		if at := bytes.Index(text, []byte(f)); at >= 0 {
			t.Errorf("%s holds a secret: …%q", name, text[max(0, at-200):min(len(text), at+len(f)+20)])
		}
	}
}

// lacksAllImage looks for the forbidden in the manifest, the configuration with
// its history, and the layers of an image.
func lacksAllImage(t *testing.T, image v1.Image, forbidden []string) {
	t.Helper()
	manifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	lacksAll(t, "the manifest", manifest, forbidden)
	lacksAll(t, "the configuration", config, forbidden)
	all, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, layer := range all {
		stream, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(stream)
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Close()
		lacksAll(t, fmt.Sprintf("layer %d", i), text, forbidden)
	}
}

// eavesdrop watches the command lines of all processes of this machine, and
// gives those that held any of the forbidden.
func eavesdrop(t *testing.T, forbidden []string) (seen func() []string) {
	t.Helper()
	done, ended := make(chan struct{}), make(chan struct{})
	var found []string
	go func() {
		defer close(ended)
		for {
			lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, path := range lines {
				line, _ := os.ReadFile(path)
				for _, f := range forbidden {
					if bytes.Contains(line, []byte(f)) {
						found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
					}
				}
			}
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() []string {
		close(done)
		<-ended
		return found
	}
}
