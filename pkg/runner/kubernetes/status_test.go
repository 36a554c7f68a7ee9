package kubernetes

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/runner"
)

// aPod is a pod on a node that was given one two minutes ago.
func aPod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "t-0-1-abcde", UID: "1", Labels: map[string]string{taskLabel: "t-0-1", managedBy: itself}},
		Spec: corev1.PodSpec{
			NodeName:     "node-1",
			NodeSelector: map[string]string{corev1.LabelArchStable: "arm64", corev1.LabelOSStable: "linux"},
			Containers: []corev1.Container{{Name: agentContainer, Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi")},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("4Gi")},
			}}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodPending, StartTime: &metav1.Time{Time: noon.Add(-2 * time.Minute)},
			Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: noon.Add(-2 * time.Minute)}}},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func unscheduled(message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.NodeName, p.Status.StartTime = "", nil
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: message}}
	}
}

func state(s corev1.ContainerState) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: agentContainer, Image: "r.example/builder:1", State: s}}
		if s.Running != nil {
			p.Status.Phase = corev1.PodRunning
		}
	}
}

func waits(reason, message string) func(*corev1.Pod) {
	return state(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}})
}

func exits(code int32, reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		state(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message}})(p)
		p.Status.Phase = corev1.PodFailed
		if code == 0 {
			p.Status.Phase = corev1.PodSucceeded
		}
	}
}

func phase(phase corev1.PodPhase, reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason, p.Status.Message = phase, reason, message }
}

func with(kind corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: kind, Status: status, Reason: reason, Message: message})
	}
}

func selects(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeSelector[key] = value }
}

func running() func(*corev1.Pod) {
	return state(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
}

func deleted(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: noon} }

// aJob is a Job, with the condition that ended it if there is a reason.
func aJob(kind batchv1.JobConditionType, reason string) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "t-0-1", Labels: map[string]string{taskLabel: "t-0-1", managedBy: itself}}}
	if reason != "" {
		j.Status.Conditions = []batchv1.JobCondition{{Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: "the message"}}
	}
	return j
}

func suspended() *batchv1.Job {
	yes, j := true, aJob("", "")
	j.Spec.Suspend = &yes
	return j
}

