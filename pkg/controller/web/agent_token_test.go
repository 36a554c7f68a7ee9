package web

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/runner"
)

// vouching is a launcher whose agents show who they are by the name of their
// task.
type vouching struct{ *launcher }

func (v vouching) Identify(_ context.Context, task string, proof map[string]string) error {
	switch proof["name"] {
	case task:
		return nil
	case "nobody knows":
		return errors.New("the one who knows is away: hush-hush")
	}
	return fmt.Errorf("%w: it is %s", runner.ErrUnidentified, proof["name"])
}

// An agent without a token gets one for a proof, as long as the task waits for
// it, and nobody else does.
func TestAgentToken(t *testing.T) {
	w := newWorld(t, func(_ *Options, co *controller.Options) {
		co.Launchers["local"] = vouching{co.Launchers["local"].(*launcher)}
	})
	w.submit(alice, "app")
	launch := (<-w.launched).Task
	ask := func(task, name string) (string, error) {
		return w.client("").TaskToken(t.Context(), task, api.Identity{Proof: map[string]string{"name": name}})
	}
	for name, c := range map[string]struct {
		task, proof string
		want        error
	}{
		"of somebody else": {launch, "somebody", api.ErrForbidden},
		"of no task":       {"1111111111111111-0-1", "1111111111111111-0-1", api.ErrNotFound},
	} {
		if token, err := ask(c.task, c.proof); !errors.Is(err, c.want) || token != "" {
			t.Errorf("a proof %s: %q, %v", name, token, err)
		}
	}
	var e *api.Error
	if _, err := ask(launch, "nobody knows"); !errors.As(err, &e) || !e.Temporary() || strings.Contains(err.Error(), "hush-hush") {
		t.Errorf("while nobody knows: %v", err)
	}
	var token string
	for range 2 { // the first answer may have been lost
		var err error
		if token, err = ask(launch, launch); err != nil {
			t.Fatal(err)
		}
	}
	agent := w.client(token)
	if _, _, err := agent.Claim(t.Context(), launch, api.Claim{Agent: "a", Version: "v"}); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(launch, launch); !errors.Is(err, api.ErrConflict) {
		t.Errorf("a task that has its agent: %v", err)
	}
	if err := agent.Finish(t.Context(), launch, api.TaskResult{Error: "no"}); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(launch, launch); !errors.Is(err, api.ErrGone) {
		t.Errorf("a task that has ended: %v", err)
	}
	files, _ := filepath.Glob(filepath.Join(w.dir, "audit*"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || strings.Contains(string(text), token) {
			t.Errorf("%s has the token: %v", file, err)
		}
	}
	if len(files) == 0 || strings.Contains(w.log.String(), token) {
		t.Error("the log has the token, or nothing is audited")
	}
}

// Agents that are started with a token get no other.
func TestAgentTokenOfOthers(t *testing.T) {
	w := newWorld(t)
	w.submit(alice, "app")
	launch := (<-w.launched).Task
	if _, err := w.client("").TaskToken(t.Context(), launch, api.Identity{Proof: map[string]string{"name": launch}}); !errors.Is(err, api.ErrConflict) {
		t.Errorf("%v", err)
	}
}
