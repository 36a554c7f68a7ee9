package ecs

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/runner"
)

// ends has trials end with an exit code as soon as they are started.
func (f *fake) ends(code any) {
	go func() {
		for seen := 0; seen < 2; time.Sleep(time.Millisecond) {
			f.mu.Lock()
			for _, t := range f.tasks[seen:] {
				if !strings.Contains(fmt.Sprint(t.request["overrides"]), "agent check --exit-code --url https://pipegen.example.com --registry registry.example.com") {
					f.t.Errorf("a trial runs %v", t.request["overrides"])
				}
				c := map[string]any{"name": "agent", "lastStatus": "STOPPED", "image": "registry.example.com/pipegen:builder"}
				with := map[string]any{"lastStatus": "STOPPED", "desiredStatus": "STOPPED", "stopCode": "EssentialContainerExited", "containers": []any{c}}
				if code == nil {
					with["stopCode"], with["stoppedReason"] = "TaskFailedToStart", "CannotPullContainerError: registry.example.com/pipegen:builder: not found"
				} else {
					c["exitCode"] = code
				}
				t.change(with)
				seen++
			}
			f.mu.Unlock()
		}
	}()
}

func shown(checks []runner.Check) string {
	var b strings.Builder
	for _, c := range checks {
		state := "pass"
		if !c.OK {
			state = "warn"
			if c.Needed {
				state = "FAIL"
			}
			if c.Fix == "" {
				state += " without a fix"
			}
		}
		fmt.Fprintf(&b, "%s %s: %s\n", state, c.Name, c.Detail)
	}
	return b.String()
}

func TestPreflight(t *testing.T) {
	denied := func(action string) func(string, int, map[string]any) *awsError {
		return func(called string, _ int, _ map[string]any) *awsError {
			if called != action {
				return nil
			}
			return &awsError{400, "AccessDeniedException", "User: arn:aws:sts::" + account + ":assumed-role/server/i-1 is not authorized to perform: ecs:" + action + " on resource: *"}
		}
	}
	for name, c := range map[string]struct {
		set   func(f *fake)
		code  any
		tasks bool
		want  []string
	}{
		"healthy": {func(*fake) {}, 0, true, []string{
			"pass credentials: arn:aws:sts::123456789012:assumed-role/agent/", "pass cluster: builds in eu-west-1, with FARGATE, FARGATE_SPOT", "pass permission: ecs:ListTasks", "pass permission: ecs:StopTask",
			"pass permission: ecs:DeregisterTaskDefinition", "pass permission: ecs:RegisterTaskDefinition, ecs:TagResource and iam:PassRole for arm64",
			"pass subnets: subnet-1 in eu-west-1a with 250 free addresses", "pass quota of Fargate Spot: 6 vCPU: 12 builds of 0.5 vCPU and 2 GiB at once",
			"pass task on linux/amd64: registry.example.com/pipegen:builder", "pass controller from linux/arm64: https://pipegen.example.com", "pass registries from linux/amd64: registry.example.com",
		}},
		"unreached":  {func(*fake) {}, 65, true, []string{"pass task on linux/amd64", "FAIL controller from linux/amd64: not reached", "pass registries from linux/arm64"}},
		"no image":   {func(*fake) {}, nil, true, []string{"FAIL task on linux/amd64: the image registry.example.com/pipegen:builder does not exist", "FAIL task on linux/arm64"}},
		"old image":  {func(*fake) {}, 1, true, []string{"FAIL task on linux/amd64: the agent ended with exit status 1"}},
		"permission": {func(f *fake) { f.fault = denied("StopTask") }, 0, false, []string{"FAIL permission: trying ecs:StopTask: the role arn:aws:iam::123456789012:role/server may not ecs:StopTask on *", "pass permission: ecs:ListTasks"}},
		"register":   {func(f *fake) { f.fault = denied("RegisterTaskDefinition") }, 0, false, []string{"FAIL permission: registering a task definition: the role arn:aws:iam::123456789012:role/server may not ecs:RegisterTaskDefinition"}},
		"quota":      {func(f *fake) { f.vcpu = 0 }, 0, false, []string{"FAIL quota of Fargate Spot: 0 vCPU: 0 builds"}},
		"subnet":     {func(f *fake) { f.subnets = "" }, 0, false, []string{"FAIL subnets: there is no subnet subnet-1 in eu-west-1"}},
		"full":       {func(f *fake) { f.subnets = strings.Replace(f.subnets, "250", "0", 1) }, 0, false, []string{"FAIL subnets: subnet subnet-1 has no free address"}},
		"cluster": {func(f *fake) {
			f.fault = func(action string, _ int, _ map[string]any) *awsError {
				if action == "DescribeClusters" {
					return &awsError{400, "ClusterNotFoundException", "Cluster not found."}
				}
				return nil
			}
		}, 0, false, []string{"FAIL cluster: looking at the cluster: there is no such cluster"}},
		"no look": {func(f *fake) { f.blind = true }, 0, true, []string{"warn subnets: this identity may not look at them", "warn quota of Fargate on demand", "pass task on linux/amd64"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			c.set(f)
			l := f.launcher(t, settings())
			if c.tasks {
				f.ends(c.code)
			}
			got := shown(l.Preflight(t.Context(), Trial{Registries: []string{"registry.example.com"}, Patience: 20 * time.Second}))
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("it does not say %q", want)
				}
			}
			if strings.Contains(got, "without a fix") && name != "old image" || (len(f.tasks) > 0) != c.tasks || t.Failed() {
				t.Errorf("\n%s", got)
			}
		})
	}
	// Without credentials there is nothing else to say.
	f := newFake(t)
	f.fault = func(action string, _ int, _ map[string]any) *awsError {
		if action == "GetCallerIdentity" {
			return &awsError{403, "ExpiredToken", "The security token included in the request is expired"}
		}
		return nil
	}
	if got := shown(f.launcher(t, settings()).Preflight(t.Context(), Trial{})); !strings.HasPrefix(got, "FAIL credentials: asking AWS who this is: the session token of the controller's credentials has expired") || strings.Count(got, "\n") != 1 {
		t.Error(got)
	}
}

func TestCheckExit(t *testing.T) {
	for code, c := range map[int][2]bool{0: {true, true}, 65: {false, true}, 66: {true, false}, 67: {false, false}} {
		if got := CheckExit(c[0], c[1]); got != code {
			t.Errorf("%v gives %d, want %d", c, got, code)
		}
	}
}
