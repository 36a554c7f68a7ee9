package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner"
)

const (
	// An image that a registry does not give for so long it will not give.
	pullPatience = time.Minute
	// A node that was given a pod says so sooner than that.
	nodePatience = 30 * time.Second
	// A Job whose pod is gone ends, or goes as well, sooner than that.
	jobPatience = 15 * time.Second
)

// status says how an agent is, from what the cluster says of its Job and its
// pod. It has the lock.
func (l *Launcher) status(task string, r *record) runner.AgentStatus {
	v := view{task: task, namespace: l.namespace, queue: l.s.Queue, account: l.s.ServiceAccount, record: r, now: l.now()}
	s := v.status()
	s.Task = task
	s.Reason, s.Hint = quote.Text(s.Reason), quote.Text(s.Hint)
	return s
}

// view is what is known of an agent at a moment.
type view struct {
	*record
	task, namespace, queue, account string
	now                             time.Time
}

func (v view) status() runner.AgentStatus {
	if p := v.pod(); p != nil {
		if over(p) {
			return v.ended(p)
		}
		return v.alive(p)
	}
	late := condition(v.job, "DeadlineExceeded")
	switch {
	case late != nil:
		return v.late()
	case v.last != nil && over(v.last):
		return v.ended(v.last)
	case v.last != nil && v.job != nil && finished(v.job) == nil && v.now.Sub(v.went) < jobPatience:
		return runner.AgentStatus{State: runner.AgentRunning} // the Job is about to say why
	case v.last != nil:
		return v.deleted(v.last)
	case v.job == nil && v.hadJob:
		return lost("its Job was deleted, and not by this controller", "")
	case finished(v.job) != nil:
		if finished(v.job).Type == batchv1.JobComplete {
			return runner.AgentStatus{State: runner.AgentExited}
		}
		return lost("its pod is gone, and nobody knows how it ended: "+finished(v.job).Message, "")
	}
	return v.podless()
}

