//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	sdkecs "github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/pipegen/pipegen/internal/awstest"
	"github.com/pipegen/pipegen/pkg/amazon"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/controller/logcopy"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/runner"
	"github.com/pipegen/pipegen/pkg/runner/ecs"
)

// TestS3Permissions keeps blobs as the controller of deploy/terraform, whose
// policies stand before the server of S3.
func TestS3Permissions(t *testing.T) {
	v := startVersity(t)
	moto := serveMoto(t)
	makeBucket(t, moto+"/pipegen")
	for name, c := range map[string]struct {
		url    string
		keys   map[string]string
		encode blob.Encryption
	}{
		"versitygw": {v.url(), map[string]string{v.options().AccessKey: awstest.Controller}, blob.Encryption{}},
		"moto, with a key of KMS": {moto, nil, blob.Encryption{
			Algorithm: "aws:kms", KMSKey: awstest.Values(nil)["bucket_key_arn"],
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := awstest.Start(t, awstest.Options{API: c.url, Keys: c.keys, Refused: []string{"agent s3:PutObject"}})
			o := v.options()
			o.Endpoint, o.Encryption = p.URL, c.encode
			if c.keys == nil {
				o.AccessKey, o.SecretKey, o.SessionToken = p.Credentials(awstest.Controller)
			}
			s := openS3(t, o)
			const small, large, sent = "logs/small", "logs/large", "contexts/sha256/sent"
			if err := s.Put(t.Context(), small, strings.NewReader("text"), 4); err != nil {
				t.Fatal(err)
			}
			if err := s.Put(t.Context(), large, bytes.NewReader(noise(20<<20)), -1); err != nil {
				t.Fatal(err)
			}
			u := begin(t, s, sent, 4)
			u.put(t, "text")
			if err := s.Complete(t.Context(), sent, u.ID, u.etags); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second finds the first
				begin(t, s, "contexts/sha256/never", 4).put(t, "text")
			}
			if got := readBlob(t, s, sent, 0); string(got) != "text" {
				t.Errorf("the blob is %q", got)
			}
			signed, err := s.SignGet(t.Context(), large, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			res, err := http.Get(signed.URL)
			if err != nil || res.StatusCode != http.StatusOK {
				t.Errorf("got %v, %v", res, err)
			} else {
				_ = res.Body.Close()
			}
			if _, err := s.Stat(t.Context(), "logs/none"); !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("of what is not there: %v", err)
			}
			var found []string
			if err := s.List(t.Context(), "logs/", func(i blob.Info) error { found = append(found, i.Key); return nil }); err != nil {
				t.Fatal(err)
			}
			if slices.Sort(found); !slices.Equal(found, []string{large, small}) {
				t.Errorf("found %v", found)
			}
			if err := s.Sweep(t.Context(), "contexts/", time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			if err := s.Delete(t.Context(), small); err != nil {
				t.Fatal(err)
			}

			// Agents have no right to any of it.
			o.AccessKey, o.SecretKey, o.SessionToken = p.Credentials(awstest.Agent)
			if other, err := blob.S3(t.Context(), o); err != nil {
				t.Error(err)
			} else if err := other.Put(t.Context(), "logs/agent", strings.NewReader("text"), 4); err == nil || !strings.Contains(err.Error(), "AccessDenied") {
				t.Errorf("as an agent: %v", err)
			}
		})
	}
}

// signedIn is the configuration of AWS's library for a role.
func signedIn(p *awstest.Proxy, role string) aws.Config {
	return aws.Config{Region: "us-east-1", BaseEndpoint: &p.URL, Credentials: credentials.NewStaticCredentialsProvider(p.Credentials(role))}
}

