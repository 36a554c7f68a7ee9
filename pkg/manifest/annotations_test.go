package manifest

import (
	"testing"

	"github.com/pipegen/pipegen/pkg/plan"
)

func TestFinalBase(t *testing.T) {
	result := func(bases ...plan.Base) plan.Result { return plan.Result{Bases: bases} }
	copied, final := plan.Base{Ref: "tools:1", Digest: "sha256:a"}, plan.Base{Ref: "alpine:3", Digest: "sha256:b", Final: true}
	other := plan.Base{Ref: "alpine:3", Digest: "sha256:c", Final: true}
	for name, tc := range map[string]struct {
		results []plan.Result
		want    string
	}{
		"none":                  {[]plan.Result{result()}, "@"},
		"files copied alone":    {[]plan.Result{result(copied)}, "@"},
		"before what is copied": {[]plan.Result{result(final, copied)}, "alpine:3@sha256:b"},
		"the same":              {[]plan.Result{result(copied, final), result(final)}, "alpine:3@sha256:b"},
		"another digest":        {[]plan.Result{result(final), result(other)}, "alpine:3@"},
		"one from scratch":      {[]plan.Result{result(final), result(copied)}, "@"},
	} {
		ref, digest := finalBase(tc.results)
		if got := ref + "@" + digest; got != tc.want {
			t.Errorf("%s: got %s, want %s", name, got, tc.want)
		}
	}
}
