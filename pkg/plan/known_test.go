package plan

import (
	"strings"
	"testing"
)

func TestKind(t *testing.T) {
	image := Known{Name: "app", Layout: "tag", Moving: []string{"app-latest", "app-20260101-abcdef0-amd64"}, Others: []string{"app-web", "app-web-x", "base"}}
	own := Known{Name: "app", Layout: "repository"}
	git := Known{Name: "app", Layout: "git"}
	hex := strings.Repeat("ab", 32)
	for _, tt := range []struct {
		known Known
		tag   string
		kind  TagKind
		of    string
	}{
		{image, "app-20261121-abc1234", Fixed, ""},
		{image, "app-20261121-abc1234-dirty", Fixed, ""},
		{image, "app-latest", Moving, ""},
		{image, "app-v1.2", Moving, ""},
		{image, "app-key-0123456789ab", Keyed, ""},
		{image, "app-key-0123456789a", Moving, ""},
		{image, "app-20261121-abc1234-amd64", Built, "app-20261121-abc1234"},
		{image, "app-20261121-abc1234-arm-v7", Built, "app-20261121-abc1234"},
		{image, "app-20261121-abc1234-windows-amd64", Built, "app-20261121-abc1234"},
		{image, "app-20261121-abc1234-dirty-amd64", Built, "app-20261121-abc1234-dirty"},
		{image, "app-20261121-abc1234-sparc", Moving, ""},
		{image, "app-20261121-abc1234-linux-amd64", Moving, ""}, // no build has such a tag
		{image, "app-20260101-abcdef0-amd64", Moving, ""},       // the configuration says so
		{image, "app-web-latest", "", ""},
		{image, "app-web-20261121-abc1234-amd64", "", ""},
		{image, "app-web-x-latest", "", ""},
		{image, "base-latest", "", ""},
		{image, "app", "", ""},
		{image, "app-", "", ""},
		{image, "sha256-" + hex, "", ""},
		{own, "20261121-abc1234", Fixed, ""},
		{own, "20261121-abc1234-arm64", Built, "20261121-abc1234"},
		{own, "key-0123456789ab", Keyed, ""},
		{own, "latest", Moving, ""},
		{own, "sha256-" + hex, "", ""},
		{own, "sha256-" + hex + ".sig", "", ""},
		{git, "main.abc1234", Fixed, ""},
		{git, "main.SNAPSHOT", Fixed, ""},
		{git, "main.abc1234-arm64", Built, "main.abc1234"},
		{git, "feature-amd64", Moving, ""},
		{git, "main", Moving, ""},
		{git, "key-0123456789ab", Keyed, ""},
	} {
		if kind, of := tt.known.Kind(tt.tag); kind != tt.kind || of != tt.of {
			t.Errorf("%s in layout %s: got %q of %q, want %q of %q", tt.tag, tt.known.Layout, kind, of, tt.kind, tt.of)
		}
	}
}
