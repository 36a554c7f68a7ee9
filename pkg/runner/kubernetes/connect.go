package kubernetes

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

// accountNamespace is where a pod finds the namespace that it is in.
const accountNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// Requests a second to an API server, and how many at once; beyond that they
// wait here. Watches are not counted.
const requestsPerSecond, burst = 50, 100

// Connection gives how a cluster is reached, and the namespace of agents: what
// the server's file says, then $K8S_CONFIG_PATH and $K8S_NAMESPACE, then the
// cluster that this process runs in, then kubectl's own files. Errors wrap
// failure.ErrInput; nothing is sent.
func Connection(s config.ServerKubernetes, getenv func(string) string, agent string) (*rest.Config, string, error) {
	path := cmp.Or(s.Kubeconfig, getenv("K8S_CONFIG_PATH"))
	namespace := cmp.Or(s.Namespace, getenv("K8S_NAMESPACE"))
	c, own, err := connection(path, s.Context, getenv)
	if err != nil {
		return nil, "", err
	}
	c.UserAgent, c.QPS, c.Burst = agent, requestsPerSecond, burst
	c.ContentType, c.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	return c, cmp.Or(namespace, own, "default"), nil
}

func connection(path, context string, getenv func(string) string) (*rest.Config, string, error) {
	if path == "" && context == "" && getenv("KUBERNETES_SERVICE_HOST") != "" {
		c, err := rest.InClusterConfig()
		if err == nil {
			namespace, err := os.ReadFile(accountNamespace)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, "", failure.Input("reading the namespace of this pod: %w", err)
			}
			return c, strings.TrimSpace(string(namespace)), nil
		}
		if getenv("KUBECONFIG") == "" {
			return nil, "", failure.WithHint(failure.Input("using the service account of this pod: %w", err), "give the pod a service account whose token is mounted, or name a kubeconfig: server.kubernetes.kubeconfig")
		}
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: path}
	if path == "" {
		rules.Precedence = filepath.SplitList(getenv("KUBECONFIG"))
		if len(rules.Precedence) == 0 {
			rules.Precedence = []string{filepath.Join(getenv("HOME"), ".kube", "config")}
		}
	}
	file := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context})
	c, err := file.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		err = errors.New("there is none, and this is no pod of a cluster")
	}
	if err != nil {
		return nil, "", failure.WithHint(failure.Input("reading the kubeconfig: %w", err), "name one with server.kubernetes.kubeconfig or K8S_CONFIG_PATH, or run the controller in the cluster")
	}
	namespace, _, err := file.Namespace()
	if err != nil {
		return nil, "", failure.Input("reading the kubeconfig: %w", err)
	}
	return c, namespace, nil
}

// Connect is Connection with a client of it.
func Connect(s config.ServerKubernetes, getenv func(string) string, agent string) (*Client, string, error) {
	c, namespace, err := Connection(s, getenv, agent)
	if err != nil {
		return nil, "", err
	}
	client, err := NewClient(c)
	return client, namespace, err
}