// TestSecretsPermissions reads secrets of builds as agents and as the
// controller, and keeps the secret of the agents' image.
func TestSecretsPermissions(t *testing.T) {
	moto := serveMoto(t)
	p := awstest.Start(t, awstest.Options{API: moto, Refused: []string{"agent secretsmanager:GetSecretValue", "agent secretsmanager:DescribeSecret"}})
	direct := aws.Config{Region: "us-east-1", BaseEndpoint: &moto, Credentials: credentials.NewStaticCredentialsProvider("any", "any", "")}
	secrets := secretsmanager.NewFromConfig(direct)
	made, err := secrets.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("pipegen/builds/npm"), SecretString: aws.String(`{"token":"npm-precious"}`)})
	if err != nil {
		t.Fatal(err)
	}
	other, err := secrets.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("database"), SecretString: aws.String("hush")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ssm.NewFromConfig(direct).PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String("/pipegen/key"), Value: aws.String("key-precious"), Type: types.ParameterTypeSecureString}); err != nil {
		t.Fatal(err)
	}
	const parameter = "arn:aws:ssm:us-east-1:" + awstest.Account + ":parameter/pipegen/key"
	for _, role := range []string{awstest.Agent, awstest.Controller} {
		got, err := amazon.Values(t.Context(), signedIn(p, role), []string{*made.ARN + ":token::", parameter})
		if err != nil || got[*made.ARN+":token::"] != "npm-precious" || got[parameter] != "key-precious" {
			t.Errorf("%s: got %v, %v", role, got, err)
		}
	}
	_, err = amazon.Values(t.Context(), signedIn(p, awstest.Agent), []string{*other.ARN})
	if want := "arn:aws:sts::" + awstest.Account + ":assumed-role/pipegen-agent/test"; err == nil || !strings.Contains(err.Error(), "AccessDenied") || !strings.Contains(failure.Hint(err), want) {
		t.Errorf("a secret that is not for builds: %v, %s", err, failure.Hint(err))
	}
	image := amazon.PullSecret{Name: "pipegen/image", Username: "robot", Tags: map[string]string{"team": "builds"}}
	for _, step := range []struct{ password, did string }{{"one", "created"}, {"one", "found"}, {"two", "updated"}} {
		image.Password = step.password
		kept, err := image.Keep(t.Context(), signedIn(p, awstest.Controller))
		if err != nil || kept.Did != step.did {
			t.Errorf("%+v: %+v, %v", step, kept, err)
		}
	}
	if _, err := image.Keep(t.Context(), signedIn(p, awstest.Agent)); err == nil || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("as an agent: %v", err)
	}
}

// olderRun is a run whose copy another controller may have begun.
type olderRun struct{ oneRun }

func (o olderRun) List(ctx context.Context, f controller.Filter) (api.RunList, error) {
	list, err := o.oneRun.List(ctx, f)
	for i := range list.Runs {
		list.Runs[i].Created = list.Runs[i].Created.Add(-time.Minute)
	}
	return list, err
}

// TestLogCopyPermissions copies a log to the group that is there.
func TestLogCopyPermissions(t *testing.T) {
	moto := serveMoto(t)
	p := awstest.Start(t, awstest.Options{API: moto})
	logs := cloudwatchlogs.NewFromConfig(aws.Config{Region: "us-east-1", BaseEndpoint: &moto, Credentials: credentials.NewStaticCredentialsProvider("any", "any", "")})
	if _, err := logs.CreateLogGroup(t.Context(), &cloudwatchlogs.CreateLogGroupInput{LogGroupName: aws.String("/pipegen/builds")}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	var told bytes.Buffer
	go func() {
		defer close(done)
		logcopy.New(logcopy.Options{
			Source: olderRun{oneRun{10}}, Config: signedIn(p, awstest.Controller), Group: "/pipegen/builds", Logger: slog.New(slog.NewTextHandler(&told, nil)),
			Lead: func(ctx context.Context, _ string, fn func(context.Context) error) (bool, error) {
				return true, fn(ctx)
			},
		}).Run(ctx)
	}()
	for deadline := time.Now().Add(time.Minute); p.Requests("logs:PutLogEvents") == 0 && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
	}
	stop()
	<-done
	if p.Requests("logs:PutLogEvents") == 0 || told.Len() > 0 {
		t.Errorf("nothing was copied: %s", told.String())
	}
}

