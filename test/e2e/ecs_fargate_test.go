//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pipegen/pipegen/internal/awstest"
	"github.com/pipegen/pipegen/pkg/amazon"
	"github.com/pipegen/pipegen/test/monorepo"
)

// fargate runs the tasks of an emulator of AWS on this machine, as Fargate
// does: the image is looked for, the environment is that of the definition and
// the overrides, credentials are those of the task's role, and what becomes of
// the container is told.
type fargate struct {
	*awstest.Proxy
	t       *testing.T
	pipegen string
	place   string
	env     []string // of the machine
	subnet  string
	moto    string // past all checks
	queue   string // where EventBridge sends what becomes of tasks, if the controller is told of it

	mu    sync.Mutex
	tasks []*fargateTask
	// Words with which the next tasks fail to start.
	unready string
	// What images were pulled with, where the definition names a secret.
	logins []string
	done   sync.WaitGroup
}

// fargateTask is a task with the process that is its container.
type fargateTask struct {
	awstest.Task
	id      string
	cmd     *exec.Cmd
	stopped string // stopCode, if it was told to end
	reason  string
	oom     bool
	ended   chan struct{}
	state   map[string]any // all that was told of it
}

// startFargate starts the emulator, its proxy and the machine. env is for
// agents.
func startFargate(t *testing.T, o awstest.Options, env ...string) *fargate {
	t.Helper()
	moto := serveMoto(t)
	f := &fargate{t: t, moto: moto, pipegen: binary(t), place: scratch(t), env: env}
	o.API, o.Started, o.Stopping = moto, f.start, func(task, reason string) { f.end(f.byARN(task), "UserInitiated", reason) }
	f.Proxy = awstest.Start(t, o)
	f.ask("AmazonEC2ContainerServiceV20141113.CreateCluster", `{"clusterName":"pipegen"}`, moto)
	f.ask("AmazonSQS.CreateQueue", `{"QueueName":"pipegen-tasks"}`, moto)
	f.queue = moto + "/" + awstest.Account + "/pipegen-tasks"
	f.subnet = f.subnetOf(moto)
	t.Cleanup(func() {
		f.mu.Lock()
		for _, task := range f.tasks {
			if task.cmd != nil {
				_ = syscall.Kill(-task.cmd.Process.Pid, syscall.SIGKILL)
			}
		}
		f.mu.Unlock()
		f.done.Wait()
	})
	return f
}

// ask asks the emulator past all checks.
func (f *fargate) ask(target, body, api string) string {
	f.t.Helper()
	answer, err := post(target, body, api)
	if err != nil {
		f.t.Fatal(err)
	}
	return answer
}

func post(target, body, api string) (string, error) {
	kind, service := "application/x-amz-json-1.1", "ecs"
	if strings.HasPrefix(target, "AmazonSQS.") {
		kind, service = "application/x-amz-json-1.0", "sqs"
	}
	if target == "" {
		kind, service = "application/x-www-form-urlencoded", "ec2"
	}
	r, err := http.NewRequest(http.MethodPost, api, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", kind)
	if target != "" {
		r.Header.Set("X-Amz-Target", target)
	}
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=any/20261121/us-east-1/"+service+"/aws4_request, SignedHeaders=host, Signature=0")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	var text bytes.Buffer
	if _, err := text.ReadFrom(answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s%s: %s: %s %w", target, body, answer.Status, &text, err)
	}
	return text.String(), nil
}

func (f *fargate) subnetOf(api string) string {
	f.t.Helper()
	m := regexp.MustCompile(`<subnetId>(subnet-[0-9a-f]+)</subnetId>`).FindStringSubmatch(f.ask("", "Action=DescribeSubnets&Version=2016-11-15", api))
	if m == nil {
		f.t.Fatal("the emulator has no subnet")
	}
	return m[1]
}

func (f *fargate) byARN(arn string) *fargateTask {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, task := range f.tasks {
		if task.ARN == arn {
			return task
		}
	}
	return nil
}

// all gives the tasks of one of the controller's, in the order in which they were started.
func (f *fargate) all() []*fargateTask {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*fargateTask(nil), f.tasks...)
}

