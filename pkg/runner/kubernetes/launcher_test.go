package kubernetes

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/runner"
)

// world is a launcher at an API server, and what it reports.
type world struct {
	*testing.T
	*Launcher
	server *apiServer
	told   chan string
}

func newWorld(t *testing.T, server *apiServer) *world {
	t.Helper()
	w := &world{T: t, server: server, told: make(chan string, 100)}
	ctx, cancel := context.WithCancel(t.Context())
	var err error
	w.Launcher, err = New(ctx, Options{
		Client: server.client(), Namespace: "builds", Settings: settings(t, "kubernetes: {image: r.example/builder:1, queue: team-a}"), Now: func() time.Time { return noon },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.wait, w.every, w.fullFor, w.unseenFor = 10*time.Millisecond, 20*time.Millisecond, 100*time.Millisecond, 2*time.Second
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		_ = w.Watch(ctx, func(s runner.AgentStatus) { w.told <- s.Task + " " + show(s) })
	}()
	t.Cleanup(func() {
		cancel()
		<-watched
		<-w.done
	})
	return w
}

// expect waits until something is reported. What an agent was on the way may be
// told or not.
func (w *world) expect(want string) {
	w.Helper()
	late := time.After(30 * time.Second)
	var seen []string
	for {
		select {
		case got := <-w.told:
			if got == want {
				return
			}
			seen = append(seen, got)
		case <-late:
			w.Fatalf("never told: %q; told: %q", want, seen)
		}
	}
}

// silent says that nothing else is reported, for as long as several looks take.
func (w *world) silent() {
	w.Helper()
	select {
	case got := <-w.told:
		w.Errorf("told %q", got)
	case <-time.After(100 * time.Millisecond):
	}
}

const task = "0abcdefgh1234567-0-1"

func (w *world) start() {
	w.Helper()
	if err := w.Start(w.Context(), launch); err != nil {
		w.Fatal(err)
	}
}

func TestLife(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	w := newWorld(t, s)
	w.start()
	w.expect(task + " pending")
	w.start() // again: nothing
	if jobs, secrets := s.names("jobs"), s.names("secrets"); jobs != task || secrets != task {
		t.Errorf("Jobs %q, Secrets %q", jobs, secrets)
	}
	s.do(func() {
		secret := s.objects["secrets"][task].(*corev1.Secret)
		if owner := secret.OwnerReferences; len(owner) != 1 || owner[0].UID != s.objects["jobs"][task].GetUID() || string(secret.Data[tokenKey]) != launch.Token {
			t.Errorf("%+v", secret)
		}
	})
	s.pod(task, waits("ContainerCreating", ""))
	s.pod(task, running())
	w.expect(task + " running")
	s.pod(task, running(), with(corev1.PodReady, corev1.ConditionTrue, "", "")) // no news
	s.pod(task, exits(0, "Completed", ""))
	w.expect(task + " exited 0")
	if err := w.Stop(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	for _, resource := range []string{"jobs", "pods", "secrets"} {
		if left := s.names(resource); left != "" {
			t.Errorf("%s are left: %s", resource, left)
		}
	}
	if err := w.Stop(t.Context(), task); err != nil {
		t.Error("of an agent that there is none of:", err)
	}
	if _, err := w.Find(t.Context(), task); !errors.Is(err, runner.ErrNoAgent) {
		t.Error(err)
	}
	w.silent()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.records) > 0 {
		t.Errorf("%d agents are not forgotten", len(w.records))
	}
}

// A task costs three requests, whatever happens to it on the way.
func TestRequests(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	w := newWorld(t, s)
	for i := range 3 {
		w.start()
		s.warn("Job", task, "FailedCreate", `Error creating: pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1`)
		s.pod(task, waits("ErrImagePull", "not found"))
		s.pod(task, running())
		if i == 1 {
			s.compact()
		}
		s.pod(task, exits(0, "Completed", ""))
		for got := range w.told {
			if strings.HasSuffix(got, "exited 0") {
				break
			}
		}
		for range 2 { // it is told twice, as by an agent's report and by its end
			if err := w.Stop(t.Context(), task); err != nil {
				t.Fatal(err)
			}
		}
	}
	// One more for one that came and went while the watches were broken.
	var looked int
	s.do(func() { looked = s.requests["get jobs"] })
	if n, all := s.count(); n > 9+looked || looked > 1 {
		t.Errorf("%d requests for three tasks: %s", n, all)
	}
}

// What one process left, another finds: also an agent whose Secret it had no
// time to make.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	w := newWorld(t, s)
	tasks := []string{"a-0-1", "b-0-1", "c-0-1"}
	for _, id := range tasks {
		l := launch
		l.Task = id
		if err := w.Start(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	s.pod("b-0-1", running())
	s.pod("c-0-1", exits(3, "Error", "it broke"))
	s.remove("secrets", "a-0-1") // as if it had ended between the two

	w = newWorld(t, s)
	w.expect("a-0-1 pending")
	w.expect("b-0-1 running")
	w.expect("c-0-1 exited 3! the agent ended with exit status 3: it broke")
	w.silent()
	if _, err := w.Find(t.Context(), "a-0-1"); !errors.Is(err, runner.ErrNoAgent) {
		t.Error("an agent that has not begun may lack its token:", err)
	}
	again := launch
	again.Task, again.Token = "a-0-1", "another token"
	if err := w.Start(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if got := s.names("secrets"); got != "a-0-1 b-0-1 c-0-1" {
		t.Error(got)
	}
	for task, want := range map[string]string{"b-0-1": "running", "c-0-1": "exited 3! the agent ended with exit status 3: it broke"} {
		if got, err := w.Find(t.Context(), task); err != nil || show(got) != want {
			t.Error(show(got), err)
		}
	}
	if n, all := s.count(); n != 6+2 { // three times two, and two attempts at what is there
		t.Errorf("%d requests: %s", n, all)
	}
}

// An agent that has ended is not started again.
func TestStartAfterEnd(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	w := newWorld(t, s)
	j := aJob(batchv1.JobFailed, "BackoffLimitExceeded")
	j.Name, j.Labels = task, map[string]string{taskLabel: task, managedBy: itself}
	s.put("jobs", j)
	w.expect(task + " exited! its pod is gone, and nobody knows how it ended: the message")
	w.start()
	if got := s.names("secrets"); got != "" {
		t.Error("a token was made:", got)
	}
	// And one that is somebody else's is left alone.
	s.put("jobs", &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "b-0-1"}})
	l := launch
	l.Task = "b-0-1"
	if err := w.Start(t.Context(), l); !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "not pipegen's") {
		t.Error(err)
	}
}