// pod gives the pod of the agent that is there; of several, which there never
// should be, the first.
func (v view) pod() *corev1.Pod {
	all := slices.SortedFunc(maps.Values(v.pods), func(a, b *corev1.Pod) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	if len(all) == 0 {
		return nil
	}
	return all[0]
}

// finished gives the condition by which a Job has ended.
func finished(j *batchv1.Job) *batchv1.JobCondition {
	if j == nil {
		return nil
	}
	for i := range j.Status.Conditions {
		if c := &j.Status.Conditions[i]; c.Status == corev1.ConditionTrue && (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) {
			return c
		}
	}
	return nil
}

// condition gives the condition of a Job that has this reason.
func condition(j *batchv1.Job, reason string) *batchv1.JobCondition {
	if j == nil {
		return nil
	}
	for i := range j.Status.Conditions {
		if c := &j.Status.Conditions[i]; c.Status == corev1.ConditionTrue && c.Reason == reason {
			return c
		}
	}
	return nil
}

func podCondition(p *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == kind {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// containerOf gives the state of the agent's container; nil: it has none yet.
func containerOf(p *corev1.Pod) *corev1.ContainerStatus {
	for i := range p.Status.ContainerStatuses {
		if p.Status.ContainerStatuses[i].Name == agentContainer {
			return &p.Status.ContainerStatuses[i]
		}
	}
	return nil
}

func terminated(p *corev1.Pod) *corev1.ContainerStateTerminated {
	if c := containerOf(p); c != nil {
		return c.State.Terminated
	}
	return nil
}

// over says whether an agent has ended.
func over(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded || terminated(p) != nil
}

// What agents are told to be.
func lost(reason, hint string) runner.AgentStatus {
	return runner.AgentStatus{State: runner.AgentExited, Infrastructure: true, Reason: reason, Hint: hint}
}

func failed(reason, hint string) runner.AgentStatus {
	return runner.AgentStatus{State: runner.AgentExited, Reason: reason, Hint: hint}
}

func hopeless(reason, hint string) runner.AgentStatus {
	return runner.AgentStatus{State: runner.AgentExited, Reason: reason, Hint: hint, Hopeless: true}
}

func pending(reason, hint string) runner.AgentStatus {
	return runner.AgentStatus{State: runner.AgentPending, Reason: reason, Hint: hint}
}

func (v view) late() runner.AgentStatus {
	return failed("it took longer than the time of the task, and Kubernetes ended it", "raise timeout of the build, or of the run")
}

// podless says what an agent waits for that has no pod yet.
func (v view) podless() runner.AgentStatus {
	switch {
	case v.waits.message != "":
		return pending(v.waits.message, v.waits.hint)
	case v.job != nil && v.job.Spec.Suspend != nil && *v.job.Spec.Suspend && v.queue != "":
		return pending(fmt.Sprintf("it waits in the queue %s of Kueue", v.queue), "it starts when the queue has room: kubectl get workloads -n "+v.namespace)
	case v.job != nil && v.job.Spec.Suspend != nil && *v.job.Spec.Suspend:
		return pending("its Job is suspended", "kubectl get job -n "+v.namespace+" "+v.task+" -o yaml says by whom")
	case v.trouble != nil && v.trouble.reason == "FailedCreate":
		return v.refused(strings.TrimPrefix(v.trouble.message, "Error creating: "))
	}
	return pending("", "")
}

// refused says why the cluster makes no pod for a Job.
func (v view) refused(message string) runner.AgentStatus {
	if q := quotaPattern.FindStringSubmatch(message); q != nil {
		return pending(quotaWords(v.namespace, q))
	}
	if m := mustSay.FindStringSubmatch(message); m != nil {
		return hopeless(fmt.Sprintf("the quota %s of namespace %s wants each pod to say its %s", m[1], v.namespace, m[2]), "give the build resources, or all builds server.kubernetes.resources")
	}
	if m := podSecurity.FindStringSubmatch(message); m != nil {
		return hopeless(fmt.Sprintf("the namespace %s does not admit pods of agents: its level of pod security is %s: %s", v.namespace, m[1], m[2]),
			"agents need pod-security.kubernetes.io/enforce=baseline: builds run as root in their container, without privileges")
	}
	if strings.Contains(message, "serviceaccount") && strings.Contains(message, "not found") {
		return pending(fmt.Sprintf("there is no service account %s in namespace %s", v.account, v.namespace), "create it, or name another: server.kubernetes.service_account")
	}
	if strings.Contains(message, "no PriorityClass") {
		return hopeless("its pod cannot be created: "+message, "name a PriorityClass of the cluster: server.kubernetes.priority_class")
	}
	if strings.Contains(message, "is forbidden") {
		_, why, _ := strings.Cut(message, "is forbidden: ")
		return hopeless(fmt.Sprintf("the namespace %s does not admit its pod: %s", v.namespace, why), "ask for less (resources), or have the namespace's limits changed")
	}
	return pending("its pod cannot be created: "+message, "")
}

// alive says how an agent is whose pod is there and has not ended.
func (v view) alive(p *corev1.Pod) runner.AgentStatus {
	c := containerOf(p)
	if c != nil && c.State.Running != nil {
		s := runner.AgentStatus{State: runner.AgentRunning}
		ready := podCondition(p, corev1.PodReady)
		if v.trouble != nil && v.trouble.reason == nodeNotReady && ready != nil && ready.Status == corev1.ConditionFalse && p.DeletionTimestamp == nil {
			s.Reason, s.Hint = fmt.Sprintf("its node %s does not answer (NotReady)", p.Spec.NodeName), "kubectl describe node "+p.Spec.NodeName
		}
		return s
	}
	if scheduled := podCondition(p, corev1.PodScheduled); scheduled != nil && scheduled.Status == corev1.ConditionFalse {
		if scheduled.Reason == corev1.PodReasonUnschedulable {
			return pending(v.unschedulable(p, scheduled.Message))
		}
		return pending("it is not scheduled yet: "+scheduled.Message, "")
	} else if scheduled != nil && p.Status.StartTime == nil && v.now.Sub(scheduled.LastTransitionTime.Time) > nodePatience {
		return pending(fmt.Sprintf("its node %s was given its pod and says nothing", p.Spec.NodeName), "see that the kubelet there runs: kubectl describe node "+p.Spec.NodeName)
	}
	for _, s := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
		if w := s.State.Waiting; w != nil {
			if said := v.waiting(p, s, w); said.Reason != "" {
				return said
			}
		}
	}
	if v.trouble != nil && v.trouble.reason != nodeNotReady && v.trouble.reason != "FailedCreate" {
		return pending(v.unprepared())
	}
	return pending("", "")
}

var (
	noSuchSecret = lazyregexp.New(`secret "([^"]*)" not found`)
	noSuchMap    = lazyregexp.New(`configmap "([^"]*)" not found`)
)

// unprepared says why a node cannot prepare a pod.
func (v view) unprepared() (reason, hint string) {
	message := v.trouble.message
	if m := noSuchSecret.FindStringSubmatch(message); m != nil {
		if m[1] == v.task {
			return "it has no token yet", "the controller gives it one as soon as it can"
		}
		return fmt.Sprintf("there is no Secret %s in namespace %s", m[1], v.namespace), "create it, or name another in server.kubernetes"
	}
	if m := noSuchMap.FindStringSubmatch(message); m != nil {
		return fmt.Sprintf("there is no ConfigMap %s in namespace %s", m[1], v.namespace), "create it, or name another in server.kubernetes.pod"
	}
	return "its node cannot prepare the pod: " + message, "kubectl describe pod -n " + v.namespace + " -l " + taskLabel + "=" + v.task
}

// waiting says why a container does not run.
func (v view) waiting(p *corev1.Pod, c corev1.ContainerStatus, w *corev1.ContainerStateWaiting) runner.AgentStatus {
	switch w.Reason {
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
		return v.unpulled(p, c, w)
	case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
		if m := noSuchSecret.FindStringSubmatch(w.Message); m != nil {
			return pending(fmt.Sprintf("there is no Secret %s in namespace %s", m[1], v.namespace), "create it, or name another in server.kubernetes.pod")
		}
		return pending("its container cannot be made: "+w.Message, "see server.kubernetes.pod, and that the image is an image of pipegen's agents")
	}
	return pending("", "")
}

// unpulled says why an image is not there.
func (v view) unpulled(p *corev1.Pod, c corev1.ContainerStatus, w *corev1.ContainerStateWaiting) runner.AgentStatus {
	image, text := c.Image, w.Message
	arch := p.Spec.NodeSelector[corev1.LabelArchStable]
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(strings.ToLower(text), word) })
	}
	var reason, hint string
	final := true
	switch {
	case w.Reason == "InvalidImageName":
		return hopeless(fmt.Sprintf("%s is no name of an image", image), whereImage)
	case w.Reason == "ErrImageNeverPull":
		return hopeless(fmt.Sprintf("the image %s is not on node %s, and image_pull_policy is Never", image, p.Spec.NodeName), "put it there, or set server.kubernetes.image_pull_policy to IfNotPresent")
	case has("no match for platform"):
		reason, hint = fmt.Sprintf("the image %s is not for %s", image, arch), "publish it for this architecture too: make builder"
	case has("unauthorized", "authorization failed", "access denied", "403 forbidden", "no basic auth", "denied:"):
		reason, hint = fmt.Sprintf("the registry does not give the image %s to this cluster", image), "name a Secret with credentials: server.kubernetes.image_pull_secrets; or the image does not exist: see its name"
	case has("not found", "manifest unknown", "name unknown", "does not exist"):
		reason, hint = fmt.Sprintf("the image %s does not exist", image), whereImage
	case has("toomanyrequests", "429 "):
		reason, hint, final = fmt.Sprintf("the registry limits how often the image %s is pulled", image), "it is tried again; use credentials, or a copy in a registry of your own", false
	case has("x509", "certificate"):
		reason, hint, final = fmt.Sprintf("the nodes do not trust the registry of the image %s: %s", image, lastWords(text)), "have the nodes' container runtime trust its authority", false
	default:
		reason, hint, final = fmt.Sprintf("the image %s cannot be pulled: %s", image, lastWords(text)), "see that the nodes reach its registry", false
	}
	since := p.Status.StartTime
	if final && w.Reason == "ImagePullBackOff" && since != nil && v.now.Sub(since.Time) > pullPatience {
		return hopeless(reason, hint)
	}
	return pending(reason, hint)
}

