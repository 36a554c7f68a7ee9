// Command permissions holds the calls of AWS that the end-to-end suite made
// against the policies in deploy/terraform: nothing that was refused, and nothing
// granted that no call made use of.
//
//	PIPEGEN_AWS_CALLS=/tmp/calls go test -tags e2e ./test/e2e
//	go run ./test/permissions /tmp/calls
package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/pipegen/pipegen/internal/awstest"
)

// byOthers are policies whose grants nothing of pipegen makes use of, by who
// does: the emulator has none of these.
var byOthers = map[string]string{
	"agent-exec":         "the agent of ECS Exec in the container",
	"execution":          "ECS, for the log group of a task",
	"execution-ecr":      "ECS, for the image of a task",
	"publisher-caches":   "ECR, for an image that it has not kept yet",
	"service":            "ECS, which starts controllers",
	"service-ecr":        "ECS, which starts controllers",
	"service-parameters": "ECS, which starts controllers",
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "permissions: want the file of $PIPEGEN_AWS_CALLS")
		os.Exit(2)
	}
	calls, err := awstest.ReadCalls(os.Args[1])
	if err == nil {
		err = report(os.Stdout, "deploy/terraform/policies", calls)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "permissions: %v\n", err)
		os.Exit(1)
	}
}

// report writes what each grant was used for, and what is wrong as an error.
func report(w io.Writer, dir string, calls []awstest.Call) error {
	policies, err := awstest.ReadPolicies(dir, awstest.Values(nil))
	if err != nil {
		return err
	}
	examples := map[awstest.Grant][]string{}
	for _, c := range calls {
		for _, g := range c.Grants {
			examples[g] = append(examples[g], c.Resource)
		}
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "POLICY\tSTATEMENT\tACTION\tUSED FOR")
	for _, role := range slices.Sorted(maps.Keys(policies)) {
		for _, g := range awstest.Grants(policies[role]) {
			use := "-"
			if by := byOthers[g.Policy]; by != "" {
				use = "(" + by + ")"
			}
			if all := examples[g]; len(all) > 0 {
				use = slices.Min(all)
				if n := len(slices.Compact(slices.Sorted(slices.Values(all)))); n > 1 {
					use += fmt.Sprintf(" and %d like it", n-1)
				}
			}
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", g.Policy, g.Sid, g.Action, use)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return judge(policies, calls)
}

// judge says what is refused, what is unused, and which exceptions are none.
func judge(policies map[string][]awstest.Policy, calls []awstest.Call) error {
	if len(calls) == 0 {
		return fmt.Errorf("no call was recorded, which proves nothing")
	}
	missing, unused := awstest.Compare(policies, calls)
	var wrong []string
	for _, c := range missing {
		wrong = append(wrong, fmt.Sprintf("%s is not allowed %s on %s", c.Role, c.Action, c.Resource))
	}
	idle := map[string]int{}
	for _, g := range unused {
		idle[g.Policy]++
		if byOthers[g.Policy] == "" {
			wrong = append(wrong, fmt.Sprintf("%s allows %s (%s), and nothing makes use of it", g.Policy, g.Action, g.Sid))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byOthers)) {
		if idle[name] == 0 {
			wrong = append(wrong, fmt.Sprintf("%s is used after all: it is no exception any more", name))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the policies do not fit the calls:\n%s", strings.Join(wrong, "\n"))
	}
	return nil
}
