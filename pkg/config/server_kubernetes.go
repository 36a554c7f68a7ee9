package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/internal/lazyregexp"
)

// ServerKubernetes says where and how a controller starts agents on Kubernetes.
// What has a name in Kubernetes is written as there, and checked there.
type ServerKubernetes struct {
	// File of the connection; default: $K8S_CONFIG_PATH, else the cluster that the controller runs in, else $KUBECONFIG and ~/.kube/config.
	Kubeconfig string `yaml:"kubeconfig,omitempty"`
	// Context of that file; default: its current one.
	Context string `yaml:"context,omitempty"`
	// Namespace of agents; default: $K8S_NAMESPACE, else the controller's own, else that of the context.
	Namespace string `yaml:"namespace,omitempty"`
	// URL by which pods reach the controller; default: url.
	URL string `yaml:"url,omitempty"`
	// Image of agents whose build names none (builder_image); default: $AGENT_IMAGE.
	Image string `yaml:"image,omitempty"`
	// Always, IfNotPresent or Never; default: as Kubernetes has it.
	ImagePullPolicy string `yaml:"image_pull_policy,omitempty"`
	// Secrets with credentials for the images of agents.
	ImagePullSecrets []string `yaml:"image_pull_secrets,omitempty"`
	// Service account of agents, whose token they are not given.
	ServiceAccount string `yaml:"service_account,omitempty"`
	// Labels of nodes beside the one of the architecture.
	NodeSelector map[string]string `yaml:"node_selector,omitempty"`
	// Tolerations, as in a pod.
	Tolerations []any `yaml:"tolerations,omitempty"`
	// Affinity, as in a pod.
	Affinity map[string]any `yaml:"affinity,omitempty"`
	// Priority class of agents.
	PriorityClass string `yaml:"priority_class,omitempty"`
	// Local queue of Kueue.
	Queue string `yaml:"queue,omitempty"`
	// Of builds that name none. Default: requests of 500m and 2G, and no limits.
	Resources *Resources `yaml:"resources,omitempty"`
	// Secret of this namespace with values of secrets, by variable, that a run does not bring itself.
	Secrets string `yaml:"secrets,omitempty"`
	// How long a Job that has ended is kept if the controller does not remove it; default: 30m.
	Keep string `yaml:"keep,omitempty"`
	// What is merged into the pods of agents, as kubectl patch does: a PodTemplateSpec with metadata and spec. The agent's container is named agent.
	Pod map[string]any `yaml:"pod,omitempty"`
}

// ServerK8s is the section of the original's configs/config.yaml.
type ServerK8s struct {
	ServiceAccountName string            `yaml:"serviceAccountName,omitempty"`
	NodeSelector       map[string]string `yaml:"nodeSelector,omitempty"`
	Tolerations        []any             `yaml:"tolerations,omitempty"`
	// Names, or mappings with name.
	ImagePullSecrets []any `yaml:"imagePullSecrets,omitempty"`
}

var (
	kubernetesName = lazyregexp.New(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	pullPolicies   = []string{"Always", "IfNotPresent", "Never"}
)

// kubernetes judges how agents are started on Kubernetes, as far as that can be
// said without a cluster's types.
func (c checker) kubernetes(k *ServerKubernetes) {
	if k == nil {
		return
	}
	c.address(k.URL)
	c.object(k.Namespace, at("namespace"))
	c.object(k.ServiceAccount, at("service_account"))
	c.object(k.PriorityClass, at("priority_class"))
	c.object(k.Queue, at("queue"))
	c.object(k.Secrets, at("secrets"))
	for i, name := range k.ImagePullSecrets {
		if name == "" {
			c.fault("empty", "", at("image_pull_secrets", i), "an entry of image_pull_secrets is empty")
		}
		c.object(name, at("image_pull_secrets", i))
	}
	c.image(k.Image, at("image"))
	c.choice(k.ImagePullPolicy, pullPolicies, at("image_pull_policy"))
	c.resources(k.Resources)
	c.duration(k.Keep, at("keep"))
	for _, key := range slices.Sorted(maps.Keys(k.Pod)) {
		if key != "metadata" && key != "spec" {
			c.fault("unknown-key", `a PodTemplateSpec: "metadata" and "spec"`, at("pod"), "pod has no key %s", show(key))
		}
	}
}

// k8s judges the section of the original.
func (c checker) k8s(k *ServerK8s) {
	if k == nil {
		return
	}
	c.object(k.ServiceAccountName, at("serviceAccountName"))
	if _, err := k.pullSecrets(); err != nil {
		c.fault("wrong-type", "imagePullSecrets: [{name: registry}]", at("imagePullSecrets"), "%s", err)
	}
}

// object judges the name of an object of Kubernetes.
func (c checker) object(name string, where []any) {
	if name != "" && !kubernetesName.MatchString(name) {
		c.fault("bad-name", "small letters, digits, - and .", where, "%s %s is no name in Kubernetes", keyIn(where), show(name))
	}
}

func (k *ServerK8s) pullSecrets() ([]string, error) {
	var names []string
	for _, entry := range k.ImagePullSecrets {
		name, ok := entry.(string)
		if m, is := entry.(map[string]any); is && len(m) == 1 {
			name, ok = m["name"].(string)
		}
		if !ok || !kubernetesName.MatchString(name) {
			return nil, fmt.Errorf("an entry of imagePullSecrets is no name of a Secret")
		}
		names = append(names, name)
	}
	return names, nil
}

// OnKubernetes gives what is said of agents on Kubernetes by kubernetes, and
// where that says nothing, by k8s of the original. Neither need be there.
func (s *Server) OnKubernetes() ServerKubernetes {
	var out ServerKubernetes
	if s.Kubernetes != nil {
		out = *s.Kubernetes
	}
	if old := s.K8s; old != nil {
		if out.ServiceAccount == "" {
			out.ServiceAccount = old.ServiceAccountName
		}
		if out.NodeSelector == nil {
			out.NodeSelector = old.NodeSelector
		}
		if out.Tolerations == nil {
			out.Tolerations = old.Tolerations
		}
		if out.ImagePullSecrets == nil {
			out.ImagePullSecrets, _ = old.pullSecrets()
		}
	}
	out.URL = strings.TrimRight(out.URL, "/")
	return out
}
