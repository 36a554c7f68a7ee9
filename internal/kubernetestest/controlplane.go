// Package kubernetestest runs the control plane of a Kubernetes on loopback, for
// tests and measurements: etcd, API server, controllers and scheduler, all of
// one program (see test/tools/kubernetes), and no node.
package kubernetestest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
)

// The programs of a control plane.
const (
	Etcd        = "etcd"
	APIServer   = "kube-apiserver"
	Controllers = "kube-controller-manager"
	Scheduler   = "kube-scheduler"
)

// Admin is the token of one who may do everything.
const Admin = "admin"

// Options say how a control plane runs.
type Options struct {
	// The program of all programs.
	Program string
	// An empty directory for its data, its keys and what the programs say.
	Dir string
	// Further lines of users: token, name, id and quoted groups, separated by commas.
	Users []string
	// Further arguments, by program.
	Args map[string][]string
}

// ControlPlane is one that runs.
type ControlPlane struct {
	Dir string
	// Address of the API server.
	URL string
	// The authority of its certificate, PEM.
	CA []byte
	// Arguments that its programs are run with, by program.
	Args map[string][]string

	program string

	mu        sync.Mutex
	processes map[string]*exec.Cmd
}

// Start starts a control plane and returns when its API server is ready; that of
// the others is not waited for.
func Start(ctx context.Context, o Options) (*ControlPlane, error) {
	ports, err := freePorts(ctx, 3)
	if err != nil {
		return nil, err
	}
	c := &ControlPlane{Dir: o.Dir, URL: "https://127.0.0.1:" + ports[2], program: o.Program, processes: map[string]*exec.Cmd{}}
	if err := c.certify(); err != nil {
		return nil, err
	}
	users := append([]string{
		Admin + ",admin,admin,system:masters", "controllers,system:kube-controller-manager,controllers,", "scheduler,system:kube-scheduler,scheduler,",
	}, o.Users...)
	if err := c.Write("tokens.csv", strings.Join(users, "\n")+"\n"); err != nil {
		return nil, err
	}
	controllers, err := c.Kubeconfig("controllers")
	if err != nil {
		return nil, err
	}
	scheduler, err := c.Kubeconfig("scheduler")
	if err != nil {
		return nil, err
	}
	etcd, peers := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	c.Args = map[string][]string{
		Etcd: {
			"--name=s", "--data-dir=" + c.Path("etcd"), "--unsafe-no-fsync", "--listen-client-urls=" + etcd, "--advertise-client-urls=" + etcd,
			"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=s=" + peers,
		},
		APIServer: {
			"--etcd-servers=" + etcd, "--bind-address=127.0.0.1", "--secure-port=" + ports[2], "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
			"--tls-cert-file=" + c.Path("server.crt"), "--tls-private-key-file=" + c.Path("server.key"), "--token-auth-file=" + c.Path("tokens.csv"), "--anonymous-auth=false",
			"--authorization-mode=Node,RBAC", "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + c.Path("accounts.pub"),
			"--service-account-signing-key-file=" + c.Path("accounts.key"), "--service-cluster-ip-range=10.0.0.0/24", "--profiling=false",
		},
		Controllers: {
			"--kubeconfig=" + controllers, "--secure-port=0", "--leader-elect=false", "--use-service-account-credentials=true",
			"--service-account-private-key-file=" + c.Path("accounts.key"), "--root-ca-file=" + c.Path("ca.crt"), "--controllers=*,-nodeipam,-node-route-controller,-service-lb-controller,-cloud-node-lifecycle-controller",
		},
		Scheduler: {"--kubeconfig=" + scheduler, "--secure-port=0", "--leader-elect=false"},
	}
	for program, more := range o.Args {
		c.Args[program] = append(c.Args[program], more...)
	}
	for _, program := range []string{Etcd, APIServer} {
		if err := c.Run(program); err != nil {
			return nil, errors.Join(err, c.Stop())
		}
	}
	if err := c.ready(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	for _, program := range []string{Controllers, Scheduler} {
		if err := c.Run(program); err != nil {
			return nil, errors.Join(err, c.Stop())
		}
	}
	return c, nil
}

// freePorts gives ports that nobody listens on; all are held until all are
// found, so that they differ.
func freePorts(ctx context.Context, n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }()
		ports = append(ports, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	return ports, nil
}

// Path gives that of a file in its directory.
func (c *ControlPlane) Path(name string) string { return filepath.Join(c.Dir, name) }

// Write writes such a file.
func (c *ControlPlane) Write(name, text string) error {
	return os.WriteFile(c.Path(name), []byte(text), 0o600)
}

// Run starts one of its programs, which ends at the latest with this process.
func (c *ControlPlane) Run(program string) error {
	return c.RunOther(program, c.program, append([]string{program}, c.Args[program]...)...)
}

// RunOther starts a program from elsewhere in the same way, under a name.
func (c *ControlPlane) RunOther(name, path string, args ...string) error {
	log, err := os.OpenFile(c.Path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(path, args...) //nolint:noctx // Kill ends it
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, c.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.processes[name] = cmd
	return nil
}

// Kill ends one of its programs at once; what does not run is left alone.
func (c *ControlPlane) Kill(program string) error {
	c.mu.Lock()
	cmd := c.processes[program]
	delete(c.processes, program)
	c.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending %s: %w", program, err)
	}
	_ = cmd.Wait() // it was killed
	return nil
}

// Stop ends all that was run.
func (c *ControlPlane) Stop() error {
	c.mu.Lock()
	names := slices.Collect(maps.Keys(c.processes))
	c.mu.Unlock()
	var all []error
	for _, name := range names {
		all = append(all, c.Kill(name))
	}
	return errors.Join(all...)
}

// Said gives the last that one of its programs has said.
func (c *ControlPlane) Said(program string) string {
	text, _ := os.ReadFile(c.Path(program + ".log")) // it may have said nothing
	return string(text[max(0, len(text)-2000):])
}

// ready waits for the API server.
func (c *ControlPlane) ready(ctx context.Context) error {
	client, err := rest.HTTPClientFor(c.Config(Admin))
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	ask := func() bool {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+"/readyz", nil)
		if err != nil {
			return false
		}
		res, err := client.Do(r)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		return err == nil && string(text) == "ok"
	}
	for late := time.Now().Add(time.Minute); !ask(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(late) || ctx.Err() != nil {
			return fmt.Errorf("the API server is not ready; it said:\n%s", c.Said(APIServer))
		}
	}
	return nil
}

// Config says how the cluster is reached with a token.
func (c *ControlPlane) Config(token string) *rest.Config {
	return &rest.Config{Host: c.URL, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: c.CA}, QPS: -1}
}

// Kubeconfig gives the path of a file that says so.
func (c *ControlPlane) Kubeconfig(token string) (string, error) {
	return c.KubeconfigFor(token, c.URL, c.Path("ca.crt"), token)
}

// KubeconfigFor gives that of a file, of this name, by which the cluster is
// reached at another address.
func (c *ControlPlane) KubeconfigFor(name, url, ca, token string) (string, error) {
	name += ".kubeconfig"
	return c.Path(name), c.Write(name, fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, url, ca, token))
}
