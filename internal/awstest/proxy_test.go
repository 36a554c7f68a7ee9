package awstest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/pipegen/pipegen/internal/awstest"
)

// emulator answers as moto does, as far as these tests ask.
func emulator(t *testing.T) (url string, sent func() []map[string]any) {
	t.Helper()
	var all []map[string]any
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		var in map[string]any
		_ = json.Unmarshal(body, &in)
		all = append(all, in)
		answer := map[string]any{}
		const task = "arn:aws:ecs:us-east-1:123456789012:task/pipegen/0123456789abcdef"
		switch operation {
		case "RegisterTaskDefinition":
			answer["taskDefinition"] = map[string]any{"taskDefinitionArn": "arn:aws:ecs:us-east-1:123456789012:task-definition/" + in["family"].(string) + ":1"}
		case "RunTask", "DescribeTasks":
			answer["tasks"] = []any{map[string]any{"taskArn": task, "lastStatus": "RUNNING", "containers": []any{map[string]any{"name": "agent", "cpu": 128, "exitCode": 0}}}}
		case "StopTask":
			answer["task"] = map[string]any{"taskArn": task, "lastStatus": "STOPPED", "desiredStatus": "STOPPED"}
		case "ListTaskDefinitions":
			var arns []string
			for range 250 {
				arns = append(arns, "arn")
			}
			answer["taskDefinitionArns"] = arns
		case "":
			if strings.Contains(string(body), "Action=AssumeRole") {
				_, _ = io.WriteString(w, `<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAOFTHEPUBLISHER00</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`)
			} else if r.Method == http.MethodGet && !r.URL.Query().Has("list-type") {
				http.Error(w, "<Error><Code>NoSuchKey</Code></Error>", http.StatusNotFound)
			}
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	return server.URL, func() []map[string]any { return all }
}

func config(p *awstest.Proxy, role string) aws.Config {
	return aws.Config{
		Region: "us-east-1", BaseEndpoint: &p.URL, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(p.Credentials(role)),
	}
}

func client(p *awstest.Proxy, role string) *ecs.Client { return ecs.NewFromConfig(config(p, role)) }

func register(family, cpu, memory, role string) *ecs.RegisterTaskDefinitionInput {
	return &ecs.RegisterTaskDefinitionInput{
		Family: &family, Cpu: &cpu, Memory: &memory, NetworkMode: types.NetworkModeAwsvpc, RequiresCompatibilities: []types.Compatibility{"FARGATE"},
		TaskRoleArn: &role, ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("agent"), Environment: []types.KeyValuePair{{Name: aws.String("A"), Value: aws.String("1")}}}},
	}
}

func run(family, token string, spot bool) *ecs.RunTaskInput {
	provider := "FARGATE"
	if spot {
		provider = "FARGATE_SPOT"
	}
	return &ecs.RunTaskInput{
		Cluster: aws.String("pipegen"), TaskDefinition: &family, ClientToken: &token,
		CapacityProviderStrategy: []types.CapacityProviderStrategyItem{{CapacityProvider: &provider, Weight: 1}},
		Overrides:                &types.TaskOverride{ContainerOverrides: []types.ContainerOverride{{Name: aws.String("agent"), Environment: []types.KeyValuePair{{Name: aws.String("B"), Value: aws.String("2")}}}}},
	}
}

