package ecs

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/runner"
)

// Whatever matters makes another definition; the same is registered once.
func TestDefinitions(t *testing.T) {
	f := newFake(t)
	changes := map[string]func(*config.ServerECS, *runner.Launch){
		"as it is":     func(*config.ServerECS, *runner.Launch) {},
		"architecture": func(_ *config.ServerECS, b *runner.Launch) { b.Platform = "linux/arm64" },
		"size":         func(_ *config.ServerECS, b *runner.Launch) { b.Resources = &config.Resources{CPU: "2"} },
		"disk":         func(_ *config.ServerECS, b *runner.Launch) { b.Resources = &config.Resources{EphemeralStorage: "50Gi"} },
		"builder":      func(_ *config.ServerECS, b *runner.Launch) { b.Image = "registry.example.com/other:1" },
		"image":        func(s *config.ServerECS, _ *runner.Launch) { s.Image += "2" },
		"task role":    func(s *config.ServerECS, _ *runner.Launch) { s.TaskRole += "2" },
		"exec role":    func(s *config.ServerECS, _ *runner.Launch) { s.ExecutionRole += "2" },
		"log group":    func(s *config.ServerECS, _ *runner.Launch) { s.LogGroup = "" },
		"secret": func(s *config.ServerECS, _ *runner.Launch) {
			s.ImageSecret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:x"
		},
		"environment": func(s *config.ServerECS, _ *runner.Launch) {
			s.Environment = map[string]string{"HTTPS_PROXY": "http://proxy"}
		},
		"tags": func(s *config.ServerECS, _ *runner.Launch) { s.Tags = nil },
		"exec": func(s *config.ServerECS, _ *runner.Launch) { s.EnableExecuteCommand = true },
		"instances": func(s *config.ServerECS, _ *runner.Launch) {
			s.Capacity = []config.ECSCapacity{{Provider: "EC2", Weight: 1}}
		},
		"external": func(s *config.ServerECS, _ *runner.Launch) {
			s.Capacity = []config.ECSCapacity{{Provider: "EXTERNAL", Weight: 1}}
		},
	}
	n := 0
	for name, change := range changes {
		for i := range 2 {
			s, b := settings(), launch(fmt.Sprintf("run-%d-%d", n, i))
			change(&s, &b)
			start(t, f.launcher(t, s), b)
		}
		n++
		if len(f.definitions) != n {
			t.Fatalf("%s: %d definitions after %d kinds of task", name, len(f.definitions), n)
		}
	}
	families := map[string]bool{}
	for _, d := range f.definitions {
		families[d.family] = true
		if !strings.HasPrefix(d.family, "pipegen-agent-x86-64-") && !strings.HasPrefix(d.family, "pipegen-agent-arm64-") {
			t.Error(d.family)
		}
	}
	if len(families) != n {
		t.Errorf("%d families for %d kinds of task", len(families), n)
	}
	// What has no part in it changes nothing.
	s, b := settings(), launch("run-x-1")
	s.Subnets, s.Cluster, s.URL = []string{"subnet-2"}, "other", "https://other.example.com"
	start(t, f.launcher(t, s), b)
	if len(f.definitions) != n {
		t.Error("another network makes another definition")
	}
}

// Credentials for an image are not for images of other registries.
func TestImageSecret(t *testing.T) {
	f := newFake(t)
	s := settings()
	s.ImageSecret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:registry"
	other := launch("run-1-1")
	other.Image = "elsewhere.example.com/builder:1"
	start(t, f.launcher(t, s), launch("run-0-1"), other)
	for i, want := range []bool{true, false} {
		if got := strings.Contains(fmt.Sprint(f.definitions[i].body["containerDefinitions"]), s.ImageSecret); got != want {
			t.Errorf("definition %d has the secret: %v", i, got)
		}
	}
}