// Stop returns when the pod is gone, and not before.
func TestStopWaits(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	w := newWorld(t, s)
	w.start()
	s.pod(task, running())
	w.expect(task + " running")
	s.do(func() { s.stuck = true })
	stopped := make(chan error)
	patient, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { stopped <- w.Stop(patient, task) }()
	for asked := false; !asked; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		r := w.records[task]
		asked = r.deleted && r.job.DeletionTimestamp != nil
		w.mu.Unlock()
	}
	cancel()
	err := <-stopped
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "on node node-1") || failure.Hint(err) == "" {
		t.Errorf("%v (%s)", err, failure.Hint(err))
	}
	go func() { stopped <- w.Stop(t.Context(), task) }()
	select {
	case err := <-stopped:
		t.Fatal("its pod is there, and it returned", err)
	case <-time.After(100 * time.Millisecond):
	}
	s.remove("pods", task+"-abcde")
	s.remove("jobs", task)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	w.silent() // who stops it needs no telling
}

// Starting and stopping at once leaves nothing.
func TestStopAtOnce(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	w := newWorld(t, s)
	for range 20 {
		w.start()
		if err := w.Stop(t.Context(), task); err != nil {
			t.Fatal(err)
		}
		if left := s.names("jobs") + s.names("secrets"); left != "" {
			t.Fatal("left:", left)
		}
	}
}

// By hand, or by another controller.
func TestDeleted(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	w := newWorld(t, s)
	w.start()
	w.expect(task + " pending")
	s.pod(task, running())
	w.expect(task + " running")
	s.remove("jobs", task)
	w.expect(task + " exited! its Job was deleted, and not by this controller")
	w.silent()
}

