//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

// pushBase publishes Busybox in the registry.
func (y *yard) pushBase(t *testing.T) {
	t.Helper()
	base, err := name.ParseReference(y.registry + "/images:busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(base, busybox(t), y.remote()...); err != nil {
		t.Fatal(err)
	}
}

// command asks for a run whose one build is a command in a pod.
func (y *yard) command(name, command string, change ...func(*plan.Build)) api.RunRequest {
	r := y.server.request(name, command+"; busybox mkdir release; echo x >release/x")
	for _, c := range change {
		c(&r.Plan.Images[0].Builds[0])
	}
	return r
}

// kaniko asks for a run whose one build is of a Dockerfile, and is not pushed.
func (y *yard) kaniko(t *testing.T, name, dockerfile string) api.RunRequest {
	t.Helper()
	dir := scratch(t)
	context := filepath.Join(dir, "context")
	if err := os.Mkdir(context, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(context, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		t.Fatal(err)
	}
	file, packed, err := buildcontext.PackFile(t.Context(), context, dir, buildcontext.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	archive, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if _, err := y.server.client.UploadContext(t.Context(), api.ContextRequest{Digest: packed.Digest, Size: packed.Size}, archive, nil); err != nil {
		t.Fatal(err)
	}
	r := y.server.request(name, "")
	r.Context = packed.Digest
	r.Credentials = []api.Credential{{Registry: y.registry, Username: "builder", Password: y.password}}
	b := &r.Plan.Images[0].Builds[0]
	b.Engine, b.Command, b.Outputs = "kaniko", "", []string{"oci-tar"}
	return r
}

// wants fails the test unless a run ended in these tasks and its log has all
// these words.
func (y *yard) wants(t *testing.T, run string, end api.State, tasks []string, words ...string) {
	t.Helper()
	got, said := y.ends(t, run, end)
	if !slices.Equal(got, tasks) {
		t.Errorf("the tasks are %q, want %q", got, tasks)
	}
	for _, want := range words {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q", want)
		}
	}
}

// What goes wrong in a cluster, in the words that users read.
func TestKubernetesFaults(t *testing.T) {
	y := newYard(t, "  silence_timeout: 1m\n  requests_per_second: 1000\n")
	if y == nil {
		return
	}
	y.pushBase(t)
	missing := y.submit(y.command("app", "true", func(b *plan.Build) { b.BuilderImage = y.registry + "/agent:none" })) // given up after a minute
	t.Run("no room", y.noRoom)
	t.Run("at once", func(t *testing.T) {
		for name, fault := range map[string]func(*testing.T){
			"agent out of memory": y.agentOutOfMemory, "step out of memory": y.stepOutOfMemory, "disk": y.disk, "drained": y.drained,
			"image withheld": y.imageWithheld, "registry away": y.registryAway, "job deleted": y.jobDeleted, "pod deleted": y.podDeleted, "node says nothing": y.nodeSaysNothing,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				fault(t)
			})
		}
	})
	t.Run("controller killed", y.controllerKilled)
	t.Run("kubelet restarted", y.kubeletRestarted)
	t.Run("node gone", y.nodeGone)
	t.Run("no such image", func(t *testing.T) { y.noSuchImage(t, missing) })
	t.Run("watch expired", y.watchExpired)
	t.Run("API server away", y.apiServerAway)
	y.nothingLeft()
}

// once sleeps for very long in the first attempt only.
const once = "case $(busybox hostname) in *-0-1-*) busybox sleep 1000;; esac"

const lostOnce, doneAgain = "app@amd64 1 lost", "app@amd64 2 succeeded"

// The kernel takes the agent itself, which is the first process of its
// container.
func (y *yard) agentOutOfMemory(t *testing.T) {
	run := y.submit(y.command("app", "echo 1000 >/proc/1/oom_score_adj; busybox tail /dev/zero"))
	y.wants(t, run, api.Failed, []string{"app@amd64 1 failed"}, "it was killed for want of memory: it had 320Mi (OOMKilled) (give the build more: resources.memory)")
}

func (y *yard) stepOutOfMemory(t *testing.T) {
	run := y.submit(y.kaniko(t, "app", "FROM "+y.registry+"/images:busybox\nRUN busybox tail /dev/zero\n"))
	y.wants(t, run, api.Failed, []string{"app@amd64 1 failed"}, "the kernel killed a process for want of memory: give the build more (resources.memory)")
}

func (y *yard) disk(t *testing.T) {
	run := y.submit(y.command("app", "busybox dd if=/dev/zero of=/large bs=1M count=64; busybox sleep 1000", func(b *plan.Build) {
		b.Resources = &config.Resources{CPU: "150m", Memory: "320Mi", EphemeralStorage: "20Mi"}
	}))
	y.wants(t, run, api.Failed, []string{"app@amd64 1 failed"}, "it took more disk than it may and was evicted: ", "(give the build more: resources.ephemeral_storage)")
}

