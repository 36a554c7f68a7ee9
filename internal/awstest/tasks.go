package awstest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Task is a task that RunTask started: moto keeps it, and the test runs it.
type Task struct {
	ARN string
	// Name of the capacity provider that it is on, such as FARGATE_SPOT.
	Provider string
	// What RegisterTaskDefinition and RunTask were given.
	Definition, Request map[string]any
}

// Env gives the variables of a container: those of the definition, and over
// them those of the overrides.
func (t Task) Env(container string) map[string]string {
	out := map[string]string{}
	add := func(list any) {
		for _, c := range objects(list) {
			if field(c, "name") != container {
				continue
			}
			for _, v := range objects(c["environment"]) {
				out[field(v, "name")] = field(v, "value")
			}
		}
	}
	add(t.Definition["containerDefinitions"])
	if overrides, ok := t.Request["overrides"].(map[string]any); ok {
		add(overrides["containerOverrides"])
	}
	return out
}

// tasks is what moto does not keep of ECS, or not as ECS does.
type tasks struct {
	mu sync.Mutex
	// Registrations by ARN, FAMILY:REVISION and, the newest, FAMILY.
	definitions map[string]map[string]any
	// Tags of tasks by ARN.
	tags map[string]map[string][]string
	// What is told of tasks in the place of what moto does.
	overlays map[string]map[string]any
	// By client token: the request, and its answer.
	tokens map[string][2][]byte
}

func newTasks() *tasks {
	return &tasks{
		definitions: map[string]map[string]any{}, tags: map[string]map[string][]string{},
		overlays: map[string]map[string]any{}, tokens: map[string][2][]byte{},
	}
}

// roles gives those that a task definition has.
func (t *tasks) roles(definition string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.definitions[definition]
	return []string{field(d, "taskRoleArn"), field(d, "executionRoleArn")}
}

// tagged gives the keys of conditions about a task's tags, beside others.
func (t *tasks) tagged(task string, context map[string][]string) map[string][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := maps.Clone(context)
	for key, value := range t.tags[task] {
		if name, ok := strings.CutPrefix(key, "aws:RequestTag/"); ok {
			out["aws:ResourceTag/"+name] = value
		}
	}
	return out
}

