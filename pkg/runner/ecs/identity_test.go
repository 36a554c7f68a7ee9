package ecs

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/pipegen/pipegen/pkg/runner"
)

// as makes this process one of a task of ECS that runs with a role; session is
// ROLE/ID.
func as(t *testing.T, session string) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", sessionKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", sessionPass)
	t.Setenv("AWS_SESSION_TOKEN", session)
	t.Setenv("AWS_CONFIG_FILE", "/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
}

func TestIdentity(t *testing.T) {
	f := newFake(t)
	l := f.launcher(t, settings())
	start(t, l, launch("run-0-1"), launch("run-1-1"))
	first, second := taskID(f.tasks[0].arn), taskID(f.tasks[1].arn)
	prove := func(session, url, task string) map[string]string {
		t.Helper()
		as(t, session)
		proof, err := Prove(t.Context(), f.url, "eu-west-1", url, task)
		if err != nil {
			t.Fatal(err)
		}
		return proof
	}
	const url = "https://pipegen.example.com"
	good := prove("agent/"+first, url, "run-0-1")
	if err := l.Identify(t.Context(), "run-0-1", good); err != nil {
		t.Fatal(err)
	}
	// Another controller of the same store does not know who started it.
	other := f.launcher(t, settings())
	if err := other.Identify(t.Context(), "run-0-1", good); err != nil {
		t.Errorf("another controller: %v", err)
	}
	changed := func(name, value string) map[string]string {
		proof := maps.Clone(good)
		proof[name] = value
		return proof
	}
	// STS takes a signature for any purpose, or for none.
	question, err := identityQuestion(t.Context(), f.url, url, "run-0-1")
	if err != nil {
		t.Fatal(err)
	}
	question.Header.Del(purposeHeader)
	who := aws.Credentials{AccessKeyID: sessionKey, SecretAccessKey: sessionPass, SessionToken: "agent/" + first}
	if err := v4.NewSigner().SignHTTP(t.Context(), who, question, sum(identityRequest), "sts", "eu-west-1", time.Now()); err != nil {
		t.Fatal(err)
	}
	unsigned := map[string]string{}
	for _, name := range proofHeaders {
		unsigned[name] = question.Header.Get(name)
	}
	for name, c := range map[string]struct {
		task  string
		proof map[string]string
	}{
		"of another task":               {"run-1-1", prove("agent/"+first, url, "run-1-1")},
		"of another task of ECS":        {"run-0-1", prove("agent/"+second, url, "run-0-1")},
		"made for another task":         {"run-0-1", prove("agent/"+first, url, "run-1-1")},
		"made for another controller":   {"run-0-1", prove("agent/"+first, "https://evil.example.com", "run-0-1")},
		"of another role":               {"run-0-1", prove("admin/"+first, url, "run-0-1")},
		"of a role with a like name":    {"run-0-1", prove("gent/"+first, url, "run-0-1")},
		"of a user":                     {"run-0-1", prove("agent", url, "run-0-1")},
		"none":                          {"run-0-1", nil},
		"with another session":          {"run-0-1", changed("X-Amz-Security-Token", "agent/"+second)},
		"with a signature that is none": {"run-0-1", changed("Authorization", "Bearer "+first)},
		"with another signature":        {"run-0-1", changed("Authorization", good["Authorization"][:len(good["Authorization"])-4]+"0000")},
		"without its purpose signed":    {"run-0-1", unsigned},
	} {
		if err := l.Identify(t.Context(), c.task, c.proof); !errors.Is(err, runner.ErrUnidentified) {
			t.Errorf("a proof %s: %v", name, err)
		}
	}
	// That STS or ECS cannot say says nothing of the agent.
	for _, action := range []string{"GetCallerIdentity", "DescribeTasks"} {
		f.mu.Lock()
		f.fault = func(called string, _ int, _ map[string]any) *awsError {
			if called != action {
				return nil
			}
			if action == "DescribeTasks" {
				return &awsError{400, "AccessDeniedException", "no"}
			}
			return &awsError{503, "ServiceUnavailable", "no"}
		}
		f.mu.Unlock()
		third := f.launcher(t, settings(), func(l *Launcher) { l.every = 1 << 40 })
		if err := third.Identify(t.Context(), "run-0-1", good); err == nil || errors.Is(err, runner.ErrUnidentified) {
			t.Errorf("%s: %v", action, err)
		}
	}
}

func FuzzSignature(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=AKIA/20261121/eu-west-1/sts/aws4_request, SignedHeaders=host;x-pipegen-task, Signature=" + strings.Repeat("0", 64))
	f.Fuzz(func(t *testing.T, text string) {
		m := signature.FindStringSubmatch(text)
		if m != nil && strings.ContainsAny(text, "\r\n") {
			t.Errorf("%q is taken", text)
		}
	})
}