// TestLauncherPermissions has a task of ECS started, told of by an event and
// stopped, and its definition removed when the settings are others.
func TestLauncherPermissions(t *testing.T) {
	moto := serveMoto(t)
	started := make(chan awstest.Task, 1)
	p := awstest.Start(t, awstest.Options{API: moto, Started: func(task awstest.Task) { started <- task }})
	direct := aws.Config{Region: "us-east-1", BaseEndpoint: &moto, Credentials: credentials.NewStaticCredentialsProvider("any", "any", "")}
	makeCluster(t, moto)
	messages := sqs.NewFromConfig(direct)
	queue, err := messages.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("pipegen-tasks")})
	if err != nil {
		t.Fatal(err)
	}
	l := launcher(t, p, awstest.Controller, moto, config.ServerECS{EventQueue: *queue.QueueUrl}, nil)
	if err := l.Start(t.Context(), runner.Launch{Task: "run-0-1", Run: "run", Build: "app", Platform: "linux/arm64"}); err != nil {
		t.Fatal(err)
	}
	task := <-started
	event := `{"detail-type":"ECS Task State Change","detail":{"taskArn":"` + task.ARN + `","lastStatus":"RUNNING","desiredStatus":"RUNNING","startedBy":"pipegen-agent","version":2}}`
	if _, err := messages.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: queue.QueueUrl, MessageBody: &event}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for state := runner.AgentPending; state != runner.AgentRunning; time.Sleep(100 * time.Millisecond) {
		found, err := l.Find(ctx, "run-0-1")
		if err != nil {
			t.Fatalf("waiting for the event: %v", err)
		}
		state = found.State
	}
	if err := l.Stop(ctx, "run-0-1"); err != nil {
		t.Fatal(err)
	}
	// Deleted while nobody listens, or the next look would find it again.
	for ; p.Requests("sqs:DeleteMessage*") == 0 && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
	}
	later := launcher(t, p, awstest.Controller, moto, config.ServerECS{Tags: map[string]string{"team": "builds"}}, func() time.Time { return time.Now().Add(2 * time.Hour) })
	if removed, err := later.CleanUp(ctx); err != nil || removed != 1 {
		t.Errorf("removed %d definitions: %v", removed, err)
	}
}

// TestDoctorPermissions has everything tried, as those who run pipegen doctor.
func TestDoctorPermissions(t *testing.T) {
	moto := serveMoto(t)
	var p *awstest.Proxy
	p = awstest.Start(t, awstest.Options{API: moto, Started: func(task awstest.Task) {
		ended := []any{map[string]any{"name": "agent", "lastStatus": "STOPPED", "exitCode": 0}}
		if err := p.Report(task.ARN, map[string]any{"lastStatus": "STOPPED", "stopCode": "EssentialContainerExited", "containers": ended}); err != nil {
			t.Error(err)
		}
	}})
	makeCluster(t, moto)
	l := launcher(t, p, awstest.Doctor, moto, config.ServerECS{}, nil)
	for _, c := range l.Preflight(t.Context(), ecs.Trial{Patience: time.Minute}) {
		t.Logf("%s: %t: %s %s", c.Name, c.OK, c.Detail, c.Fix)
		if strings.Contains(c.Detail, "may not") || !c.OK && c.Needed && c.Name != "cluster" { // moto's has no capacity providers
			t.Errorf("%s: %s: %s", c.Name, c.Detail, c.Fix)
		}
	}
}

// makeCluster makes the cluster of the policies, past them.
func makeCluster(t *testing.T, moto string) {
	t.Helper()
	direct := aws.Config{Region: "us-east-1", BaseEndpoint: &moto, Credentials: credentials.NewStaticCredentialsProvider("any", "any", "")}
	if _, err := sdkecs.NewFromConfig(direct).CreateCluster(t.Context(), &sdkecs.CreateClusterInput{
		ClusterName: aws.String("pipegen"), CapacityProviders: []string{"FARGATE", "FARGATE_SPOT"},
	}); err != nil {
		t.Fatal(err)
	}
}

// launcher starts agents in that cluster, as a role.
func launcher(t *testing.T, p *awstest.Proxy, role, moto string, s config.ServerECS, now func() time.Time) *ecs.Launcher {
	t.Helper()
	s.Region, s.Cluster, s.Subnets, s.Image, s.URL = "us-east-1", "pipegen", []string{subnetOf(t, moto)}, "registry.example.com/builder", "https://builds.example.com"
	s.TaskRole, s.ExecutionRole = awstest.RoleARN(awstest.Agent), awstest.RoleARN(awstest.Execution)
	settings, err := (&config.Server{ECS: &s}).OnECS(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	l, err := ecs.New(t.Context(), ecs.Options{Config: signedIn(p, role), Settings: settings, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// subnetOf gives a subnet that an emulator has from the beginning.
func subnetOf(t *testing.T, moto string) string {
	t.Helper()
	body := strings.NewReader("Action=DescribeSubnets&Version=2016-11-15")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, moto, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=any/20261121/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	_, rest, found := strings.Cut(string(text), "<subnetId>")
	id, _, _ := strings.Cut(rest, "<")
	if err != nil || !found {
		t.Fatalf("no subnet: %s, %v", text, err)
	}
	return id
}
