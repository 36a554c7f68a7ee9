package engine

import (
	"os/exec"
	"testing"
)

// What a process took counts, also once it has ended between two looks.
func TestUsage(t *testing.T) {
	// tail keeps the whole line.
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", "head -c 100000000 /dev/zero | tail -n 1 | wc -c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	u := UsageOf()
	if u.Peak < 90_000_000 || u.CPU <= 0 || u.Memory <= 0 {
		t.Errorf("%+v", u)
	}
}
