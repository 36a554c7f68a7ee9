package config

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
)

func TestECR(t *testing.T) {
	const policy = `{"rules":[{"rulePriority":1}]}`
	for _, tt := range []struct{ name, text, want string }{
		{"no host", "registries: {registry.example.org: {}}", "bad-registry|ACCOUNT.dkr.ecr"},
		{"no role", "registries: {public.ecr.aws: {assume_role: [ci]}}", "bad-role|arn:aws"},
		{"a user", "registries: {public.ecr.aws: {assume_role: ['arn:aws:iam::123456789012:user/ci']}}", "bad-role|no ARN"},
		{"external id alone", "registries: {public.ecr.aws: {external_id: abc}}", "missing-key|assume_role"},
		{"external id", "registries: {public.ecr.aws: {external_id: 'a b', assume_role: ['arn:aws-cn:iam::123456789012:role/a/b']}}", "bad-role|none that AWS takes"},
		{"region", "registries: {public.ecr.aws: {region: Frankfurt}}", "bad-region|eu-central-1"},
		{"identity", "id_token: {role: ci}", "bad-role|no ARN"},
		{"audience", "id_token: {audience: $HOST}", "bad-audience|"},
		{"encryption", "create_repository: {encryption: kms}", `unknown-value|did you mean "KMS"`},
		{"key alone", "create_repository: {kms_key: a}", "missing-key|encryption: KMS"},
		{"mutable tags alone", "create_repository: {mutable_tags: [a]}", "missing-key|immutable"},
		{"many patterns", "create_repository: {immutable: true, mutable_tags: [a, b, c, d, e, f]}", "too-many|5"},
		{"stars", "create_repository: {immutable: true, mutable_tags: ['*a*b*']}", "bad-tag|"},
		{"no file", "create_repository: {lifecycle_policy: none.json}", "bad-policy|no file"},
		{"outside", "create_repository: {lifecycle_policy: ../p.json}", "bad-policy|no path"},
		{"a directory", "create_repository: {lifecycle_policy: app}", "bad-policy|no file"},
		{"no JSON", "create_repository: {lifecycle_policy: text.json}", "bad-policy|rules"},
		{"no rules", "create_repository: {lifecycle_policy: '{}'}", "bad-policy|rules"},
		{"too large", "create_repository: {lifecycle_policy: large.json}", "bad-policy|30720"},
		{"a cache elsewhere", "pull_through: [{registry: ghcr.io, prefix: hub, upstream: quay.io}]", "bad-registry|no host of ECR"},
		{"a public cache", "pull_through: [{registry: public.ecr.aws, prefix: hub, upstream: quay.io}]", "bad-registry|no host of ECR"},
		{"prefix of a cache", "pull_through: [{registry: 123456789012.dkr.ecr.eu-west-1.amazonaws.com, prefix: Hub, upstream: quay.io}]", "bad-value|docker-hub"},
		{"upstream of a cache", "pull_through: [{registry: 123456789012.dkr.ecr.eu-west-1.amazonaws.com, prefix: hub, upstream: 'https://quay.io'}]", "bad-registry|quay.io"},
		{"secret of a cache", "pull_through: [{registry: 123456789012.dkr.ecr.eu-west-1.amazonaws.com, prefix: hub, upstream: quay.io, credentials: 'arn:aws:secretsmanager:eu-west-1:123456789012:secret:hub'}]", "bad-arn|ecr-pullthroughcache/"},
		{"a list", "create_repository: [true]", "wrong-type|"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := LoadPipegen(fstest.MapFS{
				"pipegen.yaml": {Data: []byte("publish:\n  " + tt.text + "\n")}, "app/x": {}, "text.json": {Data: []byte("text")}, "large.json": {Data: make([]byte, 40_000)},
			})
			rule, words, _ := strings.Cut(tt.want, "|")
			faults, _ := errors.AsType[Faults](err)
			if len(faults) != 1 || faults[0].Rule != rule || faults[0].Line != 2 || !strings.Contains(faults[0].String(), words) {
				t.Errorf("got %v", err)
			}
		})
	}
	for name, text := range map[string]string{"a file": "p.json", "JSON": "'" + policy + "'", "lines": "|\n      " + policy} {
		p, err := LoadPipegen(fstest.MapFS{
			"pipegen.yaml": {Data: []byte("publish:\n  create_repository:\n    lifecycle_policy: " + text + "\n")}, "p.json": {Data: []byte(policy)},
		})
		if err != nil || p.Publish.CreateRepository.LifecyclePolicy == nil || *p.Publish.CreateRepository.LifecyclePolicy != policy {
			t.Errorf("%s: %+v, %v", name, p.Publish.CreateRepository, err)
		}
	}
	for text, want := range map[string]bool{"true": true, "false": false, "{}": true} {
		p, err := LoadPipegen(fstest.MapFS{"pipegen.yaml": {Data: []byte("publish: {create_repository: " + text + "}\n")}})
		if err != nil || (p.Publish.CreateRepository != nil) != want {
			t.Errorf("create_repository: %s is %v, %v", text, p.Publish.CreateRepository, err)
		}
	}
}