// tell has ECS tell something of a task, and EventBridge.
func (f *fargate) tell(task *fargateTask, fields map[string]any) {
	if err := f.Report(task.ARN, fields); err != nil {
		f.t.Error(err)
	}
	f.mu.Lock()
	if task.state == nil {
		task.state = map[string]any{"taskArn": task.ARN, "startedBy": task.Request["startedBy"], "desiredStatus": "RUNNING"}
	}
	maps.Copy(task.state, fields)
	event, err := json.Marshal(map[string]any{"detail-type": "ECS Task State Change", "detail": task.state})
	f.mu.Unlock()
	if err != nil {
		f.t.Error(err)
		return
	}
	body, _ := json.Marshal(map[string]string{"QueueUrl": f.queue, "MessageBody": string(event)})
	if _, err := post("AmazonSQS.SendMessage", string(body), f.moto); err != nil {
		f.t.Error(err)
	}
}

// container is what is told of the container.
func container(task *fargateTask, fields map[string]any) []any {
	c := map[string]any{"name": "agent", "image": definitionOf(task)["image"]}
	maps.Copy(c, fields)
	return []any{c}
}

func definitionOf(task *fargateTask) map[string]any {
	c, _ := task.Definition["containerDefinitions"].([]any)[0].(map[string]any)
	return c
}

// start runs a task until its container has ended.
func (f *fargate) start(started awstest.Task) {
	f.done.Add(1)
	defer f.done.Done()
	task := &fargateTask{Task: started, id: started.ARN[strings.LastIndexByte(started.ARN, '/')+1:], ended: make(chan struct{})}
	defer close(task.ended)
	f.mu.Lock()
	f.tasks = append(f.tasks, task)
	unready := f.unready
	f.mu.Unlock()
	f.tell(task, map[string]any{"lastStatus": "PENDING", "memory": task.Definition["memory"]})
	image, _ := definitionOf(task)["image"].(string)
	if unready == "" {
		unready = f.signIn(task)
	}
	if unready == "" && !there(image) {
		unready = "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref " + image + ": " + image + ": not found"
	}
	if unready != "" { // and so there is no exit code
		f.tell(task, map[string]any{"lastStatus": "STOPPED", "stopCode": "TaskFailedToStart", "stoppedReason": unready, "containers": container(task, map[string]any{"lastStatus": "STOPPED", "reason": unready})})
		return
	}
	code, err := f.run(task)
	if err != nil {
		f.t.Error(err)
		return
	}
	f.mu.Lock()
	stopCode, reason, oom := task.stopped, task.reason, task.oom
	f.mu.Unlock()
	if stopCode == "" {
		stopCode, reason = "EssentialContainerExited", "Essential container in task exited"
	}
	ended := map[string]any{"lastStatus": "STOPPED", "exitCode": code}
	if oom {
		ended["reason"] = "OutOfMemoryError: Container killed due to memory usage"
	}
	f.tell(task, map[string]any{"lastStatus": "STOPPED", "desiredStatus": "STOPPED", "stopCode": stopCode, "stoppedReason": reason, "containers": container(task, ended)})
}

