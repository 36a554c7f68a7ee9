package kubernetes

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/runner"
)

// Trial says what a pod is to try.
type Trial struct {
	// Registries to reach, by host.
	Registries []string
	// How the controller is reached.
	URL string
	// How long a pod may take, from asking for it to its word; default: 2 minutes.
	Patience time.Duration
}

// reportFile is where a container leaves its last words.
const reportFile = "/dev/termination-log"

// Preflight tries what a cluster can do for builds, with the settings of a
// launcher: whether the API server answers, each permission, nodes of both
// common architectures, and in a pod of each whether its image can be pulled and
// the controller and registries are reached. Nothing is left behind. It
// never fails: what is missing is in the checks, and [runner.Unmet] makes an
// error of them.
func (l *Launcher) Preflight(ctx context.Context, t Trial) []runner.Check {
	checks := []runner.Check{l.checkServer(ctx)}
	if !checks[0].OK {
		return checks
	}
	for _, p := range Permissions {
		checks = append(checks, l.checkPermission(ctx, p))
	}
	if !slices.ContainsFunc(checks, func(c runner.Check) bool { return !c.OK }) {
		checks = append(checks, l.checkJob(ctx, t))
	}
	nodes, known := l.nodes(ctx)
	checks = append(checks, checkNodes(nodes, known)...)
	if slices.ContainsFunc(checks, func(c runner.Check) bool { return !c.OK && c.Needed }) {
		return checks
	}
	var mu sync.Mutex
	found := map[string][]runner.Check{}
	var pods sync.WaitGroup
	for _, arch := range architectures {
		if known && nodes[arch] == 0 {
			continue
		}
		pods.Go(func() {
			seen := l.checkPod(ctx, arch, t)
			mu.Lock()
			defer mu.Unlock()
			found[arch] = seen
		})
	}
	pods.Wait()
	for _, arch := range architectures {
		checks = append(checks, found[arch]...)
	}
	return checks
}

var architectures = []string{"amd64", "arm64"}

func fail(name string, needed bool, err error) runner.Check {
	return runner.Check{Name: name, Needed: needed, Detail: err.Error(), Fix: failure.Hint(err)}
}

func (l *Launcher) checkServer(ctx context.Context) runner.Check {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	text, err := l.client.version(ctx)
	var v struct{ GitVersion string }
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		return fail("cluster", true, explain("asking for its version", l.namespace, err))
	}
	return runner.Check{Name: "cluster", OK: true, Needed: true, Detail: fmt.Sprintf("Kubernetes %s, namespace %s", v.GitVersion, l.namespace)}
}

// checkPermission asks for each verb whether this identity may do it.
func (l *Launcher) checkPermission(ctx context.Context, p Permission) runner.Check {
	c := runner.Check{Name: "permission", OK: true, Needed: true, Detail: p.String()}
	var missing []string
	for _, verb := range p.Verbs {
		ask := &authv1.SelfSubjectAccessReview{Spec: authv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authv1.ResourceAttributes{Namespace: l.namespace, Group: p.Group, Resource: p.Resource, Verb: verb},
		}}
		request, cancel := context.WithTimeout(ctx, requestTime)
		answer, err := create(request, l.client.reviews(), ask, metav1.CreateOptions{})
		cancel()
		if err != nil {
			return fail("permission", true, explain("asking whether it may "+verb+" "+p.Resource, l.namespace, err))
		}
		if !answer.Status.Allowed {
			missing = append(missing, verb)
		}
	}
	if len(missing) > 0 {
		c.OK = false
		c.Detail = fmt.Sprintf("may not %s %s in namespace %s", strings.Join(missing, ", "), p.resource(), l.namespace)
		c.Fix = fmt.Sprintf(`add to its Role: {apiGroups: [%q], resources: [%s], verbs: [%s]}`, p.Group, p.Resource, strings.Join(p.Verbs, ", "))
	}
	return c
}

// checkJob has the cluster look at a Job without making it.
func (l *Launcher) checkJob(ctx context.Context, t Trial) runner.Check {
	j, err := l.trial(architectures[0], t)
	if err == nil {
		request, cancel := context.WithTimeout(ctx, requestTime)
		defer cancel()
		_, err = create(request, l.client.jobs(l.namespace), j, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			err = explain("making a Job", l.namespace, err)
		}
	}
	if err != nil {
		return fail("job", true, err)
	}
	return runner.Check{Name: "job", OK: true, Needed: true, Detail: "the cluster takes Jobs as server.kubernetes has them"}
}

