package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"

	"github.com/pipegen/pipegen/internal/awstest"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/runner/ecs"
)

const (
	describeTasks     = "DescribeTasks"
	getCallerIdentity = "GetCallerIdentity"
	// provisioning is what Fargate takes until an agent runs: far less than it does.
	provisioning = time.Second
)

// benchCloud is AWS: an emulator, what counts requests before it, and Fargate,
// which runs agents.
type benchCloud struct {
	*awstest.Proxy
	moto    *exec.Cmd
	server  *http.Server
	subnet  string
	http    *http.Transport
	places  chan struct{} // agents that do something at once
	release chan struct{} // closed when agents may end

	// The emulator breaks down if a task begins while it looks at others.
	one sync.Mutex

	mu             sync.Mutex
	asked          requests
	looks          []look
	claimed, ended int
	fault          error
}

func startBenchCloud(ctx context.Context) (*benchCloud, error) {
	c := &benchCloud{
		http: &http.Transport{MaxIdleConnsPerHost: 64}, places: make(chan struct{}, agentsOfNode), release: make(chan struct{}), asked: requests{},
	}
	moto, err := c.startMoto(ctx)
	if err == nil {
		err = c.prepare(ctx, moto)
	}
	if err == nil {
		c.Proxy, err = awstest.New(awstest.Options{API: moto, Started: func(t awstest.Task) { c.run(ctx, t) }})
	}
	var l net.Listener
	if err == nil {
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, errors.Join(err, c.stop())
	}
	c.URL = "http://" + l.Addr().String()
	c.server = &http.Server{Handler: http.HandlerFunc(c.count), ReadHeaderTimeout: time.Minute}
	go func() { _ = c.server.Serve(l) }()
	return c, nil
}

// startMoto starts the emulator, which test/e2e/install installs.
func (c *benchCloud) startMoto(ctx context.Context) (address string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	program := filepath.Join(cache, "pipegen", "moto-5.2.1", "bin", "moto_server")
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath("moto_server"); err != nil {
			return "", fmt.Errorf("%w: test/e2e/install installs it", err)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	host, port, _ := net.SplitHostPort(l.Addr().String())
	if err := l.Close(); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, program, "-H", host, "-p", port)
	if err := cmd.Start(); err != nil {
		return "", err
	}
	c.moto = cmd
	address = "http://" + net.JoinHostPort(host, port)
	for late := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, err = c.ask(ctx, address, "ecs", "application/x-amz-json-1.1", "AmazonEC2ContainerServiceV20141113.ListClusters", "{}"); err == nil || time.Now().After(late) {
			return address, err
		}
	}
}

var subnetID = regexp.MustCompile(`<subnetId>(subnet-[0-9a-f]+)</subnetId>`)

// prepare makes the cluster, and finds the subnet that there is.
func (c *benchCloud) prepare(ctx context.Context, moto string) error {
	if _, err := c.ask(ctx, moto, "ecs", "application/x-amz-json-1.1", "AmazonEC2ContainerServiceV20141113.CreateCluster", `{"clusterName":"pipegen"}`); err != nil {
		return err
	}
	subnets, err := c.ask(ctx, moto, "ec2", "application/x-www-form-urlencoded", "", "Action=DescribeSubnets&Version=2016-11-15")
	if err != nil {
		return err
	}
	m := subnetID.FindStringSubmatch(subnets)
	if m == nil {
		return errors.New("the emulator has no subnet")
	}
	c.subnet = m[1]
	return nil
}

// ask asks the emulator itself.
func (c *benchCloud) ask(ctx context.Context, address, service, kind, target, body string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", kind)
	if target != "" {
		r.Header.Set("X-Amz-Target", target)
	}
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=any/20261121/us-east-1/"+service+"/aws4_request, SignedHeaders=host, Signature=0")
	answer, err := (&http.Client{Transport: c.http}).Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("the emulator answers %s: %s", answer.Status, text)
	}
	return string(text), err
}

// settings are those of a controller.
func (c *benchCloud) settings(port string) string {
	return fmt.Sprintf(`limits:
  tasks: {ecs: %d}
  requests_per_second: 100000
ecs:
  region: us-east-1
  url: http://127.0.0.1:%s
  cluster: pipegen
  subnets: [%s]
  security_groups: [sg-1]
  execution_role: %s
  task_role: %s
  image: registry.test/agent
`, fargateTasks, port, c.subnet, awstest.RoleARN(awstest.Execution), awstest.RoleARN(awstest.Agent))
}