// What a cluster says, and what people are told: "state reason (hint)", with !
// for what is not the build's fault and x for what is hopeless.
func TestStatus(t *testing.T) {
	const (
		quotaEvent = `Error creating: pods "t-0-1-abcde" is forbidden: exceeded quota: builds, requested: requests.cpu=2, used: requests.cpu=7, limited: requests.cpu=8`
		notFound   = `rpc error: code = NotFound desc = failed to pull and unpack image "r.example/builder:1": failed to resolve reference "r.example/builder:1": r.example/builder:1: not found`
	)
	event := func(reason, message string) record {
		return record{job: aJob("", ""), hadJob: true, trouble: &trouble{reason: reason, message: message}}
	}
	pod := func(change ...func(*corev1.Pod)) record {
		p := aPod(change...)
		return record{job: aJob("", ""), hadJob: true, pods: map[types.UID]*corev1.Pod{p.UID: p}}
	}
	gone := func(job *batchv1.Job, change ...func(*corev1.Pod)) record {
		return record{job: job, hadJob: true, last: aPod(change...)}
	}
	for _, c := range []struct {
		name string
		r    record
		want string
	}{
		{"asked for", record{job: aJob("", ""), hadJob: true}, "pending"},
		{"being asked for", record{}, "pending"},
		{"API server away", record{waits: trouble{message: "the API server does not answer", hint: "see"}}, "pending the API server does not answer (see)"},
		{"queued", record{job: suspended(), hadJob: true}, "pending it waits in the queue team-a of Kueue (it starts when the queue has room: kubectl get workloads -n builds)"},
		{"quota", event("FailedCreate", quotaEvent), "pending the quota builds of namespace builds is full: it asks for requests.cpu=2; used are requests.cpu=7 of requests.cpu=8 (it starts when other builds have ended; ask for less (resources), have fewer tasks at once (server.limits.tasks), or raise the ResourceQuota)"},
		{"quota that wants more", event("FailedCreate", `Error creating: pods "t-0-1-abcde" is forbidden: failed quota: builds: must specify limits.cpu for: agent; limits.memory for: agent`), "exited x the quota builds of namespace builds wants each pod to say its limits.cpu (give the build resources, or all builds server.kubernetes.resources)"},
		{"limits", event("FailedCreate", `Error creating: pods "t-0-1-abcde" is forbidden: maximum memory usage per Container is 1Gi, but limit is 4Gi`), "exited x the namespace builds does not admit its pod: maximum memory usage per Container is 1Gi, but limit is 4Gi (ask for less (resources), or have the namespace's limits changed)"},
		{"pod security", event("FailedCreate", `Error creating: pods "t-0-1-abcde" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true`), `exited x the namespace builds does not admit pods of agents: its level of pod security is restricted:latest: runAsNonRoot != true (agents need pod-security.kubernetes.io/enforce=baseline: builds run as root in their container, without privileges)`},
		{"no service account", event("FailedCreate", `Error creating: pods "t-0-1-" is forbidden: error looking up service account builds/agent: serviceaccount "agent" not found`), "pending there is no service account agent in namespace builds (create it, or name another: server.kubernetes.service_account)"},
		{"no priority class", event("FailedCreate", `Error creating: pods "t-0-1-" is forbidden: no PriorityClass with name high was found`), "exited x its pod cannot be created: *"},
		{"no nodes", pod(unscheduled("no nodes available to schedule pods")), "pending the cluster has no nodes (add some)"},
		{"no architecture", pod(unscheduled("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.")), "pending the cluster has no node of linux/arm64 (add one, or leave this platform out; kubectl get nodes -L kubernetes.io/arch)"},
		{"no such node", pod(selects("disk", "ssd"), unscheduled("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. preemption: x")), "pending no node of the cluster is disk=ssd and of linux/arm64 (*"},
		{"no room", pod(unscheduled("0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available.")), "pending no node can take it: of 3, 1 has too little cpu left, 2 are not of linux/arm64; it asks for 2 cpu, 4Gi memory (it starts when there is room; ask for less (resources), or add nodes)"},
		{"no room on one", pod(unscheduled("0/1 nodes are available: 1 Insufficient ephemeral-storage, 1 Insufficient memory.")), "pending the only node cannot take it: it has too little ephemeral-storage left, has too little memory left; it asks for*"},
		{"taint", pod(unscheduled("0/2 nodes are available: 1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable. x")), "pending no node can take it: of 2, 1 has the taint gpu=yes, which is not tolerated, 1 is cordoned (tolerate the taint*"},
		{"some taint", pod(unscheduled("0/2 nodes are available: 2 node(s) had untolerated taint(s). no new claims to deallocate, preemption: 0/2")), "pending no node can take it: of 2, 2 have a taint that is not tolerated (tolerate the taint*"},
		{"not ready taint", pod(unscheduled("0/2 nodes are available: 2 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.")), "pending no node can take it: of 2, 2 have the taint node.kubernetes.io/not-ready, which is not tolerated (*"},
		{"other scheduling", pod(unscheduled("something new")), "pending it cannot be scheduled: something new"},
		{"silent node", pod(func(p *corev1.Pod) { p.Status.StartTime = nil }), "pending its node node-1 was given its pod and says nothing (see that the kubelet there runs: kubectl describe node node-1)"},
		{"creating", pod(waits("ContainerCreating", "")), "pending"},
		{"image not there", pod(waits("ErrImagePull", notFound)), "pending the image r.example/builder:1 does not exist (see server.kubernetes.image*"},
		{"image not there for long", pod(waits("ImagePullBackOff", `Back-off pulling image "r.example/builder:1": ErrImagePull: `+notFound)), "exited x the image r.example/builder:1 does not exist (see server.kubernetes.image*"},
		{"image denied", pod(waits("ImagePullBackOff", `failed to authorize: failed to fetch oauth token: unexpected status from GET request to https://r.example/token: 401 Unauthorized`)), "exited x the registry does not give the image r.example/builder:1 to this cluster (name a Secret*"},
		{"image of another architecture", pod(waits("ImagePullBackOff", `no match for platform in manifest sha256:aa: not found`)), "exited x the image r.example/builder:1 is not for arm64 (*"},
		{"registry away", pod(waits("ImagePullBackOff", `failed to do request: Head "https://r.example/v2/builder/manifests/1": dial tcp 10.0.0.9:443: connect: connection refused`)), "pending the image r.example/builder:1 cannot be pulled: dial tcp 10.0.0.9:443: connect: connection refused (see that the nodes reach its registry)"},
		{"registry not trusted", pod(waits("ErrImagePull", `tls: failed to verify certificate: x509: certificate signed by unknown authority`)), "pending the nodes do not trust the registry*"},
		{"bad image name", pod(waits("InvalidImageName", `couldn't parse image name`)), "exited x r.example/builder:1 is no name of an image (*"},
		{"image never pulled", pod(waits("ErrImageNeverPull", `Container image "r.example/builder:1" is not present with pull policy of Never`)), "exited x the image r.example/builder:1 is not on node node-1, and image_pull_policy is Never (*"},
		{"config", pod(waits("CreateContainerConfigError", `secret "npm" not found`)), "pending there is no Secret npm in namespace builds (*"},
		{"no token yet", func() record {
			r := pod(waits("ContainerCreating", ""))
			r.trouble = &trouble{reason: "FailedMount", message: `MountVolume.SetUp failed for volume "pipegen-token" : secret "t-0-1" not found`}
			return r
		}(), "pending it has no token yet (*"},
		{"no volume", func() record {
			r := pod(waits("ContainerCreating", ""))
			r.trouble = &trouble{reason: "FailedMount", message: `MountVolume.SetUp failed for volume "authority" : configmap "authority" not found`}
			return r
		}(), "pending there is no ConfigMap authority in namespace builds (*"},
		{"running", pod(running()), "running"},
		{"running on a lost node", func() record {
			r := pod(running(), with(corev1.PodReady, corev1.ConditionFalse, "", ""))
			r.trouble = &trouble{reason: nodeNotReady, message: "Node is not ready"}
			return r
		}(), "running its node node-1 does not answer (NotReady) (kubectl describe node node-1)"},
		{"running after a trouble", func() record {
			r := pod(running(), with(corev1.PodReady, corev1.ConditionTrue, "", ""))
			r.trouble = &trouble{reason: "FailedMount", message: "x"}
			return r
		}(), "running"},
		{"being deleted", pod(running(), deleted), "running"},
		{"good", pod(exits(0, "Completed", "")), "exited 0"},
		{"bad", pod(exits(2, "Error", "pipegen: line\npipegen: reading the task's token: no such file\nhint: do\n")), "exited 2! the agent ended with exit status 2: reading the task's token: no such file"},
		{"memory", pod(exits(137, "OOMKilled", "")), "exited 137 it was killed for want of memory: it had 4Gi (OOMKilled) (give the build more: resources.memory)"},
		{"memory without limit", pod(exits(137, "OOMKilled", ""), func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits = nil }), "exited 137! it was killed for want of memory on node node-1 (OOMKilled) (say how much the build needs: resources.memory)"},
		{"evicted", pod(exits(137, "Error", ""), phase(corev1.PodFailed, "Evicted", "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. "), with(corev1.DisruptionTarget, corev1.ConditionTrue, "TerminationByKubelet", "x")), "exited 137! node node-1 ran low on memory and evicted it: The node was low*"},
		{"evicted for its disk", pod(phase(corev1.PodFailed, "Evicted", `Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. `)), "exited it took more disk than it may and was evicted: Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. (give the build more: resources.ephemeral_storage)"},
		{"preempted", pod(exits(143, "Error", ""), with(corev1.DisruptionTarget, corev1.ConditionTrue, "PreemptionByScheduler", "x")), "exited 143! another pod of a higher priority took its place (*"},
		{"drained", pod(exits(143, "Error", ""), with(corev1.DisruptionTarget, corev1.ConditionTrue, "EvictionByEvictionAPI", "x")), "exited 143! it was evicted from node node-1, which is drained (*"},
		{"lost node", gone(aJob("", ""), running(), deleted, with(corev1.DisruptionTarget, corev1.ConditionTrue, "DeletionByTaintManager", "x")), "exited! its node node-1 does not answer, or was given a taint that it does not tolerate (*"},
		{"refused by its node", pod(phase(corev1.PodFailed, "OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu")), "exited! node node-1 has ended or refused its pod (OutOfcpu): Pod was rejected*"},
		{"no program", pod(exits(128, "StartError", `failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "pipegen": executable file not found in $PATH: unknown`)), `exited x its container cannot be started: exec: "pipegen": executable file not found in $PATH (the image must be*`},
		{"deleted by hand", gone(aJob(batchv1.JobFailed, "BackoffLimitExceeded"), running(), deleted), "exited! its pod was deleted, and not by this controller"},
		{"pod deleted, and the Job says nothing", gone(aJob("", ""), running(), deleted), "exited! its pod was deleted, and not by this controller"},
		{"pod deleted just now", func() record {
			r := gone(aJob("", ""), running(), deleted)
			r.went = noon.Add(-time.Second)
			return r
		}(), "running"},
		{"Job deleted by hand", gone(nil, running(), deleted), "exited! its Job was deleted, and not by this controller"},
		{"Job deleted before its pod", record{hadJob: true}, "exited! its Job was deleted, and not by this controller"},
		{"late", gone(aJob(batchv1.JobFailed, "DeadlineExceeded"), exits(143, "Error", ""), deleted), "exited it took longer than the time of the task, and Kubernetes ended it (raise timeout of the build, or of the run)"},
		{"late and there", func() record {
			r := pod(exits(143, "Error", ""), deleted)
			r.job = aJob(batchv1.JobFailed, "DeadlineExceeded")
			return r
		}(), "exited 143 it took longer*"},
		{"failed without a pod", record{job: aJob(batchv1.JobFailed, "PodFailurePolicy"), hadJob: true}, "exited! its pod is gone, and nobody knows how it ended: the message"},
		{"complete without a pod", record{job: aJob(batchv1.JobComplete, "CompletionsReached"), hadJob: true}, "exited"},
		{"control characters", pod(unscheduled("a\x1b[31mb")), `pending it cannot be scheduled: a\x1b[31mb`},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &Launcher{namespace: "builds", s: config.ServerKubernetes{Queue: "team-a", ServiceAccount: "agent"}, now: func() time.Time { return noon }}
			got := show(l.status("t-0-1", &c.r))
			if start, cut := strings.CutSuffix(c.want, "*"); cut && strings.HasPrefix(got, start) {
				return
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func show(s runner.AgentStatus) string {
	out := string(s.State)
	if s.ExitCode != nil {
		out += " " + resource.NewQuantity(int64(*s.ExitCode), resource.DecimalSI).String()
	}
	if s.Infrastructure {
		out += "!"
	}
	if s.Hopeless {
		out += " x"
	}
	if s.Reason != "" {
		out += " " + s.Reason
	}
	if s.Hint != "" {
		out += " (" + s.Hint + ")"
	}
	return out
}