// signIn reads the secret that a definition names, as the execution role, and
// gives what ECS says if it may not.
func (f *fargate) signIn(task *fargateTask) (wrong string) {
	named, ok := definitionOf(task)["repositoryCredentials"].(map[string]any)
	if !ok {
		return ""
	}
	arn := fmt.Sprint(named["credentialsParameter"])
	values, err := amazon.Values(f.t.Context(), signedIn(f.Proxy, awstest.Execution), []string{arn + ":username::", arn + ":password::"})
	if err != nil {
		return "ResourceInitializationError: unable to pull secrets or registry auth: " + err.Error()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logins = append(f.logins, values[arn+":username::"]+" "+values[arn+":password::"])
	return ""
}

// there says whether an image is in its registry.
func there(image string) bool {
	ref, err := name.ParseReference(image, name.Insecure)
	if err != nil {
		return false
	}
	_, err = remote.Head(ref)
	return err == nil
}

// run runs the container's process.
func (f *fargate) run(task *fargateTask) (code int, err error) {
	dir := filepath.Join(f.place, task.id)
	for _, sub := range []string{"home", "tmp", "cache"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return 0, err
		}
	}
	var args []string
	given, _ := task.Request["overrides"].(map[string]any)["containerOverrides"].([]any)[0].(map[string]any)
	for _, key := range []string{"entryPoint", "command"} {
		list, ok := given[key].([]any)
		if !ok {
			list, _ = definitionOf(task)[key].([]any)
		}
		for _, arg := range list {
			args = append(args, fmt.Sprint(arg))
		}
	}
	if len(args) == 0 || args[0] != "pipegen" {
		return 0, fmt.Errorf("the container would run %q", args)
	}
	cmd := exec.Command(f.pipegen, args[1:]...)
	cmd.Env = append(monorepo.Env(nil, f.env...), "HOME="+filepath.Join(dir, "home"), "TMPDIR="+filepath.Join(dir, "tmp"), "XDG_CACHE_HOME="+filepath.Join(dir, "cache"), "PATH="+os.Getenv("PATH"))
	cmd.Env = append(cmd.Env, f.ContainerEnv(awstest.Agent, task.ARN)...)
	for key, value := range task.Env("agent") {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	f.mu.Lock()
	if err = cmd.Start(); err == nil {
		task.cmd = cmd
	}
	f.mu.Unlock()
	if err != nil {
		return 0, err
	}
	f.tell(task, map[string]any{"lastStatus": "RUNNING", "containers": container(task, map[string]any{"lastStatus": "RUNNING"})})
	err = cmd.Wait()
	said, _ := os.ReadFile(log.Name())
	f.t.Logf("the agent of %s on %s said:\n%s", task.id, task.Provider, said)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if code = exit.ExitCode(); code < 0 {
			code = 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
		}
		return code, nil
	}
	return 0, err
}

// end tells a container to end, and kills it if it does not: StopTask does, and
// Spot when it takes its capacity back.
func (f *fargate) end(task *fargateTask, stopCode, reason string) {
	if task == nil {
		f.t.Error("a task is to be stopped that there is not")
		return
	}
	f.mu.Lock()
	if task.stopped == "" {
		task.stopped, task.reason = stopCode, reason
	}
	cmd := task.cmd
	f.mu.Unlock()
	f.tell(task, map[string]any{"desiredStatus": "STOPPED", "stopCode": stopCode, "stoppedReason": reason})
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-task.ended:
	case <-time.After(45 * time.Second):
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
}

// exhaust has a container be killed for want of memory.
func (f *fargate) exhaust(task *fargateTask) {
	f.mu.Lock()
	task.oom = true
	pid := task.cmd.Process.Pid
	f.mu.Unlock()
	_ = syscall.Kill(-pid, syscall.SIGKILL)
}

// described is what aws ecs describe-tasks and describe-task-definition say of
// all tasks.
func (f *fargate) described() string {
	f.t.Helper()
	var arns []string
	for _, task := range f.all() {
		arns = append(arns, task.ARN)
	}
	body, _ := json.Marshal(map[string]any{"cluster": "pipegen", "tasks": arns, "include": []string{"TAGS"}})
	var all strings.Builder
	all.WriteString(f.askAs(string(body)))
	for _, task := range f.all() {
		text, _ := json.Marshal([]any{task.Definition, task.Request})
		all.Write(text)
	}
	return all.String()
}

// askAs has the AWS of the proxy describe tasks, as the controller.
func (f *fargate) askAs(body string) string {
	f.t.Helper()
	cmd := exec.Command("python3", "-c", `
import boto3, json, os, sys
q = json.loads(sys.argv[1])
print(json.dumps(boto3.client("ecs", region_name="us-east-1").describe_tasks(**q), default=str))`, body)
	cmd.Env = append(os.Environ(), f.Env(awstest.Controller)...)
	out, err := cmd.Output()
	if err != nil {
		f.t.Fatalf("describing tasks: %v", err)
	}
	return string(out)
}
