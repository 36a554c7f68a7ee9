package amazon_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pipegen/pipegen/pkg/amazon"
	"github.com/pipegen/pipegen/pkg/failure"
)

// The secret is made once, found again, and follows its password.
func TestPullSecret(t *testing.T) {
	c := world()
	cfg := c.config(t)
	p := amazon.PullSecret{Name: "pipegen/agent", Username: "robot", Password: "precious", Tags: map[string]string{"team": "a"}}
	for i, step := range []struct {
		change func()
		did    string
	}{
		{func() {}, "created"},
		{func() {}, "found"},
		{func() { p.Password = "other" }, "updated"},
		{func() {}, "found"},
		{func() { p.Password = "precious" }, "updated"}, // as it was before
	} {
		step.change()
		kept, err := p.Keep(t.Context(), cfg)
		if err != nil || kept.ARN != arnOf("pipegen/agent") || kept.Did != step.did || kept.Unchecked != "" {
			t.Errorf("step %d: %+v, %v", i, kept, err)
		}
		if text, want := c.secrets["pipegen/agent"].text, fmt.Sprintf(`{"username":"robot","password":%q}`, p.Password); text != want {
			t.Errorf("step %d: it has %s, want %s", i, text, want)
		}
	}
	if s := c.secrets["pipegen/agent"]; s.puts != 2 || s.tags["team"] != "a" || s.tags["pipegen:managed"] != "true" {
		t.Errorf("%+v", s)
	}
	// Somebody else's stays as it is.
	c.secrets["theirs"] = &kept{text: `{"username":"robot","password":"theirs"}`, tags: map[string]string{"team": "b"}}
	p.Name = "theirs"
	got, err := p.Keep(t.Context(), cfg)
	if err != nil || got.Did != "found" || !strings.Contains(got.Unchecked, "did not make it") || c.secrets["theirs"].puts > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	// Of what may not be read nothing is known.
	c.refuse["GetSecretValue"] = "AccessDeniedException: no"
	p.Name = "pipegen/agent"
	if got, err = p.Keep(t.Context(), cfg); err != nil || got.Did != "found" || !strings.Contains(got.Unchecked, "GetSecretValue") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestPullSecretAtOnce(t *testing.T) {
	c := world()
	cfg := c.config(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			kept, err := amazon.PullSecret{Name: "pipegen/agent", Username: "robot", Password: "precious"}.Keep(t.Context(), cfg)
			if err != nil || kept.ARN != arnOf("pipegen/agent") {
				t.Errorf("%+v, %v", kept, err)
			}
		})
	}
	wg.Wait()
	if s := c.secrets["pipegen/agent"]; s.puts > 0 {
		t.Errorf("written %d times", s.puts)
	}
}

func TestPullSecretRefused(t *testing.T) {
	for name, c := range map[string]struct {
		p          amazon.PullSecret
		refuse     string
		want, hint string
	}{
		"no name":     {amazon.PullSecret{Username: "a", Password: "precious"}, "", "no name of a secret", ""},
		"bad name":    {amazon.PullSecret{Name: "a b", Username: "a", Password: "precious"}, "", "no name of a secret", ""},
		"no password": {amazon.PullSecret{Name: "a", Username: "a"}, "", "needs a user name and a password", ""},
		"deleted":     {amazon.PullSecret{Name: "going", Username: "a", Password: "precious"}, "", "is being deleted", "restore-secret"},
		"describe":    {amazon.PullSecret{Name: "a", Username: "a", Password: "precious"}, "DescribeSecret", "looking for the secret a", me + " has to allow secretsmanager:DescribeSecret"},
		"create":      {amazon.PullSecret{Name: "a", Username: "a", Password: "precious"}, "CreateSecret", "creating the secret a", "secretsmanager:CreateSecret"},
		"put":         {amazon.PullSecret{Name: "ours", Username: "a", Password: "precious"}, "PutSecretValue", "changing the secret ours", "secretsmanager:PutSecretValue"},
	} {
		w := world()
		w.secrets["going"] = &kept{deleted: true}
		w.secrets["ours"] = &kept{text: "{}", tags: map[string]string{"pipegen:managed": "true"}}
		w.refuse[c.refuse] = "AccessDeniedException: no"
		_, err := c.p.Keep(t.Context(), w.config(t))
		if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), c.want) || !strings.Contains(failure.Hint(err), c.hint) || strings.Contains(err.Error(), "precious") {
			t.Errorf("%s: %v (%s)", name, err, failure.Hint(err))
		}
	}
}

func TestPullSecretFromEnv(t *testing.T) {
	all := map[string]string{"AGENT_IMAGE_SECRET_NAME": "pipegen/agent", "AGENT_IMAGE_SECRET_USERNAME": "robot", "AGENT_IMAGE_SECRET_PASSWORD": "precious"}
	read := func(without ...string) (amazon.PullSecret, bool, error) {
		return amazon.PullSecretFromEnv(func(name string) string {
			if slices.Contains(without, name) {
				return ""
			}
			return all[name]
		})
	}
	p, ok, err := read()
	if err != nil || !ok || p.Name != "pipegen/agent" || p.Username != "robot" || p.Password != "precious" {
		t.Errorf("%+v, %v, %v", p, ok, err)
	}
	if _, ok, err := read(slices.Collect(maps.Keys(all))...); ok || err != nil {
		t.Errorf("of nothing: %v, %v", ok, err)
	}
	for name := range all {
		if _, ok, err := read(name); ok || !errors.Is(err, failure.ErrInput) || strings.Contains(err.Error(), "precious") {
			t.Errorf("without %s: %v, %v", name, ok, err)
		}
	}
}
