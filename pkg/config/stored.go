package config

import (
	"cmp"
	"strings"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
)

// StoredSecret is a value that AWS keeps: of Secrets Manager or, as a parameter,
// of SSM.
type StoredSecret struct {
	// secretsmanager or ssm.
	Service string
	Region  string
	// The ARN, without what follows.
	ID string
	// Of Secrets Manager: the key of a secret that is a JSON object, and a stage
	// (AWSCURRENT) or a version; all may be empty.
	Key, Stage, Version string
}

// The forms of ARNs, as ECS takes them for valueFrom:
// https://docs.aws.amazon.com/AmazonECS/latest/developerguide/secrets-envvar-secrets-manager.html
var (
	secretARN    = lazyregexp.New(`^(arn:aws[a-z-]*:secretsmanager:([a-z0-9-]+):[0-9]{12}:secret:[A-Za-z0-9/_+=.@!-]+)(?::([^:]*))?(?::([A-Za-z0-9/_+=.@-]*))?(?::([A-Za-z0-9-]*))?$`)
	parameterARN = lazyregexp.New(`^(arn:aws[a-z-]*:ssm:([a-z0-9-]+):[0-9]{12}:parameter/[A-Za-z0-9/_.-]+)$`)
)

// ParseStoredSecret reads the ARN of a secret,
// arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME[:KEY[:STAGE[:VERSION]]], or of a
// parameter, arn:aws:ssm:REGION:ACCOUNT:parameter/NAME. Errors wrap failure.ErrInput.
func ParseStoredSecret(arn string) (StoredSecret, error) {
	if m := secretARN.FindStringSubmatch(arn); m != nil && len(arn) <= 2048 {
		if m[4] != "" && m[5] != "" {
			return StoredSecret{}, failure.Input("%s names a stage and a version: one of them has to be empty", show(arn))
		}
		return StoredSecret{Service: "secretsmanager", Region: m[2], ID: m[1], Key: m[3], Stage: m[4], Version: m[5]}, nil
	}
	if m := parameterARN.FindStringSubmatch(arn); m != nil && len(arn) <= 2048 {
		return StoredSecret{Service: "ssm", Region: m[2], ID: m[1]}, nil
	}
	return StoredSecret{}, failure.WithHint(failure.Input("%s is no ARN of a secret or a parameter", show(arn)),
		"arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME[:KEY] or arn:aws:ssm:REGION:ACCOUNT:parameter/NAME")
}

// Variable is the name by which a secret's value is asked for: its variable, or
// the ARN of one that AWS keeps; empty: it is in a file.
func (s Secret) Variable() string { return cmp.Or(s.ARN, s.Env) }

// Sound says whether a secret has one source: a variable, a file, or an ARN, which
// may come with the variable that scripts see the value in.
func (s Secret) Sound() bool {
	if s.ARN != "" {
		return s.File == ""
	}
	return (s.Env == "") != (s.File == "")
}

// ServerSecrets says who reads values that builds name by ARN, and which these
// may be.
type ServerSecrets struct {
	// task: agents, by the role of their task; controller: the controller, by its own. Default: task.
	ReadBy string `yaml:"read_by,omitempty"`
	// What builds may name; default: for task, what the role allows; for controller it must be said.
	Rules []SecretRule `yaml:"rules,omitempty"`
}

// SecretRule lets builds of some submitters name some ARNs.
type SecretRule struct {
	// ARNs without key, in which * stands for any text and ? for a character.
	ARNs []string `yaml:"arns"`
	// Names of submitters, with * and ?; default: all.
	Submitters []string `yaml:"submitters,omitempty"`
}

var readers = []string{"task", "controller"}

// ByController says whether the controller itself reads values.
func (s *ServerSecrets) ByController() bool { return s != nil && s.ReadBy == "controller" }

// Allows says whether a rule lets builds of a submitter name an ARN. Without
// rules all is left to the role that reads.
func (s *ServerSecrets) Allows(submitter, arn string) bool {
	if s == nil || len(s.Rules) == 0 {
		return !s.ByController()
	}
	stored, err := ParseStoredSecret(arn)
	if err != nil {
		return false
	}
	some := func(patterns []string, text string) bool {
		for _, p := range patterns {
			if wildcard(p, text) {
				return true
			}
		}
		return false
	}
	for _, r := range s.Rules {
		if some(r.ARNs, stored.ID) && (len(r.Submitters) == 0 || some(r.Submitters, submitter)) {
			return true
		}
	}
	return false
}

// wildcard matches as policies of IAM do: * is any text, ? one byte.
func wildcard(pattern, text string) bool {
	// Where the last * began to match, for trying again one byte later.
	star, from := -1, 0
	p, t := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			from++
			p, t = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

func (c checker) serverSecrets(s *ServerSecrets) {
	if s == nil {
		return
	}
	c.choice(s.ReadBy, readers, at("read_by"))
	if s.ByController() && len(s.Rules) == 0 {
		c.fault("missing-key", `rules: [{arns: ["arn:aws:secretsmanager:*:123456789012:secret:builds/*"]}]`, at("read_by"),
			"read_by: controller without rules: whoever may submit could read all that the controller may")
	}
	for i, r := range s.Rules {
		if len(r.ARNs) == 0 {
			c.fault("missing-key", "arns: [arn:aws:secretsmanager:REGION:ACCOUNT:secret:builds/*]", at("rules", i), "a rule has no arns")
		}
		for j, arn := range r.ARNs {
			if !strings.HasPrefix(arn, "arn:") {
				c.fault("bad-arn", "arn:aws:secretsmanager:REGION:ACCOUNT:secret:builds/*", at("rules", i, "arns", j), "%s is no ARN", show(arn))
			}
		}
		for j, name := range r.Submitters {
			if name == "" {
				c.fault("empty", "", at("rules", i, "submitters", j), "an entry of submitters is empty")
			}
		}
	}
}
