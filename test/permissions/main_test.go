package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/internal/awstest"
)

const dir = "../../deploy/terraform/policies"

// used are calls that make use of every grant but those of others.
func used(t *testing.T) []awstest.Call {
	t.Helper()
	policies, err := awstest.ReadPolicies(dir, awstest.Values(nil))
	if err != nil {
		t.Fatal(err)
	}
	var calls []awstest.Call
	for role, all := range policies {
		for _, g := range awstest.Grants(all) {
			if byOthers[g.Policy] == "" {
				calls = append(calls, awstest.Call{Role: role, Action: g.Action, Resource: "arn:" + g.Sid, Grants: []awstest.Grant{g}})
			}
		}
	}
	return calls
}

func TestReport(t *testing.T) {
	calls := used(t)
	at := slices.IndexFunc(calls, func(c awstest.Call) bool { return c.Action == "ecs:RunTask" })
	for name, c := range map[string]struct {
		calls []awstest.Call
		want  string
	}{
		"all as it should be":   {calls, ""},
		"nothing recorded":      {nil, "no call was recorded"},
		"an unused grant":       {slices.Delete(slices.Clone(calls), at, at+1), "controller allows ecs:RunTask (Run), and nothing makes use of it"},
		"a refused call":        {append(slices.Clone(calls), awstest.Call{Role: "agent", Action: "s3:GetObject", Resource: "arn:b", Refused: true}), "agent is not allowed s3:GetObject on arn:b"},
		"an exception for none": {append(slices.Clone(calls), awstest.Call{Grants: []awstest.Grant{{Policy: "service-parameters", Sid: "Parameters", Action: "ssm:GetParameters"}}}), "service-parameters is used after all"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			err := report(&out, dir, c.calls)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if !strings.Contains(out.String(), "ecs:RunTask") {
				t.Errorf("got %s", out.String())
			}
		})
	}
}
