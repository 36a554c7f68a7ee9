package render_test

import (
	"fmt"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/render"
)

// many is a configuration of n images for two platforms: one in a hundred is a
// base, of which most others are built on one.
func many(n int) (*plan.Plan, *config.Repository) {
	cfg := &config.Repository{Pipegen: config.Pipegen{Registry: "registry.example/images", Layout: "tag", Ignore: []string{"**/README.md"}, RebuildAll: []string{"ci/**"}}}
	p := planOf()
	for i := range n {
		name := fmt.Sprintf("app-%05d", i)
		img := both(name)
		if i%100 != 0 && i%3 != 0 {
			img.Needs = []string{fmt.Sprintf("app-%05d", i-i%100)}
		}
		cfg.Projects = append(cfg.Projects, &config.Project{Dir: img.Dir, Config: config.BuildConfig{Name: name, Watch: []string{"libs/**"}}})
		p.Images = append(p.Images, img)
	}
	cfg.Weekly = []config.WeeklyEntry{{Pattern: "app-00000"}, {Pattern: "projects/app-0001*"}}
	return p, cfg
}

func BenchmarkConcourse(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p, cfg := many(n)
			b.ReportAllocs()
			for b.Loop() {
				data, err := render.Concourse(p, cfg, render.ConcourseOptions{})
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(data)))
			}
		})
	}
}