// count takes a request on, and notes what it was for.
func (c *benchCloud) count(w http.ResponseWriter, r *http.Request) {
	target, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if target == "" && r.Method == http.MethodPost {
		operation = getCallerIdentity // the only one without
	}
	var l look
	if operation == describeTasks {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		var in struct{ Tasks []string }
		if err := json.Unmarshal(body, &in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		l.at = time.Now()
		for _, task := range in.Tasks { // ARNs or ids
			l.tasks = append(l.tasks, task[strings.LastIndexByte(task, '/')+1:])
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	if operation != "" { // else an agent asks for credentials
		c.mu.Lock()
		c.asked[operation]++
		if l.tasks != nil {
			c.looks = append(c.looks, l)
		}
		c.mu.Unlock()
	}
	if target != "" {
		c.one.Lock()
		defer c.one.Unlock()
	}
	c.ServeHTTP(w, r)
}

// requests gives what the controller has asked for so far.
func (c *benchCloud) requests() (requests, []look) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.asked), slices.Clone(c.looks)
}

// watched counts the tasks that the controller looked at of late.
func (c *benchCloud) watched(context.Context) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, l := range slices.Backward(c.looks) {
		if time.Since(l.at) > 3*launcherPoll/2 {
			break
		}
		n += len(l.tasks)
	}
	return n, nil
}

// wait waits until so many agents have done something as there are tasks.
func (c *benchCloud) wait(ctx context.Context, done func() int) error {
	for late := time.Now().Add(longestTrial); ; time.Sleep(50 * time.Millisecond) {
		c.mu.Lock()
		n, fault := done(), c.fault
		c.mu.Unlock()
		switch {
		case fault != nil:
			return fault
		case n >= fargateTasks:
			return nil
		case time.Now().After(late):
			return fmt.Errorf("%d of %d agents have come so far", n, fargateTasks)
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// run is the life of a task.
func (c *benchCloud) run(ctx context.Context, t awstest.Task) {
	err := c.agent(ctx, t)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended++
	if c.fault == nil && err != nil {
		c.fault = fmt.Errorf("the agent of %s: %w", t.ARN, err)
	}
}

// busy does something when few others do.
func (c *benchCloud) busy(do func() error) error {
	c.places <- struct{}{}
	defer func() { <-c.places }()
	return do()
}

// agent does what an agent does, but build.
func (c *benchCloud) agent(ctx context.Context, t awstest.Task) error {
	time.Sleep(provisioning)
	env := t.Env("agent")
	task := env["PIPEGEN_AGENT_TASK"]
	var client *api.Client
	var build string
	err := c.busy(func() error {
		if err := c.Report(t.ARN, map[string]any{"lastStatus": "RUNNING", "containers": agentOf(map[string]any{"lastStatus": "RUNNING"})}); err != nil {
			return err
		}
		token, err := c.identify(ctx, t, env)
		if err != nil {
			return err
		}
		if client, err = api.NewClient(api.ClientOptions{URL: env["PIPEGEN_AGENT_URL"], Token: token, Transport: c.http}); err != nil {
			return err
		}
		a, _, err := client.Claim(ctx, task, api.Claim{Agent: task, Version: "bench"})
		if err != nil {
			return err
		}
		build = a.Build
		return speak(ctx, client, task)
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.claimed++
	c.mu.Unlock()
	select {
	case <-c.release:
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.busy(func() error {
		if err := succeed(ctx, client, task, build); err != nil {
			return err
		}
		return c.Report(t.ARN, map[string]any{
			"lastStatus": "STOPPED", "stopCode": "EssentialContainerExited", "stoppedReason": "Essential container in task exited",
			"containers": agentOf(map[string]any{"lastStatus": "STOPPED", "exitCode": 0}),
		})
	})
}

// identify gets a task's token by the role that ECS gave it.
func (c *benchCloud) identify(ctx context.Context, t awstest.Task, env map[string]string) (string, error) {
	where := ""
	for _, v := range c.ContainerEnv(awstest.Agent, t.ARN) {
		if value, ok := strings.CutPrefix(v, "AWS_CONTAINER_CREDENTIALS_FULL_URI="); ok {
			where = value
		}
	}
	url, task := env["PIPEGEN_AGENT_URL"], env["PIPEGEN_AGENT_TASK"]
	proof, err := ecs.Sign(ctx, endpointcreds.New(where), env["PIPEGEN_AGENT_STS"], env["AWS_REGION"], url, task)
	if err != nil {
		return "", err
	}
	client, err := api.NewClient(api.ClientOptions{URL: url, Transport: c.http})
	if err != nil {
		return "", err
	}
	return client.TaskToken(ctx, task, api.Identity{Proof: proof})
}

// agentOf is what ECS says of an agent's container.
func agentOf(fields map[string]any) []any {
	fields["name"] = "agent"
	return []any{fields}
}

// stop ends all that was started.
func (c *benchCloud) stop() error {
	var err error
	if c.server != nil {
		err = c.server.Close()
	}
	if c.moto != nil {
		_ = c.moto.Process.Kill()
		_ = c.moto.Wait()
	}
	return err
}