// TestPermissions signs requests as the roles of deploy/terraform.
func TestPermissions(t *testing.T) {
	api, _ := emulator(t)
	p := awstest.Start(t, awstest.Options{API: api, Refused: []string{"controller *", "agent *"}})
	controller, agent := client(p, awstest.Controller), client(p, awstest.Agent)
	tagged := register("pipegen-agent-a", "256", "512", awstest.RoleARN(awstest.Agent))
	tagged.Tags = []types.Tag{{Key: aws.String("k"), Value: aws.String("v")}}
	other := run("pipegen-agent-a", "1", false)
	other.Cluster = aws.String("production")
	long := run("pipegen-agent-a", "2", false)
	long.Overrides.ContainerOverrides[0].Environment[0].Value = aws.String(strings.Repeat("é", 8100))
	for _, c := range []struct {
		name string
		call func() error
		want string
	}{
		{"granted", func() error { _, err := controller.RegisterTaskDefinition(t.Context(), tagged); return err }, ""},
		{"run", func() error {
			_, err := controller.RunTask(t.Context(), run("pipegen-agent-a", "0", false))
			return err
		}, ""},
		{
			"another family", func() error {
				_, err := controller.RegisterTaskDefinition(t.Context(), register("web", "256", "512", awstest.RoleARN(awstest.Agent)))
				return err
			}, "AccessDeniedException: User: arn:aws:sts::123456789012:assumed-role/pipegen-controller/test is not authorized to perform: ecs:RegisterTaskDefinition on resource: arn:aws:ecs:us-east-1:123456789012:task-definition/web:*",
		},
		{
			"another role", func() error {
				_, err := controller.RegisterTaskDefinition(t.Context(), register("pipegen-agent-b", "256", "512", "arn:aws:iam::123456789012:role/admin"))
				return err
			}, "iam:PassRole on resource: arn:aws:iam::123456789012:role/admin",
		},
		{"another cluster", func() error { _, err := controller.RunTask(t.Context(), other); return err }, "ecs:RunTask"},
		{"agents start nothing", func() error { _, err := agent.RunTask(t.Context(), run("pipegen-agent-a", "3", false)); return err }, "pipegen-agent/test is not authorized to perform: ecs:RunTask"},
		{
			"a size that Fargate does not have", func() error {
				_, err := controller.RegisterTaskDefinition(t.Context(), register("pipegen-agent-c", "256", "4096", ""))
				return err
			}, "ClientException: No Fargate configuration exists for given values: 256 CPU, 4096 memory",
		},
		{"overrides", func() error { _, err := controller.RunTask(t.Context(), long); return err }, ""},
		{
			"long overrides", func() error {
				long.ClientToken = aws.String("4")
				long.Overrides.ContainerOverrides[0].Environment[0].Value = aws.String(strings.Repeat("é", 8192))
				_, err := controller.RunTask(t.Context(), long)
				return err
			}, "InvalidParameterException: Container Overrides length must be at most 8192",
		},
		{
			"a stranger", func() error {
				cfg := config(p, awstest.Agent)
				cfg.Credentials = credentials.NewStaticCredentialsProvider("AKIASTRANGER", "s", "")
				_, err := ecs.NewFromConfig(cfg).ListTasks(t.Context(), &ecs.ListTasksInput{})
				return err
			}, "UnrecognizedClientException",
		},
		{
			"a wrong secret", func() error {
				cfg := config(p, awstest.Agent)
				key, _, token := p.Credentials(awstest.Agent)
				cfg.Credentials = credentials.NewStaticCredentialsProvider(key, "guessed", token)
				_, err := ecs.NewFromConfig(cfg).ListTasks(t.Context(), &ecs.ListTasksInput{})
				return err
			}, "SignatureDoesNotMatch",
		},
		{
			"no object, for who may list", func() error { return object(t, p, awstest.Controller, "pipegen") }, "NoSuchKey",
		},
		{"no object, for who may not", func() error { return object(t, p, awstest.Agent, "pipegen") }, "AccessDenied"},
		{"another bucket", func() error { return object(t, p, awstest.Controller, "other") }, `is not authorized to perform: s3:GetObject on resource: arn:aws:s3:::other/a/b`},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.call()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	for _, want := range []awstest.Call{
		{Role: "controller", Action: "iam:PassRole", Resource: awstest.RoleARN(awstest.Agent)},
		{Role: "controller", Action: "ecs:TagResource", Resource: "arn:aws:ecs:us-east-1:123456789012:task-definition/pipegen-agent-a:*"},
	} {
		if !slices.ContainsFunc(p.Calls(), func(c awstest.Call) bool {
			return c.Role == want.Role && c.Action == want.Action && c.Resource == want.Resource && c.Refused == want.Refused
		}) {
			t.Errorf("not recorded: %+v", want)
		}
	}
}

func object(t *testing.T, p *awstest.Proxy, role, bucket string) error {
	t.Helper()
	_, err := s3.NewFromConfig(config(p, role), func(o *s3.Options) { o.UsePathStyle = true }).GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: aws.String("a/b")})
	return err
}