const whereImage = "see server.kubernetes.image or AGENT_IMAGE of the controller, and builder_image of the project"

// lastWords gives the end of a chain of errors, which says what happened.
func lastWords(text string) string {
	parts := strings.Split(strings.TrimSuffix(text, ": unknown"), ": ")
	return strings.Join(parts[max(len(parts)-3, 0):], ": ")
}

// ended says how an agent ended whose pod has.
func (v view) ended(p *corev1.Pod) runner.AgentStatus {
	t := terminated(p)
	s := v.cause(p, t)
	if t != nil && s.ExitCode == nil && !s.Hopeless {
		code := int(t.ExitCode)
		s.ExitCode = &code
	}
	return s
}

func (v view) cause(p *corev1.Pod, t *corev1.ContainerStateTerminated) runner.AgentStatus {
	disrupted := podCondition(p, corev1.DisruptionTarget)
	switch {
	case p.Status.Reason == "Evicted":
		return evicted(p)
	case t != nil && t.Reason == "OOMKilled":
		return outOfMemory(p)
	case condition(v.job, "DeadlineExceeded") != nil:
		return v.late()
	case t != nil && t.ExitCode == 0:
		return runner.AgentStatus{State: runner.AgentExited}
	case disrupted != nil && disrupted.Status == corev1.ConditionTrue:
		return v.disrupted(p, disrupted)
	case t != nil && (t.Reason == "StartError" || t.Reason == "ContainerCannotRun"):
		return hopeless("its container cannot be started: "+lastWords(t.Message), "the image must be one of pipegen's agents, with pipegen in its PATH: "+whereImage)
	case t == nil:
		for _, c := range p.Status.InitContainerStatuses {
			if i := c.State.Terminated; i != nil && i.ExitCode != 0 {
				return lost(fmt.Sprintf("its init container %s ended with exit status %d", c.Name, i.ExitCode), "see server.kubernetes.pod")
			}
		}
		if p.Status.Reason != "" {
			return lost(fmt.Sprintf("node %s has ended or refused its pod (%s): %s", p.Spec.NodeName, p.Status.Reason, p.Status.Message), "")
		}
		return v.deleted(p)
	case p.DeletionTimestamp != nil:
		return v.deleted(p)
	case t.Reason == "ContainerStatusUnknown":
		return lost(fmt.Sprintf("node %s does not know how its pod ended", p.Spec.NodeName), "")
	}
	reason := fmt.Sprintf("the agent ended with exit status %d", t.ExitCode)
	if said := lastLine(t.Message); said != "" {
		reason += ": " + said
	}
	return lost(reason, "")
}