// A watch that is too old is taken up by a list; what happened in between is told.
func TestExpiredWatch(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	w := newWorld(t, s)
	w.start()
	w.expect(task + " pending")
	s.pod(task, running())
	w.expect(task + " running")
	var before int
	s.do(func() { before, s.away = s.requests["list pods"], true })
	s.compact()
	s.pod(task, exits(137, "OOMKilled", ""))
	s.outage(false)
	w.expect(task + " exited 137 it was killed for want of memory: it had 4Gi (OOMKilled) (give the build more: resources.memory)")
	s.do(func() {
		if s.requests["list pods"] == before {
			t.Error("nothing was listed again: the watch did not expire")
		}
	})
	// What is gone in between is told too.
	other := launch
	other.Task = "b-0-1"
	if err := w.Start(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	w.expect("b-0-1 pending")
	s.do(func() { s.away = true })
	s.compact()
	s.remove("jobs", "b-0-1")
	s.outage(false)
	w.expect("b-0-1 exited! its Job was deleted, and not by this controller")
}

// An API server that is away delays, and is told of.
func TestServerAway(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	s.outage(true)
	w := newWorld(t, s)
	started := make(chan error)
	go func() { started <- w.Start(t.Context(), launch) }()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.Find(short, task); err == nil || errors.Is(err, runner.ErrNoAgent) {
		t.Error("nobody can know whether there is an agent:", err)
	}
	if err := w.Stop(short, task+"x"); err == nil {
		t.Error("it was not stopped")
	}
	s.outage(false)
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	w.expect(task + " pending")

	s.do(func() {
		s.instead = func(verb, _ string) *metav1.Status {
			if verb == "create" {
				return failure503()
			}
			return nil
		}
	})
	other := launch
	other.Task = "b-0-1"
	go func() { started <- w.Start(t.Context(), other) }()
	w.expect("b-0-1 pending making the Job: the API server of Kubernetes is in trouble: etcd is away (see that the cluster's control plane is well)")
	// One that has just started knows no roles yet.
	s.do(func() {
		s.instead = func(verb, _ string) *metav1.Status {
			if verb == "create" {
				return statusOf(403, metav1.StatusReasonForbidden, `jobs.batch is forbidden: User "system:serviceaccount:builds:pipegen" cannot create resource "jobs" in API group "batch" in the namespace "builds"`)
			}
			return nil
		}
	})
	w.expect("b-0-1 pending making the Job: system:serviceaccount:builds:pipegen may not create jobs in namespace builds (give its Role what docs/kubernetes.md lists; pipegen doctor --runner kubernetes checks it)")
	s.do(func() { s.instead = nil })
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	w.expect("b-0-1 pending")
}

func TestRefused(t *testing.T) {
	forbidden := func(message string) *metav1.Status { return statusOf(403, metav1.StatusReasonForbidden, message) }
	for _, c := range []struct {
		name    string
		status  *metav1.Status
		want    string
		isInput bool
	}{
		{"permission", forbidden(`jobs.batch is forbidden: User "system:serviceaccount:builds:pipegen" cannot create resource "jobs" in API group "batch" in the namespace "builds"`), "system:serviceaccount:builds:pipegen may not create jobs in namespace builds", true},
		{"quota of Jobs", forbidden(`jobs.batch "x" is forbidden: exceeded quota: objects, requested: count/jobs.batch=1, used: count/jobs.batch=5, limited: count/jobs.batch=5`), "the quota objects of namespace builds is full: it asks for count/jobs.batch=1; used are count/jobs.batch=5 of count/jobs.batch=5", false},
		{"no namespace", statusOf(404, metav1.StatusReasonNotFound, `namespaces "builds" not found`), "there is no namespace builds", true},
		{"namespace ends", forbidden(`jobs.batch "x" is forbidden: unable to create new content in namespace builds because it is being terminated`), "the namespace builds is being deleted", true},
		{"admission", forbidden(`admission webhook "policy" denied the request: no`), `the cluster forbids it: admission webhook "policy" denied the request: no`, true},
		{"invalid", statusOf(422, metav1.StatusReasonInvalid, `Job.batch "x" is invalid: spec.template.spec.containers[0].image: Required value`), "the cluster refuses it: Job.batch", true},
		{"credentials", statusOf(401, metav1.StatusReasonUnauthorized, "Unauthorized"), "does not know who asks", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newAPIServer(t)
			s.instead = func(verb, _ string) *metav1.Status {
				if verb != "create" {
					return nil
				}
				return c.status
			}
			w := newWorld(t, s)
			err := w.Start(t.Context(), launch)
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, failure.ErrInput) != c.isInput || failure.Hint(err) == "" {
				t.Errorf("%v (%s), want %q", err, failure.Hint(err), c.want)
			}
		})
	}
}