// TestTasks has a task live as on Fargate.
func TestTasks(t *testing.T) {
	api, sent := emulator(t)
	started, stopping := make(chan awstest.Task, 1), make(chan string, 1)
	p := awstest.Start(t, awstest.Options{API: api, Started: func(task awstest.Task) { started <- task }, Stopping: func(_, reason string) { stopping <- reason }})
	c := client(p, awstest.Controller)
	if _, err := c.RegisterTaskDefinition(t.Context(), register("pipegen-agent-a", "256", "512", awstest.RoleARN(awstest.Agent))); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second has the same client token
		out, err := c.RunTask(t.Context(), run("pipegen-agent-a:1", "token", true))
		if err != nil {
			t.Fatal(err)
		}
		if got := out.Tasks[0]; aws.ToString(got.LastStatus) != "PROVISIONING" || aws.ToString(got.CapacityProviderName) != "FARGATE_SPOT" ||
			got.Containers[0].ExitCode != nil || aws.ToString(got.Containers[0].Cpu) != "128" {
			t.Errorf("got %+v", got)
		}
	}
	if n := len(sent()); n != 2 {
		t.Errorf("%d requests came through", n)
	}
	if _, err := c.RunTask(t.Context(), run("pipegen-agent-a", "token", false)); err == nil || !strings.Contains(err.Error(), "ConflictException") {
		t.Errorf("another request with the same token: %v", err)
	}
	task := <-started
	if got := task.Env("agent"); got["A"] != "1" || got["B"] != "2" || task.Provider != "FARGATE_SPOT" {
		t.Errorf("got %+v", task)
	}
	if _, err := c.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("pipegen"), Task: &task.ARN, Reason: aws.String("no more")}); err != nil {
		t.Fatal(err)
	}
	if got := <-stopping; got != "no more" {
		t.Errorf("stopped for %q", got)
	}
	describe := func() types.Task {
		out, err := c.DescribeTasks(t.Context(), &ecs.DescribeTasksInput{Cluster: aws.String("pipegen"), Tasks: []string{task.ARN, "arn:aws:ecs:us-east-1:123456789012:task/pipegen/gone"}})
		if err != nil || len(out.Tasks) != 1 || len(out.Failures) != 1 || aws.ToString(out.Failures[0].Reason) != "MISSING" {
			t.Fatalf("got %+v, %v", out, err)
		}
		return out.Tasks[0]
	}
	if got := describe(); aws.ToString(got.LastStatus) != "PROVISIONING" || aws.ToString(got.DesiredStatus) != "STOPPED" {
		t.Errorf("while it stops: %+v", got)
	}
	if err := p.Report(task.ARN, map[string]any{"lastStatus": "STOPPED", "stopCode": "SpotInterruption"}); err != nil {
		t.Fatal(err)
	}
	if got := describe(); aws.ToString(got.LastStatus) != "STOPPED" || got.StopCode != "SpotInterruption" {
		t.Errorf("after it stopped: %+v", got)
	}
	pages, all := 0, 0
	for list := ecs.NewListTaskDefinitionsPaginator(c, &ecs.ListTaskDefinitionsInput{}); list.HasMorePages(); pages++ {
		page, err := list.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all += len(page.TaskDefinitionArns)
	}
	if pages != 3 || all != 250 {
		t.Errorf("%d definitions on %d pages", all, pages)
	}
}