// Report has ECS tell something of a task from now on: fields as in the API
// (lastStatus, startedAt, stopCode, stoppedReason, containers …), each in the
// place of what it said before. A task is PROVISIONING and its containers are
// PENDING, without an exit code, until something else is reported; with STOPPED,
// it is no longer listed as running.
func (p *Proxy) Report(task string, fields map[string]any) error {
	p.tasks.overlay(task, fields)
	if fields["lastStatus"] != "STOPPED" && fields["desiredStatus"] != "STOPPED" {
		return nil
	}
	p.tasks.overlay(task, map[string]any{"desiredStatus": "STOPPED"})
	parts := strings.Split(task, "/")
	if len(parts) != 3 {
		return fmt.Errorf("%s is no task", task)
	}
	region := strings.Split(task, ":")[3]
	reason, _ := fields["stoppedReason"].(string)
	body, err := json.Marshal(map[string]string{"cluster": parts[1], "task": task, "reason": reason})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, p.api.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("X-Amz-Target", "AmazonEC2ContainerServiceV20141113.StopTask")
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=test/20261121/"+region+"/ecs/aws4_request, SignedHeaders=host, Signature=0")
	response, err := p.client.Do(r)
	if err != nil {
		return fmt.Errorf("stopping %s: %w", task, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		return fmt.Errorf("stopping %s: %s: %s", task, response.Status, text)
	}
	return nil
}

func (t *tasks) overlay(task string, fields map[string]any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.overlays[task] == nil {
		t.overlays[task] = map[string]any{}
	}
	maps.Copy(t.overlays[task], fields)
}

// again finds what a client token was answered; a refusal: it was for another
// request.
func (t *tasks) again(r *request) (answer []byte, no *refusal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, ok := t.tokens[r.text("clientToken")]
	switch {
	case r.operation != "RunTask" || r.text("clientToken") == "" || !ok:
		return nil, nil
	case !bytes.Equal(before[0], r.body):
		return nil, &refusal{code: "ConflictException", message: "The RunTask request could not be processed due to conflicts. The provided clientToken is already in use with a different RunTask request."}
	default:
		return before[1], nil
	}
}

// adapt makes of a request what moto understands.
func (r *request) adapt() (provider string, err error) {
	given := maps.Clone(r.input)
	switch r.operation {
	case "ListTasks":
		if r.text("desiredStatus") == "" {
			given["desiredStatus"] = "RUNNING" // which moto takes for all
		}
	case "RunTask":
		provider = r.text("launchType")
		most := -1.0
		for _, item := range objects(r.input["capacityProviderStrategy"]) {
			weight, _ := item["weight"].(float64)
			base, _ := item["base"].(float64)
			if n := weight + 1e6*base; n > most {
				most, provider = n, field(item, "capacityProvider")
			}
		}
		delete(given, "capacityProviderStrategy")
		given["launchType"] = "FARGATE" // moto knows no capacity providers, and has no instances
	default:
		return "", nil
	}
	body, err := json.Marshal(given)
	r.Request.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return provider, err
}

// pages are lists that moto gives as a whole.
var pages = map[string]string{"ListTasks": "taskArns", "ListTaskDefinitions": "taskDefinitionArns", "ListTaskDefinitionFamilies": "families"}

// amend makes of moto's answer what ECS would give.
func (p *Proxy) amend(r *request, provider string, answer []byte) ([]byte, error) {
	var out map[string]any
	if err := json.Unmarshal(answer, &out); err != nil {
		return nil, fmt.Errorf("reading moto's answer to %s: %w", r.operation, err)
	}
	t := p.tasks
	var started []Task
	switch r.operation {
	case "RegisterTaskDefinition":
		if made, ok := out["taskDefinition"].(map[string]any); ok {
			t.mu.Lock()
			arn := field(made, "taskDefinitionArn")
			for _, name := range []string{arn, arn[strings.LastIndexByte(arn, '/')+1:], r.text("family")} {
				t.definitions[name] = r.input
			}
			t.mu.Unlock()
		}
	case "RunTask":
		for _, task := range objects(out["tasks"]) {
			arn := field(task, "taskArn")
			t.overlay(arn, map[string]any{
				"containers": pending(task["containers"]), "lastStatus": "PROVISIONING", "desiredStatus": "RUNNING", "enableExecuteCommand": r.input["enableExecuteCommand"] == true,
			})
			if r.input["capacityProviderStrategy"] != nil {
				t.overlay(arn, map[string]any{"capacityProviderName": provider})
			}
			t.mu.Lock()
			t.tags[arn] = requestTags(r.input["tags"])
			started = append(started, Task{ARN: arn, Provider: provider, Definition: t.definitions[r.text("taskDefinition")], Request: r.input})
			t.mu.Unlock()
		}
	case "StopTask":
		if task, ok := out["task"].(map[string]any); ok {
			stopped := map[string]any{"desiredStatus": "STOPPED", "stopCode": "UserInitiated", "stoppedReason": r.text("reason")}
			if p.stopping == nil {
				stopped["lastStatus"] = "STOPPED"
			}
			t.overlay(field(task, "taskArn"), stopped)
		}
	case "DescribeTasks":
		out["failures"] = missing(r.texts("tasks"), objects(out["tasks"]))
	}
	t.mu.Lock()
	for _, task := range append(objects(out["tasks"]), objects([]any{out["task"]})...) {
		maps.Copy(task, t.overlays[field(task, "taskArn")])
	}
	t.mu.Unlock()
	if key := pages[r.operation]; key != "" {
		page(r, out, key)
	}
	answer, err := json.Marshal(out)
	if r.operation == "RunTask" && r.text("clientToken") != "" {
		t.mu.Lock()
		t.tokens[r.text("clientToken")] = [2][]byte{r.body, answer}
		t.mu.Unlock()
	}
	for _, task := range started {
		if p.started != nil {
			go p.started(task)
		}
	}
	if task, ok := out["task"].(map[string]any); ok && r.operation == "StopTask" && p.stopping != nil {
		go p.stopping(field(task, "taskArn"), r.text("reason"))
	}
	return answer, err
}

// pending makes of the containers that moto gives a new task those of ECS, which
// have not ended yet and say in texts what moto says in numbers.
func pending(containers any) []any {
	var out []any
	for _, c := range objects(containers) {
		c = maps.Clone(c)
		c["lastStatus"] = "PENDING"
		delete(c, "exitCode")
		for _, key := range []string{"cpu", "memory", "memoryReservation"} {
			if n, ok := c[key].(float64); ok {
				c[key] = strconv.Itoa(int(n))
			}
		}
		out = append(out, c)
	}
	return out
}

// missing says which tasks are not among those that were found.
func missing(asked []string, found []map[string]any) []map[string]string {
	out := []map[string]string{}
	for _, arn := range asked {
		if !slices.ContainsFunc(found, func(task map[string]any) bool { return strings.HasSuffix(field(task, "taskArn"), arn) }) {
			out = append(out, map[string]string{"arn": arn, "reason": "MISSING"})
		}
	}
	return out
}

// page cuts a list to what a request wants of it: 100 entries at most.
func page(r *request, out map[string]any, key string) {
	list, _ := out[key].([]any)
	from, _ := strconv.Atoi(r.text("nextToken"))
	size := 100
	if n, _ := r.input["maxResults"].(float64); n > 0 && n < 100 {
		size = int(n)
	}
	from = min(from, len(list))
	to := min(from+size, len(list))
	out[key] = list[from:to]
	delete(out, "nextToken")
	if to < len(list) {
		out["nextToken"] = strconv.Itoa(to)
	}
}