// Warnings of the cluster are told in plain words, and taken back.
func TestWarnings(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	w := newWorld(t, s)
	w.start()
	w.expect(task + " pending")
	s.warn("Job", "of-others", "FailedCreate", "x")
	s.warn("Job", task, "FailedCreate", `Error creating: pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5`)
	w.expect(task + " pending the quota q of namespace builds is full: it asks for pods=1; used are pods=5 of pods=5 (it starts when other builds have ended; ask for less (resources), have fewer tasks at once (server.limits.tasks), or raise the ResourceQuota)")
	s.pod(task, waits("ContainerCreating", ""))
	w.expect(task + " pending")
	s.warn("Pod", task+"-abcde", "FailedMount", `MountVolume.SetUp failed for volume "x" : configmap "authority" not found`)
	w.expect(task + " pending there is no ConfigMap authority in namespace builds (create it, or name another in server.kubernetes.pod)")
	s.pod(task, running())
	w.expect(task + " running")
	w.silent()
}

func TestPreflight(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	s.do(func() {
		s.denied["delete jobs"], s.denied["watch pods"] = true, true
		s.set("nodes", &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelArchStable: "amd64"}},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		})
	})
	w := newWorld(t, s)
	var got []string
	for _, c := range w.Preflight(t.Context(), Trial{}) {
		line := map[bool]string{true: "pass ", false: "fail "}[c.OK] + c.Name + ": " + c.Detail
		if !c.OK && c.Fix == "" {
			t.Error("no fix:", line)
		}
		got = append(got, line)
	}
	want := []string{
		"pass cluster: Kubernetes v1.34.4, namespace builds",
		"fail permission: may not delete jobs.batch in namespace builds",
		"fail permission: may not watch pods in namespace builds",
		"pass permission: create secrets",
		"pass permission: list, watch events",
		"pass nodes of linux/amd64: 1 ready",
		"fail nodes of linux/arm64: none is ready: builds for linux/arm64 wait until there is one",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}

	s.do(func() { clear(s.denied) })
	done := make(chan []runner.Check)
	go func() {
		done <- w.Preflight(t.Context(), Trial{URL: "https://pipegen.example.com", Registries: []string{"r.example"}})
	}()
	name := ""
	for name == "" {
		name = s.names("jobs")
		time.Sleep(time.Millisecond)
	}
	s.do(func() {
		c := s.objects["jobs"][name].(*batchv1.Job).Spec.Template.Spec.Containers[0]
		if args := strings.Join(c.Args, " "); args != "agent check --report /dev/termination-log --url https://pipegen.example.com --registry r.example" || len(c.VolumeMounts) > 0 {
			t.Errorf("%s %v", args, c.VolumeMounts)
		}
	})
	s.pod(name, exits(0, "Completed", `[{"name":"controller","ok":true,"needed":true,"detail":"https://pipegen.example.com"},{"name":"registry r.example","needed":true,"detail":"it is not reached: refused","fix":"see egress"}]`))
	checks := <-done
	got = nil
	for _, c := range checks[len(checks)-3:] {
		got = append(got, map[bool]string{true: "pass ", false: "fail "}[c.OK]+c.Name+": "+c.Detail)
	}
	want = []string{
		"pass image on linux/amd64: r.example/builder:1",
		"pass controller from linux/amd64: https://pipegen.example.com",
		"fail registry r.example from linux/amd64: it is not reached: refused",
	}
	if !slices.Equal(got, want) || s.names("jobs") != "" {
		t.Errorf("got\n%s; left: %s", strings.Join(got, "\n"), s.names("jobs"))
	}
}
