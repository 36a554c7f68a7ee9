package ecs

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/runner"
)

// fake answers as ECS, STS and SQS do, as far as launchers ask them. It refuses
// what they would.
type fake struct {
	t   *testing.T
	url string

	mu          sync.Mutex
	calls       map[string]int
	fault       func(action string, n int, body map[string]any) *awsError // nil: none
	definitions []*fakeDefinition
	revisions   map[string]int
	tasks       []*fakeTask
	tokens      map[string]*fakeTask // by client token
	full        map[string]bool      // places without capacity
	forgetful   bool                 // DescribeTasks knows nothing
	messages    []string
	deleted     int
	most        map[string]int // largest lists that were sent, by action
	skew        time.Duration  // of the clock of AWS
	subnets     string
	vcpu        int  // quota of Fargate
	blind       bool // nobody may look at subnets and quotas
}

type awsError struct {
	status        int
	code, message string
}

type fakeDefinition struct {
	arn, family, status string
	body                map[string]any
	registered          time.Time
}

type fakeTask struct {
	arn, place, token string
	body, request     map[string]any
}

const account = "123456789012"

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, calls: map[string]int{}, revisions: map[string]int{}, tokens: map[string]*fakeTask{}, full: map[string]bool{}, most: map[string]int{},
		vcpu:    6,
		subnets: "<item><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId><availabilityZone>eu-west-1a</availabilityZone><availableIpAddressCount>250</availableIpAddressCount></item>",
	}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.Header.Get("Authorization"), "/ec2/") || strings.Contains(r.Header.Get("Authorization"), "/servicequotas/") {
		f.look(w, r)
		return
	}
	if r.Header.Get("X-Amz-Target") == "" {
		f.sts(w, r)
		return
	}
	_, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	var body map[string]any
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return // whoever asked has ended
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.calls[action]
	f.calls[action]++
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	now := time.Now().Add(f.skew)
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	if f.skew != 0 {
		signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil || now.Sub(signed).Abs() > 5*time.Minute {
			refuse(w, &awsError{400, "InvalidSignatureException", "Signature expired: " + r.Header.Get("X-Amz-Date") + " is now earlier than " + now.UTC().Format("20060102T150405Z")})
			return
		}
	}
	if f.fault != nil {
		if e := f.fault(action, n, body); e != nil {
			refuse(w, e)
			return
		}
	}
	handle := map[string]func(map[string]any) (any, *awsError){
		"DescribeTaskDefinition": f.describeDefinition, "RegisterTaskDefinition": f.register, "DeregisterTaskDefinition": f.deregister, "ListTaskDefinitions": f.listDefinitions,
		"RunTask": f.run, "ListTasks": f.listTasks, "DescribeTasks": f.describeTasks, "StopTask": f.stop, "DescribeClusters": f.describeClusters,
		"ReceiveMessage": f.receive, "DeleteMessageBatch": f.delete,
	}[action]
	if handle == nil {
		f.t.Errorf("nobody expects %s", action)
		refuse(w, &awsError{400, "InvalidAction", action})
		return
	}
	answer, e := handle(body)
	if e != nil {
		refuse(w, e)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// look answers about subnets and quotas.
func (f *fake) look(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blind {
		http.Error(w, "<Code>UnauthorizedOperation</Code>", http.StatusForbidden)
		return
	}
	if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".GetServiceQuota") {
		_, _ = fmt.Fprintf(w, `{"Quota":{"Value":%d.0}}`, f.vcpu)
		return
	}
	_, _ = fmt.Fprintf(w, "<DescribeSubnetsResponse><subnetSet>%s</subnetSet></DescribeSubnetsResponse>", f.subnets)
}

func refuse(w http.ResponseWriter, e *awsError) {
	w.WriteHeader(e.status)
	body := map[string]any{"__type": e.code, "message": e.message}
	if e.code == "ConflictException" {
		body["message"], body["resourceIds"] = "The provided clientToken is already in use.", []string{e.message}
	}
	_ = json.NewEncoder(w).Encode(body)
}

// breaks has requests go wrong from now on.
func (f *fake) breaks(with func(action string, n int, body map[string]any) *awsError) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = with
}

func (f *fake) count(action string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[action]
}

func text(body map[string]any, key string) string { s, _ := body[key].(string); return s }

func (f *fake) describeClusters(map[string]any) (any, *awsError) {
	return map[string]any{"clusters": []any{map[string]any{"clusterName": "builds", "status": "ACTIVE", "capacityProviders": []string{"FARGATE", "FARGATE_SPOT"}}}}, nil
}

func (f *fake) definition(name string) *fakeDefinition {
	var found *fakeDefinition
	for _, d := range f.definitions {
		if d.arn == name || d.family == name && d.status == "ACTIVE" {
			found = d
		}
	}
	return found
}

