package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

const npmARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:npm-AbCdEf"

// storedPlan has a build with a secret that AWS keeps.
func storedPlan() *plan.Plan {
	p := planOf("app")
	b := &p.Images[0].Builds[0]
	b.Secrets = append(b.Secrets, config.Secret{ID: "npm", ARN: npmARN}, config.Secret{ID: "other", Env: "OTHER"})
	return p
}

// The controller reads what AWS keeps for the agent, and keeps it nowhere.
func TestStoredSecrets(t *testing.T) {
	var asked atomic.Int64
	var mu sync.Mutex
	got := map[string]string{}
	w := newWorld(t, func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		mu.Lock()
		if a.Build == "app@amd64" {
			maps.Copy(got, a.given.Secrets)
		}
		mu.Unlock()
		return a.succeed()
	}, func(o *Options) {
		o.Stored = func(_ context.Context, arns []string) (map[string]string, error) {
			asked.Add(1)
			if len(arns) != 1 || arns[0] != npmARN {
				return nil, fmt.Errorf("asked for %v", arns)
			}
			return map[string]string{npmARN: "precious"}, nil
		}
	})
	run, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: storedPlan(), Secrets: map[string]string{"OTHER": "brought", npmARN: "forged"}}, Submitter: "me"})
	if err != nil {
		t.Fatal(err)
	}
	if run = w.end(run.ID); run.State != api.Succeeded {
		t.Fatalf("the run %s: %s", run.State, run.Reason)
	}
	if want := map[string]string{npmARN: "precious", "OTHER": "brought"}; !maps.Equal(got, want) {
		t.Errorf("the agent has %v, want %v", got, want)
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times: once before the agent is started, once for it", n)
	}
}

// Who is to read by the role of its task is told so.
func TestStoredSecretsOfTasks(t *testing.T) {
	var told atomic.Bool
	w := newWorld(t, func(a *agent) error {
		if err := a.claim(); err != nil {
			return err
		}
		told.Store(a.given.ReadStored && a.given.Secrets[npmARN] == "")
		return a.succeed()
	}, func(o *Options) {
		o.AgentsRead = func(runner string) bool { return runner == "local" }
		o.Stored = func(context.Context, []string) (map[string]string, error) {
			return nil, errors.New("the controller reads")
		}
	})
	run, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: storedPlan()}, Submitter: "me"})
	if err != nil {
		t.Fatal(err)
	}
	if run = w.end(run.ID); run.State != api.Succeeded || !told.Load() {
		t.Errorf("the run %s; told: %v", run.State, told.Load())
	}
}

// A value that cannot be read fails the build before there is an agent for it; one
// that cannot be read for now is asked for again.
func TestStoredSecretsRefused(t *testing.T) {
	denied := failure.WithHint(failure.Input("reading the secret %s: AccessDeniedException", npmARN), "a policy of ROLE has to allow it")
	for name, c := range map[string]struct {
		errs []error
		want api.State
		why  string
	}{
		"denied":    {[]error{denied, denied, denied}, api.Failed, "AccessDeniedException (a policy of ROLE has to allow it)"},
		"throttled": {[]error{errors.New("ThrottlingException")}, api.Succeeded, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			w := newWorld(t, builds, func(o *Options) {
				o.Stored = func(context.Context, []string) (map[string]string, error) {
					if n := int(asked.Add(1)); n <= len(c.errs) {
						return nil, c.errs[n-1]
					}
					return map[string]string{npmARN: "precious"}, nil
				}
			})
			run, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: storedPlan()}, Submitter: "me"})
			if err != nil {
				t.Fatal(err)
			}
			if run = w.end(run.ID); run.State != c.want || !strings.Contains(fmt.Sprint(run), c.why) {
				t.Errorf("the run %s: %+v", run.State, run)
			}
			for _, task := range w.launcher.started() {
				if c.want == api.Failed && strings.HasPrefix(task, run.ID+"-0-") {
					t.Errorf("an agent was started: %s", task)
				}
			}
		})
	}
}

// What builds of a submitter may not name is refused at the door.
func TestStoredSecretsNotAllowed(t *testing.T) {
	w := newWorld(t, builds, func(o *Options) {
		o.MayName = func(submitter string, arns []string) error {
			if len(arns) > 0 && submitter != "friend" {
				return failure.Input("not for %s", submitter)
			}
			return nil
		}
	})
	for submitter, want := range map[string]bool{"me": false, "friend": true} {
		_, _, err := w.Submit(t.Context(), Submission{Request: api.RunRequest{Plan: storedPlan()}, Submitter: submitter})
		if errors.Is(err, failure.ErrInput) == want {
			t.Errorf("%s: %v", submitter, err)
		}
	}
}
