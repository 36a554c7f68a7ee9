//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pipegen/pipegen/test/monorepo"
)

// client gives a pipegen of a developer, who has the registry's password.
func (y *yard) client(dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(y.t.Context(), binary(y.t), args...)
	cmd.Dir = dir
	cmd.Env = monorepo.Env(os.Environ(), "CONTROLLER_URL="+y.url, "BUILD_CONTROLLER_TOKEN="+y.server.token, localCA+"="+y.ca.file,
		"DOCKER_CONFIG="+y.dockerConfig(), "HOME="+dir)
	return cmd
}

// remote are what a client of the registry says to it.
func (y *yard) remote() []remote.Option {
	return []remote.Option{remote.WithTransport(y.ca.transport()), remote.WithAuth(&authn.Basic{Username: "builder", Password: y.password})}
}

// Builds in pods of a real node: with Kaniko, for both architectures, and with
// secrets of the cluster.
func TestKubernetesBuild(t *testing.T) {
	y := newYard(t, "  silence_timeout: 1m\n")
	if y == nil {
		return
	}
	y.pushBase(t)
	t.Run("both architectures", y.both)
	t.Run("secrets", y.secrets)
	t.Run("doctor", y.doctors)
	y.nothingLeft()
}

// both submits a config.yaml of two architectures to a cluster that has nodes
// of one at first.
func (y *yard) both(t *testing.T) {
	dir := scratch(t)
	for file, text := range map[string]string{
		"config.yaml": "global:\n  platform: k8s\n  kaniko: {context-path: app, destination: '" + y.registry + "/app:v1'}\n" +
			"bake:\n- arch: amd64\n- arch: arm64\n  kaniko: {dockerfile: Dockerfile.arm64}\n",
		"app/Dockerfile":       "FROM " + y.registry + "/images:busybox\nCOPY hello.txt /\nRUN echo step begins; sleep 6; echo by a pod >/made\n",
		"app/Dockerfile.arm64": "FROM scratch\nCOPY hello.txt /\n",
		"app/hello.txt":        "hello\n",
	} {
		writeFile(t, filepath.Join(dir, file), text)
	}
	cmd := y.client(dir, "submit", "--config", "config.yaml")
	p := watch(t, cmd)
	says := func(words string) { t.Helper(); p.says(t, words) }
	says("waits: the cluster has no node of linux/arm64 (add one, or leave this platform out; kubectl get nodes -L kubernetes.io/arch)")
	says("[app@amd64] step begins")
	ours := metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=pipegen"}
	pods, err := y.admin.CoreV1().Pods("builds").List(t.Context(), ours)
	if err != nil || len(pods.Items) != 2 {
		t.Fatalf("%d pods: %v", len(pods.Items), err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		want := map[string]corev1.PodPhase{"amd64": corev1.PodRunning, "arm64": corev1.PodPending}[pod.Spec.NodeSelector[corev1.LabelArchStable]]
		if pod.Status.Phase != want {
			t.Errorf("%s is %s, want %s", pod.Name, pod.Status.Phase, want)
		}
		y.confined(t, pod)
	}
	y.label(corev1.LabelArchStable, "arm64")
	out := p.wait(t)
	if out.code != 0 {
		t.Fatal("it failed")
	}
	ref, err := name.ParseReference(y.registry + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref, y.remote()...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, child := range list.Manifests {
		got = append(got, child.Platform.String())
		image, err := index.Image(child.Digest)
		if err != nil {
			t.Fatal(err)
		}
		content := files(t, image)
		if string(content["hello.txt"]) != "hello\n" || child.Platform.Architecture == "amd64" && string(content["made"]) != "by a pod\n" {
			t.Errorf("%s holds %q and %q", child.Platform, content["hello.txt"], content["made"])
		}
	}
	if slices.Sort(got); !slices.Equal(got, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("the index is for %v", got)
	}
	y.nothingLeft()
	y.label(corev1.LabelArchStable, "amd64")
}

// secrets builds with a value that nobody brings, from a Secret of the cluster.
func (y *yard) secrets(t *testing.T) {
	const value = "from-the-cluster-7"
	kept := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "build-secrets"}, StringData: map[string]string{"NPM_TOKEN": value, "OTHER_TOKEN": "of-another-build"}}
	if _, err := y.admin.CoreV1().Secrets("builds").Create(t.Context(), kept, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	dir := scratch(t)
	for file, text := range map[string]string{
		"pipegen.yaml": "registry: " + y.registry + "/images\nprojects: [projects/*]\ndefaults: {platforms: [linux/amd64]}\n",
		"projects/app/build-config.yaml": "secrets: [{id: npm, env: NPM_TOKEN}]\npre_script: |\n" +
			"  test \"$NPM_TOKEN\" = " + value + "\n  echo \"token $NPM_TOKEN\"\n  busybox ls /run/pipegen/secrets\n  busybox sleep 5\n",
		"projects/app/Dockerfile":          "FROM scratch\nCOPY Dockerfile /\n",
		"projects/lacks/build-config.yaml": "secrets: [{id: npm, env: NO_SUCH_TOKEN}]\npre_script: 'true'\n",
		"projects/lacks/Dockerfile":        "FROM scratch\nCOPY Dockerfile /\n",
		".gitignore":                       ".docker/\n",
	} {
		writeFile(t, filepath.Join(dir, file), text)
	}
	gitIn(t, dir, "init", "-q", "-b", "main")
	gitIn(t, dir, "add", "-A")
	gitIn(t, dir, "commit", "-q", "-m", "Projects")
	p := watch(t, y.client(dir, "run", "app", "--runner", "kubernetes"))
	p.says(t, "token ***")
	ours := metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=pipegen"}
	pods, err := y.admin.CoreV1().Pods("builds").List(t.Context(), ours)
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("%d pods: %v", len(pods.Items), err)
	}
	text := jsonOf(t, pods.Items[0])
	lacksAll(t, "the pod", []byte(text), []string{value, "OTHER_TOKEN"})
	out := p.wait(t)
	if out.code != 0 {
		t.Error("it failed")
	}
	lacksAll(t, "the log", []byte(out.output), []string{value, "OTHER_TOKEN"})
	out = watch(t, y.client(dir, "run", "lacks", "--runner", "kubernetes")).wait(t)
	if out.code == 0 || !strings.Contains(out.output, "NO_SUCH_TOKEN") {
		t.Errorf("exit code %d, and it does not name the secret that it lacks", out.code)
	}
	y.nothingLeft()
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// doctors has the doctor look at the cluster: as it is, and with things missing.
func (y *yard) doctors(t *testing.T) {
	settings, err := os.ReadFile(filepath.Join(y.server.dir, "server.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	controllers := y.path("controller.kubeconfig")
	doctor := func(kubeconfig string, args ...string) ended {
		t.Helper()
		file := filepath.Join(scratch(t), "server.yaml")
		writeFile(t, file, strings.ReplaceAll(string(settings), controllers, kubeconfig))
		cmd := y.client(t.TempDir(), append([]string{"doctor", "--runner", "kubernetes", "--config", file}, args...)...)
		cmd.Env = append(cmd.Env, "CONTROLLER_URL=")
		return watch(t, cmd).wait(t)
	}
	says := func(out ended, code int, lines ...string) {
		t.Helper()
		if out.code != code {
			t.Errorf("exit code %d, want %d", out.code, code)
		}
		for _, line := range lines {
			if !strings.Contains(out.output, line+"\n") {
				t.Errorf("it does not say %q", line)
			}
		}
	}
	// As one who may list nodes.
	says(doctor(y.kubeconfig("admin")), 0,
		"pass  cluster: Kubernetes v1.34.4, namespace builds", "pass  permission: create, get, list, watch, delete jobs.batch", "pass  permission: create secrets",
		"pass  job: the cluster takes Jobs as server.kubernetes has them", "pass  nodes of linux/amd64: 1 ready",
		"warn  nodes of linux/arm64: none is ready: builds for linux/arm64 wait until there is one",
		"      fix: add a node, or leave the platform out; kubectl get nodes -L kubernetes.io/arch",
		"pass  image on linux/amd64: "+y.image, "pass  controller from linux/amd64: "+y.url, "pass  registry "+y.registry+" from linux/amd64: it answers")
	// As the controller, to which nodes are not shown.
	says(doctor(controllers, "--url", "https://"+nodeAddress+":1"), 2,
		"warn  nodes: this identity may not list nodes, so pods are tried on both architectures",
		"FAIL  controller from linux/amd64: https://"+nodeAddress+":1 is not reached: dial tcp "+nodeAddress+":1: connect: connection refused",
		"warn  image on linux/arm64: the cluster has no node of linux/arm64", "      fix: add one, or leave this platform out; kubectl get nodes -L kubernetes.io/arch")
	// As one who may not delete Jobs.
	role, err := y.admin.RbacV1().Roles("builds").Get(t.Context(), "pipegen", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	whole := role.DeepCopy()
	for i := range role.Rules {
		if rule := &role.Rules[i]; slices.Contains(rule.Resources, "jobs") {
			rule.Verbs = slices.DeleteFunc(slices.Clone(rule.Verbs), func(verb string) bool { return verb == "delete" })
		}
	}
	if role, err = y.admin.RbacV1().Roles("builds").Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	says(doctor(controllers), 2, "FAIL  permission: may not delete jobs.batch in namespace builds",
		`      fix: add to its Role: {apiGroups: ["batch"], resources: [jobs], verbs: [create, get, list, watch, delete]}`)
	whole.ResourceVersion = role.ResourceVersion
	if _, err := y.admin.RbacV1().Roles("builds").Update(t.Context(), whole, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	// At a cluster that is not there.
	gone := y.kubeconfigFor("gone", "https://127.0.0.1:1", y.path("ca.crt"), "admin")
	says(doctor(gone), 2, "FAIL  cluster: asking for its version: the API server of Kubernetes does not answer: dial tcp 127.0.0.1:1: connect: connection refused")
	y.nothingLeft()
}

// says waits until a process has printed words.
func (p *process) says(t *testing.T, words string) {
	t.Helper()
	for giveUp := time.After(3 * time.Minute); !strings.Contains(p.output.String(), words); {
		select {
		case <-p.done:
			t.Fatalf("it ended and did not say %q:\n%s", words, p.output.String())
		case <-giveUp:
			t.Fatalf("it never says %q:\n%s", words, p.output.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// confined fails the test if a pod shows what is secret, or may do more than it
// must.
func (y *yard) confined(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	task := pod.Labels["pipegen.dev/task"]
	text := y.kubectl("get", "pod", pod.Name, "-o", "yaml") + y.kubectl("get", "job", task, "-o", "yaml")
	t.Log(text)
	secret, err := y.admin.CoreV1().Secrets("builds").Get(t.Context(), task, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token := string(secret.Data["token"])
	if len(token) < 20 {
		t.Fatalf("the Secret has the keys %v", secret.Data)
	}
	lacksAll(t, "the pod", []byte(text), []string{token, y.server.token, y.password})
	if owner := secret.OwnerReferences; len(owner) != 1 || owner[0].Kind != "Job" || owner[0].Name != task {
		t.Errorf("the Secret is of %v", owner)
	}
	spec := pod.Spec
	for _, v := range spec.Volumes {
		if v.Projected != nil || v.HostPath != nil {
			t.Errorf("the pod has the volume %s", jsonOf(t, v))
		}
	}
	if spec.HostNetwork || spec.HostPID || spec.HostIPC || spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken ||
		spec.SecurityContext.SeccompProfile == nil || spec.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod may too much: %s", jsonOf(t, spec))
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		s := c.SecurityContext
		if s == nil || s.Privileged == nil || *s.Privileged || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
			s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || slices.Contains(s.Capabilities.Add, "SYS_ADMIN") {
			t.Errorf("the container %s may too much: %s", c.Name, jsonOf(t, s))
		}
	}
}
