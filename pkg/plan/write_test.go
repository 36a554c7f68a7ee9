package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
)

// plain is what encoding/json makes of a plan.
func plain(t *testing.T, p *Plan) string {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(p); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestWrite(t *testing.T) {
	hostile := "a\"b\\c\\\\\"{[,:]}<&>\u2028\n\x00é" + `"images":null,"skipped":null}`
	for name, p := range map[string]*Plan{
		"nothing":     {},
		"empty lists": {Images: []Image{}, Skipped: []Skipped{}},
		"images": {
			Event: hostile, CI: CI{Overlays: map[string]map[string]config.Overlay{"x": {"images": {"a": nil, "b": []any{}, "c": map[string]any{}, "d": 1.5, "e": true}}}},
			Images: []Image{
				{Name: hostile, Needs: []string{}, Tags: []string{hostile, ""}, Annotations: map[string]string{hostile: hostile}},
				{Builds: []Build{{ID: "a"}, {Args: map[string]string{"x": "\\"}, Outputs: []string{"image"}}}, Source: &Source{Repo: hostile}},
			},
			Skipped: []Skipped{{hostile, ""}, {"", hostile}},
		},
	} {
		got, err := p.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if want := plain(t, p); string(got) != want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
}

// full is a writer with no room left.
type full struct{}

var errFull = errors.New("no space left")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestWriteFails(t *testing.T) {
	if err := (&Plan{}).Write(full{}); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
}

func FuzzIndented(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":"c\\\"d"},[],{}],"e":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var compact, want, got bytes.Buffer
		if json.Compact(&compact, data) != nil {
			return
		}
		if err := json.Indent(&want, compact.Bytes(), "", "  "); err != nil {
			t.Fatal(err)
		}
		w := &jsonWriter{to: &got}
		w.indented(compact.Bytes(), 0)
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		if got.String() != want.String() {
			t.Errorf("%q: got %q, want %q", data, &got, &want)
		}
	})
}