func (y *yard) drained(t *testing.T) {
	run := y.submit(y.command("app", once))
	y.says(t, run, "app@amd64  running ")
	pod := y.pod(run+"-0-1", isRunning)
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace}}
	if err := y.admin.PolicyV1().Evictions("builds").Evict(t.Context(), eviction); err != nil {
		t.Fatal(err)
	}
	y.wants(t, run, api.Succeeded, []string{lostOnce, doneAgain}, "lost: it was evicted from node "+workerName+", which is drained (it is tried again on another); trying again")
}

func (y *yard) noSuchImage(t *testing.T, run string) {
	image := y.registry + "/agent:none"
	y.wants(t, run, api.Failed, []string{"app@amd64 1 failed"}, "waits: the image "+image+" does not exist", "failed: the image "+image+" does not exist (see server.kubernetes.image or AGENT_IMAGE of the controller, and builder_image of the project)")
}

// An image that is on no node and may not be pulled, and one that the registry
// gives to nobody without a password.
func (y *yard) imageWithheld(t *testing.T) {
	for policy, words := range map[string]string{
		"Never":        "the image " + y.registry + "/agent:none is not on node " + workerName + ", and image_pull_policy is Never",
		"IfNotPresent": "the registry does not give the image " + y.registry + "/agent:none to this cluster",
	} {
		namespace := "withheld-" + strings.ToLower(policy)
		b := newBuilders(t, y.cluster, namespace, "baseline", config.ServerKubernetes{
			Image: y.registry + "/agent:none", ImagePullPolicy: policy, Resources: &config.Resources{CPU: "150m", Memory: "320Mi"},
		})
		b.launch(t, "image-0-1", "linux/amd64")
		state := map[string]runner.AgentState{"Never": runner.AgentExited, "IfNotPresent": runner.AgentPending}[policy]
		b.expect(t, "image-0-1", state, words)
		if err := b.Stop(t.Context(), "image-0-1"); err != nil {
			t.Error(err)
		}
	}
}

func (y *yard) registryAway(t *testing.T) {
	image := nodeAddress + ":1/agent:none"
	run := y.submit(y.command("app", "true", func(b *plan.Build) { b.BuilderImage = image }))
	y.says(t, run, "waits: the image "+image+" cannot be pulled: dial tcp "+nodeAddress+":1: connect: connection refused (see that the nodes reach its registry)")
	if _, err := y.server.client.CancelRun(t.Context(), run, "enough"); err != nil {
		t.Error(err)
	}
	y.wants(t, run, api.Cancelled, []string{"app@amd64 1 cancelled"})
}

func (y *yard) noRoom(t *testing.T) {
	run := y.submit(y.command("app", "true", func(b *plan.Build) { b.Resources = &config.Resources{CPU: "500", Memory: "320Mi"} }))
	y.says(t, run, "waits: the only node cannot take it: it has too little cpu left; it asks for 500 cpu, 320Mi memory (it starts when there is room; ask for less (resources), or add nodes)")
	if _, err := y.server.client.CancelRun(t.Context(), run, "enough"); err != nil {
		t.Error(err)
	}
	y.wants(t, run, api.Cancelled, []string{"app@amd64 1 cancelled"})
}

func (y *yard) jobDeleted(t *testing.T) {
	run := y.submit(y.command("app", once))
	y.says(t, run, "app@amd64  running ")
	y.deleteJob(t, run+"-0-1")
	y.wants(t, run, api.Succeeded, []string{lostOnce, doneAgain}, "lost: its Job was deleted, and not by this controller; trying again")
}

