package kubernetes

import (
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/runner"
)

var update = flag.Bool("update", false, "write the golden files")

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

var launch = runner.Launch{
	Task: "0abcdefgh1234567-0-1", Run: "0abcdefgh1234567", Build: "app@arm64", Platform: "linux/arm64", Engine: "kaniko",
	URL: "https://pipegen.example.com", Token: "t0ken-s3cret", Deadline: noon.Add(90 * time.Minute),
	Resources: &config.Resources{CPU: "2", Memory: "4Gi", EphemeralStorage: "20Gi"},
	Labels:    map[string]string{"image": "app", "submitter": "team-a", "traceparent": ""},
}

// read gives settings as a server's file has them.
func settings(t *testing.T, text string) config.ServerKubernetes {
	t.Helper()
	s, err := config.ReadServer("server.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s.OnKubernetes()
}

func newLauncher(t *testing.T, text string) *Launcher {
	t.Helper()
	l, err := newUnwatched(Options{Namespace: "builds", Settings: settings(t, text), Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

const whole = `
url: https://elsewhere.example.com
k8s:
  serviceAccountName: not-used
  imagePullSecrets: [{name: registry}, second]
  tolerations: [{key: builds, operator: Exists, effect: NoSchedule}]
kubernetes:
  image: registry.example.com/pipegen:builder
  image_pull_policy: IfNotPresent
  service_account: pipegen-agent
  url: https://pipegen.builds.svc:8443/
  node_selector: {disk: ssd}
  affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app.kubernetes.io/managed-by: pipegen}}}}]}}
  priority_class: builds
  queue: team-a
  secrets: build-secrets
  keep: 10m
  pod:
    metadata: {labels: {team: a}, annotations: {cluster-autoscaler.kubernetes.io/safe-to-evict: "false"}}
    spec:
      hostUsers: false
      volumes: [{name: authority, configMap: {name: authority}}]
      containers:
      - name: agent
        env: [{name: LOCAL_CA_CERTIFICATE, value: /etc/authority/ca.crt}]
        volumeMounts: [{name: authority, mountPath: /etc/authority}]
        resources: {limits: {example.com/fpga: "1"}}
      - {name: sidecar, image: "registry.example.com/sidecar:1"}
`

func TestJob(t *testing.T) {
	for name, c := range map[string]struct {
		settings string
		change   func(*runner.Launch)
	}{
		"least":    {"kubernetes: {image: registry.example.com/pipegen:builder}", func(l *runner.Launch) { l.Resources = nil }},
		"original": {"k8s: {serviceAccountName: bakery-agent, nodeSelector: {pool: builds}, tolerations: [{operator: Exists}], imagePullSecrets: [{name: registry}]}", func(l *runner.Launch) { l.Image = "registry.example.com/own:1" }},
		"whole":    {whole, func(l *runner.Launch) { l.Secrets = []string{"NPM_TOKEN", "GIT_TOKEN"} }},
		"buildkit": {"kubernetes: {image: registry.example.com/pipegen:buildkit}", func(l *runner.Launch) { l.Engine = "buildkit" }},
	} {
		t.Run(name, func(t *testing.T) {
			l, launch := newLauncher(t, c.settings), launch
			c.change(&launch)
			j, err := l.job(launch)
			if err != nil {
				t.Fatal(err)
			}
			text, err := yaml.Marshal(j)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), "s3cret") {
				t.Error("the Job has the token")
			}
			j.UID = "7f5a"
			secret, err := yaml.Marshal(l.secret(j, launch.Token))
			if err != nil {
				t.Fatal(err)
			}
			got := string(text) + "---\n" + string(secret)
			file := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s: -update writes it anew; got\n%s", file, got)
			}
		})
	}
}

// What one task changes is not seen by the next.
func TestJobsAreApart(t *testing.T) {
	l := newLauncher(t, whole)
	first, err := l.job(launch)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := yaml.Marshal(first)
	other := launch
	other.Task, other.Platform, other.Engine, other.Secrets = "0abcdefgh1234567-1-1", "linux/amd64", "buildkit", []string{"X"}
	if _, err := l.job(other); err != nil {
		t.Fatal(err)
	}
	again, err := l.job(launch)
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := yaml.Marshal(again); string(after) != string(before) {
		t.Errorf("got\n%s\nwant\n%s", after, before)
	}
}

func TestWrongSettings(t *testing.T) {
	for text, want := range map[string]string{
		"kubernetes: {tolerations: [{kee: x}]}":                                                              `server.kubernetes.tolerations: unknown field "kee"`,
		"kubernetes: {affinity: {nodeAffinity: 3}}":                                                          "server.kubernetes.affinity: cannot unmarshal",
		"kubernetes: {pod: {spec: {hostnetwork: true, hostNetwrk: true}}}":                                   `unknown field "hostNetwrk"`,
		"kubernetes: {pod: {spec: {restartPolicy: OnFailure}}}":                                              "a task is started once",
		"kubernetes: {pod: {spec: {containers: [{name: agent, $patch: delete}]}}}":                           "takes away the container agent",
		"kubernetes: {pod: {spec: {containers: [{name: agent, resources: {limits: {cpu: much}}}]}}}":         "server.kubernetes.pod",
		"kubernetes: {pod: {spec: {containers: [{name: agent, securityContext: {runAsUser: not-a-user}}]}}}": "server.kubernetes.pod",
	} {
		s := settings(t, text)
		_, err := New(t.Context(), Options{Namespace: "builds", Settings: s})
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, failure.ErrInput) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestWrongLaunches(t *testing.T) {
	for want, change := range map[string]func(*runner.Launch){
		"is no id of a task":          func(l *runner.Launch) { l.Task = "../x" },
		"unknown platform":            func(l *runner.Launch) { l.Platform = "arm64" },
		"there is no image":           func(l *runner.Launch) { l.Image = "" },
		"cpu \"much\" is no quantity": func(l *runner.Launch) { l.Resources = &config.Resources{CPU: "much"} },
		"ephemeral_storage \"1 Gi\"":  func(l *runner.Launch) { l.Resources = &config.Resources{EphemeralStorage: "1 Gi"} },
		"memory \"512\" is":           func(l *runner.Launch) { l.Resources = &config.Resources{Memory: "512"} },
		"memory \"-1Gi\" is":          func(l *runner.Launch) { l.Resources = &config.Resources{Memory: "-1Gi"} },
		"is too large":                func(l *runner.Launch) { l.Resources = &config.Resources{Memory: "99999999999999999999Ei"} },
	} {
		l, launch := newLauncher(t, ""), launch
		launch.Image = "registry.example.com/pipegen:builder"
		change(&launch)
		err := l.Start(t.Context(), launch)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// The spellings of the build service mean on Kubernetes what the table in
// docs/kubernetes.md says, and what the other runners are told.
func TestResources(t *testing.T) {
	for _, c := range []struct{ cpu, memory, wantCPU, wantMemory string }{
		{"0.5", "512", "500m", "512Mi"},
		{"1", "1024", "1", "1Gi"},
		{"2", "2G", "2", "2G"},
		{"500m", "2Gi", "500m", "2Gi"},
		{"256", "512M", "250m", "512M"},
		{"1024", "4096", "1", "4Gi"},
		{"2048", "1.5Gi", "2", "1536Mi"},
		{"1.25", "", "1250m", ""},
		{"", "32", "", "32Mi"},
	} {
		given, err := config.ReadResources(c.cpu, c.memory)
		if err != nil {
			t.Fatal(err)
		}
		var got corev1.Container
		if err := require(&got, given); err != nil {
			t.Fatal(err)
		}
		want := corev1.ResourceList{}
		for name, text := range map[corev1.ResourceName]string{corev1.ResourceCPU: c.wantCPU, corev1.ResourceMemory: c.wantMemory} {
			if text != "" {
				want[name] = resource.MustParse(text)
			}
		}
		asked := merge(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(assumedCPU), corev1.ResourceMemory: resource.MustParse(assumedMemory)}, want)
		same := func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 }
		if !maps.EqualFunc(got.Resources.Requests, asked, same) || !maps.EqualFunc(got.Resources.Limits, want, same) {
			t.Errorf("%s, %s: %v", c.cpu, c.memory, got.Resources)
		}
		amounts, err := given.Amounts()
		if err != nil {
			t.Fatal(err)
		}
		if q := got.Resources.Limits[corev1.ResourceCPU]; q.MilliValue() != amounts.MilliCPU {
			t.Errorf("%s: %d thousandths here, %d elsewhere", c.cpu, q.MilliValue(), amounts.MilliCPU)
		}
		if q := got.Resources.Limits[corev1.ResourceMemory]; q.Value() != amounts.Memory {
			t.Errorf("%s: %d bytes here, %d elsewhere", c.memory, q.Value(), amounts.Memory)
		}
	}
	for _, c := range [][2]string{{"much", ""}, {"0", ""}, {"-1", ""}, {"", "31"}, {"", "2GB"}, {"", "2 Gi"}, {"", "1.5"}, {"1e3", ""}} {
		if r, err := config.ReadResources(c[0], c[1]); err == nil {
			t.Errorf("%q, %q are %+v", c[0], c[1], r)
		}
	}
}

// What a build does not name is as for all builds, and what nobody names is
// assumed, but never more than the limit of an overlay.
func TestResourcesOfAll(t *testing.T) {
	const overlaid = "kubernetes: {pod: {spec: {containers: [{name: agent, resources: {limits: {memory: 1Gi}}}]}}}"
	const all = "kubernetes: {resources: {cpu: '1', memory: 4Gi, ephemeral_storage: 9Gi}}"
	for _, c := range []struct {
		settings         string
		build            *config.Resources
		requests, limits string
	}{
		{"", nil, "cpu=500m memory=2G", ""},
		{"", &config.Resources{CPU: "2"}, "cpu=2 memory=2G", "cpu=2"},
		{all, nil, "cpu=1 ephemeral-storage=9Gi memory=4Gi", "cpu=1 ephemeral-storage=9Gi memory=4Gi"},
		{all, &config.Resources{CPU: "2"}, "cpu=2 ephemeral-storage=9Gi memory=4Gi", "cpu=2 ephemeral-storage=9Gi memory=4Gi"},
		{overlaid, nil, "cpu=500m", "memory=1Gi"},
		{overlaid, &config.Resources{Memory: "3Gi"}, "cpu=500m memory=3Gi", "memory=3Gi"},
	} {
		l, launch := newLauncher(t, c.settings), launch
		launch.Image, launch.Resources = "registry.example.com/pipegen:builder", c.build
		j, err := l.job(launch)
		if err != nil {
			t.Fatal(err)
		}
		text := func(all corev1.ResourceList) string {
			var out []string
			for name, q := range all {
				out = append(out, string(name)+"="+q.String())
			}
			slices.Sort(out)
			return strings.Join(out, " ")
		}
		got := container(j.Spec.Template.Spec.Containers).Resources
		if requests, limits := text(got.Requests), text(got.Limits); requests != c.requests || limits != c.limits {
			t.Errorf("%+v with %s: requests %s, limits %s", c.build, c.settings, requests, limits)
		}
	}
}
