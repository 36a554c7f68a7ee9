package registry

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

const hubSecret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ecr-pullthroughcache/hub-AbCdEf"

func TestCreatePullThrough(t *testing.T) {
	f := newFakeAWS(t)
	hub := PullThrough{Registry: ecrHost, Prefix: "docker-hub", Upstream: "registry-1.docker.io", Credentials: hubSecret}
	quay := PullThrough{Registry: ecrHost, Prefix: "quay", Upstream: "quay.io"}
	const find, create, update = "DescribePullThroughCacheRules own eu-west-1", "CreatePullThroughCacheRule own eu-west-1", "UpdatePullThroughCacheRule own eu-west-1"
	for _, step := range []struct {
		rules []PullThrough
		want  []string
	}{
		{nil, nil},
		{[]PullThrough{hub, quay}, []string{find, create, find, create}},
		{[]PullThrough{hub, quay}, []string{find, find}},
		{[]PullThrough{{Registry: ecrHost, Prefix: "quay", Upstream: "quay.io", Credentials: hubSecret}}, []string{find, update}},
		{[]PullThrough{quay}, []string{find}}, // what it has beside that is not taken away
	} {
		c := New(Options{PullThrough: step.rules})
		for range 2 { // once in the life of a client
			if err := c.CreatePullThrough(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if calls := f.took(); !slices.Equal(calls, step.want) {
			t.Errorf("%v: asked %q", step.rules, calls)
		}
	}
	if r := f.repositories["rule docker-hub"]; r["upstreamRegistryUrl"] != "registry-1.docker.io" || r["credentialArn"] != hubSecret || r["registryId"] != "123456789012" {
		t.Errorf("made %v", r)
	}
	if r := f.repositories["rule quay"]; r["credentialArn"] != hubSecret {
		t.Errorf("changed to %v", r)
	}
}

// TestManyCreatePullThrough lets many jobs make the same rule.
func TestManyCreatePullThrough(t *testing.T) {
	const jobs = 10
	newFakeAWS(t)
	var done sync.WaitGroup
	for range jobs {
		done.Go(func() {
			if err := New(Options{PullThrough: []PullThrough{{Registry: ecrHost, Prefix: "quay", Upstream: "quay.io"}}}).CreatePullThrough(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
}

func TestCreatePullThroughFails(t *testing.T) {
	rule := PullThrough{Registry: ecrHost, Prefix: "quay", Upstream: "quay.io", Credentials: hubSecret}
	elsewhere := map[string]any{"ecrRepositoryPrefix": "quay", "upstreamRegistryUrl": "ghcr.io"}
	without := map[string]any{"ecrRepositoryPrefix": "quay", "upstreamRegistryUrl": "quay.io"}
	for name, c := range map[string]struct {
		rule       PullThrough
		there      map[string]any
		op, code   string
		want, hint string
	}{
		"elsewhere":        {rule, elsewhere, "", "", "it leads to ghcr.io", "another prefix"},
		"not ECR":          {PullThrough{Registry: "ghcr.io", Prefix: "a", Upstream: "quay.io"}, nil, "", "", "is no registry of ECR", ""},
		"public":           {PullThrough{Registry: "public.ecr.aws", Prefix: "a", Upstream: "quay.io"}, nil, "", "", "keeps nothing", ""},
		"may not look":     {rule, nil, "DescribePullThroughCacheRules", "AccessDeniedException", "AccessDenied", "ecr:DescribePullThroughCacheRules"},
		"may not create":   {rule, nil, "CreatePullThroughCacheRule", "AccessDeniedException", "AccessDenied", "ecr:CreatePullThroughCacheRule"},
		"may not update":   {rule, without, "UpdatePullThroughCacheRule", "AccessDeniedException", "AccessDenied", "ecr:UpdatePullThroughCacheRule"},
		"no such secret":   {rule, nil, "CreatePullThroughCacheRule", "SecretNotFoundException", "creating the pull-through cache " + ecrHost + "/quay: SecretNotFoundException", ""},
		"unknown upstream": {rule, nil, "CreatePullThroughCacheRule", "UnsupportedUpstreamRegistryException", "UnsupportedUpstreamRegistryException", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeAWS(t)
			if c.there != nil {
				f.repositories["rule quay"] = c.there
			}
			if c.op != "" {
				f.fails[c.op] = [2]string{c.code, "words of AWS"}
			}
			err := New(Options{PullThrough: []PullThrough{c.rule}}).CreatePullThrough(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(failure.Hint(err), c.hint) {
				t.Errorf("got %v (%s)", err, failure.Hint(err))
			}
			if errors.Is(err, failure.ErrInput) != (c.op == "") {
				t.Errorf("wrong input: %v", errors.Is(err, failure.ErrInput))
			}
		})
	}
}
