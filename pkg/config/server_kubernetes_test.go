package config

import (
	"reflect"
	"strings"
	"testing"
)

const goodKubernetes = `kubernetes:
  kubeconfig: /etc/pipegen/kubeconfig
  context: builds
  namespace: builds
  url: https://pipegen.builds.svc:8443/
  image: registry.example.org/pipegen:builder
  image_pull_policy: IfNotPresent
  image_pull_secrets: [registry]
  service_account: pipegen-agent
  node_selector: {disk: ssd}
  tolerations: [{key: builds, operator: Exists}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [a]}]}]}}}
  priority_class: builds
  queue: team-a
  resources: {cpu: "2", memory: 4Gi, ephemeral_storage: 20Gi}
  secrets: build-secrets
  keep: 10m
  pod: {metadata: {labels: {team: a}}, spec: {hostUsers: false}}
`

const original = `k8s:
  serviceAccountName: bakery-agent
  nodeSelector: {pool: builds}
  tolerations: [{operator: Exists}]
  imagePullSecrets: [{name: registry}, second]
`

func TestReadKubernetes(t *testing.T) {
	s, err := ReadServer("server.yaml", []byte(goodKubernetes+original), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := s.OnKubernetes()
	if got.ServiceAccount != "pipegen-agent" || got.URL != "https://pipegen.builds.svc:8443" || got.Pod["spec"].(map[string]any)["hostUsers"] != false || len(got.NodeSelector) != 1 || got.NodeSelector["disk"] != "ssd" {
		t.Errorf("%+v", got)
	}
	if err := validate(t, "pipegen", "server:\n  "+strings.ReplaceAll(strings.TrimSpace(goodKubernetes+original), "\n", "\n  ")+"\n"); err != nil {
		t.Errorf("schema: %v", err)
	}

	if s, err = ReadServer("config.yaml", []byte(original), nil); err != nil {
		t.Fatal(err)
	}
	got = s.OnKubernetes()
	want := ServerKubernetes{
		ServiceAccount: "bakery-agent", NodeSelector: map[string]string{"pool": "builds"}, Tolerations: []any{map[string]any{"operator": "Exists"}}, ImagePullSecrets: []string{"registry", "second"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if got := new(Server).OnKubernetes(); !reflect.DeepEqual(got, ServerKubernetes{}) {
		t.Errorf("%+v", got)
	}
}

func TestKubernetesFaults(t *testing.T) {
	for text, want := range map[string]string{
		"kubernetes: {namspace: x}":                                    `1:14: unknown key "namspace"`,
		"kubernetes: {namespace: Builds}":                              `namespace "Builds" is no name in Kubernetes`,
		"kubernetes: {image_pull_policy: Sometimes}":                   `unknown value "Sometimes" of image_pull_policy`,
		"kubernetes: {image_pull_secrets: ['', a_b]}":                  `image_pull_secrets "a_b" is no name in Kubernetes`,
		"kubernetes: {url: pods}":                                      "url is no address of a controller",
		"kubernetes: {keep: long}":                                     `keep "long"`,
		"kubernetes: {resources: {cpu: much}}":                         `"much"`,
		"kubernetes: {pod: {spc: {}}}":                                 `pod has no key "spc"`,
		"kubernetes: {pod: 3}":                                         "pod wants",
		"kubernetes: {image: 'gcr.io/kaniko-project/executor:latest'}": "archived project",
		"k8s: {serviceAccount: x}":                                     `unknown key "serviceAccount"`,
		"k8s: {imagePullSecrets: [{nam: x}]}":                          "an entry of imagePullSecrets is no name of a Secret",
		"k8s: {imagePullSecrets: [3]}":                                 "an entry of imagePullSecrets is no name of a Secret",
	} {
		_, err := ReadServer("server.yaml", []byte(text), nil)
		if err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(want, `"`, "")) && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
