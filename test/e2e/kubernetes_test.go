//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientset "k8s.io/client-go/kubernetes"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/runner"
	"github.com/pipegen/pipegen/pkg/runner/kubernetes"
)

// modest are settings of agents that nobody starts.
var modest = config.ServerKubernetes{Image: "r.example/builder:1", Resources: &config.Resources{CPU: "1", Memory: "1Gi"}}

// builders is a namespace for agents, and a launcher that may do there what
// kubernetes.Permissions says and nothing else.
type builders struct {
	*cluster
	*kubernetes.Launcher
	admin clientset.Interface
	told  chan runner.AgentStatus
}

func newBuilders(t *testing.T, c *cluster, namespace, level string, settings config.ServerKubernetes) *builders {
	t.Helper()
	b := &builders{cluster: c, admin: c.client("admin"), told: make(chan runner.AgentStatus, 100)}
	ctx := t.Context()
	client, err := kubernetes.NewClient(c.config(c.account(namespace, level)))
	if err != nil {
		t.Fatal(err)
	}
	b.Launcher, err = kubernetes.New(ctx, kubernetes.Options{
		Client: client, Namespace: namespace, Settings: settings,
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = b.Watch(ctx, func(s runner.AgentStatus) { b.told <- s }) }()
	return b
}

// account makes a namespace for agents, with a level of pod security, and gives
// the token of an account that may do there what [kubernetes.Permissions] says.
func (c *cluster) account(namespace, level string) (token string) {
	c.t.Helper()
	admin, ctx, meta := c.client("admin"), c.t.Context(), metav1.ObjectMeta{Name: "pipegen", Namespace: namespace}
	var rules []rbacv1.PolicyRule
	for _, p := range kubernetes.Permissions {
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{p.Group}, Resources: []string{p.Resource}, Verbs: p.Verbs})
	}
	if err := errors.Join(
		failureOf(admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": level}}}, metav1.CreateOptions{})),
		failureOf(admin.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})),
		failureOf(admin.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})),
		failureOf(admin.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: meta, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "pipegen"}, Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "pipegen", Namespace: namespace}},
		}, metav1.CreateOptions{})),
	); err != nil {
		c.t.Fatal(err)
	}
	request, err := admin.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, "pipegen", &authv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.until(time.Minute, "the namespace has its default account", func() bool {
		_, err := admin.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err == nil
	})
	return request.Status.Token
}

func failureOf[T any](_ T, err error) error { return err }

func (b *builders) launch(t *testing.T, task, platform string) {
	t.Helper()
	err := b.Start(t.Context(), runner.Launch{Task: task, Run: "run", Build: "app", Platform: platform, Engine: "kaniko", URL: "https://127.0.0.1:1", Token: "token", Deadline: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
}

// expect waits until a task is told to be so.
func (b *builders) expect(t *testing.T, task string, state runner.AgentState, words string) {
	t.Helper()
	late := time.After(90 * time.Second)
	var seen []string
	for {
		select {
		case s := <-b.told:
			if s.Task == task && s.State == state && strings.Contains(s.Reason, words) {
				return
			}
			seen = append(seen, fmt.Sprintf("%s %s %s", s.Task, s.State, s.Reason))
		case <-late:
			t.Fatalf("%s never %s %q, but:\n%s", task, state, words, strings.Join(seen, "\n"))
		}
	}
}

// Against a real control plane: what it says is understood, and the permissions
// are enough.
func TestKubernetesControlPlane(t *testing.T) {
	c := startCluster(t)
	b := newBuilders(t, c, "builds", "baseline", modest)
	node(t, b.admin, "amd", "amd64")

	t.Run("architecture", func(t *testing.T) {
		b.launch(t, "arm-0-1", "linux/arm64")
		b.expect(t, "arm-0-1", runner.AgentPending, "the cluster has no node of linux/arm64")
		if err := b.Stop(t.Context(), "arm-0-1"); err != nil {
			t.Error(err)
		}
	})
	t.Run("job deleted", func(t *testing.T) {
		b.launch(t, "job-0-1", "linux/arm64")
		b.expect(t, "job-0-1", runner.AgentPending, "no node")
		background := metav1.DeletePropagationBackground
		if err := b.admin.BatchV1().Jobs("builds").Delete(t.Context(), "job-0-1", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
			t.Fatal(err)
		}
		b.expect(t, "job-0-1", runner.AgentExited, "its Job was deleted")
	})
	t.Run("quota", func(t *testing.T) {
		quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "full"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"requests.cpu": resource.MustParse("100m")}}}
		if _, err := b.admin.CoreV1().ResourceQuotas("builds").Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		b.until(30*time.Second, "the quota is known", func() bool {
			q, err := b.admin.CoreV1().ResourceQuotas("builds").Get(t.Context(), "full", metav1.GetOptions{})
			return err == nil && len(q.Status.Hard) > 0
		})
		b.launch(t, "quota-0-1", "linux/amd64")
		b.expect(t, "quota-0-1", runner.AgentPending, "the quota full of namespace builds is full")
		if err := b.admin.CoreV1().ResourceQuotas("builds").Delete(t.Context(), "full", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := b.Stop(t.Context(), "quota-0-1"); err != nil {
			t.Error(err)
		}
	})
	t.Run("API server away", func(t *testing.T) {
		b.launch(t, "away-0-1", "linux/arm64")
		b.expect(t, "away-0-1", runner.AgentPending, "no node")
		c.kill("kube-apiserver")
		started := make(chan error, 1)
		go func() {
			started <- b.Start(t.Context(), runner.Launch{Task: "away-1-1", Run: "run", Build: "app", Platform: "linux/arm64", URL: "https://127.0.0.1:1", Token: "token"})
		}()
		b.expect(t, "away-1-1", runner.AgentPending, "the API server of Kubernetes does not answer")
		c.start("kube-apiserver", c.apiserver...)
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		b.expect(t, "away-1-1", runner.AgentPending, "no node")
		for _, task := range []string{"away-0-1", "away-1-1"} {
			if err := b.Stop(t.Context(), task); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("pod security", func(t *testing.T) {
		strict := newBuilders(t, c, "strict", "restricted", modest)
		strict.launch(t, "strict-0-1", "linux/amd64")
		strict.expect(t, "strict-0-1", runner.AgentExited, "its level of pod security is restricted:latest")
	})
	// The cluster collects them, a while after its API server was away.
	var left *corev1.SecretList
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		var err error
		if left, err = b.admin.CoreV1().Secrets("builds").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=pipegen"}); err != nil {
			t.Fatal(err)
		}
		if len(left.Items) == 0 || time.Now().After(end) {
			break
		}
	}
	if len(left.Items) > 0 {
		t.Errorf("Secrets are left: %v", left.Items)
	}
}

// node makes a node that is ready and that nobody is behind.
func node(t *testing.T, admin clientset.Interface, name, arch string) {
	t.Helper()
	n, err := admin.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{corev1.LabelArchStable: arch, corev1.LabelOSStable: "linux", corev1.LabelHostname: name},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Status.Capacity = corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi"), "pods": resource.MustParse("110")}
	n.Status.Allocatable = n.Status.Capacity
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
	// A patch, as others change the node too.
	status, err := json.Marshal(map[string]any{"status": n.Status})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CoreV1().Nodes().Patch(t.Context(), name, types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}
