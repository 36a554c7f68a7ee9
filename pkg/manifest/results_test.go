package manifest

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

var goodResult = plan.Result{
	ID: "app@amd64", Ref: "registry.example.org/images:app-1-amd64", Digest: registry.Digest(nil), Size: 10,
	MediaType: "application/vnd.oci.image.manifest.v1+json", Platform: "linux/amd64", Bases: []plan.Base{{Ref: "alpine", Digest: registry.Digest(nil)}},
	Key: "key", Head: "head",
}

func TestReadResults(t *testing.T) {
	p := &plan.Plan{Head: "head", Images: []plan.Image{{Name: "app", Key: "key", Builds: []plan.Build{{ID: "app@amd64"}}}}}
	tests := map[string]struct {
		change func(r *plan.Result)
		raw    string
		want   string
		input  bool
	}{
		"good":             {nil, "", "", false},
		"missing":          {nil, "none", "has left no result", false},
		"empty":            {nil, " ", "unexpected end", false},
		"truncated":        {nil, `{"id":"app@amd64",`, "unexpected end", false},
		"two values":       {nil, `{} {}`, "after top-level value", false},
		"large":            {nil, `"` + strings.Repeat("a", maxFile) + `"`, "larger than", false},
		"other build":      {func(r *plan.Result) { r.ID = "app@arm64" }, "", "build", true},
		"other commit":     {func(r *plan.Result) { r.Head = "x" }, "", "commit", true},
		"other key":        {func(r *plan.Result) { r.Key = "x" }, "", "content key", true},
		"no digest":        {func(r *plan.Result) { r.Digest = "" }, "", "digest", false},
		"no tag":           {func(r *plan.Result) { r.Ref = "registry.example.org:5000/app" }, "", "no tag", false},
		"no reference":     {func(r *plan.Result) { r.Ref = "A B" }, "", "ref", false},
		"no size":          {func(r *plan.Result) { r.Size = 0 }, "", "size", false},
		"a layer":          {func(r *plan.Result) { r.MediaType = "application/gzip" }, "", "mediaType", false},
		"no platform":      {func(r *plan.Result) { r.Platform = "amd64" }, "", "platform", false},
		"base without ref": {func(r *plan.Result) { r.Bases = []plan.Base{{}} }, "", "base", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := goodResult
			if tt.change != nil {
				tt.change(&r)
			}
			raw, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if tt.raw != "" {
				raw = []byte(tt.raw)
			}
			file := plan.ResultFile(dir, "app@amd64")
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if tt.raw != "none" {
				if err := os.WriteFile(file, raw, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := ReadResults(dir, p, &p.Images[0])
			if tt.want == "" {
				if err != nil || !reflect.DeepEqual(got, []plan.Result{goodResult}) {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			if err == nil {
				t.Fatalf("got %+v", got)
			}
			for _, want := range []string{tt.want, file, "app@amd64", "image app"} {
				if !strings.Contains(err.Error(), want) && tt.change == nil {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if !strings.Contains(err.Error(), tt.want) || failure.Hint(err) == "" || errors.Is(err, failure.ErrInput) != tt.input {
				t.Errorf("got %v (%s)", err, failure.Hint(err))
			}
		})
	}
}

func TestPublishedFile(t *testing.T) {
	dir := t.TempDir()
	want := plan.Published{
		Name: "app", Repository: "registry.example.org/images", Digest: registry.Digest(nil), Size: 1, MediaType: "m", Tags: []string{"a"},
		Kept: []plan.KeptTag{{Tag: "b", Reason: "<later>"}}, Children: []plan.Child{{Digest: "d", Platform: "linux/amd64"}},
	}
	for range 2 {
		if err := WritePublished(dir, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadPublished(dir, "app")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := ReadPublished(dir, "other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was not published: %v", err)
	}
	for _, text := range []string{"{", `{"name":"app","digest":"d"}`, `{"name":"bad"}`} {
		if err := os.WriteFile(plan.PublishedFile(dir, "bad"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadPublished(dir, "bad"); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := os.Remove(plan.PublishedFile(dir, "bad")); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "indexes"))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func FuzzResult(f *testing.F) {
	good, err := json.Marshal(goodResult)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"id":"x","ref":"a:b","size":-1}`))
	file := filepath.Join(f.TempDir(), "result.json")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := readResult(file)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Errorf("not fit for a log: %q", err)
			}
			return
		}
		if _, err := registry.ParseReference(r.Ref); err != nil || r.Size <= 0 || !digestPattern.MatchString(r.Digest) {
			t.Errorf("accepted %+v", r)
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[]}`))
	f.Add([]byte(`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":3,"digest":"` + registry.Digest(nil) + `","platform":{"os":"unknown","architecture":"unknown"}}]}`))
	f.Add([]byte(`{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","size":3,"digest":"` + registry.Digest(nil) + `"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		flat, err := flatten(raw)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Errorf("not fit for a log: %q", err)
			}
			return
		}
		for _, d := range append(append(flat.images, flat.attestations...), flat.indexes...) {
			if d.Size <= 0 || !digestPattern.MatchString(d.Digest.String()) || !d.MediaType.IsImage() && !d.MediaType.IsIndex() {
				t.Errorf("accepted %+v", d)
			}
		}
	})
}
