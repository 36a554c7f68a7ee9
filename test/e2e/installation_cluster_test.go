//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/runner"
	"github.com/pipegen/pipegen/pkg/runner/kubernetes"
)

// A real API server takes all that is installed, makes pods of it under the pod
// security of its namespaces, and gives the accounts no more than they use.
func TestInstallationOnCluster(t *testing.T) {
	in, c := newInstallation(t), startCluster(t)
	admin, as := c.client("admin"), "--kubeconfig="+c.kubeconfig("admin")
	kubectl := func(args ...string) string {
		in.t.Helper()
		return in.says(in.kubectl, append([]string{"kubectl", as}, args...)...)
	}
	kubectl("apply", "-f", "base/namespaces.yaml") // a dry run does not make those that the others are in
	part := func(name string, test func(t *testing.T)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			in.t = t
			test(t)
		})
	}

	part("dry run", func(t *testing.T) {
		for _, overlay := range []string{"sqlite", "postgres"} {
			if said := kubectl("apply", "--dry-run=server", "-k", "overlays/"+overlay); !strings.Contains(said, "deployment.apps/pipegen created (server dry run)") {
				t.Error(said)
			}
		}
		everything := in.like("postgres")
		maps.Copy(everything, map[string]any{
			"fullnameOverride": "builder", "imagePullSecrets": []any{"registry"}, "priorityClassName": "system-cluster-critical",
			"image":       map[string]any{"digest": "sha256:" + strings.Repeat("a", 64)},
			"env":         map[string]any{"LOCAL_CA_CERTIFICATE": "/etc/authority/ca.crt", "PIPEGEN_RUNNER": "kubernetes"},
			"podLabels":   map[string]any{"team": "a"},
			"tolerations": []any{map[string]any{"key": "a", "operator": "Exists"}}, "nodeSelector": map[string]any{"kubernetes.io/arch": "arm64"},
			"affinity":      map[string]any{"nodeAffinity": map[string]any{}},
			"volumes":       []any{map[string]any{"name": "authority", "configMap": map[string]any{"name": "authority"}}},
			"volumeMounts":  []any{map[string]any{"name": "authority", "mountPath": "/etc/authority"}},
			"ingress":       map[string]any{"enabled": false},
			"service":       map[string]any{"port": 80},
			"networkPolicy": map[string]any{"namespaces": []any{}, "from": []any{map[string]any{"ipBlock": map[string]any{"cidr": "10.0.0.0/8"}}}},
			"drainSeconds":  30, "serviceAccount": map[string]any{"annotations": map[string]any{"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/a"}},
		})
		for name, values := range map[string]map[string]any{
			"defaults": {}, "sqlite": in.like("sqlite"), "postgres": in.like("postgres"), "everything": everything,
			"claim": {"persistence": map[string]any{"existing": "data", "storageClass": "fast"}, "networkPolicy": map[string]any{"enabled": false}},
			// In one namespace with agents, which then is not restricted.
			"one": {"agents": map[string]any{"namespace": "pipegen"}},
		} {
			if said := kubectl("apply", "--dry-run=server", "-f", in.write(name+".yaml", in.chart(values))); !strings.Contains(said, "deployment.apps/") {
				t.Errorf("%s: %s", name, said)
			}
		}
	})

	for _, tt := range []struct {
		overlay string
		pods    int
	}{{"sqlite", 1}, {"postgres", 2}} {
		part(tt.overlay, func(t *testing.T) {
			kubectl("apply", "-k", "overlays/"+tt.overlay)
			c.until(time.Minute, "the controller's pods are taken", func() bool {
				all, err := admin.CoreV1().Pods("pipegen").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=pipegen"})
				if err != nil {
					t.Fatal(err)
				}
				return len(all.Items) == tt.pods
			})
		})
		if tt.overlay == "sqlite" {
			part("controller", func(t *testing.T) { in.serve(t, c) })
			in.t = t
			kubectl("delete", "-n", "pipegen", "deployment", "pipegen", "--cascade=foreground")
		}
	}
	part("accounts", func(t *testing.T) {
		want := map[string][]string{}
		for _, p := range kubernetes.Permissions {
			want[p.Group+"/"+p.Resource] = p.Verbs
		}
		for _, tt := range []struct {
			account, at, in string
			want            map[string][]string
		}{
			{"pipegen", "pipegen", "pipegen-builds", want}, {"pipegen", "pipegen", "pipegen", nil}, {"pipegen", "pipegen", "kube-system", nil},
			{"pipegen-agent", "pipegen-builds", "pipegen-builds", nil}, {"pipegen-agent", "pipegen-builds", "pipegen", nil},
		} {
			if got := may(t, c.client(token(t, admin, tt.at, tt.account)), tt.in); !maps.EqualFunc(got, tt.want, slices.Equal) {
				t.Errorf("%s may do this in %s: %v, want %v", tt.account, tt.in, got, tt.want)
			}
		}
	})
	part("agent", func(t *testing.T) {
		maps, err := admin.CoreV1().ConfigMaps("pipegen").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=pipegen"})
		if err != nil || len(maps.Items) == 0 {
			t.Fatal(maps, err)
		}
		file, err := config.ReadServer("config.yaml", []byte(maps.Items[0].Data["config.yaml"]), nil)
		if err != nil {
			t.Fatal(err)
		}
		on := file.OnKubernetes()
		on.Image = "registry.example.com/images:builder-latest"
		client, err := kubernetes.NewClient(c.config(token(t, admin, "pipegen", "pipegen")))
		if err != nil {
			t.Fatal(err)
		}
		l, err := kubernetes.New(t.Context(), kubernetes.Options{Client: client, Namespace: on.Namespace, Settings: on})
		if err != nil {
			t.Fatal(err)
		}
		launch := runner.Launch{Task: "run-0-1", Run: "run", Build: "app", Platform: "linux/amd64", Engine: "kaniko", URL: on.URL, Token: "token", Deadline: time.Now().Add(time.Hour)}
		if err := l.Start(t.Context(), launch); err != nil {
			t.Fatal(err)
		}
		c.until(time.Minute, "the agent's pod is taken", func() bool {
			pods, err := admin.CoreV1().Pods("pipegen-builds").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return len(pods.Items) == 1 && pods.Items[0].Spec.ServiceAccountName == "pipegen-agent" && !*pods.Items[0].Spec.AutomountServiceAccountToken
		})
		if err := l.Stop(t.Context(), "run-0-1"); err != nil {
			t.Error(err)
		}
	})
	part("release", func(t *testing.T) {
		helm := func(args ...string) string {
			t.Helper()
			return in.says(in.helm, append([]string{as, "--namespace", "other"}, args...)...)
		}
		said := helm("install", "two", "chart", "--create-namespace", "--set", "agents.namespace=other-builds")
		for _, want := range []string{"deployment/two-pipegen", "NOBODY CAN USE IT YET", "AGENTS HAVE NO IMAGE"} {
			if !strings.Contains(said, want) {
				t.Errorf("the notes lack %q:\n%s", want, said)
			}
		}
		kubectl("label", "namespace", "other", "pod-security.kubernetes.io/enforce=restricted")
		said = helm("upgrade", "two", "chart", "--reuse-values", "--set", "secret.env.BUILD_CONTROLLER_TOKEN=0123456789abcdef,config.kubernetes.image=r.example/builder:1")
		if strings.Contains(said, "NOBODY") || strings.Contains(said, "AGENTS") {
			t.Error(said)
		}
		c.until(time.Minute, "the pod is taken where pods are restricted", func() bool {
			all, err := admin.CoreV1().Pods("other").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=two"})
			return err == nil && len(all.Items) > 0
		})
		if got := may(t, c.client(token(t, admin, "other", "two-pipegen")), "other-builds"); len(got) != len(kubernetes.Permissions) {
			t.Errorf("it may do this: %v", got)
		}
		helm("uninstall", "two")
		if _, err := admin.CoreV1().PersistentVolumeClaims("other").Get(t.Context(), "two-pipegen", metav1.GetOptions{}); err != nil {
			t.Errorf("the data is gone with the release: %v", err)
		}
	})
}

