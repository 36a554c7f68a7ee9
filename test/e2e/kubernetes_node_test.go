//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pipegen/pipegen/test/toolcache"
)

const (
	// aloneVariable names the directory of a test that runs by itself.
	aloneVariable = "E2E_ALONE"
	// nodeAddress is where pods reach what runs beside them.
	nodeAddress = "10.124.0.1"
	workerName  = "worker"
)

// enclose makes the mounts, network and processes of who runs it its own; what
// is mounted over holds paths that kubelet, containerd and plugins do not let
// one choose, and settings of the kernel that the kubelet insists on.
const enclose = `
mount --make-rprivate / && mount --make-rshared /
mount -t proc proc /proc
echo 1 >/proc/sys/net/ipv4/ip_forward
for dir in /run /var/lib /var/log; do mount -t tmpfs -o mode=755 tmpfs $dir; done
for file in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
	cat /proc/sys/$file >/run/$(basename $file) && mount --bind /run/$(basename $file) /proc/sys/$file
done
ip link set lo up && ip address add ` + nodeAddress + `/32 dev lo
"$@"
exit $?
`

// alone runs the test once more, in namespaces of its own for mounts,
// processes and the network, with control groups of its own, and gives no
// directory. In that second run it gives a directory. Whatever the test
// starts and mounts is gone with it, however it ends.
func alone(t *testing.T, tools ...toolcache.Tool) (dir string) {
	t.Helper()
	if dir := os.Getenv(aloneVariable); dir != "" {
		return dir
	}
	if os.Geteuid() != 0 {
		t.Fatal("a node of Kubernetes needs root")
	}
	for _, which := range tools { // there is no network later
		tool(t, which)
	}
	dir = scratch(t)
	groups := ownGroups(t, filepath.Base(dir))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-ec", enclose, "sh", self, "-test.v", "-test.parallel=16", "-test.timeout=20m", "-test.run=" + onlyThis(t)}
	cmd := exec.Command("sh", args...)
	cmd.Env = append(os.Environ(), aloneVariable+"="+dir)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Run()
	eventually(t, "no control group is left", func() bool { return removeGroups(groups) == nil })
	if err != nil {
		t.Error("it failed in its namespaces:", err)
	}
	return ""
}

// onlyThis is a pattern for this test and what was asked for of it.
func onlyThis(t *testing.T) string {
	pattern := "^" + t.Name() + "$"
	for _, arg := range os.Args {
		if asked, ok := strings.CutPrefix(arg, "-test.run="); ok {
			if _, part, sub := strings.Cut(asked, "/"); sub {
				pattern += "/" + part
			}
		}
	}
	return pattern
}

