package ecs

import (
	"errors"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

var _ runner.Judge = (*Launcher)(nil)

// What cannot be built is refused before anything is asked of AWS.
func TestJudge(t *testing.T) {
	f := newFake(t)
	s := settings()
	s.Projects = map[string]config.ECSProject{"large": {Capacity: []config.ECSCapacity{{Provider: "FARGATE", Weight: 1}, {Provider: "machines"}}}}
	l, err := newLauncher(Options{Config: f.config(), Settings: s})
	if err != nil {
		t.Fatal(err)
	}
	daemons := config.BuildKit{Addresses: []string{"unix:///run/buildkit.sock"}}
	for name, c := range map[string]struct {
		image string
		build plan.Build
		with  config.BuildKit
		want  string
	}{
		"kaniko":                      {"app", plan.Build{Platform: "linux/amd64", Engine: "kaniko"}, config.BuildKit{}, ""},
		"BuildKit in the task":        {"app", plan.Build{Platform: "linux/amd64", Engine: "buildkit"}, config.BuildKit{}, "BuildKit cannot be started on Fargate"},
		"BuildKit elsewhere":          {"app", plan.Build{Platform: "linux/amd64", Engine: "buildkit"}, daemons, ""},
		"no such machine":             {"app", plan.Build{Platform: "linux/riscv64"}, config.BuildKit{}, "no machines for linux/riscv64"},
		"too large":                   {"app", plan.Build{Platform: "linux/arm64", Resources: &config.Resources{Memory: "200Gi"}}, config.BuildKit{}, "no size of Fargate holds"},
		"too large for one of places": {"large", plan.Build{Platform: "linux/arm64", Resources: &config.Resources{Memory: "200Gi"}}, config.BuildKit{}, ""},
	} {
		err := l.Judge(&plan.Plan{BuildKit: c.with}, &plan.Image{Name: c.image}, &c.build)
		if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(f.calls) > 0 {
		t.Errorf("%v", f.calls)
	}
}
