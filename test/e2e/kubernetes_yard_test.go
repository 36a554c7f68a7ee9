//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/test/toolcache"
)

// yard is a cluster with a node, where a controller has builds run, and a
// registry that wants a password. Pods reach both over TLS at the node's
// address, as through an Ingress.
type yard struct {
	*worker
	admin clientset.Interface
	ca    *authority
	// Stands between the controller and the API server.
	gate   *gate
	server *daemonized
	// How the controller and the registry are reached, the latter's password, and
	// the image of agents.
	url, registry, password, image string
}

// newYard starts everything, in the namespaces of [alone]. It is nil outside of
// them.
func newYard(t *testing.T, limits string) *yard {
	t.Helper()
	dir := alone(t, toolcache.Kubernetes, toolcache.Executor, toolcache.BuildCtl)
	if dir == "" {
		return nil
	}
	c := startCluster(t)
	c.kill("kube-controller-manager")
	c.controllers = append(c.controllers, "--node-monitor-grace-period=16s", "--node-monitor-period=2s")
	c.start("kube-controller-manager", c.controllers...)
	y := &yard{admin: c.client("admin"), ca: newAuthority(t), password: rand.Text()}
	y.registry = y.ca.serveOn(t, nodeAddress, y.guard(onward("http://"+serveDistribution(t), nil)))
	y.image = y.registry + "/agent:e2e"
	y.worker = startWorker(t, c, dir, y.ca, y.registry, y.image, builderImage(t))
	account := c.account("builds", "baseline")
	password := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "registry"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(y.dockerConfigFor("builder", y.password))},
	}
	authority := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "authority"}, Data: map[string]string{"ca.crt": string(y.ca.pem)}}
	if err := errors.Join(
		failureOf(y.admin.CoreV1().ConfigMaps("builds").Create(t.Context(), authority, metav1.CreateOptions{})),
		failureOf(y.admin.CoreV1().Secrets("builds").Create(t.Context(), password, metav1.CreateOptions{})),
	); err != nil {
		t.Fatal(err)
	}
	y.gate = newGate(t, c, y.ca)
	var controller atomic.Pointer[url.URL]
	y.url = "https://" + y.ca.serveOn(t, nodeAddress, onward("", controller.Load))
	config := limits + fmt.Sprintf(yardConfig, y.url, c.kubeconfigFor("controller", y.gate.url, y.ca.file, account), y.image)
	y.server = newServerWith(t, config, []string{localCA + "=" + y.ca.file}, "--runner", "kubernetes")
	controller.Store(&url.URL{Scheme: "http", Host: y.server.address})
	y.server.ready()
	return y
}

const localCA = "LOCAL_CA_CERTIFICATE"

const yardConfig = `url: %s
kubernetes:
  kubeconfig: %s
  namespace: builds
  image: %s
  image_pull_policy: IfNotPresent
  image_pull_secrets: [registry]
  resources: {cpu: 150m, memory: 320Mi}
  secrets: build-secrets
  pod:
    spec:
      volumes: [{name: authority, configMap: {name: authority}}]
      containers:
      - name: agent
        env: [{name: LOCAL_CA_CERTIFICATE, value: /etc/authority/ca.crt}]
        volumeMounts: [{name: authority, mountPath: /etc/authority}]
`