// Two controllers that register the same at once leave one revision.
func TestRegisteredOnce(t *testing.T) {
	f := newFake(t)
	var both sync.WaitGroup
	both.Add(2)
	f.fault = func(action string, n int, _ map[string]any) *awsError {
		if action == "DescribeTaskDefinition" && n < 2 { // neither sees the other's
			f.mu.Unlock()
			both.Done()
			both.Wait()
			f.mu.Lock()
			return &awsError{400, "ClientException", "Unable to describe task definition."}
		}
		return nil
	}
	var done sync.WaitGroup
	for i := range 2 {
		l := f.launcher(t, settings())
		done.Go(func() {
			if err := l.Start(context.Background(), launch(fmt.Sprintf("run-%d-1", i))); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	active := 0
	for _, d := range f.definitions {
		if d.status == "ACTIVE" {
			active++
		}
	}
	if active != 1 || len(f.tasks) != 2 {
		t.Errorf("%d of %d definitions are active, %d tasks", active, len(f.definitions), len(f.tasks))
	}
}

// A definition that somebody deregistered is registered again.
func TestDeregistered(t *testing.T) {
	f := newFake(t)
	l := f.launcher(t, settings())
	start(t, l, launch("run-0-1"))
	f.mu.Lock()
	f.definitions[0].status = "INACTIVE"
	f.mu.Unlock()
	start(t, l, launch("run-1-1"))
	if len(f.definitions) != 2 || len(f.tasks) != 2 {
		t.Errorf("%d definitions, %d tasks", len(f.definitions), len(f.tasks))
	}
}

// Of 5,000 old definitions, those go that are pipegen's, old, unused and of
// other settings.
func TestCleanUp(t *testing.T) {
	f := newFake(t)
	l := f.launcher(t, settings())
	start(t, l, launch("run-0-1")) // current and in use
	old := time.Now().Add(-2 * recent)
	add := func(family, owner, settings string, registered time.Time) *fakeDefinition {
		body := map[string]any{"family": family, "tags": []any{map[string]any{"key": ownerTag, "value": owner}, map[string]any{"key": settingsTag, "value": settings}}}
		d := &fakeDefinition{arn: "arn:aws:ecs:eu-west-1:" + account + ":task-definition/" + family + ":1", family: family, status: "ACTIVE", body: body, registered: registered}
		f.definitions = append(f.definitions, d)
		return d
	}
	for i := range 5000 {
		add(fmt.Sprintf("pipegen-agent-arm64-%04d", i), "pipegen-agent", "earlier", old)
	}
	kept := map[string]*fakeDefinition{
		"the current one":    f.definitions[0],
		"another's":          add("web", "", "", old),
		"of a like name":     add("pipegen-agent-arm64-mine", "", "", old),
		"other installation": add("pipegen-agent-2-arm64-x", "pipegen-agent-2", "earlier", old),
		"of these settings":  add("pipegen-agent-arm64-now", "pipegen-agent", l.settings, old),
		"new":                add("pipegen-agent-arm64-new", "pipegen-agent", "earlier", time.Now()),
		"in use":             add("pipegen-agent-arm64-used", "pipegen-agent", "earlier", old),
	}
	f.tasks[0].body["taskDefinitionArn"] = kept["in use"].arn
	f.definitions[0].registered = old
	removed, err := l.CleanUp(t.Context())
	if err != nil || removed != 5000 {
		t.Errorf("%d removed, %v", removed, err)
	}
	for name, d := range kept {
		if d.status != "ACTIVE" {
			t.Errorf("%s is gone", name)
		}
	}
	if n := f.count("ListTaskDefinitions"); n < 51 || n > 60 {
		t.Errorf("%d pages", n)
	}
}

// What cannot be deregistered is told of, and does not keep the rest.
func TestCleanUpRefused(t *testing.T) {
	f := newFake(t)
	l := f.launcher(t, settings())
	for i := range 5 {
		body := map[string]any{"tags": []any{map[string]any{"key": ownerTag, "value": "pipegen-agent"}}}
		family := fmt.Sprintf("pipegen-agent-%d", i)
		f.definitions = append(f.definitions, &fakeDefinition{arn: "arn:aws:ecs:eu-west-1:1:task-definition/" + family + ":1", family: family, status: "ACTIVE", body: body})
	}
	f.fault = func(action string, n int, _ map[string]any) *awsError {
		if action == "DeregisterTaskDefinition" && n == 1 {
			return &awsError{400, "ClientException", "no"}
		}
		return nil
	}
	removed, err := l.CleanUp(t.Context())
	if removed != 4 || err == nil || !strings.Contains(err.Error(), "pipegen-agent-1:1") {
		t.Errorf("%d removed, %v", removed, err)
	}
}
