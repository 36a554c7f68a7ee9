//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/pipegen/pipegen/pkg/amazon"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/logcopy"
	"github.com/pipegen/pipegen/pkg/failure"
)

func atMoto(t *testing.T) aws.Config {
	t.Helper()
	endpoint := serveMoto(t)
	return aws.Config{Region: "eu-central-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")}
}

// Values of Secrets Manager are read by ARN, and the secret by which images are
// pulled is made, found, and follows its password. Of SSM moto knows names alone,
// so that every ARN is one of a parameter that is not there.
func TestAWSSecrets(t *testing.T) {
	cfg := atMoto(t)
	secrets := secretsmanager.NewFromConfig(cfg)
	made, err := secrets.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("builds/npm"), SecretString: aws.String(`{"token":"npm-precious"}`)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := amazon.Values(t.Context(), cfg, []string{*made.ARN + ":token::", *made.ARN})
	if err != nil || got[*made.ARN+":token::"] != "npm-precious" || got[*made.ARN] != `{"token":"npm-precious"}` {
		t.Errorf("got %v, %v", got, err)
	}
	for _, arn := range []string{strings.Replace(*made.ARN, "npm", "none", 1), "arn:aws:ssm:eu-central-1:123456789012:parameter/builds/key", *made.ARN + ":user::"} {
		if _, err := amazon.Values(t.Context(), cfg, []string{arn}); !errors.Is(err, failure.ErrInput) || strings.Contains(err.Error(), "precious") {
			t.Errorf("%s: %v", arn, err)
		}
	}
	p := amazon.PullSecret{Name: "pipegen/agent", Username: "robot", Password: "one"}
	arns := map[string]bool{}
	for _, step := range []struct{ password, did string }{{"one", "created"}, {"one", "found"}, {"two", "updated"}, {"one", "updated"}, {"one", "found"}} {
		p.Password = step.password
		kept, err := p.Keep(t.Context(), cfg)
		if err != nil || kept.Did != step.did || kept.Unchecked != "" {
			t.Errorf("%+v: %+v, %v", step, kept, err)
		}
		arns[kept.ARN] = true
		values, err := amazon.Values(t.Context(), cfg, []string{kept.ARN + ":username", kept.ARN + ":password"})
		if err != nil || values[kept.ARN+":username"] != "robot" || values[kept.ARN+":password"] != step.password {
			t.Errorf("%+v: it has %v, %v", step, values, err)
		}
	}
	if len(arns) != 1 {
		t.Errorf("secrets: %v", arns)
	}
}

// oneRun is a controller with a run that has ended.
type oneRun struct{ lines int }

func (o oneRun) run() api.Run {
	now := time.Now()
	return api.Run{ID: "0run", State: api.Succeeded, Created: now, Finished: &now}
}

func (o oneRun) List(context.Context, controller.Filter) (api.RunList, error) {
	return api.RunList{Runs: []api.Run{o.run()}}, nil
}

func (o oneRun) Get(context.Context, string) (api.Run, error) { return o.run(), nil }

func (o oneRun) Logs(_ context.Context, _ string, from int64, _ string, _ bool, yield func(controller.LogChunk) error) error {
	var text bytes.Buffer
	for i := int(from); i < o.lines; i++ {
		_ = json.NewEncoder(&text).Encode(api.LogLine{Seq: int64(i), Time: time.Now(), Level: "info", Message: fmt.Sprint("line ", i)})
	}
	return yield(controller.LogChunk{First: from, Count: o.lines - int(from), NDJSON: text.Bytes()})
}

// A log is copied to a group that was not there.
func TestAWSLogCopy(t *testing.T) {
	cfg := atMoto(t)
	logs := cloudwatchlogs.NewFromConfig(cfg)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	var told bytes.Buffer
	go func() {
		defer close(done)
		logcopy.New(logcopy.Options{
			Source: oneRun{12_000}, Config: cfg, Group: "/pipegen/builds", StreamPrefix: "builds/", RetentionDays: 30, Logger: slog.New(slog.NewTextHandler(&told, nil)),
			Lead: func(ctx context.Context, _ string, fn func(context.Context) error) (bool, error) {
				return true, fn(ctx)
			},
		}).Run(ctx)
	}()
	var messages []string
	for deadline := time.Now().Add(time.Minute); len(messages) < 12_001 && time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		messages = nil
		pages := cloudwatchlogs.NewGetLogEventsPaginator(logs, &cloudwatchlogs.GetLogEventsInput{
			LogGroupName: aws.String("/pipegen/builds"), LogStreamName: aws.String("builds/0run"), StartFromHead: aws.Bool(true),
		}, func(o *cloudwatchlogs.GetLogEventsPaginatorOptions) { o.StopOnDuplicateToken = true })
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				break // it is not there yet
			}
			for _, e := range page.Events {
				messages = append(messages, *e.Message)
			}
		}
	}
	stop()
	<-done
	var last api.LogLine
	if len(messages) != 12_001 || json.Unmarshal([]byte(messages[12_000]), &last) != nil || last.End != api.Succeeded || told.Len() > 0 {
		t.Fatalf("%d events, the last one %+v; told %s", len(messages), last, told.String())
	}
	for i, m := range messages[:12_000] {
		if !strings.Contains(m, fmt.Sprintf(`"seq":%d,`, i)) {
			t.Fatalf("event %d is %s", i, m)
		}
	}
	groups, err := logs.DescribeLogGroups(t.Context(), &cloudwatchlogs.DescribeLogGroupsInput{})
	if err != nil || len(groups.LogGroups) != 1 || aws.ToInt32(groups.LogGroups[0].RetentionInDays) != 30 {
		t.Errorf("the groups are %+v, %v", groups.LogGroups, err)
	}
}

