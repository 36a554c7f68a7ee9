//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/pipegen/pipegen/test/toolcache"
)

// cluster is a control plane of Kubernetes on loopback, without a node:
// etcd, API server, controllers and scheduler. A test is its kubelet, or gives
// it a [worker].
type cluster struct {
	t            *testing.T
	program, dir string
	url          string
	ca           []byte
	processes    map[string]*exec.Cmd
	// Flags of programs that tests start again.
	apiserver, controllers, scheduler []string
}

// startCluster gives a control plane until the test ends.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, program: tool(t, toolcache.Kubernetes), dir: scratch(t), processes: map[string]*exec.Cmd{}}
	clients, peers, port := freePort(t), freePort(t), freePort(t)
	c.url = "https://127.0.0.1:" + port
	c.certify()
	c.write("tokens.csv", "admin,admin,admin,system:masters\ncontrollers,system:kube-controller-manager,controllers,\nscheduler,system:kube-scheduler,scheduler,\n"+
		"kubelet,system:node:"+workerName+",kubelet,system:nodes\n")
	etcd := "http://127.0.0.1:" + clients
	c.start("etcd", "--name=s", "--data-dir="+c.path("etcd"), "--unsafe-no-fsync", "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls=http://127.0.0.1:"+peers, "--initial-advertise-peer-urls=http://127.0.0.1:"+peers, "--initial-cluster=s=http://127.0.0.1:"+peers)
	c.apiserver = []string{
		"--etcd-servers=" + etcd, "--bind-address=127.0.0.1", "--secure-port=" + port, "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--tls-cert-file=" + c.path("server.crt"), "--tls-private-key-file=" + c.path("server.key"), "--token-auth-file=" + c.path("tokens.csv"), "--anonymous-auth=false",
		"--authorization-mode=Node,RBAC", "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + c.path("accounts.pub"),
		"--service-account-signing-key-file=" + c.path("accounts.key"), "--service-cluster-ip-range=10.0.0.0/24", "--profiling=false",
	}
	c.start("kube-apiserver", c.apiserver...)
	admin := c.client("admin")
	c.until(time.Minute, "the API server is ready", func() bool {
		answer, err := admin.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
		return err == nil && string(answer) == "ok"
	})
	c.controllers = []string{
		"--kubeconfig=" + c.kubeconfig("controllers"), "--secure-port=0", "--leader-elect=false", "--use-service-account-credentials=true",
		"--service-account-private-key-file=" + c.path("accounts.key"), "--root-ca-file=" + c.path("ca.crt"), "--controllers=*,-nodeipam,-node-route-controller,-service-lb-controller,-cloud-node-lifecycle-controller",
	}
	c.start("kube-controller-manager", c.controllers...)
	c.scheduler = []string{"--kubeconfig=" + c.kubeconfig("scheduler"), "--secure-port=0", "--leader-elect=false"}
	c.start("kube-scheduler", c.scheduler...)
	return c
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) write(name, text string) {
	c.t.Helper()
	if err := os.WriteFile(c.path(name), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// start starts one of the programs, which ends with the test.
func (c *cluster) start(name string, args ...string) {
	c.t.Helper()
	c.startProgram(name, c.program, append([]string{name}, args...)...)
}

// startProgram starts a program from elsewhere.
func (c *cluster) startProgram(name, path string, args ...string) {
	c.t.Helper()
	cmd := exec.Command(path, args...)
	log, err := os.Create(c.path(name + ".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	if c.processes[name] == nil {
		c.t.Cleanup(func() { c.kill(name) })
	}
	c.processes[name] = cmd
}

func (c *cluster) kill(name string) {
	_ = c.processes[name].Process.Kill()
	_ = c.processes[name].Wait()
}

// until waits for longer than eventually does: a cluster takes its time.
func (c *cluster) until(limit time.Duration, what string, holds func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(c.path("kube-apiserver.log"))
			c.t.Fatalf("not within %s: %s; the API server said:\n%s", limit, what, text[max(0, len(text)-2000):])
		}
	}
}

// client gives one that has a token.
func (c *cluster) client(token string) clientset.Interface {
	c.t.Helper()
	client, err := clientset.NewForConfig(c.config(token))
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

// config says how the cluster is reached with a token.
func (c *cluster) config(token string) *rest.Config {
	return &rest.Config{Host: c.url, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: c.ca}, QPS: -1}
}

func (c *cluster) kubeconfig(token string) string {
	c.t.Helper()
	return c.kubeconfigFor(token, c.url, c.path("ca.crt"), token)
}

// kubeconfigFor gives the file of a connection to the API server by another
// way.
func (c *cluster) kubeconfigFor(name, url, ca, token string) string {
	c.t.Helper()
	c.write(name+".kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, url, ca, token))
	return c.path(name + ".kubeconfig")
}

// certify makes the API server's certificate and the key of service accounts.
func (c *cluster) certify() {
	c.t.Helper()
	key := func(name string) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			c.t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			c.t.Fatal(err)
		}
		c.write(name, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
		return k
	}
	server, accounts := key("server.key"), key("accounts.key")
	public, err := x509.MarshalPKIXPublicKey(accounts.Public())
	if err != nil {
		c.t.Fatal(err)
	}
	c.write("accounts.pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kube-apiserver"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, server.Public(), server)
	if err != nil {
		c.t.Fatal(err)
	}
	c.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	c.write("server.crt", string(c.ca))
	c.write("ca.crt", string(c.ca))
}
