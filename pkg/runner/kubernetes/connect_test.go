package kubernetes

import (
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

// kubeconfig writes a file of a cluster, whose user is as given.
func kubeconfig(t *testing.T, server *httptest.Server, user string) string {
	t.Helper()
	dir := t.TempDir()
	authority := filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}], users: [{name: u, user: %s}],
contexts: [{name: x, context: {cluster: c, user: u, namespace: of-context}}, {name: bare, context: {cluster: c, user: u}}], current-context: x}`, server.URL, authority, user)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Who asks is known by a token, or by what a program of a cloud says.
func TestConnectAsUser(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.URL.Path, r.Header.Get("Authorization"), r.UserAgent())
	}))
	defer server.Close()
	program := filepath.Join(t.TempDir(), "login")
	script := "#!/bin/sh\necho '{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\", \"status\": {\"token\": \"from-'$1'\"}}'\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{
		"{token: secret}": "/version Bearer secret pipegen/test",
		"{exec: {apiVersion: client.authentication.k8s.io/v1, command: " + program + ", args: [cloud], interactiveMode: Never}}": "/version Bearer from-cloud pipegen/test",
	} {
		client, _, err := Connect(config.ServerKubernetes{Kubeconfig: kubeconfig(t, server, user)}, func(string) string { return "" }, "pipegen/test")
		if err != nil {
			t.Fatal(err)
		}
		got, err := client.version(t.Context())
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v", user, got, err)
		}
	}
}

func TestConnection(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	file := kubeconfig(t, server, "{token: secret}")
	none := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		settings  config.ServerKubernetes
		variables map[string]string
		want      string // the namespace, or the error
	}{
		{config.ServerKubernetes{Kubeconfig: file}, nil, "of-context"},
		{config.ServerKubernetes{Kubeconfig: file, Context: "bare"}, nil, "default"},
		{config.ServerKubernetes{Kubeconfig: file, Namespace: "own"}, map[string]string{"K8S_NAMESPACE": "of-variable"}, "own"},
		{config.ServerKubernetes{}, map[string]string{"K8S_CONFIG_PATH": file, "K8S_NAMESPACE": "of-variable"}, "of-variable"},
		{config.ServerKubernetes{}, map[string]string{"KUBECONFIG": none + ":" + file}, "of-context"},
		{config.ServerKubernetes{Context: "x"}, map[string]string{"KUBECONFIG": file, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "of-context"},
		{config.ServerKubernetes{Kubeconfig: file, Context: "other"}, nil, `reading the kubeconfig: context "other" does not exist`},
		{config.ServerKubernetes{Kubeconfig: none}, nil, "reading the kubeconfig: stat " + none},
		{config.ServerKubernetes{}, map[string]string{"HOME": t.TempDir()}, "reading the kubeconfig: there is none, and this is no pod of a cluster"},
		{config.ServerKubernetes{}, map[string]string{"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "using the service account of this pod"},
	} {
		connection, namespace, err := Connection(c.settings, func(name string) string { return c.variables[name] }, "pipegen/test")
		if err != nil {
			if !strings.HasPrefix(err.Error(), c.want) || !errors.Is(err, failure.ErrInput) || failure.Hint(err) == "" {
				t.Errorf("%+v %v: %v (%s)", c.settings, c.variables, err, failure.Hint(err))
			}
			continue
		}
		if namespace != c.want || connection.Host != server.URL || connection.QPS != requestsPerSecond {
			t.Errorf("%+v %v: namespace %s of %s", c.settings, c.variables, namespace, connection.Host)
		}
	}
}
