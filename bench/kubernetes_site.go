package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	clientset "k8s.io/client-go/kubernetes"

	"github.com/pipegen/pipegen/internal/kubernetestest"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/runner/kubernetes"
	"github.com/pipegen/pipegen/test/toolcache"
)

const (
	clusterNamespace = "builds"
	clusterUser      = "pipegen"
	agentsOfNode     = 32 // that do something at once
)

// auditPolicy has the API server note what the controller asks, and nobody else.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- {level: Metadata, users: [` + clusterUser + `]}
- {level: None}
`

// benchCluster is a control plane with a namespace for agents, and a user that
// may do there what a controller needs.
type benchCluster struct {
	*kubernetestest.ControlPlane
	admin clientset.Interface
	audit string
}

func startBenchCluster(ctx context.Context, b bench) (*benchCluster, error) {
	root, err := toolcache.Root()
	if err != nil {
		return nil, err
	}
	tools, err := toolcache.Open(root, os.Stderr)
	if err != nil {
		return nil, err
	}
	program, err := tools.Install(ctx, toolcache.Kubernetes)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.work, "cluster-")
	if err != nil {
		return nil, err
	}
	c := &benchCluster{audit: filepath.Join(dir, "audit.log")}
	policy := filepath.Join(dir, "audit.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return nil, err
	}
	c.ControlPlane, err = kubernetestest.Start(ctx, kubernetestest.Options{
		Program: program, Dir: dir, Users: []string{clusterUser + "," + clusterUser + "," + clusterUser + ","},
		Args: map[string][]string{
			kubernetestest.APIServer: {"--audit-policy-file=" + policy, "--audit-log-path=" + c.audit, "--audit-log-maxsize=10000"},
			// The node's heartbeats are left out, and Jobs are not to wait for one another.
			kubernetestest.Controllers: {"--controllers=*,-node-lifecycle-controller,-nodeipam,-node-route-controller,-service-lb-controller,-cloud-node-lifecycle-controller", "--kube-api-qps=500", "--kube-api-burst=1000"},
			kubernetestest.Scheduler:   {"--kube-api-qps=500", "--kube-api-burst=1000"},
		},
	})
	if err != nil {
		return nil, err
	}
	if c.admin, err = clientset.NewForConfig(c.Config(kubernetestest.Admin)); err == nil {
		err = c.prepare(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// prepare makes the namespace with what the controller may do there, and a node.
func (c *benchCluster) prepare(ctx context.Context) error {
	var rules []rbacv1.PolicyRule
	for _, p := range kubernetes.Permissions {
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{p.Group}, Resources: []string{p.Resource}, Verbs: p.Verbs})
	}
	meta := metav1.ObjectMeta{Name: clusterUser, Namespace: clusterNamespace}
	_, err := c.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: clusterNamespace}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err := c.admin.RbacV1().Roles(clusterNamespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		return err
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: clusterUser}, Subjects: []rbacv1.Subject{{Kind: "User", Name: clusterUser}}}
	if _, err := c.admin.RbacV1().RoleBindings(clusterNamespace).Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return err
	}
	for late := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // pods need it
		_, err := c.admin.CoreV1().ServiceAccounts(clusterNamespace).Get(ctx, "default", metav1.GetOptions{})
		if err == nil {
			break
		}
		if time.Now().After(late) {
			return fmt.Errorf("the namespace has no service account: %w", err)
		}
	}
	nodes := c.admin.CoreV1().Nodes()
	_, err = nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: "node", Labels: map[string]string{corev1.LabelArchStable: "amd64", corev1.LabelOSStable: "linux", corev1.LabelHostname: "node"},
	}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	// Nobody else takes away that it was not ready at first.
	if _, err := nodes.Patch(ctx, "node", types.MergePatchType, []byte(`{"spec": {"taints": null}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	const status = `{"status": {"conditions": [{"type": "Ready", "status": "True"}],
		"capacity": {"cpu": "10k", "memory": "100Ti", "pods": "10k"}, "allocatable": {"cpu": "10k", "memory": "100Ti", "pods": "10k"}}}`
	_, err = nodes.Patch(ctx, "node", types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status")
	return err
}

// jobs counts the Jobs that there are.
func (c *benchCluster) jobs(ctx context.Context) (int, error) {
	all, err := c.admin.BatchV1().Jobs(clusterNamespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return 0, err
	}
	return len(all.Items), nil
}

// untilJobs waits until there are n Jobs with their Secrets.
func (c *benchCluster) untilJobs(ctx context.Context, n int) error {
	for late := time.Now().Add(longestTrial); ; time.Sleep(100 * time.Millisecond) {
		secrets, err := c.admin.CoreV1().Secrets(clusterNamespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(secrets.Items) >= n {
			return nil
		}
		if time.Now().After(late) {
			return fmt.Errorf("there are %d of %d Secrets", len(secrets.Items), n)
		}
	}
}

// startServer starts a controller whose builds run on the cluster.
func (c *benchCluster) startServer(ctx context.Context, b bench, places int) (*serverProcess, error) {
	kubeconfig, err := c.Kubeconfig(clusterUser)
	if err != nil {
		return nil, err
	}
	before, err := c.requests()
	if err != nil {
		return nil, err
	}
	s, err := startServerWith(ctx, b, func(port string) string {
		return fmt.Sprintf("limits:\n  tasks: {kubernetes: %d}\n  requests_per_second: 100000\n"+
			"kubernetes: {kubeconfig: %q, namespace: %s, url: %q, image: registry.test/agent}\n", places, kubeconfig, clusterNamespace, "http://localhost:"+port)
	}, "--runner", "kubernetes")
	if err != nil {
		return nil, err
	}
	// Its watches begin with a list each.
	for late := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		all, err := c.requests()
		if err == nil && all.since(before).beside() >= 3 {
			return s, nil
		}
		if err != nil || time.Now().After(late) {
			return nil, errors.Join(fmt.Errorf("the controller does not watch: %s", all), err, s.stop())
		}
	}
}

// requests are how many there were, by verb and resource.
type requests map[string]int

// requests reads the audit log.
func (c *benchCluster) requests() (requests, error) {
	f, err := os.Open(c.audit)
	if errors.Is(err, os.ErrNotExist) {
		return requests{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := requests{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Verb      string
			ObjectRef struct{ Resource string }
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("the audit log: %w", err)
		}
		all[e.Verb+" "+e.ObjectRef.Resource]++
	}
	return all, lines.Err()
}

func (r requests) since(before requests) requests {
	out := requests{}
	for what, n := range r {
		if n -= before[what]; n > 0 {
			out[what] = n
		}
	}
	return out
}

// beside is how many are no watches.
func (r requests) beside() (n int) {
	for what, times := range r {
		if !strings.HasPrefix(what, "watch ") {
			n += times
		}
	}
	return n
}

func (r requests) String() string {
	var all []string
	for _, what := range slices.Sorted(maps.Keys(r)) {
		all = append(all, fmt.Sprintf("%d %s", r[what], what))
	}
	return strings.Join(all, ", ")
}

// benchNode is the kubelet of all nodes, and the agents that it runs.
type benchNode struct {
	c      *benchCluster
	url    string
	pods   watch.Interface
	places chan struct{}
	work   sync.WaitGroup

	mu    sync.Mutex
	seen  map[string]bool // pods
	ended int
	fault error
}

// startNode runs agents of the pods that there are and come.
func (c *benchCluster) startNode(ctx context.Context, s *serverProcess) (*benchNode, error) {
	pods, err := c.admin.CoreV1().Pods(clusterNamespace).Watch(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=node"})
	if err != nil {
		return nil, err
	}
	n := &benchNode{c: c, url: s.url, pods: pods, places: make(chan struct{}, agentsOfNode), seen: map[string]bool{}}
	n.work.Go(func() {
		for e := range pods.ResultChan() {
			p, ok := e.Object.(*corev1.Pod)
			if !ok || e.Type == watch.Deleted || p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodPending || n.seen[p.Name] {
				continue
			}
			n.seen[p.Name] = true
			n.work.Go(func() { // a watch that is not read is ended
				n.places <- struct{}{}
				defer func() { <-n.places }()
				n.report(1, n.run(ctx, p.DeepCopy()))
			})
		}
		n.report(0, errors.New("the watch of pods has ended"))
	})
	return n, nil
}

// report notes how many agents have ended, and what went wrong first.
func (n *benchNode) report(ended int, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended += ended
	if n.fault == nil {
		n.fault = err
	}
}

func (n *benchNode) stop() {
	n.pods.Stop()
	n.work.Wait()
}

// wait waits until so many agents have ended.
func (n *benchNode) wait(ctx context.Context, tasks int) error {
	for late := time.Now().Add(longestTrial); ; time.Sleep(50 * time.Millisecond) {
		n.mu.Lock()
		ended, fault := n.ended, n.fault
		n.mu.Unlock()
		switch {
		case fault != nil:
			return fault
		case ended >= tasks:
			return nil
		case time.Now().After(late):
			return fmt.Errorf("%d of %d agents have ended", ended, tasks)
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// run is the life of a pod.
func (n *benchNode) run(ctx context.Context, p *corev1.Pod) error {
	task := p.Labels["pipegen.dev/task"]
	now := metav1.Now()
	agent := corev1.ContainerStatus{Name: "agent", Image: p.Spec.Containers[0].Image, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &now, ContainerStatuses: []corev1.ContainerStatus{agent},
		Conditions: append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue}),
	}
	pods := n.c.admin.CoreV1().Pods(clusterNamespace)
	p, err := pods.UpdateStatus(ctx, p, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("task %s begins: %w", task, err)
	}
	if err := n.agent(ctx, task); err != nil {
		return fmt.Errorf("the agent of %s: %w", task, err)
	}
	p.Status.Phase = corev1.PodSucceeded
	p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{StartedAt: now, FinishedAt: metav1.Now(), Reason: "Completed"}}
	if _, err := pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("task %s ends: %w", task, err)
	}
	return nil
}

// agent does what an agent does, but build.
func (n *benchNode) agent(ctx context.Context, task string) error {
	var token []byte
	for late := time.Now().Add(time.Minute); token == nil; { // as a kubelet waits for what it is to mount
		s, err := n.c.admin.CoreV1().Secrets(clusterNamespace).Get(ctx, task, metav1.GetOptions{})
		if err == nil {
			token = s.Data["token"]
			break
		}
		if time.Now().After(late) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	client, err := api.NewClient(api.ClientOptions{URL: n.url, Token: string(token)})
	if err != nil {
		return err
	}
	a, _, err := client.Claim(ctx, task, api.Claim{Agent: task, Version: "bench"})
	if err != nil {
		return err
	}
	if err := speak(ctx, client, task); err != nil {
		return err
	}
	return succeed(ctx, client, task, a.Build)
}