func (f *fake) describeDefinition(body map[string]any) (any, *awsError) {
	d := f.definition(text(body, "taskDefinition"))
	if d == nil {
		return nil, &awsError{400, "ClientException", "Unable to describe task definition."}
	}
	return map[string]any{"taskDefinition": f.shown(d), "tags": d.body["tags"]}, nil
}

func (f *fake) shown(d *fakeDefinition) map[string]any {
	out := maps.Clone(d.body)
	delete(out, "tags")
	out["taskDefinitionArn"], out["status"], out["registeredAt"] = d.arn, d.status, float64(d.registered.Unix())
	out["revision"], _ = strconv.Atoi(d.arn[strings.LastIndexByte(d.arn, ':')+1:])
	return out
}

// sizes are Fargate's, as its documentation lists them.
func validSize(cpu, memory int) bool {
	steps := map[int][3]int{512: {1024, 4096, 1024}, 1024: {2048, 8192, 1024}, 2048: {4096, 16384, 1024}, 4096: {8192, 30720, 1024}, 8192: {16384, 61440, 4096}, 16384: {32768, 122880, 8192}}
	if cpu == 256 {
		return slices.Contains([]int{512, 1024, 2048}, memory)
	}
	s, ok := steps[cpu]
	return ok && memory >= s[0] && memory <= s[1] && (memory-s[0])%s[2] == 0
}

func (f *fake) register(body map[string]any) (any, *awsError) {
	cpu, _ := strconv.Atoi(text(body, "cpu"))
	memory, _ := strconv.Atoi(text(body, "memory"))
	if slices.Contains(body["requiresCompatibilities"].([]any), any("FARGATE")) && !validSize(cpu, memory) {
		return nil, &awsError{400, "ClientException", "No Fargate configuration exists for given values."}
	}
	family := text(body, "family")
	f.revisions[family]++
	d := &fakeDefinition{
		arn: fmt.Sprintf("arn:aws:ecs:eu-west-1:%s:task-definition/%s:%d", account, family, f.revisions[family]), family: family, status: "ACTIVE", body: body, registered: time.Now(),
	}
	f.definitions = append(f.definitions, d)
	return map[string]any{"taskDefinition": f.shown(d), "tags": body["tags"]}, nil
}

func (f *fake) deregister(body map[string]any) (any, *awsError) {
	d := f.definition(text(body, "taskDefinition"))
	if d == nil {
		return nil, &awsError{400, "ClientException", "The specified task definition does not exist."}
	}
	d.status = "INACTIVE"
	return map[string]any{"taskDefinition": f.shown(d)}, nil
}

func (f *fake) listDefinitions(body map[string]any) (any, *awsError) {
	var all []string
	for _, d := range f.definitions {
		if d.status == "ACTIVE" && (text(body, "familyPrefix") == "" || text(body, "familyPrefix") == d.family) {
			all = append(all, d.arn)
		}
	}
	return page("taskDefinitionArns", all, body), nil
}

func page(key string, all []string, body map[string]any) map[string]any {
	from, _ := strconv.Atoi(text(body, "nextToken"))
	out := map[string]any{key: all[from:min(from+100, len(all))]}
	if from+100 < len(all) {
		out["nextToken"] = strconv.Itoa(from + 100)
	}
	return out
}

func (f *fake) run(body map[string]any) (any, *awsError) {
	d := f.definition(text(body, "taskDefinition"))
	if d == nil || d.status != "ACTIVE" {
		return nil, &awsError{400, "ClientException", "TaskDefinition is inactive"}
	}
	if text, _ := json.Marshal(body["overrides"]); len(text) > 8192 {
		return nil, &awsError{400, "InvalidParameterException", "Overrides are too long."}
	}
	token := text(body, "clientToken")
	if token == "" || len(token) > 64 {
		f.t.Errorf("client token %q", token)
	}
	if old := f.tokens[token]; old != nil {
		if old.token != fmt.Sprint(body) {
			return nil, &awsError{400, "ConflictException", old.arn}
		}
		return map[string]any{"tasks": []any{old.body}, "failures": []any{}}, nil
	}
	at := cmp.Or(text(body, "launchType"), "?")
	if s, ok := body["capacityProviderStrategy"].([]any); ok {
		at = text(s[0].(map[string]any), "capacityProvider")
	}
	if f.full[at] {
		return map[string]any{"tasks": []any{}, "failures": []any{map[string]any{"reason": "Capacity is unavailable at this time. Please try again later or in a different availability zone"}}}, nil
	}
	id := fmt.Sprintf("%032x", len(f.tasks)+1)
	t := &fakeTask{arn: "arn:aws:ecs:eu-west-1:" + account + ":task/builds/" + id, place: at, token: fmt.Sprint(body), request: body}
	t.body = map[string]any{
		"taskArn": t.arn, "taskDefinitionArn": d.arn, "lastStatus": "PROVISIONING", "desiredStatus": "RUNNING", "startedBy": body["startedBy"], "tags": body["tags"], "overrides": body["overrides"],
		"memory": d.body["memory"], "cpu": d.body["cpu"], "createdAt": float64(time.Now().Unix()), "version": 1,
		"containers": []any{map[string]any{"name": "agent", "lastStatus": "PENDING", "image": d.body["containerDefinitions"].([]any)[0].(map[string]any)["image"]}},
	}
	f.tasks = append(f.tasks, t)
	f.tokens[token] = t
	return map[string]any{"tasks": []any{t.body}, "failures": []any{}}, nil
}

