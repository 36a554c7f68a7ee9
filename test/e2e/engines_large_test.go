//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/plan"
)

// bound is the most memory that pipegen itself may take, in bytes, however much
// goes through it.
const bound = 96 << 20

// TestEngineLarge builds with a context of 5 GB, a layer of 256 MB, a log of 128
// MB and a line of 10 MB, and watches pipegen's memory.
func TestEngineLarge(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	s := newSite(t, h)
	s.use(buildKit(t, []*hub{h}, ""))
	const loud, long = "yes 'a line of the log that is as long as lines are, more or less, in most of them' | NAME head -c 134217728",
		"head -c 10485760 /dev/zero | NAME tr '\\0' x; echo; echo and then"
	project := func(command string) map[string]string {
		return map[string]string{
			"Dockerfile": "FROM @REGISTRY@:busybox\nRUN busybox " + strings.ReplaceAll(command, "NAME", "busybox") + "\n",
			"loud.sh":    strings.ReplaceAll(command, "NAME", "command") + "\nexec make -s release\n",
		}
	}
	cases := []struct {
		imageCase
		// How much log there is at least. BuildKit keeps 2 MiB of a step's, and
		// clips lines.
		log map[string]int64
	}{
		{imageCase{
			name: "context", config: "pre_script: truncate -s 5368709120 big\n",
			files: map[string]string{"Dockerfile": "FROM scratch\nCOPY a.txt /\n", "a.txt": "a\n"},
		}, nil},
		{imageCase{
			name: "layer", config: "pre_script: truncate -s 268435456 big\noutputs: [image, docker-tar, rootfs]\n",
			files: map[string]string{"Dockerfile": "FROM scratch\nCOPY big /\n"},
		}, nil},
		{imageCase{name: "loud", forMake: "command: sh loud.sh\n", files: project(loud)}, map[string]int64{"kaniko": 128 << 20, "make": 128 << 20}},
		{imageCase{name: "long", forMake: "command: sh loud.sh\n", files: project(long)}, map[string]int64{"kaniko": 10 << 20, "make": 10 << 20}},
	}
	for _, c := range cases {
		for _, engine := range engines {
			s.add(t, c.imageCase, engine, strings.NewReplacer())
		}
	}
	s.commit(t)
	for _, c := range cases {
		for _, engine := range engines {
			t.Run(c.name+"/"+engine, func(t *testing.T) {
				image := c.name + "-" + engine
				end := watch(t, s.command(t, "run", image)).wait(t)
				if end.code != 0 {
					t.Errorf("exit code %d", end.code)
				}
				if end.memory == 0 || end.memory > bound {
					t.Errorf("pipegen took %d MB of memory, want at most %d", end.memory>>20, bound>>20)
				}
				log, err := os.Stat(plan.LogFile(filepath.Join(s.dir, ".pipegen"), image+"@amd64"))
				if err != nil {
					t.Fatal(err)
				}
				if log.Size() < c.log[engine] {
					t.Errorf("the log has %d bytes, want %d at least", log.Size(), c.log[engine])
				}
			})
		}
	}
}