func (y *yard) deleteJob(t *testing.T, task string) {
	t.Helper()
	background := metav1.DeletePropagationBackground
	if err := y.admin.BatchV1().Jobs("builds").Delete(t.Context(), task, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
}

func (y *yard) podDeleted(t *testing.T) {
	run := y.submit(y.command("app", once))
	y.says(t, run, "app@amd64  running ")
	pod := y.pod(run+"-0-1", isRunning)
	if err := y.admin.CoreV1().Pods("builds").Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	y.wants(t, run, api.Succeeded, []string{lostOnce, doneAgain}, "lost: its pod was deleted, and not by this controller; trying again")
}

// The controller is killed at the moment in which the cluster has its Job, or the
// Secret, and it has not heard of that: there is one Job, which runs once.
func (y *yard) controllerKilled(t *testing.T) {
	for _, resource := range []string{"jobs", "secrets"} {
		made := 0
		killed := make(chan struct{})
		y.gate.onAnswer(func(res *http.Response) {
			if res.Request.Method != http.MethodPost || res.StatusCode != http.StatusCreated {
				return
			}
			of := filepath.Base(res.Request.URL.Path)
			if of == "jobs" {
				made++
			}
			if of == resource && made == 1 {
				made++
				y.server.kill()
				close(killed)
			}
		})
		run := y.submit(y.command("app", "busybox sleep 2"))
		<-killed
		y.server.start()
		y.wants(t, run, api.Succeeded, []string{"app@amd64 1 succeeded"})
		y.gate.onAnswer(nil)
		if _, said := y.ends(t, run, api.Succeeded); strings.Count(said, "downloading the context") != 1 {
			t.Error("it was begun more than once")
		}
		if made != 2 {
			t.Errorf("%d Jobs were made", made-1)
		}
	}
}

func (y *yard) kubeletRestarted(t *testing.T) {
	run := y.submit(y.command("app", "busybox sleep 12"))
	y.says(t, run, "app@amd64  running ")
	y.kill("kubelet")
	y.start("kubelet", y.kubelet...)
	y.wants(t, run, api.Succeeded, []string{"app@amd64 1 succeeded"})
}

// While watches are broken off a Job is deleted, and the API server is started
// again, so that they cannot go on where they were.
func (y *yard) watchExpired(t *testing.T) {
	run := y.submit(y.command("app", once))
	y.says(t, run, "app@amd64  running ")
	y.gate.shut()
	y.deleteJob(t, run+"-0-1")
	task := metav1.ListOptions{LabelSelector: "pipegen.dev/task=" + run + "-0-1"}
	y.until(2*time.Minute, "the pod is gone", func() bool {
		pods, err := y.admin.CoreV1().Pods("builds").List(t.Context(), task)
		return err == nil && len(pods.Items) == 0
	})
	y.restartAPIServer(t, 0)
	before := y.gate.expired.Load()
	y.gate.open()
	y.wants(t, run, api.Succeeded, []string{lostOnce, doneAgain})
	if y.gate.expired.Load() == before {
		t.Error("no watch was too old")
	}
}

func (y *yard) restartAPIServer(t *testing.T, away time.Duration) {
	t.Helper()
	y.kill("kube-apiserver")
	time.Sleep(away)
	y.start("kube-apiserver", y.apiserver...)
	y.until(2*time.Minute, "the API server is ready", func() bool {
		answer, err := y.admin.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
		return err == nil && string(answer) == "ok"
	})
}

// A build that runs is not disturbed, and another waits.
func (y *yard) apiServerAway(t *testing.T) {
	first := y.submit(y.command("app", "busybox sleep 10"))
	y.says(t, first, "app@amd64  running ")
	second := make(chan string, 1)
	go func() {
		time.Sleep(2 * time.Second)
		second <- y.submit(y.command("app", "true"))
	}()
	y.restartAPIServer(t, 35*time.Second)
	// The cluster's own programs would come back in their time.
	for name, flags := range map[string][]string{"kube-controller-manager": y.controllers, "kube-scheduler": y.scheduler, "kubelet": y.kubelet} {
		y.kill(name)
		y.start(name, flags...)
	}
	y.wants(t, first, api.Succeeded, []string{"app@amd64 1 succeeded"})
	y.wants(t, <-second, api.Succeeded, []string{"app@amd64 1 succeeded"}, "waits: making the Job: the API server of Kubernetes does not answer: ")
}

// A node that is gone is told of, and when it is back, what ran there runs
// again.
func (y *yard) nodeGone(t *testing.T) {
	run := y.submit(y.command("app", once))
	y.says(t, run, "app@amd64  running ")
	y.pod(run+"-0-1", func(p *corev1.Pod) bool { // the kubelet has said so
		return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
	})
	y.crash()
	y.says(t, run, "its node "+workerName+" does not answer (NotReady) (kubectl describe node "+workerName+")")
	y.start("kubelet", y.kubelet...)
	y.ready()
	y.wants(t, run, api.Succeeded, []string{lostOnce, doneAgain}, "lost: the agent ended with exit status 137; trying again")
}

// A node of the other architecture is chosen that has no kubelet.
func (y *yard) nodeSaysNothing(t *testing.T) {
	node(t, y.admin, "arm", "arm64")
	run := y.submit(y.command("app", "true", func(b *plan.Build) { b.ID, b.Platform = "app@arm64", "linux/arm64" }))
	y.says(t, run, "waits: its node arm was given its pod and says nothing (see that the kubelet there runs: kubectl describe node arm)")
	pod := y.pod(run+"-0-1", func(p *corev1.Pod) bool { return p.Spec.NodeName == "arm" && p.Status.Phase == corev1.PodPending })
	if _, err := y.server.client.CancelRun(t.Context(), run, "enough"); err != nil {
		t.Fatal(err)
	}
	now := int64(0)
	if err := y.admin.CoreV1().Pods("builds").Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Error(err)
	}
	y.wants(t, run, api.Cancelled, []string{"app@arm64 1 cancelled"})
	if err := y.admin.CoreV1().Nodes().Delete(t.Context(), "arm", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}
