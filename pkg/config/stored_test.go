package config

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

func TestParseStoredSecret(t *testing.T) {
	const secret, parameter = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:builds/npm-AbCdEf", "arn:aws-cn:ssm:cn-north-1:123456789012:parameter/builds/npm"
	for arn, want := range map[string]StoredSecret{
		secret:                            {"secretsmanager", "eu-central-1", secret, "", "", ""},
		secret + ":token":                 {"secretsmanager", "eu-central-1", secret, "token", "", ""},
		secret + ":token::":               {"secretsmanager", "eu-central-1", secret, "token", "", ""},
		secret + ":a key:AWSPREVIOUS:":    {"secretsmanager", "eu-central-1", secret, "a key", "AWSPREVIOUS", ""},
		secret + ":::1234-5678":           {"secretsmanager", "eu-central-1", secret, "", "", "1234-5678"},
		parameter:                         {"ssm", "cn-north-1", parameter, "", "", ""},
		secret + ":token:AWSCURRENT:1234": {},
		parameter + ":2":                  {},
		"arn:aws:s3:::bucket":             {},
		"builds/npm":                      {},
		"":                                {},
		secret + "\n":                     {},
		strings.Replace(secret, "123456789012", "12", 1):                 {},
		"arn:aws:secretsmanager:eu-central-1:123456789012:secret:":       {},
		secret + strings.Repeat("x", 2048):                               {},
		"arn:aws:ssm:eu-central-1:123456789012:parameter/with blank":     {},
		"arn:aws:secretsmanager:eu-central-1:123456789012:secret:${x}-A": {},
	} {
		got, err := ParseStoredSecret(arn)
		if got != want || errors.Is(err, failure.ErrInput) != (want == StoredSecret{}) {
			t.Errorf("%s: %+v, %v", arn, got, err)
		}
	}
}

func FuzzParseStoredSecret(f *testing.F) {
	f.Add("arn:aws:secretsmanager:eu-central-1:123456789012:secret:builds/npm-AbCdEf:key:STAGE:")
	f.Add("arn:aws:ssm:eu-central-1:123456789012:parameter/a")
	f.Fuzz(func(t *testing.T, arn string) {
		s, err := ParseStoredSecret(arn)
		if err == nil && (!strings.HasPrefix(arn, s.ID) || s.Region == "" || strings.ContainsAny(s.ID+s.Region, "\n\x00 ")) {
			t.Errorf("%q is %+v", arn, s)
		}
	})
}

// Where no / is in the text, path.Match knows the same patterns.
func FuzzWildcard(f *testing.F) {
	for _, p := range []string{"*", "a*b?c", "**", "a*a*a", "", "?"} {
		f.Add(p, "aabbaac")
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		for _, s := range []string{pattern, text} {
			if strings.ContainsAny(s, "/[]\\") || strings.ContainsFunc(s, func(r rune) bool { return r > 127 }) {
				return
			}
		}
		want, err := path.Match(pattern, text)
		if err == nil && wildcard(pattern, text) != want {
			t.Errorf("%q, %q: %v", pattern, text, !want)
		}
	})
}

func TestServerSecretsAllows(t *testing.T) {
	const a, b = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:builds/a-AbCdEf", "arn:aws:ssm:eu-central-1:123456789012:parameter/prod/b"
	byTask, byController := &ServerSecrets{}, &ServerSecrets{ReadBy: "controller"}
	rules := &ServerSecrets{ReadBy: "controller", Rules: []SecretRule{
		{ARNs: []string{"arn:aws:secretsmanager:*:123456789012:secret:builds/?-*"}},
		{ARNs: []string{"arn:aws:ssm:*"}, Submitters: []string{"release*"}},
	}}
	for _, c := range []struct {
		s              *ServerSecrets
		submitter, arn string
		want           bool
	}{
		{nil, "x", a, true}, {byTask, "x", a, true}, {byController, "x", a, false}, {rules, "x", a, true}, {rules, "x", a + ":key::", true}, {rules, "x", b, false},
		{rules, "release/one", b, true}, {rules, "x", "arn:aws:secretsmanager:eu:123456789012:secret:builds/other-AbCdEf", false}, {rules, "release", "no ARN", false},
	} {
		if got := c.s.Allows(c.submitter, c.arn); got != c.want {
			t.Errorf("%+v lets %s name %s: %v", c.s, c.submitter, c.arn, got)
		}
	}
}

func TestServerSecretsFaults(t *testing.T) {
	for text, want := range map[string]string{
		"secrets: {read_by: task}":                      "",
		"secrets: {rules: [{arns: ['arn:aws:ssm:*']}]}": "",
		"secrets: {read_by: controller, rules: [{arns: ['arn:aws:ssm:*'], submitters: ['release*']}]}": "",
		"secrets: {read_by: controller}":                          "read_by: controller without rules",
		"secrets: {read_by: me}":                                  "s.yaml:1:20: ",
		"secrets: {rules: [{submitters: [a]}]}":                   "a rule has no arns",
		"secrets: {rules: [{arns: ['builds/*']}]}":                "\"builds/*\" is no ARN",
		"secrets: {rules: [{arns: ['arn:*'], submitters: ['']}]}": "is empty",
		"log_copy: {log_group: /pipegen/builds, stream_prefix: ci/, region: eu-west-1, retention_days: 30}": "",
		"log_copy: {region: eu-west-1}":                  "log_copy has no log_group",
		"log_copy: {log_group: 'a b'}":                   "is no name of a log group",
		"log_copy: {log_group: a, retention_days: 2}":    "does not keep logs for 2 days",
		"log_copy: {log_group: a, region: europe}":       "is no region",
		"log_copy: {log_group: a, stream_prefix: 'a:b'}": "cannot begin",
		"secrets: {reader: task}":                        "reader",
	} {
		_, err := ReadServer("s.yaml", []byte(text), nil)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