func (f *fake) listTasks(body map[string]any) (any, *awsError) {
	var all []string
	for _, t := range f.tasks {
		if t.body["startedBy"] == body["startedBy"] && t.body["desiredStatus"] == cmp.Or(text(body, "desiredStatus"), "RUNNING") {
			all = append(all, t.arn)
		}
	}
	return page("taskArns", all, body), nil
}

func (f *fake) describeTasks(body map[string]any) (any, *awsError) {
	ids := body["tasks"].([]any)
	f.most["DescribeTasks"] = max(f.most["DescribeTasks"], len(ids))
	if len(ids) > 100 {
		return nil, &awsError{400, "InvalidParameterException", "Tasks can not be more than 100."}
	}
	found, missing := []any{}, []any{}
	for _, id := range ids {
		i := slices.IndexFunc(f.tasks, func(t *fakeTask) bool { return t.arn == id || taskID(t.arn) == id })
		if i < 0 || f.forgetful {
			missing = append(missing, map[string]any{"arn": id, "reason": "MISSING"})
			continue
		}
		found = append(found, f.tasks[i].body)
	}
	return map[string]any{"tasks": found, "failures": missing}, nil
}

func (f *fake) stop(body map[string]any) (any, *awsError) {
	i := slices.IndexFunc(f.tasks, func(t *fakeTask) bool { return t.arn == text(body, "task") })
	if i < 0 {
		return nil, &awsError{400, "InvalidParameterException", "The referenced task was not found."}
	}
	f.tasks[i].change(map[string]any{"lastStatus": "STOPPED", "desiredStatus": "STOPPED", "stopCode": "UserInitiated", "stoppedReason": body["reason"]})
	return map[string]any{"task": f.tasks[i].body}, nil
}

// change makes the task another one, a version later.
func (t *fakeTask) change(with map[string]any) {
	t.body = maps.Clone(t.body)
	maps.Copy(t.body, with)
	t.body["version"] = t.body["version"].(int) + 1
}

// set changes the task of a task of the controller's, and its container.
func (f *fake) set(task string, with map[string]any, container map[string]any) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.tasks {
		if strings.Contains(fmt.Sprint(t.body["overrides"]), task) {
			if container != nil {
				c := maps.Clone(t.body["containers"].([]any)[0].(map[string]any))
				maps.Copy(c, container)
				with["containers"] = []any{c}
			}
			t.change(with)
			return
		}
	}
	f.t.Errorf("there is no task %s", task)
}

func (f *fake) receive(map[string]any) (any, *awsError) {
	if len(f.messages) == 0 {
		f.mu.Unlock()
		time.Sleep(20 * time.Millisecond) // a long poll
		f.mu.Lock()
	}
	var out []any
	for i, m := range f.messages {
		out = append(out, map[string]any{"MessageId": strconv.Itoa(i), "ReceiptHandle": strconv.Itoa(i), "Body": m})
	}
	return map[string]any{"Messages": out}, nil
}

func (f *fake) delete(body map[string]any) (any, *awsError) {
	n := len(body["Entries"].([]any))
	f.messages, f.deleted = f.messages[n:], f.deleted+n
	return map[string]any{"Successful": []any{}, "Failed": []any{}}, nil
}

// The role of agents, and keys of the sessions that it has.
const (
	agentRole   = "arn:aws:iam::" + account + ":role/pipegen/agent"
	sessionKey  = "ASIAAGENT"
	sessionPass = "agent secret"
)

