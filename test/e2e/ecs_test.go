//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pipegen/pipegen/internal/awstest"
	"github.com/pipegen/pipegen/test/monorepo"
	"github.com/pipegen/pipegen/test/toolcache"
)

const ecsToken = "a-token-of-somebody-who-may-submit"

// cloud is a controller whose agents are on Fargate, the registry that they
// push to, and a directory to build.
type cloud struct {
	*fargate
	registry, url, dir string
	settings           string
	env                []string
	process            *exec.Cmd
}

// startCloud starts all of it. settings are more lines of server.ecs, and env is
// more of the controller's environment.
func startCloud(t *testing.T, o awstest.Options, settings string, env ...string) *cloud {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the engines need root")
	}
	h := newHub(t, nil)
	f := startFargate(t, o, "KANIKO_EXECUTOR="+tool(t, toolcache.Executor))
	address := "127.0.0.1:" + freePort(t)
	c := &cloud{fargate: f, registry: h.host, url: "http://" + address, dir: filepath.Join(f.place, "checkout"), env: env}
	ref, err := name.ParseReference(h.host+"/pipegen:builder", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, busybox(t)); err != nil {
		t.Fatal(err)
	}
	settings = strings.ReplaceAll(settings, "@QUEUE@", f.queue)
	c.settings = fmt.Sprintf(`limits: {start_timeout: 60s}
ecs:
  region: us-east-1
  url: %s
  cluster: pipegen
  subnets: [%s]
  security_groups: [sg-1]
  execution_role: %s
  task_role: %s
  image: %s/pipegen:builder
  log_group: /pipegen/agents
%s`, c.url, f.subnet, awstest.RoleARN(awstest.Execution), awstest.RoleARN(awstest.Agent), h.host, settings)
	c.serve(address)
	c.write("Dockerfile", "FROM "+h.host+"/images:busybox\nARG SECONDS=0\nRUN echo step begins; sleep $SECONDS; echo step ends > /made\nCOPY hello.txt /hello.txt\n")
	c.write("Dockerfile.arm64", "FROM scratch\nCOPY hello.txt /hello.txt\n")
	c.write("hello.txt", "hello\n")
	return c
}

