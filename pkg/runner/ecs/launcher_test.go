package ecs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/runner"
)

var (
	_ runner.Launcher   = (*Launcher)(nil)
	_ runner.Identifier = (*Launcher)(nil)
)

func start(t *testing.T, l *Launcher, launches ...runner.Launch) {
	t.Helper()
	for _, launch := range launches {
		if err := l.Start(t.Context(), launch); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLife(t *testing.T) {
	f := newFake(t)
	l := f.launcher(t, settings())
	all := told(t, l)
	start(t, l, launch("run-0-1"))
	expect(t, all, "run-0-1", runner.AgentPending, "")
	f.set("run-0-1", map[string]any{"lastStatus": "RUNNING"}, nil)
	expect(t, all, "run-0-1", runner.AgentRunning, "")
	if s, err := l.Find(t.Context(), "run-0-1"); err != nil || s.State != runner.AgentRunning {
		t.Errorf("%+v, %v", s, err)
	}
	f.set("run-0-1", map[string]any{"lastStatus": "STOPPED", "desiredStatus": "STOPPED", "stopCode": "EssentialContainerExited", "stoppedReason": "Essential container in task exited"}, map[string]any{"exitCode": 0, "lastStatus": "STOPPED"})
	if s := expect(t, all, "run-0-1", runner.AgentExited, ""); s.ExitCode == nil || *s.ExitCode != 0 || s.Infrastructure || s.Reason != "" {
		t.Errorf("%+v", s)
	}
	if err := l.Stop(t.Context(), "run-0-1"); err != nil || f.count("StopTask") != 0 {
		t.Errorf("%v; StopTask was called %d times", err, f.count("StopTask"))
	}
	if _, err := l.Find(t.Context(), "run-1-1"); !errors.Is(err, runner.ErrNoAgent) {
		t.Errorf("%v", err)
	}
	if err := l.Stop(t.Context(), "run-1-1"); err != nil {
		t.Error(err)
	}
	request := f.tasks[0].request
	if f.tasks[0].place != "FARGATE_SPOT" || text(request, "startedBy") != "pipegen-agent" || text(request, "propagateTags") != "TASK_DEFINITION" || request["enableECSManagedTags"] != true || text(request, "platformVersion") != "LATEST" {
		t.Errorf("%+v", request)
	}
	// Nothing in all that can be read of it is a secret.
	whole, _ := json.Marshal([]any{f.tasks[0].body, request, f.definitions[0].body})
	if strings.Contains(string(whole), "token of") || len(request["overrides"].(map[string]any)) != 1 {
		t.Errorf("%s", whole)
	}
	if overrides, _ := json.Marshal(request["overrides"]); len(overrides) > 400 {
		t.Errorf("overrides of %d characters: %s", len(overrides), overrides)
	}
}

func TestStop(t *testing.T) {
	f := newFake(t)
	l := f.launcher(t, settings())
	start(t, l, launch("run-0-1"))
	if err := l.Stop(t.Context(), "run-0-1"); err != nil {
		t.Fatal(err)
	}
	if got := text(f.tasks[0].body, "lastStatus"); got != "STOPPED" || f.count("StopTask") != 1 {
		t.Errorf("%s after %d calls", got, f.count("StopTask"))
	}
	// What another controller started is found and stopped.
	start(t, l, launch("run-1-1"))
	other := f.launcher(t, settings(), func(l *Launcher) { l.every = time.Hour })
	start(t, l, launch("run-2-1"))
	for _, task := range []string{"run-1-1", "run-2-1"} {
		if err := other.Stop(t.Context(), task); err != nil {
			t.Error(err)
		}
	}
	if f.count("StopTask") != 3 {
		t.Errorf("StopTask was called %d times", f.count("StopTask"))
	}
}

// A launcher that starts anew finds what was started, and starts nothing twice.
func TestFoundAgain(t *testing.T) {
	f := newFake(t)
	first := f.launcher(t, settings())
	for i := range 120 {
		start(t, first, launch(fmt.Sprintf("run-%d-1", i)))
	}
	f.set("run-7-1", map[string]any{"lastStatus": "STOPPED", "desiredStatus": "STOPPED", "stopCode": "EssentialContainerExited"}, map[string]any{"exitCode": 137, "reason": "OutOfMemoryError: Container killed due to memory usage"})
	second := f.launcher(t, settings())
	all := told(t, second)
	if s := expect(t, all, "run-7-1", runner.AgentExited, "want of memory"); s.Infrastructure || s.ExitCode == nil || *s.ExitCode != 137 {
		t.Errorf("%+v", s)
	}
	for i := range 120 {
		if _, err := second.Find(t.Context(), fmt.Sprintf("run-%d-1", i)); err != nil {
			t.Error(err)
		}
	}
	start(t, second, launch("run-3-1"))
	// Whoever knows nothing of it, and is told nothing, still starts no second one.
	f.mu.Lock()
	f.fault = func(action string, _ int, _ map[string]any) *awsError {
		if action == "ListTasks" {
			return &awsError{500, "ServerException", "out of order"}
		}
		return nil
	}
	f.mu.Unlock()
	third := f.launcher(t, settings())
	start(t, third, launch("run-3-1"))
	changed := settings()
	changed.Tags = map[string]string{"team": "others"}
	fourth := f.launcher(t, changed)
	start(t, fourth, launch("run-3-1"))
	if len(f.tasks) != 120 {
		t.Errorf("there are %d tasks of 120", len(f.tasks))
	}
}

// A RunTask that is answered with an error by which nobody knows whether it was
// done is done once.
func TestStartedOnce(t *testing.T) {
	f := newFake(t)
	l := f.launcher(t, settings())
	f.breaks(func(action string, n int, body map[string]any) *awsError {
		if action == "RunTask" && n < 5 {
			_, _ = f.run(body)
			return &awsError{500, "ServerException", "out of order"}
		}
		return nil
	})
	start(t, l, launch("run-0-1"))
	if n := f.count("RunTask"); len(f.tasks) != 1 || n != 6 {
		t.Errorf("%d tasks by %d calls", len(f.tasks), n)
	}
}

// What ECS was asked for when a task is cancelled is known, and so it is
// stopped.
func TestCancelledWhileStarting(t *testing.T) {
	f := newFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.fault = func(action string, _ int, _ map[string]any) *awsError {
		switch action {
		case "RunTask":
			cancel()
			time.Sleep(20 * time.Millisecond)
		case "ListTasks": // which may not have it yet
			return &awsError{400, "InvalidParameterException", "no"}
		}
		return nil
	}
	l := f.launcher(t, settings())
	_ = l.Start(ctx, launch("run-0-1"))
	if err := l.Stop(t.Context(), "run-0-1"); err != nil {
		t.Fatal(err)
	}
	if n := f.count("StopTask"); n != 1 {
		t.Errorf("StopTask was called %d times", n)
	}
}

func TestCapacity(t *testing.T) {
	f := newFake(t)
	l := f.launcher(t, settings())
	all := told(t, l)
	f.mu.Lock()
	f.full["FARGATE_SPOT"] = true
	f.mu.Unlock()
	start(t, l, launch("run-0-1"))
	if f.tasks[0].place != "FARGATE" {
		t.Errorf("it is started on %s", f.tasks[0].place)
	}
	expect(t, all, "run-0-1", runner.AgentPending, "on FARGATE now: FARGATE_SPOT has no capacity")

	f.mu.Lock()
	f.full["FARGATE"] = true
	f.mu.Unlock()
	started := make(chan error, 1)
	go func() { started <- l.Start(context.Background(), launch("run-1-1")) }()
	s := expect(t, all, "run-1-1", runner.AgentPending, "no capacity for it at present: FARGATE_SPOT, FARGATE")
	if !strings.Contains(s.Hint, "availability zones") {
		t.Error(s.Hint)
	}
	f.mu.Lock()
	f.full = map[string]bool{}
	f.mu.Unlock()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.full = map[string]bool{"FARGATE": true, "FARGATE_SPOT": true}
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Start(ctx, launch("run-2-1")); err == nil || errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "no capacity") {
		t.Errorf("%v", err)
	}
}

// What Spot lost goes to FARGATE.
func TestSpotInterruption(t *testing.T) {
	f := newFake(t)
	l := f.launcher(t, settings())
	all := told(t, l)
	start(t, l, launch("run-0-1"))
	f.set("run-0-1", map[string]any{"lastStatus": "RUNNING", "desiredStatus": "STOPPED", "stopCode": "SpotInterruption", "stoppedReason": "Your Spot Task was interrupted."}, nil)
	expect(t, all, "run-0-1", runner.AgentRunning, "AWS takes the capacity of Spot back")
	f.set("run-0-1", map[string]any{"lastStatus": "STOPPED"}, map[string]any{"exitCode": 130})
	if s := expect(t, all, "run-0-1", runner.AgentExited, "Spot"); !s.Infrastructure {
		t.Errorf("%+v", s)
	}
	again := launch("run-0-2")
	again.Attempt = 2
	start(t, l, again)
	if got := f.tasks[1].place; got != "FARGATE" {
		t.Errorf("the second attempt is on %s", got)
	}
	expect(t, all, "run-0-2", runner.AgentPending, "on FARGATE now, as the attempt before it was lost")
	if env := fmt.Sprint(f.tasks[0].request["overrides"]); !strings.Contains(env, interruptedVariable) {
		t.Error(env)
	}
}

func TestProjects(t *testing.T) {
	f := newFake(t)
	s := settings()
	s.Projects = map[string]config.ECSProject{"ap*": {Capacity: []config.ECSCapacity{{Provider: "FARGATE", Weight: 1}}}, "other": {Capacity: []config.ECSCapacity{{Provider: "machines", Weight: 1}}}}
	l := f.launcher(t, s)
	other := launch("run-1-1")
	other.Labels = map[string]string{"image": "other"}
	other.Platform = "linux/arm64"
	other.Resources = &config.Resources{CPU: "20", Memory: "200Gi"}
	start(t, l, launch("run-0-1"), other)
	if f.tasks[0].place != "FARGATE" || f.tasks[1].place != "machines" {
		t.Errorf("they are on %s and %s", f.tasks[0].place, f.tasks[1].place)
	}
	d := f.definitions[1].body
	if text(d, "cpu") != "20480" || text(d, "memory") != "204800" || !strings.Contains(fmt.Sprint(d["placementConstraints"]), "ecs.cpu-architecture == arm64") || f.tasks[1].request["platformVersion"] != nil {
		t.Errorf("%v", d)
	}
}

// An agent that is on its way for too long is told of, with what to look at.
func TestProvisioningForever(t *testing.T) {
	f := newFake(t)
	l := f.launcher(t, settings(), func(l *Launcher) { l.now = func() time.Time { return time.Now().Add(patience) } })
	all := told(t, l)
	start(t, l, launch("run-0-1"))
	s := expect(t, all, "run-0-1", runner.AgentPending, "still PROVISIONING")
	if !strings.Contains(s.Hint, "free addresses") {
		t.Error(s.Hint)
	}
	f.set("run-0-1", map[string]any{"lastStatus": "PENDING", "pullStartedAt": 1.0}, nil)
	expect(t, all, "run-0-1", runner.AgentPending, "image is still being pulled")
	if err := l.Stop(t.Context(), "run-0-1"); err != nil {
		t.Error(err)
	}
}

// ECS may not know yet what it has just started, and forgets what it lost.
func TestUnknownToECS(t *testing.T) {
	f := newFake(t)
	l := f.launcher(t, settings(), func(l *Launcher) { l.unseenFor = 100 * time.Millisecond })
	all := told(t, l)
	f.mu.Lock()
	f.forgetful = true
	f.mu.Unlock()
	start(t, l, launch("run-0-1"))
	begun := time.Now()
	if s := expect(t, all, "run-0-1", runner.AgentExited, "does not know"); !s.Infrastructure || time.Since(begun) < 100*time.Millisecond {
		t.Errorf("%+v", s)
	}
}

// 500 tasks are launched and watched with few calls.
func TestCalls(t *testing.T) {
	f := newFake(t)
	l := f.launcher(t, settings(), func(l *Launcher) { l.every = 100 * time.Millisecond })
	var all sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range 500 {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if err := l.Start(context.Background(), launch(fmt.Sprintf("run-%d-1", i))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for action, most := range map[string]int{"RunTask": 500, "RegisterTaskDefinition": 1, "DescribeTaskDefinition": 1, "ListTasks": 20} {
		if f.calls[action] > most {
			t.Errorf("%d calls of %s", f.calls[action], action)
		}
	}
	f.calls["DescribeTasks"] = 0
	f.mu.Unlock()
	if err := l.describe(t.Context(), l.live()); err != nil {
		t.Error(err)
	}
	f.mu.Lock()
	if n := f.calls["DescribeTasks"]; n < 5 || n > 10 {
		t.Errorf("%d calls for 500 tasks", n)
	}
}

// Every action is throttled again and again; nothing fails, and the reason is
// told while it lasts.
func TestThrottling(t *testing.T) {
	f := newFake(t)
	refused := map[string]int{}
	f.fault = func(action string, _ int, _ map[string]any) *awsError {
		if refused[action]++; refused[action]%5 != 0 {
			return &awsError{400, "ThrottlingException", "Rate exceeded"}
		}
		return nil
	}
	l := f.launcher(t, settings())
	all := told(t, l)
	start(t, l, launch("run-0-1"))
	expect(t, all, "run-0-1", runner.AgentPending, "")
	f.set("run-0-1", map[string]any{"lastStatus": "RUNNING"}, nil)
	expect(t, all, "run-0-1", runner.AgentRunning, "")
	if err := l.Stop(t.Context(), "run-0-1"); err != nil {
		t.Error(err)
	}
	if _, err := l.CleanUp(t.Context()); err != nil {
		t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, action := range []string{"DescribeTaskDefinition", "RegisterTaskDefinition", "RunTask", "DescribeTasks", "ListTasks", "StopTask", "ListTaskDefinitions"} {
		if refused[action] < 5 {
			t.Errorf("%s was called %d times", action, refused[action])
		}
	}
	if len(f.tasks) != 1 {
		t.Errorf("there are %d tasks", len(f.tasks))
	}
}

// While AWS throttles without an end, the agent waits and says why.
func TestThrottledForever(t *testing.T) {
	f := newFake(t)
	f.fault = func(action string, _ int, _ map[string]any) *awsError {
		if action == "RunTask" {
			return &awsError{400, "ThrottlingException", "Rate exceeded"}
		}
		return nil
	}
	l := f.launcher(t, settings())
	all := told(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan error, 1)
	go func() { started <- l.Start(ctx, launch("run-0-1")) }()
	expect(t, all, "run-0-1", runner.AgentPending, "AWS is asked more often than it answers")
	cancel()
	if err := <-started; err == nil || errors.Is(err, failure.ErrInput) {
		t.Errorf("%v", err)
	}
}

// Events bring changes before the next look, and only those of this family.
func TestEvents(t *testing.T) {
	f := newFake(t)
	s := settings()
	s.EventQueue = f.url + "/" + account + "/events"
	l := f.launcher(t, s, func(l *Launcher) { l.every = time.Hour })
	all := told(t, l)
	start(t, l, launch("run-0-1"))
	expect(t, all, "run-0-1", runner.AgentPending, "")
	event := func(startedBy, status string, version int) string {
		return fmt.Sprintf(`{"detail-type":"ECS Task State Change","detail":{"taskArn":%q,"lastStatus":%q,"desiredStatus":"STOPPED","startedBy":%q,"version":%d,"stopCode":"EssentialContainerExited","memory":"2048",
			"containers":[{"name":"agent","lastStatus":"STOPPED","exitCode":137,"reason":"OutOfMemoryError: Container killed due to memory usage"}]}}`, f.tasks[0].arn, status, startedBy, version)
	}
	f.mu.Lock()
	f.messages = []string{"no JSON", `{"detail-type":"Other"}`, event("others", "STOPPED", 9), event("pipegen-agent", "RUNNING", 5), event("pipegen-agent", "STOPPED", 7)}
	f.mu.Unlock()
	if s := expect(t, all, "run-0-1", runner.AgentExited, "it had 2048 MiB"); s.Infrastructure {
		t.Errorf("%+v", s)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		deleted := f.deleted
		f.mu.Unlock()
		if deleted == 5 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of 5 messages were deleted", deleted)
		}
	}
}

// Each action that is not granted is named, with the role that it is not
// granted to.
func TestAccessDenied(t *testing.T) {
	for _, action := range []string{"DescribeTaskDefinition", "RegisterTaskDefinition", "RunTask", "StopTask", "ListTasks", "DescribeTasks", "ListTaskDefinitions", "DeregisterTaskDefinition"} {
		t.Run(action, func(t *testing.T) {
			f := newFake(t)
			denied := func(called string, _ int, _ map[string]any) *awsError {
				if called != action {
					return nil
				}
				return &awsError{400, "AccessDeniedException", "User: arn:aws:sts::" + account + ":assumed-role/pipegen-server/i-0123 is not authorized to perform: ecs:" + action +
					" on resource: arn:aws:ecs:eu-west-1:" + account + ":cluster/builds because no identity-based policy allows the ecs:" + action + " action"}
			}
			l := f.launcher(t, settings())
			err := func() error {
				switch action {
				case "StopTask", "DescribeTasks", "DeregisterTaskDefinition":
					start(t, l, launch("run-0-1"))
				}
				f.mu.Lock()
				f.fault = denied
				if action == "DeregisterTaskDefinition" {
					f.tasks[0].body["desiredStatus"] = "STOPPED"
					f.definitions[0].registered = time.Now().Add(-2 * recent)
				}
				f.mu.Unlock()
				switch action {
				case "StopTask":
					return l.Stop(t.Context(), "run-0-1")
				case "ListTasks":
					_, err := l.Find(t.Context(), "run-9-1")
					return err
				case "DescribeTasks":
					return explain("looking at tasks", l.describe(t.Context(), l.live()))
				case "ListTaskDefinitions":
					_, err := l.CleanUp(t.Context())
					return err
				case "DeregisterTaskDefinition":
					l.settings = "other"
					_, err := l.CleanUp(t.Context())
					return err
				}
				return l.Start(t.Context(), launch("run-0-1"))
			}()
			if err == nil || !errors.Is(err, failure.ErrInput) && action != "DeregisterTaskDefinition" ||
				!strings.Contains(err.Error(), "the role arn:aws:iam::"+account+":role/pipegen-server may not ecs:"+action+" on arn:aws:ecs:eu-west-1:"+account+":cluster/builds") {
				t.Errorf("%v", err)
			}
		})
	}
	f := newFake(t)
	f.fault = func(action string, _ int, _ map[string]any) *awsError {
		if action == "RegisterTaskDefinition" {
			return &awsError{400, "ClientException", "User: arn:aws:sts::" + account + ":assumed-role/server/x is not authorized to perform: iam:PassRole on resource: " + agentRole}
		}
		return nil
	}
	if err := f.launcher(t, settings()).Start(t.Context(), launch("run-0-1")); err == nil || !strings.Contains(err.Error(), "role/server may not iam:PassRole on "+agentRole) {
		t.Errorf("%v", err)
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		action string
		err    awsError
		words  string
		hint   string
		final  bool
	}{
		"expired":      {"RunTask", awsError{400, "ExpiredTokenException", "The security token included in the request is expired"}, "session token of the controller's credentials has expired", "renew", false},
		"unrecognized": {"RunTask", awsError{400, "UnrecognizedClientException", "The security token included in the request is invalid."}, "does not take the controller's credentials", "partition", true},
		"limit":        {"RegisterTaskDefinition", awsError{400, "LimitExceededException", "The limit for the resource has been exceeded."}, "a limit of the account is reached", "CLEANUP_ECS_TASK_DEFINITIONS", true},
		"revisions":    {"RegisterTaskDefinition", awsError{400, "ClientException", "Too many concurrent attempts; maximum number of revisions"}, "a limit of the account is reached", "CLEANUP", true},
		"cluster":      {"RunTask", awsError{400, "ClusterNotFoundException", "Cluster not found."}, "there is no such cluster", "ECS_CLUSTER", true},
		"role":         {"RegisterTaskDefinition", awsError{400, "ClientException", "Role is not valid"}, "Role is not valid", "ecs-tasks.amazonaws.com", true},
		"parameter":    {"RunTask", awsError{400, "InvalidParameterException", "The subnet ID 'subnet-1' does not exist"}, "AWS refuses it: The subnet ID 'subnet-1' does not exist", "server.ecs", true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.fault = func(action string, _ int, _ map[string]any) *awsError {
				if action == c.action {
					return &c.err
				}
				return nil
			}
			err := f.launcher(t, settings()).Start(t.Context(), launch("run-0-1"))
			if err == nil || !strings.Contains(err.Error(), c.words) || !strings.Contains(failure.Hint(err), c.hint) || errors.Is(err, failure.ErrInput) != c.final {
				t.Errorf("%v (%s)", err, failure.Hint(err))
			}
		})
	}
}

// A limit of the account on what runs at once passes.
func TestAccountIsFull(t *testing.T) {
	f := newFake(t)
	f.fault = func(action string, n int, _ map[string]any) *awsError {
		if action == "RunTask" && n < 6 {
			return &awsError{400, "ClientException", "You've reached the limit on the number of vCPUs you can run concurrently"}
		}
		return nil
	}
	l := f.launcher(t, settings())
	all := told(t, l)
	start(t, l, launch("run-0-1"))
	expect(t, all, "run-0-1", runner.AgentPending, "")
}

// A clock that is off is put right by what AWS answers, however far.
func TestClockSkew(t *testing.T) {
	f := newFake(t)
	f.skew = 20 * time.Minute
	l := f.launcher(t, settings())
	start(t, l, launch("run-0-1"))
}

func TestNoCredentials(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", "/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	f := newFake(t)
	t.Setenv("AWS_ENDPOINT_URL", f.url)
	cfg, err := Connect(t.Context(), "eu-west-1", "pipegen")
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLauncher(Options{Config: cfg, Settings: settings()})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Start(t.Context(), launch("run-0-1")); err == nil || !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "there are no credentials of AWS") {
		t.Errorf("%v", err)
	}
	if len(f.calls) > 0 {
		t.Errorf("%v", f.calls)
	}
}

func TestEndings(t *testing.T) {
	f := newFake(t)
	l := f.launcher(t, settings())
	all := told(t, l)
	for i, c := range []struct {
		code, reason, container string
		exit                    any
		words                   string
		infrastructure, hopeful bool
		hint                    string
	}{
		{"EssentialContainerExited", "Essential container in task exited", "OutOfMemoryError: Container killed due to memory usage", 137, "want of memory: it had 2048 MiB", false, true, "resources.memory"},
		{"EssentialContainerExited", "Essential container in task exited", "", 137, "it was killed (exit status 137)", true, true, "resources.memory"},
		{"EssentialContainerExited", "Essential container in task exited", "", 2, "exit status 2", true, true, "log group /pipegen, stream pipegen-agent/agent/"},
		{"EssentialContainerExited", "Essential container in task exited", "", nil, "without an exit code", true, true, ""},
		{"", "", "", nil, "it ended without an exit code", true, true, ""},
		{"TaskFailedToStart", "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref registry.example.com/pipegen:builder: registry.example.com/pipegen:builder: not found", "", nil, "the image registry.example.com/pipegen:builder does not exist", false, false, "AGENT_IMAGE"},
		{"TaskFailedToStart", "CannotPullContainerError: failed to resolve ref: pull access denied, repository does not exist or may require authorization", "", nil, "does not give the image", false, false, "image_secret"},
		{"TaskFailedToStart", "CannotPullContainerError: image Manifest does not contain descriptor matching platform 'linux/arm64'", "", nil, "not for the architecture", false, false, "make builder"},
		{"TaskFailedToStart", "CannotPullContainerError: dial tcp 10.0.0.1:443: i/o timeout", "", nil, "is not reached", true, true, "NAT"},
		{"TaskFailedToStart", "CannotPullContainerError: toomanyrequests: You have reached your pull rate limit", "", nil, "limits how often", true, true, "ECR"},
		{"TaskFailedToStart", "CannotPullContainerError: write /x: no space left on device", "", nil, "does not fit on the disk", false, true, "ephemeral_storage"},
		{"TaskFailedToStart", "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: context deadline exceeded", "", nil, "could not be made ready", true, true, "VPC endpoints"},
		{"TaskFailedToStart", "ResourceInitializationError: unable to pull secrets: AccessDeniedException: not authorized to perform: secretsmanager:GetSecretValue", "", nil, "could not be made ready", false, false, "execution_role"},
		{"TaskFailedToStart", "ResourceInitializationError: failed to validate logger args: The specified log group does not exist.", "", nil, "could not be made ready", false, false, "log_group"},
		{"TaskFailedToStart", "Timeout waiting for network interface provisioning to complete.", "", nil, "its machine or its network", true, true, "free addresses"},
		{"TaskFailedToStart", "Capacity is unavailable at this time.", "", nil, "no capacity", true, true, "availability zones"},
		{"TaskFailedToStart", "CannotStartContainerError: exec: \"pipegen\": executable file not found in $PATH", "", nil, "cannot be started", false, false, "pipegen in its PATH"},
		{"SpotInterruption", "Your Spot Task was interrupted.", "", nil, "capacity of Spot back", true, true, "server.ecs.projects"},
		{"UserInitiated", "Task stopped by jane", "", 143, "not by this controller: Task stopped by jane", true, true, ""},
		{"TerminationNotice", "Fargate retires it", "", 143, "out of service", true, true, ""},
	} {
		task := fmt.Sprintf("run-%d-%c", i, 'a')
		start(t, l, launch(task))
		container := map[string]any{"lastStatus": "STOPPED"}
		if c.container != "" {
			container["reason"] = c.container
		}
		if c.exit != nil {
			container["exitCode"] = c.exit
		}
		f.set(task, map[string]any{"lastStatus": "STOPPED", "desiredStatus": "STOPPED", "stopCode": c.code, "stoppedReason": c.reason}, container)
		s := expect(t, all, task, runner.AgentExited, c.words)
		if s.Infrastructure != c.infrastructure || s.Hopeless == c.hopeful || !strings.Contains(s.Hint, c.hint) {
			t.Errorf("%s: %+v", c.reason, s)
		}
	}
}

func TestWrongTasks(t *testing.T) {
	f := newFake(t)
	s := settings()
	s.Image = ""
	l := f.launcher(t, s)
	bad := func(change func(*runner.Launch)) runner.Launch {
		b := launch("run-0-1")
		b.Image = "i"
		change(&b)
		return b
	}
	for words, b := range map[string]runner.Launch{
		"no id of a task":              bad(func(b *runner.Launch) { b.Task = "../x" }),
		"no image for the agent":       bad(func(b *runner.Launch) { b.Image = "" }),
		"no machines for linux/s390x":  bad(func(b *runner.Launch) { b.Platform = "linux/s390x" }),
		"no size of Fargate holds":     bad(func(b *runner.Launch) { b.Resources = &config.Resources{CPU: "32"} }),
		"resources.ephemeral_storage ": bad(func(b *runner.Launch) { b.Resources = &config.Resources{EphemeralStorage: "300Gi"} }),
	} {
		if err := l.Start(t.Context(), b); !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v", words, err)
		}
	}
	if slices.ContainsFunc(f.tasks, func(*fakeTask) bool { return true }) {
		t.Error("something was started")
	}
}