// TestFaults lets requests fail.
func TestFaults(t *testing.T) {
	api, _ := emulator(t)
	p := awstest.Start(t, awstest.Options{API: api})
	c := client(p, awstest.Controller)
	list := func() error {
		_, err := c.ListTasks(t.Context(), &ecs.ListTasksInput{Cluster: aws.String("pipegen")})
		return err
	}
	expect := func(want string) {
		t.Helper()
		if err := list(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f := awstest.Throttle("ecs:List*", 1)
	f.Skip = 1
	p.Inject(f)
	expect("")
	expect("ThrottlingException: Rate exceeded")
	expect("")
	for fault, want := range map[*awstest.Fault]string{
		new(awstest.Deny("ecs:ListTasks")):     "AccessDeniedException: User: arn:aws:sts::123456789012:assumed-role/pipegen-controller/test is not authorized to perform: ecs:ListTasks",
		new(awstest.Expired("controller")):     "ExpiredTokenException",
		new(awstest.Expired("agent")):          "",
		{Action: "*", Code: "ServerException"}: "ServerException",
	} {
		remove := p.Inject(*fault)
		expect(want)
		remove()
	}
	p.Inject(awstest.NoCapacity("FARGATE_SPOT", 1))
	for spot, want := range map[bool]int{false: 0, true: 1} {
		out, err := c.RunTask(t.Context(), run("pipegen-agent-a", map[bool]string{false: "1", true: "2"}[spot], spot))
		if err != nil || len(out.Failures) != want {
			t.Errorf("on Spot %t: %+v, %v", spot, out, err)
		}
	}
	p.Skew(20 * time.Minute)
	expect("InvalidSignatureException: Signature expired")
	p.Skew(-20 * time.Minute)
	expect("InvalidSignatureException: Signature not yet current")
	p.Skew(0)
	expect("")
	if got := p.Requests("ecs:ListTasks"); got != 10 {
		t.Errorf("%d requests", got)
	}
}

// TestContainers gives a process the credentials of a task.
func TestContainers(t *testing.T) {
	api, _ := emulator(t)
	p := awstest.Start(t, awstest.Options{API: api})
	for _, v := range p.ContainerEnv(awstest.Agent, "arn:aws:ecs:us-east-1:123456789012:task/pipegen/0123") {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	cfg, err := awsconfig.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil || aws.ToString(got.Arn) != "arn:aws:sts::123456789012:assumed-role/pipegen-agent/0123" || aws.ToString(got.Account) != awstest.Account {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestAssumedRoles knows roles by the keys that STS gave for them.
func TestAssumedRoles(t *testing.T) {
	api, _ := emulator(t)
	p := awstest.Start(t, awstest.Options{API: api, Unlimited: []string{"ci"}, Refused: []string{"agent sts:AssumeRole", "publisher ecs:ListTasks"}})
	in := &sts.AssumeRoleInput{RoleArn: aws.String(awstest.RoleARN(awstest.Publisher)), RoleSessionName: aws.String("s")}
	if _, err := sts.NewFromConfig(config(p, awstest.Agent)).AssumeRole(t.Context(), in); err == nil || !strings.Contains(err.Error(), "AccessDenied: User: ") {
		t.Errorf("a role that may assume none: %v", err)
	}
	got, err := sts.NewFromConfig(config(p, "ci")).AssumeRole(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(p, awstest.Agent)
	cfg.Credentials = credentials.NewStaticCredentialsProvider(*got.Credentials.AccessKeyId, "s", "t")
	if _, err := ecs.NewFromConfig(cfg).ListTasks(t.Context(), &ecs.ListTasksInput{}); err == nil || !strings.Contains(err.Error(), "assumed-role/pipegen-publisher/s is not authorized") {
		t.Errorf("as the publisher: %v", err)
	}
}
