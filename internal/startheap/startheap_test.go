package startheap_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	_ "github.com/pipegen/pipegen/internal/startheap"
)

// percent is how much the heap may grow by now.
func percent() uint64 {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func TestMain(m *testing.M) {
	if os.Getenv("STARTHEAP") == "" {
		os.Exit(m.Run())
	}
	at := percent()
	for end := time.Now().Add(10 * time.Second); percent() == at && at > 100 && time.Now().Before(end); {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	fmt.Print(at, " then ", percent())
}

func TestPercent(t *testing.T) {
	for _, c := range []struct{ gogc, want string }{
		{"", "300 then 100"},
		{"GOGC=50", "50 then 50"},
		{"GOGC=100", "100 then 100"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		for _, kv := range os.Environ() {
			if !strings.HasPrefix(kv, "GOGC=") {
				cmd.Env = append(cmd.Env, kv)
			}
		}
		cmd.Env = append(cmd.Env, "STARTHEAP=1")
		if c.gogc != "" {
			cmd.Env = append(cmd.Env, c.gogc)
		}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if string(out) != c.want {
			t.Errorf("with %q: the heap may grow by %s percent, want %s", c.gogc, out, c.want)
		}
	}
}
