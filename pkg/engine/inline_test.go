package engine

import (
	"fmt"
	"testing"

	"github.com/pipegen/pipegen/pkg/plan"
)

// A Dockerfile in the plan is built in place of the file, which need not be
// there.
func TestInlineDockerfile(t *testing.T) {
	b := newBench(t, map[string]string{"f": "1"})
	b.Build.DockerfileInline = "FROM scratch\nCOPY f /inline\n"
	if _, err := b.run(t); err != nil {
		t.Fatal(err)
	}
	contains(t, b.out.String(), fmt.Sprintf("dockerfile %q\n", b.Build.DockerfileInline))
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		build plan.Build
		ok    bool
	}{
		{plan.Build{Engine: "kaniko", EngineArgs: []string{"--snapshot-mode=redo"}}, true},
		{plan.Build{Engine: "kaniko", EngineArgs: []string{"--destination=x"}}, false},
		{plan.Build{Engine: "kaniko", Outputs: []string{"files"}}, false},
		{plan.Build{Engine: "ship"}, false},
	} {
		if err := Check(&c.build); (err == nil) != c.ok {
			t.Errorf("%+v: got %v", c.build, err)
		}
	}
}