// sts says who signed a request, if the signature is right.
func (f *fake) sts(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.calls["GetCallerIdentity"]
	f.calls["GetCallerIdentity"]++
	answer := func(status int, format string, args ...any) {
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, format, args...)
	}
	if f.fault != nil {
		if e := f.fault("GetCallerIdentity", n, nil); e != nil {
			answer(e.status, "<ErrorResponse><Error><Code>%s</Code></Error></ErrorResponse>", e.code)
			return
		}
	}
	given := r.Header.Get("Authorization")
	if strings.Contains(given, "AKIACONTROLLER") {
		answer(200, "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:sts::%s:assumed-role/agent/controller</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>", account)
		return
	}
	again, _ := http.NewRequestWithContext(context.Background(), r.Method, "http://"+r.Host+r.URL.String(), nil)
	again.ContentLength = r.ContentLength
	_, signed, _ := strings.Cut(given, "SignedHeaders=")
	signed, _, _ = strings.Cut(signed, ",")
	for name := range strings.SplitSeq(signed, ";") {
		if v := r.Header.Get(name); v != "" && name != "x-amz-date" && name != "x-amz-security-token" {
			again.Header.Set(name, v)
		}
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		answer(403, "<ErrorResponse><Error><Code>IncompleteSignature</Code></Error></ErrorResponse>")
		return
	}
	who := aws.Credentials{AccessKeyID: sessionKey, SecretAccessKey: sessionPass, SessionToken: r.Header.Get("X-Amz-Security-Token")}
	if signatureOf(who, again, at) != given[strings.LastIndexByte(given, '=')+1:] {
		answer(403, "<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code></Error></ErrorResponse>")
		return
	}
	answer(200, "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:sts::%s:assumed-role/%s</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>", account, who.SessionToken)
}

// signatureOf gives the signature of a request for the body that is always the
// same.
func signatureOf(who aws.Credentials, r *http.Request, at time.Time) string {
	r = r.Clone(context.Background())
	r.Header.Del("Authorization")
	_ = v4.NewSigner().SignHTTP(context.Background(), who, r, sum(identityRequest), "sts", "eu-west-1", at)
	given := r.Header.Get("Authorization")
	return given[strings.LastIndexByte(given, '=')+1:]
}

func settings() config.ServerECS {
	s, err := (&config.Server{ECS: &config.ServerECS{
		Region: "eu-west-1", Cluster: "builds", Subnets: []string{"subnet-1"}, SecurityGroups: []string{"sg-1"}, TaskRole: agentRole,
		ExecutionRole: "arn:aws:iam::" + account + ":role/execution", Image: "registry.example.com/pipegen:builder", URL: "https://pipegen.example.com", LogGroup: "/pipegen",
		Tags: map[string]string{"team": "builds"},
	}}).OnECS(func(string) string { return "" })
	if err != nil {
		panic(err)
	}
	return s
}

func (f *fake) config() aws.Config {
	return aws.Config{
		Region: "eu-west-1", BaseEndpoint: &f.url, Credentials: credentials.NewStaticCredentialsProvider("AKIACONTROLLER", "secret", ""),
		Retryer: func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				o.MaxAttempts, o.RateLimiter = 2, ratelimit.None
				o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return time.Millisecond, nil })
			})
		},
	}
}

// launcher gives one that is in a hurry.
func (f *fake) launcher(t *testing.T, s config.ServerECS, with ...func(*Launcher)) *Launcher {
	t.Helper()
	l, err := newLauncher(Options{Config: f.config(), Settings: s})
	if err != nil {
		t.Fatal(err)
	}
	l.wait, l.every, l.listEvery, l.capacityWait = time.Millisecond, 5*time.Millisecond, 50*time.Millisecond, 2*time.Millisecond
	for _, change := range with {
		change(l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.begin(ctx)
	t.Cleanup(func() {
		cancel()
		<-l.done
	})
	return l
}

// told hears what a launcher tells.
func told(t *testing.T, l *Launcher) <-chan runner.AgentStatus {
	t.Helper()
	all := make(chan runner.AgentStatus, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = l.Watch(ctx, func(s runner.AgentStatus) { all <- s })
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return all
}

// expect waits until something is told.
func expect(t *testing.T, all <-chan runner.AgentStatus, task string, state runner.AgentState, words string) runner.AgentStatus {
	t.Helper()
	late := time.After(20 * time.Second)
	var seen []string
	for {
		select {
		case s := <-all:
			if s.Task == task && s.State == state && strings.Contains(s.Reason, words) {
				return s
			}
			seen = append(seen, fmt.Sprintf("%+v", s))
		case <-late:
			t.Fatalf("%s is never told to be %s, %q, but\n%s", task, state, words, strings.Join(seen, "\n"))
		}
	}
}

func launch(task string) runner.Launch {
	return runner.Launch{Task: task, Run: "run", Build: "app@amd64", Platform: "linux/amd64", Attempt: 1, Engine: "kaniko", URL: "https://pipegen.example.com", Token: "token of " + task, Labels: map[string]string{"image": "app", "submitter": "ci"}}
}