// guard asks for the registry's password.
func (y *yard) guard(content http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "builder" || password != y.password {
			w.Header().Set("WWW-Authenticate", `Basic realm="images"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		content.ServeHTTP(w, r)
	})
}

// dockerConfig makes a directory with the registry's password for clients.
func (y *yard) dockerConfig() string {
	y.t.Helper()
	dir := y.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(y.dockerConfigFor("builder", y.password)), 0o600); err != nil {
		y.t.Fatal(err)
	}
	return dir
}

func (y *yard) dockerConfigFor(user, password string) string {
	return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, y.registry, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// nothingLeft waits until the cluster has nothing of pipegen's.
func (y *yard) nothingLeft() {
	y.t.Helper()
	if y.t.Failed() {
		return
	}
	ours := metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=pipegen"}
	y.until(2*time.Minute, "nothing is left in the cluster", func() bool {
		jobs, err := y.admin.BatchV1().Jobs("builds").List(y.t.Context(), ours)
		if err != nil || len(jobs.Items) > 0 {
			return false
		}
		pods, err := y.admin.CoreV1().Pods("builds").List(y.t.Context(), ours)
		if err != nil || len(pods.Items) > 0 {
			return false
		}
		secrets, err := y.admin.CoreV1().Secrets("builds").List(y.t.Context(), ours)
		return err == nil && len(secrets.Items) == 0
	})
}

// onward passes requests on, to a place that may change.
func onward(to string, target func() *url.URL) http.Handler {
	if target == nil {
		fixed, err := url.Parse(to)
		target = func() *url.URL { return fixed }
		if err != nil {
			panic(err)
		}
	}
	return &httputil.ReverseProxy{ErrorLog: log.New(io.Discard, "", 0), FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		if at := target(); at != nil {
			r.SetURL(at)
		}
		r.SetXForwarded()
		r.Out.Host = r.In.Host
	}}
}

// gate passes on what a controller asks an API server, sees the answers, and
// can break watches off.
type gate struct {
	url     string
	expired atomic.Int32 // watches that were answered with 410

	mu       sync.Mutex
	closed   bool // no watch gets through
	watches  map[int]context.CancelFunc
	next     int
	answered func(*http.Response)
}

func newGate(t *testing.T, c *cluster, ca *authority) *gate {
	t.Helper()
	g := &gate{watches: map[int]context.CancelFunc{}}
	target, err := url.Parse(c.url)
	if err != nil {
		t.Fatal(err)
	}
	inner := &authority{pem: c.ca}
	proxy := &httputil.ReverseProxy{
		ErrorLog: log.New(io.Discard, "", 0), FlushInterval: -1, Transport: inner.transport(),
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // as when nobody is there
		ModifyResponse: func(res *http.Response) error {
			g.mu.Lock()
			answered := g.answered
			g.mu.Unlock()
			if answered != nil {
				answered(res)
			}
			res.Body = &tooOld{ReadCloser: res.Body, seen: &g.expired}
			return nil
		},
	}
	g.url = "https://" + ca.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") == "" {
			proxy.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		g.mu.Lock()
		closed, n := g.closed, g.next
		g.next++
		g.watches[n] = cancel
		g.mu.Unlock()
		defer func() {
			g.mu.Lock()
			delete(g.watches, n)
			g.mu.Unlock()
		}()
		if closed {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r.WithContext(ctx))
	}))
	return g
}

// shut breaks all watches off and lets none through until [gate.open].
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for _, cancel := range g.watches {
		cancel()
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = false
}

// onAnswer has answers looked at before they are passed on; nil: no more.
func (g *gate) onAnswer(look func(*http.Response)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answered = look
}

// tooOld counts answers that say so of the version that a watch began at.
type tooOld struct {
	io.ReadCloser
	seen *atomic.Int32
}

// Read implements io.Reader.
func (o *tooOld) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	if bytes.Contains(p[:n], []byte("too old resource version")) {
		o.seen.Add(1)
	}
	return n, err
}

// log is the text of a run's log so far.
func (y *yard) log(run string) string {
	var b strings.Builder
	_, err := y.server.client.Logs(y.t.Context(), run, api.LogQuery{}, func(l api.LogLine) error {
		fmt.Fprintf(&b, "%s %s %s\n", l.Build, l.State, l.Message)
		return nil
	})
	if err != nil {
		fmt.Fprintf(&b, "%v\n", err)
	}
	return b.String()
}

// says waits for words in a run's log.
func (y *yard) says(t *testing.T, run, words string) {
	t.Helper()
	giveUp := time.Now().Add(3 * time.Minute)
	for text := y.log(run); !strings.Contains(text, words); text = y.log(run) {
		if time.Now().After(giveUp) {
			t.Fatalf("the log never says %q:\n%s", words, text)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// ends waits for the end of a run, and gives its tasks as BUILD ATTEMPT STATE.
func (y *yard) ends(t *testing.T, run string, want api.State) (tasks []string, said string) {
	t.Helper()
	log, end, err := y.server.follow(run)
	for _, l := range log {
		said += fmt.Sprintf("%s %s %s\n", l.Build, l.State, l.Message)
	}
	t.Logf("the log of %s:\n%s", run, said)
	if err != nil || end != want {
		t.Errorf("the run %s, %v", end, err)
	}
	r, err := y.server.client.Run(y.t.Context(), run)
	if err != nil {
		y.t.Fatal(err)
	}
	for _, img := range r.Images {
		for _, task := range img.Tasks {
			tasks = append(tasks, fmt.Sprint(task.Build, " ", task.Attempt, " ", task.State))
		}
	}
	return tasks, said
}

// submit makes a run and gives its id.
func (y *yard) submit(r api.RunRequest) string {
	y.t.Helper()
	run, err := y.server.client.CreateRun(y.t.Context(), r, "")
	if err != nil {
		y.t.Fatal(err)
	}
	return run.ID
}

// pod waits for the pod of a task.
func (y *yard) pod(task string, fits func(*corev1.Pod) bool) *corev1.Pod {
	y.t.Helper()
	var found *corev1.Pod
	y.until(2*time.Minute, "the pod of "+task, func() bool {
		pods, err := y.admin.CoreV1().Pods("builds").List(y.t.Context(), metav1.ListOptions{LabelSelector: "pipegen.dev/task=" + task})
		if err != nil {
			return false
		}
		for i := range pods.Items {
			if fits(&pods.Items[i]) {
				found = &pods.Items[i]
			}
		}
		return found != nil
	})
	return found
}

func isRunning(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
