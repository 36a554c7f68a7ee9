package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/engine"
)

// Steps of a build can read what a process was started with, its arguments and
// its environment, from /proc, for as long as it runs and whatever it sets
// later. In a container pipegen therefore starts itself again, as the same
// process, with an environment that holds no credential, and finds the real one
// in a file without a name. Nothing else of the process can be read then either.

// handedOver names the variable with the descriptor of that file.
const handedOver = "PIPEGEN_HANDED_OVER"

// isolate prepares the process for a command that runs what others wrote. In a
// container it hides what pipegen knows; on a machine of one's own they can read
// everything of their user anyway.
func (a *app) isolate(cmd *cobra.Command) error {
	switch {
	case !runsOthers(cmd):
		return nil
	case !engine.Contained(a.getenv) && cmd.Name() == "agent":
		return nil // who started it ends what it leaves
	case a.handed || !engine.Contained(a.getenv):
		return engine.AdoptOrphans()
	case cmd.Flags().NArg() == 0 || cmd.Flag("plan").Value.String() == "-" || a.getenv(localCA) != "":
		return handOver()
	}
	return nil // isolateBuild knows more
}

// isolateBuild is isolate for a build of a plan that can be read once more.
// Where nothing runs beside pipegen there is nothing to hide from.
func (a *app) isolateBuild(j engine.Job) error {
	switch {
	case a.handed || !engine.Contained(a.getenv):
		return nil
	case !engine.RunsHere(j):
		return engine.AdoptOrphans()
	}
	return handOver()
}

// runsOthers says whether a command runs the engine and the scripts of a build
// itself, and nothing else.
func runsOthers(cmd *cobra.Command) bool {
	if cmd.Parent() != cmd.Root() || cmd.Name() != "build" && cmd.Name() != "agent" {
		return false
	}
	for _, elsewhere := range []string{"print", "container"} {
		if set, _ := cmd.Flags().GetBool(elsewhere); set {
			return false
		}
	}
	return true
}

// plain are the variables that Go reads before main, which are no secrets.
var plain = []string{"GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK", "GOCOVERDIR", "TZ"}

func scrubbed(environ []string) []string {
	var out []string
	for _, name := range plain {
		for _, kv := range environ {
			if strings.HasPrefix(kv, name+"=") {
				out = append(out, kv)
			}
		}
	}
	return out
}

// restore makes the variables of an environment, as the kernel keeps one, those
// of this process.
func restore(environ []byte) error {
	os.Clearenv()
	for kv := range bytes.SplitSeq(environ, []byte{0}) {
		if name, value, ok := strings.Cut(string(kv), "="); ok && name != "" {
			if err := os.Setenv(name, value); err != nil {
				return fmt.Errorf("restoring the environment: %w", err)
			}
		}
	}
	return nil
}
