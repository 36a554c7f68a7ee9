package plan

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
)

func TestCopies(t *testing.T) {
	const all = "20261121-abc1234 latest v1"
	for _, tt := range []struct {
		name, layout string
		also         []config.Also
		want         string
	}{
		{"none", "tag", nil, ""},
		{"all", "tag", []config.Also{{Registry: "b/x"}}, "b/x app-" + strings.ReplaceAll(all, " ", " app-")},
		{"repository", "repository", []config.Also{{Registry: "b"}, {Registry: "c/x"}}, "b/app " + all + "; c/x/app " + all},
		{"another image", "tag", []config.Also{{Registry: "b", Images: []string{"base"}}}, ""},
		{"the first counts", "tag", []config.Also{{Registry: "b", Images: []string{"base"}}, {Registry: "b", Images: []string{"a*"}, Tags: []string{"v*"}}, {Registry: "b"}}, "b app-v1"},
		{"key tags", "tag", []config.Also{{Registry: "b", Tags: []string{"key-*", "latest"}}}, "b app-key-0123456789ab app-latest"},
		{"everything", "repository", []config.Also{{Registry: "b", Tags: []string{"*"}}}, "b/app 20261121-abc1234 key-0123456789ab latest v1"},
		{"no tag", "tag", []config.Also{{Registry: "b", Tags: []string{"app-latest"}}}, ""},
		{"itself", "repository", []config.Also{{Registry: "a"}, {Registry: "b"}}, "b/app " + all},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := naming{registry: "a", layout: tt.layout, date: "20261121", sha: "abc1234"}
			img := &Image{
				Name: "app", Repository: n.repository("app"), Tags: n.tags("app", []string{"latest", "v1"}), KeyTag: n.keyTag("app", "0123456789abcdef"),
			}
			p := &Plan{Layout: tt.layout, Registry: "a", Publish: config.Publish{Also: tt.also}}
			var got []string
			for _, c := range p.Copies(img) {
				got = append(got, fmt.Sprint(c.Repository, " ", strings.Join(c.Tags, " ")))
			}
			if s := strings.Join(got, "; "); s != tt.want {
				t.Errorf("got  %s\nwant %s", s, tt.want)
			}
			p.Dirty = true
			if got := p.Copies(img); got != nil {
				t.Errorf("of a dirty tree: %v", got)
			}
		})
	}
}