// serve starts the controller, which ends with the test.
func (c *cloud) serve(address string) {
	c.t.Helper()
	file := filepath.Join(c.place, "server.yaml")
	if err := os.WriteFile(file, []byte(c.settings), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.process = exec.Command(c.pipegen, "server", "--runner", "ecs", "--listen", address, "--config", file, "--data-dir", filepath.Join(c.place, "data"))
	c.process.Env = append(monorepo.Env(os.Environ(), c.Env(awstest.Controller)...), "BUILD_CONTROLLER_TOKEN="+ecsToken, "HOME="+c.place)
	c.process.Env = append(c.process.Env, c.env...)
	c.process.Stderr = c.t.Output()
	if err := c.process.Start(); err != nil {
		c.t.Fatal(err)
	}
	process := c.process
	c.t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	eventually(c.t, "the controller answers", func() bool {
		res, err := http.Get(c.url + "/health/live")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

// restart ends the controller and starts another one.
func (c *cloud) restart() {
	c.t.Helper()
	_ = c.process.Process.Kill()
	_ = c.process.Wait()
	c.serve(strings.TrimPrefix(c.url, "http://"))
}

func (c *cloud) write(file, text string) {
	c.t.Helper()
	path := filepath.Join(c.dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// submit starts pipegen submit; lines tells what it says as it says it.
func (c *cloud) submit(config string) (said func() string, ended <-chan bool) {
	c.t.Helper()
	c.write("config.yaml", config)
	out := filepath.Join(c.place, "submit-"+fmt.Sprint(time.Now().UnixNano()))
	file, err := os.Create(out)
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.CommandContext(c.t.Context(), c.pipegen, "submit", "--config", "config.yaml", "--log-format", "plain")
	cmd.Dir, cmd.Env = c.dir, append(monorepo.Env(os.Environ()), "CONTROLLER_URL="+c.url, "BUILD_CONTROLLER_TOKEN="+ecsToken, "HOME="+c.place)
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	done := make(chan bool, 1)
	go func() {
		err := cmd.Wait()
		_ = file.Close()
		done <- err == nil
	}()
	return func() string {
		text, _ := os.ReadFile(out)
		return string(text)
	}, done
}

// finish waits for the end of a submission.
func (c *cloud) finish(said func() string, ended <-chan bool, want bool) string {
	c.t.Helper()
	select {
	case ok := <-ended:
		c.t.Logf("pipegen submit:\n%s", said())
		if ok != want {
			c.t.Fatalf("it succeeded: %v", ok)
		}
	case <-time.After(3 * time.Minute):
		c.t.Fatalf("it does not end:\n%s", said())
	}
	return said()
}

func until(t *testing.T, said func() string, words string) {
	t.Helper()
	for giveUp := time.After(90 * time.Second); !strings.Contains(said(), words); {
		select {
		case <-giveUp:
			t.Fatalf("it never says %q:\n%s", words, said())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func hasWords(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("it does not say %q", w)
		}
	}
}

const registryPass = "a password of the registry"

// The config.yaml of the original's README, with names of this registry, is built
// by two tasks of ECS. Nothing that AWS tells of them is a secret.
func TestECS(t *testing.T) {
	c := startCloud(t, awstest.Options{}, "  tags: {team: builds}\n")
	c.write("Dockerfile", `ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ARG BUILD_PLATFORM
RUN echo step begins; sleep 2; echo for $BUILD_PLATFORM > /made
COPY by-script hello.txt /
`)
	said, ended := c.submit(fmt.Sprintf(`global:
  # Execution platform: ecs or k8s
  platform: ecs

  # Default architecture
  arch: amd64

  # Environment variables passed to the Agent container
  env:
    FOO: bar

  # Script to run before Kaniko execution
  pre-script: |
    echo 'setting up...'
    echo $FOO > by-script

  # Script to run after successful Kaniko build
  post-script: |
    echo 'done'

  # Private registry credentials
  kaniko-credentials:
  - registry: registry.example.com
    username: user
    password: %[1]s

  # Kaniko build options
  kaniko:
    context-path: .
    dockerfile: Dockerfile
    destination: %[2]s/myapp:latest
    build-args:
      BASE_IMAGE: %[2]s/images:busybox
    cache:
      enable: true
      repo: %[2]s/cache
      ttl: 24h

# Per-architecture build config (inherits from global, same keys override)
bake:
- arch: amd64
  kaniko:
    build-args:
      BUILD_PLATFORM: amd64

- arch: arm64
  kaniko:
    dockerfile: Dockerfile.arm64
    build-args:
      BUILD_PLATFORM: arm64
`, registryPass, c.registry))
	until(t, said, "step begins")
	if strings.Contains(said(), "published") {
		t.Error("what a build says comes after its end")
	}
	described := c.described()
	hasWords(t, c.finish(said, ended, true), "] setting up...", "] done")
	described += c.described()
	for _, secret := range []string{ecsToken, registryPass, "PIPEGEN_AGENT_TOKEN", "SECRET"} {
		if strings.Contains(described, secret) {
			t.Errorf("AWS tells of %q:\n%s", secret, described)
		}
	}
	var machines []string
	for _, task := range c.all() {
		platform, _ := task.Definition["runtimePlatform"].(map[string]any)
		machines = append(machines, fmt.Sprint(platform["cpuArchitecture"], " ", task.Provider, " ", task.Definition["cpu"], " ", task.Definition["memory"]))
	}
	slices.Sort(machines)
	if want := []string{"ARM64 FARGATE_SPOT 512 2048", "X86_64 FARGATE_SPOT 512 2048"}; !slices.Equal(machines, want) {
		t.Errorf("the tasks are %q, want %q", machines, want)
	}
	ref, err := name.ParseReference(c.registry+"/myapp:latest", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, child := range list.Manifests {
		platforms = append(platforms, child.Platform.String())
		image, err := index.Image(child.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if content := files(t, image); child.Platform.Architecture == "amd64" && (string(content["by-script"]) != "bar\n" || string(content["made"]) != "for amd64\n") {
			t.Errorf("the image holds %q", content)
		}
	}
	if slices.Sort(platforms); !slices.Equal(platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("the index is for %q", platforms)
	}
	if n := c.Requests("ecs:RunTask"); n != 2 {
		t.Errorf("RunTask was called %d times", n)
	}
}

// one is a build of one architecture that takes a while.
func (c *cloud) one(tag, seconds, more string) string {
	return fmt.Sprintf("global: {platform: ecs, arch: amd64, kaniko: {destination: \"%s/one:%s\", build-args: {SECONDS: \"%s\"}}}\nbake:\n- {%s}\n", c.registry, tag, seconds, more)
}

// Spot takes its capacity back in mid-build: the build goes on on FARGATE, and
// its log says so.
func TestECSSpotInterruption(t *testing.T) {
	c := startCloud(t, awstest.Options{}, "")
	said, ended := c.submit(c.one("v1", "4", ""))
	until(t, said, "step begins")
	c.end(c.all()[0], "SpotInterruption", "Your Spot Task was interrupted.")
	out := c.finish(said, ended, true)
	hasWords(t, out, "AWS took the capacity of Spot back", "(2 of 3)", "on FARGATE now, as the attempt before it was lost")
	var providers []string
	for _, task := range c.all() {
		providers = append(providers, task.Provider)
	}
	if !slices.Equal(providers, []string{"FARGATE_SPOT", "FARGATE"}) {
		t.Errorf("the attempts were on %q", providers)
	}
}

// Without capacity on Spot it is FARGATE; without any it waits and says so. What
// is throttled comes later.
func TestECSCapacity(t *testing.T) {
	c := startCloud(t, awstest.Options{}, "")
	c.Inject(awstest.NoCapacity("FARGATE_SPOT", 0))
	c.Inject(awstest.NoCapacity("FARGATE", 1))
	c.Inject(awstest.Throttle("ecs:RunTask", 4))
	said, ended := c.submit(c.one("v1", "0", ""))
	until(t, said, "AWS has no capacity for it at present: FARGATE_SPOT, FARGATE")
	hasWords(t, c.finish(said, ended, true), "on FARGATE now: FARGATE_SPOT has no capacity at present")
	if all := c.all(); len(all) != 1 || all[0].Provider != "FARGATE" {
		t.Errorf("%d tasks", len(all))
	}
}

// What an agent cannot tell itself ECS tells: an image that is not there, and
// want of memory. Neither is tried again.
func TestECSFailures(t *testing.T) {
	c := startCloud(t, awstest.Options{}, "  capacity: [{provider: FARGATE, weight: 1}]\n")
	said, ended := c.submit(c.one("v1", "60", ""))
	until(t, said, "step begins")
	c.exhaust(c.all()[0])
	hasWords(t, c.finish(said, ended, false), "it was killed for want of memory: it had 2048 MiB")

	c.mu.Lock()
	c.unready = "CannotPullContainerError: failed to resolve ref r.example/none:1: r.example/none:1: not found"
	c.mu.Unlock()
	said, ended = c.submit(c.one("v2", "0", ""))
	hasWords(t, c.finish(said, ended, false), "does not exist", "see server.ecs.image or AGENT_IMAGE")
	if n := len(c.all()); n != 2 {
		t.Errorf("there are %d tasks", n)
	}
	said, ended = c.submit(c.one("v3", "0", `cpu: "32"`))
	hasWords(t, c.finish(said, ended, false), "no size of Fargate holds 32 vCPU")
}

// A controller that starts anew finds its task, which is not started again; one
// that is cancelled is stopped.
func TestECSRestart(t *testing.T) {
	c := startCloud(t, awstest.Options{}, "")
	said, ended := c.submit(c.one("v1", "8", ""))
	until(t, said, "step begins")
	_ = c.process.Process.Kill()
	_ = c.process.Wait()
	time.Sleep(time.Second)
	c.serve(strings.TrimPrefix(c.url, "http://"))
	c.finish(said, ended, true)
	if n := len(c.all()); n != 1 {
		t.Errorf("there are %d tasks", n)
	}

	said, ended = c.submit(c.one("v2", "600", ""))
	until(t, said, "step begins")
	runs := exec.Command(c.pipegen, "runs", "-f", "json")
	runs.Env = append(monorepo.Env(os.Environ()), "CONTROLLER_URL="+c.url, "BUILD_CONTROLLER_TOKEN="+ecsToken, "HOME="+c.place)
	list, err := runs.Output()
	if err != nil {
		t.Fatal(err)
	}
	_, id, _ := strings.Cut(string(list), `"id"`)
	id = strings.Split(id, `"`)[1]
	cancel := exec.Command(c.pipegen, "cancel", id)
	cancel.Env = runs.Env
	if out, err := cancel.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.finish(said, ended, false)
	task := c.all()[1]
	select {
	case <-task.ended:
	case <-time.After(time.Minute):
		t.Error("the task goes on")
	}
	if out := said(); !strings.Contains(out, "cancelled") || strings.Contains(out, "Spot") {
		t.Error("nobody but the user ended it")
	}
	if c.Requests("ecs:StopTask") == 0 {
		t.Error("nobody stopped it")
	}
}

// The secret that images of agents are pulled with is made by the first controller,
// found by the next one, and has the password of the last.
func TestECSImageSecret(t *testing.T) {
	login := func(password string) []string {
		return []string{"AGENT_IMAGE_SECRET_NAME=pipegen/image", "AGENT_IMAGE_SECRET_USERNAME=robot", "AGENT_IMAGE_SECRET_PASSWORD=" + password}
	}
	c := startCloud(t, awstest.Options{}, "", login("precious-1")...)
	said, ended := c.submit(c.one("v1", "0", ""))
	c.finish(said, ended, true)
	c.restart()
	c.env = login("precious-2")
	c.restart()
	said, ended = c.submit(c.one("v2", "0", ""))
	c.finish(said, ended, true)
	var images []any
	for _, task := range c.all() {
		images = append(images, definitionOf(task)["repositoryCredentials"])
	}
	if arn := fmt.Sprint(images...); len(images) != 2 || !strings.Contains(arn, ":secret:pipegen/image-") || fmt.Sprint(images[0]) != fmt.Sprint(images[1]) {
		t.Errorf("definitions have %v", images)
	}
	if want := []string{"robot precious-1", "robot precious-2"}; !slices.Equal(c.logins, want) {
		t.Errorf("images were pulled with %q, want %q", c.logins, want)
	}
	for action, want := range map[string]int{"secretsmanager:CreateSecret": 1, "secretsmanager:PutSecretValue": 1, "ecs:RegisterTaskDefinition": 1} {
		if got := c.Requests(action); got != want {
			t.Errorf("%s: %d times, want %d", action, got, want)
		}
	}
	if strings.Contains(c.described(), "precious") {
		t.Error("AWS tells of the password")
	}
}

// With EventBridge tasks are looked at once a minute, and what becomes of them
// is known at once all the same.
func TestECSEvents(t *testing.T) {
	c := startCloud(t, awstest.Options{}, "  event_queue: @QUEUE@\n")
	said, ended := c.submit(c.one("v1", "60", ""))
	until(t, said, "step begins")
	begun := time.Now()
	c.exhaust(c.all()[0])
	hasWords(t, c.finish(said, ended, false), "it was killed for want of memory")
	if n := c.Requests("ecs:DescribeTasks"); n > 1 || time.Since(begun) > 40*time.Second {
		t.Errorf("DescribeTasks was called %d times", n)
	}
}

// around stands before the proxy and answers what it does not know, which only
// pipegen doctor asks: for the cluster, subnets and quotas.
func (c *cloud) around() string {
	to, err := url.Parse(c.URL)
	if err != nil {
		c.t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = to.Scheme, to.Host, r.In.Host // which is signed
	}, ModifyResponse: func(r *http.Response) error {
		if r.StatusCode == http.StatusInternalServerError { // a task that there is not breaks moto
			_ = r.Body.Close()
			text := `{"__type":"InvalidParameterException","message":"The referenced task was not found."}`
			r.StatusCode, r.ContentLength, r.Body = http.StatusBadRequest, int64(len(text)), io.NopCloser(strings.NewReader(text))
			r.Header.Set("Content-Length", fmt.Sprint(len(text)))
		}
		return nil
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch target, who := r.Header.Get("X-Amz-Target"), r.Header.Get("Authorization"); {
		case strings.HasSuffix(target, ".DescribeClusters"):
			_, _ = fmt.Fprint(w, `{"clusters":[{"clusterName":"pipegen","status":"ACTIVE","capacityProviders":["FARGATE","FARGATE_SPOT"]}]}`)
		case strings.HasSuffix(target, ".GetServiceQuota"):
			_, _ = fmt.Fprint(w, `{"Quota":{"Value":6.0}}`)
		case strings.Contains(who, "/ec2/"):
			_, _ = fmt.Fprintf(w, `<DescribeSubnetsResponse><subnetSet><item><subnetId>%s</subnetId><vpcId>vpc-1</vpcId><availabilityZone>us-east-1a</availabilityZone><availableIpAddressCount>250</availableIpAddressCount></item></subnetSet></DescribeSubnetsResponse>`, c.subnet)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	c.t.Cleanup(server.Close)
	return server.URL
}

// pipegen doctor finds nothing to mend in a set-up that is well, and in one that
// is not what is wrong, with the fix.
func TestECSDoctor(t *testing.T) {
	c := startCloud(t, awstest.Options{}, "")
	address := c.around()
	doctor := func(want bool) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), c.pipegen, "doctor", "--runner", "ecs", "--config", filepath.Join(c.place, "server.yaml"))
		cmd.Env = append(monorepo.Env(os.Environ(), c.Env(awstest.Controller)...), "AWS_ENDPOINT_URL="+address, "HOME="+c.place)
		out, ok := run(t, cmd)
		if ok != want {
			t.Errorf("it succeeded: %v", ok)
		}
		return out
	}
	out := doctor(true)
	if strings.Contains(out, "FAIL") || strings.Contains(out, "warn  ") {
		t.Error("something is wrong")
	}
	hasWords(t, out, "pass  credentials: arn:aws:sts::"+awstest.Account+":assumed-role/pipegen-controller/", "pass  permission: ecs:StopTask", "pass  task on linux/arm64", "pass  controller from linux/amd64: "+c.url, "pass  registries from linux/arm64: "+c.registry)

	_ = c.process.Process.Kill()
	_ = c.process.Wait()
	hasWords(t, doctor(false), "FAIL  controller from linux/amd64: not reached: "+c.url, "fix: server.ecs.url names how agents reach the controller", "pass  registries from linux/amd64")

	c.Inject(awstest.Deny("ecs:StopTask"))
	c.Inject(awstest.Deny("iam:PassRole"))
	hasWords(t, doctor(false), "FAIL  permission: trying ecs:StopTask: the role "+awstest.RoleARN(awstest.Controller)+" may not ecs:StopTask", "pass  permission: ecs:ListTasks")
	c.Inject(awstest.Expired(awstest.Controller))
	hasWords(t, doctor(false), "FAIL  credentials: asking AWS who this is: the session token of the controller's credentials has expired")
}