// ownGroups makes a control group of this name in each hierarchy.
func ownGroups(t *testing.T, name string) (dirs []string) {
	t.Helper()
	tops, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		tops = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	for _, top := range tops {
		dir := filepath.Join(filepath.Dir(top), name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { // one hierarchy may have two names
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	return dirs
}

func removeGroups(groups []string) error {
	var all []error
	for _, group := range groups {
		var dirs []string
		_ = filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				all = append(all, err)
			}
		}
	}
	return errors.Join(all...)
}

// worker is the node of a cluster: a kubelet with containerd.
type worker struct {
	*cluster
	kubelet []string
	groups  string // control groups of its pods, in each hierarchy
}

// startWorker starts a node in the namespaces of [alone] and gives it an image
// that is not in the registry. The node trusts the registry's authority.
func startWorker(t *testing.T, c *cluster, dir string, ca *authority, registry, ref string, image v1.Image) *worker {
	t.Helper()
	containerd, runc := program(t, "containerd", "apt-get install containerd"), program(t, "runc", "apt-get install runc")
	ctr, plugins := program(t, "ctr", "apt-get install containerd"), "/usr/lib/cni"
	if _, err := os.Stat(filepath.Join(plugins, "ptp")); err != nil {
		t.Fatalf("%v: install it with: apt-get install containernetworking-plugins", err)
	}
	for _, sub := range []string{"net", "containers", "kubelet", "registries/" + registry} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	socket := "/run/containerd.sock"
	fill := strings.NewReplacer("@DIR@", dir, "@GROUP@", "/"+filepath.Base(dir), "@RUNC@", runc, "@PLUGINS@", plugins, "@SOCKET@", socket)
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(fill.Replace(text)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("net/10-pods.conflist", podNetwork)
	write("registries/"+registry+"/hosts.toml", fmt.Sprintf("server = %[1]q\nca = %[2]q\n[host.%[1]q]\n  ca = %[2]q\n", "https://"+registry, ca.file))
	w := &worker{cluster: c, groups: "/sys/fs/cgroup/*/" + filepath.Base(dir), kubelet: []string{
		"--config=" + write("kubelet.yaml", kubeletConfig), "--kubeconfig=" + c.kubeconfig("kubelet"), "--root-dir=" + dir + "/kubelet", "--cert-dir=" + dir + "/certificates",
		"--hostname-override=" + workerName, "--node-ip=" + nodeAddress, "--v=2",
	}}
	c.startProgram("containerd", containerd, "--config", write("containerd.toml", containerdConfig))
	c.until(time.Minute, "containerd answers", func() bool {
		return exec.CommandContext(t.Context(), ctr, "-a", socket, "version").Run() == nil
	})
	box := program(t, "busybox", "apt-get install busybox-static")
	pause := entered(t, imageOf(t, map[string]string{"bin/busybox": box}, nil), "/bin/busybox", "sleep", "1000000")
	for ref, image := range map[string]v1.Image{"localhost/pause:e2e": pause, ref: image} {
		tag, err := name.NewTag(ref)
		archive := filepath.Join(dir, "image.tar")
		if err == nil {
			err = tarball.WriteToFile(archive, tag, image)
		}
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), ctr, "-a", socket, "-n", "k8s.io", "images", "import", archive).CombinedOutput(); err != nil {
			t.Fatalf("importing %s: %v\n%s", ref, err, out)
		}
		if err := os.Remove(archive); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, name := range []string{"containerd", "kubelet"} {
			if text, _ := os.ReadFile(c.path(name + ".log")); t.Failed() {
				t.Logf("%s said:\n%s", name, text[max(0, len(text)-3000):])
			}
		}
	})
	c.start("kubelet", w.kubelet...)
	w.ready()
	return w
}

// entered gives an image that runs a program.
func entered(t *testing.T, image v1.Image, entrypoint ...string) v1.Image {
	t.Helper()
	config, err := image.ConfigFile()
	if err == nil {
		config = config.DeepCopy()
		config.Config.Entrypoint = entrypoint
		image, err = mutate.ConfigFile(image, config)
	}
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// crash ends the kubelet, and all that runs in pods.
func (w *worker) crash() {
	w.t.Helper()
	w.kill("kubelet")
	groups, _ := filepath.Glob(w.groups)
	groups = append(groups, strings.ReplaceAll(w.groups, "/*", ""))
	for _, group := range groups {
		_ = filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil
			}
			pids, _ := os.ReadFile(path)
			for pid := range strings.FieldsSeq(string(pids)) {
				if n, err := strconv.Atoi(pid); err == nil && n > 0 {
					_ = syscall.Kill(n, syscall.SIGKILL)
				}
			}
			return nil
		})
	}
}

// ready waits until the node is.
func (w *worker) ready() {
	w.t.Helper()
	admin := w.client("admin")
	w.until(2*time.Minute, "the node is ready", func() bool {
		n, err := admin.CoreV1().Nodes().Get(w.t.Context(), workerName, metav1.GetOptions{})
		return err == nil && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) && len(n.Spec.Taints) == 0
	})
}

// label gives the node a label.
func (w *worker) label(key, value string) {
	w.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, key, value)
	if _, err := w.client("admin").CoreV1().Nodes().Patch(w.t.Context(), workerName, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// kubectl asks the cluster as its administrator does.
func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), c.program, append([]string{"kubectl", "--kubeconfig=" + c.kubeconfig("admin"), "--namespace=builds"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

const podNetwork = `{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": {
	"type": "host-local", "ranges": [[{"subnet": "10.123.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "@DIR@/addresses"}}]}
`

const containerdConfig = `version = 2
root = "@DIR@/containers"
state = "/run/containers"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "@SOCKET@"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:e2e"
  stats_collect_period = 2
  disable_apparmor = true
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "@RUNC@"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "@PLUGINS@"
    conf_dir = "@DIR@/net"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "@DIR@/registries"
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
readOnlyPort: 0
healthzPort: 0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://@SOCKET@
cgroupDriver: cgroupfs
cgroupRoot: @GROUP@
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
podLogsDir: @DIR@/pod-logs
resolvConf: ""
makeIPTablesUtilChains: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi, nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 8
syncFrequency: 2s
featureGates: {KubeletInUserNamespace: true}
`
