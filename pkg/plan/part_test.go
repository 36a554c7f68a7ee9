package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

func partPlan(layout string) *Plan {
	p := &Plan{Layout: layout, Registry: "r.example.com/x"}
	switch layout {
	case "tag":
		p.Images = []Image{{
			Name: "app", Repository: "r.example.com/x", Tags: []string{"app-20261121-abc1234", "app-latest"}, KeyTag: "app-key-0123456789ab",
			Builds: []Build{{ID: "app@arm-v7", Destination: "r.example.com/x:app-20261121-abc1234-arm-v7"}},
		}}
	case "repository":
		p.Images = []Image{{
			Name: "app", Repository: "r.example.com/x/app", Tags: []string{"20261121-abc1234", "latest"}, KeyTag: "key-0123456789ab",
			Builds: []Build{{ID: "app@arm-v7", Destination: "r.example.com/x/app:20261121-abc1234-arm-v7"}},
		}}
	case "git":
		p.Images = []Image{{
			Name: "app", Repository: "r.example.com/x/app", Tags: []string{"main.abc1234", "main"}, KeyTag: "key-0123456789ab",
			Builds: []Build{{ID: "app@arm-v7", Destination: "r.example.com/x/app:main.abc1234-arm-v7"}},
		}}
	}
	return p
}

func TestPart(t *testing.T) {
	for layout, want := range map[string]string{
		"tag":        "r.example.com/x app-worker-20261121-abc1234 app-worker-latest app-worker-key-0123456789ab r.example.com/x:app-worker-20261121-abc1234-arm-v7",
		"repository": "r.example.com/x/app-worker 20261121-abc1234 latest key-0123456789ab r.example.com/x/app-worker:20261121-abc1234-arm-v7",
		"git":        "r.example.com/x/app-worker main.abc1234 main key-0123456789ab r.example.com/x/app-worker:main.abc1234-arm-v7",
	} {
		p := partPlan(layout)
		part, err := p.Part(&p.Images[0], "app-worker")
		if err != nil {
			t.Fatal(layout, err)
		}
		if got := strings.Join(slices.Concat([]string{part.Repository}, part.Tags, []string{part.KeyTag, part.Builds[0].Destination}), " "); got != want {
			t.Errorf("%s: got  %s\nwant %s", layout, got, want)
		}
		if part.Name != "app-worker" || part.Builds[0].ID != "app-worker@arm-v7" {
			t.Errorf("%s: %s, %s", layout, part.Name, part.Builds[0].ID)
		}
		if own, err := p.Part(&p.Images[0], "app"); own != &p.Images[0] || err != nil {
			t.Errorf("%s: the project's own is %v, %v", layout, own, err)
		}
		if p.Images[0].Builds[0].ID != "app@arm-v7" {
			t.Errorf("%s: the plan has changed", layout)
		}
	}
}

func TestPartFaults(t *testing.T) {
	tests := []struct {
		layout, name string
		change       func(*Plan)
		want         string
	}{
		{"tag", "other", nil, `"other" cannot be`},
		{"tag", "app-", nil, `"app-" cannot be`},
		{"tag", "app-.x", nil, `cannot be`},
		{"tag", "app-a/b", nil, `cannot be`},
		{"tag", "app-" + strings.Repeat("x", 110), nil, "characters"},
		{"repository", "app-Worker", nil, "part of a repository's name"},
		{"git", "app-a..b", nil, "part of a repository's name"},
		{"tag", "app-worker", func(p *Plan) { p.Images = append(p.Images, Image{Name: "app-worker"}) }, "another project yields"},
		{"tag", "app-worker", func(p *Plan) { p.Skipped = []Skipped{{Name: "app-worker"}} }, "another project yields"},
		{"tag", "app-worker", func(p *Plan) {
			p.Images = append(p.Images, Image{Name: "x", Repository: "r.example.com/x", Tags: []string{"app-worker-latest"}})
		}, "image app-worker, a part of project app, and image x would both be r.example.com/x:app-worker-latest"},
	}
	for _, tt := range tests {
		p := partPlan(tt.layout)
		if tt.change != nil {
			tt.change(p)
		}
		_, err := p.Part(&p.Images[0], tt.name)
		if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s in layout %s: %v, want %q", tt.name, tt.layout, err, tt.want)
		}
	}
}