// nodes counts those that are ready, by architecture; they may not be this
// identity's to see.
func (l *Launcher) nodes(ctx context.Context) (map[string]int, bool) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	var all corev1.NodeList
	if err := l.client.nodes().list(ctx, &all, metav1.ListOptions{ResourceVersion: "0"}); err != nil {
		return nil, false
	}
	count := map[string]int{}
	for i := range all.Items {
		n := &all.Items[i]
		ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
		if ready && !n.Spec.Unschedulable {
			count[n.Labels[corev1.LabelArchStable]]++
		}
	}
	return count, true
}

func checkNodes(count map[string]int, known bool) []runner.Check {
	if !known {
		return []runner.Check{{Name: "nodes", Detail: "this identity may not list nodes, so pods are tried on both architectures", Fix: "run it as one who may, or allow list nodes; the controller itself does not need that"}}
	}
	var checks []runner.Check
	for _, arch := range architectures {
		c := runner.Check{Name: "nodes of linux/" + arch, OK: count[arch] > 0, Detail: fmt.Sprintf("%d ready", count[arch])}
		if !c.OK {
			c.Detail = "none is ready: builds for linux/" + arch + " wait until there is one"
			c.Fix = "add a node, or leave the platform out; kubectl get nodes -L kubernetes.io/arch"
		}
		checks = append(checks, c)
	}
	return checks
}

// trial gives a Job whose pod tries things and says how that went.
func (l *Launcher) trial(arch string, t Trial) (*batchv1.Job, error) {
	url := l.s.URL
	if url == "" {
		url = t.URL
	}
	j, err := l.job(runner.Launch{
		Task: "pipegen-doctor-" + arch + "-" + strings.ToLower(rand.Text()[:8]), Run: "doctor", Build: "doctor@" + arch, Platform: "linux/" + arch,
		Deadline: l.now().Add(t.patience() + time.Minute),
	})
	if err != nil {
		return nil, err
	}
	spec := &j.Spec.Template.Spec
	c := container(spec.Containers)
	// It gets no token, and asks for little.
	spec.Volumes = slices.DeleteFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == tokenVolume })
	c.VolumeMounts = slices.DeleteFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == tokenVolume })
	c.Args = []string{"agent", "check", "--report", reportFile}
	if url != "" {
		c.Args = append(c.Args, "--url", url)
	}
	for _, r := range t.Registries {
		c.Args = append(c.Args, "--registry", r)
	}
	return j, nil
}

func (t Trial) patience() time.Duration {
	if t.Patience == 0 {
		return 2 * time.Minute
	}
	return t.Patience
}

// checkPod runs a trial, and gives what its pod said.
func (l *Launcher) checkPod(ctx context.Context, arch string, t Trial) []runner.Check {
	name := "image on linux/" + arch
	j, err := l.trial(arch, t)
	if err != nil {
		return []runner.Check{fail(name, true, err)}
	}
	task := j.Name
	image := container(j.Spec.Template.Spec.Containers).Image
	waiting, cancel := context.WithTimeout(ctx, t.patience())
	defer cancel()
	l.update(task, func(*record) {})
	if _, err := create(waiting, l.client.jobs(l.namespace), j, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return []runner.Check{fail(name, true, explain("making a Job", l.namespace, err))}
	}
	defer func() {
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_ = l.Stop(leaving, task) // it ends by itself anyhow
	}()
	s, said := l.outcome(waiting, task)
	switch {
	case s.State == runner.AgentExited && s.ExitCode != nil && *s.ExitCode == 0:
	case s.State == runner.AgentExited || s.Reason != "":
		// Without a node of one architecture the others build.
		return []runner.Check{{Name: name, Needed: !strings.Contains(s.Reason, noNode), Detail: s.Reason, Fix: s.Hint}}
	default:
		return []runner.Check{{Name: name, Needed: true, Detail: fmt.Sprintf("its pod did not run within %s", t.patience()), Fix: "kubectl get events -n " + l.namespace}}
	}
	checks := []runner.Check{{Name: name, OK: true, Needed: true, Detail: image}}
	var inside []runner.Check
	if err := json.Unmarshal([]byte(said), &inside); err != nil {
		return []runner.Check{{Name: name, Needed: true, Detail: "the image does not know how to check: " + lastLine(said), Fix: "use an image of this version of pipegen"}}
	}
	for _, c := range inside {
		c.Name += " from linux/" + arch
		checks = append(checks, c)
	}
	return checks
}

// outcome waits for the end of an agent, and gives what its container said, or
// how it was when ctx ended.
func (l *Launcher) outcome(ctx context.Context, task string) (runner.AgentStatus, string) {
	for {
		l.mu.Lock()
		r := l.records[task]
		s := l.status(task, r)
		said, changed := "", r.changed
		for _, p := range r.pods {
			if t := terminated(p); t != nil {
				said = t.Message
			}
		}
		l.mu.Unlock()
		if s.State == runner.AgentExited || strings.Contains(s.Reason, noNode) {
			return s, said
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, said
		}
	}
}
