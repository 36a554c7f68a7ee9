package registry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// FuzzManifest reads a manifest and its config: any bytes give a platform or an
// error in one line, and none makes the client ask elsewhere.
func FuzzManifest(f *testing.F) {
	config := `{"os":"linux","architecture":"x86_64","os.features":["a"],"config":{"Labels":{"a":"b"}}}`
	manifest := func(mediaType, config string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":%q,"size":%d,"digest":%q},"layers":[]}`, mediaType, len(config), Digest([]byte(config)))
	}
	f.Add([]byte(manifest("application/vnd.oci.image.config.v1+json", config)), []byte(config))
	f.Add([]byte(manifest("application/vnd.docker.container.image.v1+json", "{}")), []byte("{}"))
	f.Add([]byte(manifest("application/vnd.cncf.helm.config.v1+json", "{}")), []byte("{}"))
	f.Add([]byte(manifest("application/vnd.oci.image.config.v1+json", config)), []byte("{"))
	f.Add([]byte(`{"config":{"digest":"sha256:../../x","size":-1}}`), []byte(nil))
	f.Fuzz(func(t *testing.T, raw, blob []byte) {
		c := impatient(Options{Patience: time.Nanosecond, Transport: tripper(func(r *http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			switch {
			case r.URL.Host != "registry.example.org":
				t.Errorf("asked %s", r.URL)
			case r.URL.Path == "/v2/":
			case strings.HasPrefix(r.URL.Path, "/v2/app/blobs/sha") && r.URL.RawQuery == "":
				_, _ = w.Write(blob)
			case strings.HasPrefix(r.URL.Path, "/v2/app/manifests/sha256:"):
				w.Header().Set("Content-Type", manifestType)
				_, _ = w.Write(raw)
			default:
				t.Errorf("asked %s", r.URL)
			}
			return w.Result(), nil
		})})
		p, err := c.Platform(t.Context(), "registry.example.org/app", Digest(raw))
		if err != nil && strings.ContainsAny(err.Error(), "\n\r\x1b") || err == nil && strings.ContainsAny(p.String(), "\n\r\x1b") {
			t.Errorf("not fit for a log: %q, %v", p, err)
		}
		if err == nil && (p.OS == "" || p.Architecture == "") {
			t.Errorf("accepted %+v", p)
		}
	})
}