// lastLine gives the last line of what a container said.
func lastLine(text string) string {
	for _, line := range slices.Backward(strings.Split(strings.TrimSpace(text), "\n")) {
		if !strings.HasPrefix(line, "hint: ") {
			return strings.TrimPrefix(line, "pipegen: ")
		}
	}
	return ""
}

func outOfMemory(p *corev1.Pod) runner.AgentStatus {
	for _, c := range p.Spec.Containers {
		if q, limited := c.Resources.Limits[corev1.ResourceMemory]; c.Name == agentContainer && limited {
			return failed(fmt.Sprintf("it was killed for want of memory: it had %s (OOMKilled)", q.String()), "give the build more: resources.memory")
		}
	}
	return lost(fmt.Sprintf("it was killed for want of memory on node %s (OOMKilled)", p.Spec.NodeName), "say how much the build needs: resources.memory")
}

var lowOn = lazyregexp.New(`low on resource: ([\w-]+)`)

// evicted says why a node has ended a pod: for its own want, or as the pod took
// more disk than it may.
func evicted(p *corev1.Pod) runner.AgentStatus {
	message := strings.TrimSpace(p.Status.Message)
	if m := lowOn.FindStringSubmatch(message); m != nil {
		hint := "it is tried again; say how much builds need: resources." + strings.ReplaceAll(m[1], "-", "_")
		return lost(fmt.Sprintf("node %s ran low on %s and evicted it: %s", p.Spec.NodeName, m[1], message), hint)
	}
	if strings.Contains(message, "phemeral") && strings.Contains(message, "exceed") {
		return failed("it took more disk than it may and was evicted: "+message, "give the build more: resources.ephemeral_storage")
	}
	return lost(fmt.Sprintf("node %s evicted it: %s", p.Spec.NodeName, message), "")
}

func (v view) disrupted(p *corev1.Pod, c *corev1.PodCondition) runner.AgentStatus {
	node := p.Spec.NodeName
	switch c.Reason {
	case "PreemptionByScheduler":
		return lost("another pod of a higher priority took its place", "give agents a higher priority: server.kubernetes.priority_class")
	case "DeletionByTaintManager":
		return lost(fmt.Sprintf("its node %s does not answer, or was given a taint that it does not tolerate", node), "kubectl describe node "+node)
	case "EvictionByEvictionAPI":
		return lost(fmt.Sprintf("it was evicted from node %s, which is drained", node), "it is tried again on another")
	case "DeletionByPodGC":
		return lost(fmt.Sprintf("its node %s is gone", node), "it is tried again on another")
	case "TerminationByKubelet":
		return lost(fmt.Sprintf("node %s ended it: %s", node, c.Message), "it is tried again")
	}
	return lost(fmt.Sprintf("it was disrupted on node %s (%s): %s", node, c.Reason, c.Message), "")
}

// deleted says of a pod that went why it did.
func (v view) deleted(p *corev1.Pod) runner.AgentStatus {
	if c := podCondition(p, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionTrue {
		return v.disrupted(p, c)
	}
	if v.job == nil && v.hadJob {
		return lost("its Job was deleted, and not by this controller", "")
	}
	return lost("its pod was deleted, and not by this controller", "")
}