// serve runs the controller as the pod of the overlay sqlite would, by its
// environment, and asks it what its probes ask.
func (in *installation) serve(t *testing.T, c *cluster) {
	all := objects(t, in.kustomize("sqlite"))
	pod := at(all["Deployment pipegen pipegen"], "spec", "template", "spec", "containers", 0)
	port := freePort(t)
	cmd := exec.CommandContext(t.Context(), binary(t), "server", "--listen", "127.0.0.1:"+port, "--data-dir", in.path("data"))
	env := map[string]string{"PATH": "/nowhere", "HOME": in.path("home"), "K8S_CONFIG_PATH": c.kubeconfigFor("pod", c.url, c.path("ca.crt"), token(t, c.client("admin"), "pipegen", "pipegen"))}
	for key, o := range all {
		switch {
		case strings.HasPrefix(key, "Secret pipegen pipegen-"):
			for name, value := range at(o, "data").(map[string]any) {
				text, err := base64.StdEncoding.DecodeString(value.(string))
				if err != nil {
					t.Fatal(err)
				}
				env[name] = string(text)
			}
		case strings.HasPrefix(key, "ConfigMap "):
			env["file"] = in.write("config.yaml", at(o, "data", "config.yaml").(string))
		}
	}
	for _, v := range at(pod, "env").([]any) {
		env[at(v, "name").(string)] = at(v, "value").(string)
	}
	env["PIPEGEN_SERVER_CONFIG"] = env["file"] // where the pod has it mounted
	delete(env, "file")
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	probe := func(name string) int {
		path := at(pod, name, "httpGet", "path")
		res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%s%s", port, path))
		if err != nil {
			return 0
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	c.until(time.Minute, "the controller is ready", func() bool {
		select {
		case err := <-ended:
			t.Fatal(err, said.String())
		default:
		}
		return probe("startupProbe") == http.StatusOK && probe("readinessProbe") == http.StatusOK && probe("livenessProbe") == http.StatusOK
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// It says no first, and goes on answering.
	eventually(t, "the controller says that it is about to end", func() bool { return probe("readinessProbe") == http.StatusServiceUnavailable })
	if status := probe("livenessProbe"); status != http.StatusOK {
		t.Errorf("while it is about to end its liveness is %d", status)
	}
	if err := cmd.Process.Kill(); err != nil { // not all of the 10 seconds
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("it was killed, and ended by itself")
	}
	if text := said.String(); !strings.Contains(text, "runners=kubernetes") || strings.Contains(text, "0123456789abcdef") {
		t.Error(text)
	}
	if _, err := os.Stat(in.path("data", "secrets.key")); err != nil {
		t.Error(err)
	}
}

// token gives one of a service account.
func token(t *testing.T, admin clientset.Interface, namespace, account string) string {
	t.Helper()
	answer, err := admin.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, &authnv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}

// may gives the verbs that somebody may use in a namespace, by group and
// resource, but for what everybody may: ask who it is and what it may do.
func may(t *testing.T, who clientset.Interface, namespace string) map[string][]string {
	t.Helper()
	ask := &authzv1.SelfSubjectRulesReview{Spec: authzv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}
	answer, err := who.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), ask, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for _, r := range answer.Status.ResourceRules {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				if !strings.HasPrefix(resource, "selfsubject") {
					out[group+"/"+resource] = append(out[group+"/"+resource], r.Verbs...)
				}
			}
		}
	}
	return out
}