// A controller reads a secret for a build, or has its agent do so, and copies the
// log, in which the secret is not shown, to CloudWatch.
func TestServerStoredSecrets(t *testing.T) {
	cfg := atMoto(t)
	made, err := secretsmanager.NewFromConfig(cfg).CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String("builds/npm"), SecretString: aws.String(`{"token":"npm-precious"}`)})
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"AWS_ENDPOINT_URL=" + *cfg.BaseEndpoint, "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b", "AWS_REGION=eu-central-1", "AWS_EC2_METADATA_DISABLED=true"}
	const command = `printf 'line %s\n' "$NPM"; printf 'line %s\n' "$(printf %s "$NPM" | sha256sum | cut -c 1-64)"; mkdir release; echo x >release/x`
	want := []string{"line ***", fmt.Sprintf("line %x", sha256.Sum256([]byte("npm-precious")))}
	for _, by := range []string{"controller", "task"} {
		t.Run(by, func(t *testing.T) {
			s := newServerWith(t, "  tasks: {local: 2}\nsecrets:\n  read_by: "+by+"\n  rules: [{arns: ['arn:aws:secretsmanager:*:secret:builds/*']}]\nlog_copy: {log_group: /pipegen/"+by+"}\n", env)
			r := s.request("app", command)
			r.Plan.Images[0].Builds[0].Secrets = []config.Secret{{ID: "npm", ARN: *made.ARN + ":token", Env: "NPM"}}
			run, err := s.client.CreateRun(t.Context(), r, "")
			if err != nil {
				t.Fatal(err)
			}
			log, end, err := s.follow(run.ID)
			if err != nil || end != api.Succeeded || !slices.Equal(linesOf(log), want) {
				t.Fatalf("the run has %s, %v: %+v", end, err, log)
			}
			for name, secret := range map[string]config.Secret{
				"is no key":    {ID: "npm", ARN: *made.ARN + ":none", Env: "NPM"},
				"is no secret": {ID: "npm", ARN: strings.Replace(*made.ARN, "npm", "none", 1), Env: "NPM"},
			} {
				r.Plan.Images[0].Builds[0].Secrets = []config.Secret{secret}
				run, err := s.client.CreateRun(t.Context(), r, "")
				if err != nil {
					t.Fatal(err)
				}
				if log, end, err := s.follow(run.ID); err != nil || end != api.Failed || !strings.Contains(fmt.Sprint(log), "builds/") {
					t.Errorf("there %s: %s, %v: %+v", name, end, err, log)
				}
			}
			r.Plan.Images[0].Builds[0].Secrets = []config.Secret{{ID: "npm", ARN: strings.Replace(*made.ARN, "builds", "prod", 1)}}
			if _, err := s.client.CreateRun(t.Context(), r, ""); !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "may not name") {
				t.Errorf("what no rule allows: %v", err)
			}
			var copied string
			eventually(t, "the log is copied", func() bool {
				out, err := cloudwatchlogs.NewFromConfig(cfg).GetLogEvents(t.Context(), &cloudwatchlogs.GetLogEventsInput{
					LogGroupName: aws.String("/pipegen/" + by), LogStreamName: &run.ID, StartFromHead: aws.Bool(true),
				})
				if err != nil {
					return false
				}
				copied = ""
				for _, e := range out.Events {
					copied += *e.Message + "\n"
				}
				return strings.Contains(copied, `"end":"succeeded"`)
			})
			if strings.Contains(copied, "precious") || !strings.Contains(copied, want[1]) {
				t.Errorf("copied %s", copied)
			}
			text, err := os.ReadFile(filepath.Join(s.dir, "server.log"))
			if err != nil || bytes.Contains(text, []byte("precious")) {
				t.Errorf("the controller's log has the secret, %v", err)
			}
		})
	}
}
