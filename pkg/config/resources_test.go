package config

import (
	"errors"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

func TestReadResources(t *testing.T) {
	for _, c := range []struct {
		cpu, memory string
		want        Resources
		amounts     Amounts
	}{
		{"", "", Resources{}, Amounts{}},
		{"0.5", "2G", Resources{CPU: "500m", Memory: "2G"}, Amounts{MilliCPU: 500, Memory: 2_000_000_000}},
		{"1", "512", Resources{CPU: "1", Memory: "512Mi"}, Amounts{MilliCPU: 1000, Memory: 512 << 20}},
		{"1024", "1024", Resources{CPU: "1", Memory: "1024Mi"}, Amounts{MilliCPU: 1000, Memory: 1 << 30}},
		{"256", "2Gi", Resources{CPU: "250m", Memory: "2Gi"}, Amounts{MilliCPU: 250, Memory: 2 << 30}},
		{"16384", "120Gi", Resources{CPU: "16", Memory: "120Gi"}, Amounts{MilliCPU: 16000, Memory: 120 << 30}},
		{"500m", "1.5G", Resources{CPU: "500m", Memory: "1.5G"}, Amounts{MilliCPU: 500, Memory: 1_500_000_000}},
		{"127", "32", Resources{CPU: "127", Memory: "32Mi"}, Amounts{MilliCPU: 127_000, Memory: 32 << 20}},
		{"0.0001", "", Resources{CPU: "1m"}, Amounts{MilliCPU: 1}},
		{"130", "", Resources{CPU: "127m"}, Amounts{MilliCPU: 127}},
	} {
		got, err := ReadResources(c.cpu, c.memory)
		if err != nil || got != c.want {
			t.Errorf("%q, %q: got %+v, %v; want %+v", c.cpu, c.memory, got, err, c.want)
		}
		if amounts, err := got.Amounts(); err != nil || amounts != c.amounts {
			t.Errorf("%+v: got %+v, %v; want %+v", got, amounts, err, c.amounts)
		}
	}
	for _, c := range []struct{ cpu, memory string }{
		{"one", ""}, {"-1", ""}, {"0", ""}, {"1e3", ""}, {"1g", ""}, {"1/2", ""},
		{"", "2"}, {"", "2g"}, {"", "-1"}, {"", "0"}, {"", "0G"}, {"", "1.5"}, {"", "G"}, {"", "2 G"},
	} {
		if got, err := ReadResources(c.cpu, c.memory); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%q, %q: got %+v, %v", c.cpu, c.memory, got, err)
		}
	}
}

func TestAmounts(t *testing.T) {
	if a, err := (*Resources)(nil).Amounts(); err != nil || a != (Amounts{}) {
		t.Errorf("nothing: %+v, %v", a, err)
	}
	if a, err := (&Resources{EphemeralStorage: "20Gi"}).Amounts(); err != nil || a.EphemeralStorage != 20<<30 {
		t.Errorf("got %+v, %v", a, err)
	}
	for _, r := range []Resources{{CPU: "x"}, {Memory: "512"}, {EphemeralStorage: "100E"}} {
		if a, err := r.Amounts(); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%+v: got %+v, %v", r, a, err)
		}
	}
}

func FuzzReadResources(f *testing.F) {
	f.Add("0.5", "2G")
	f.Add("1024", "1024")
	f.Fuzz(func(t *testing.T, cpu, memory string) {
		r, err := ReadResources(cpu, memory)
		if err != nil {
			return
		}
		// What is normal stays what it is, and can be counted unless it is absurd.
		again, err := ReadResources(r.CPU, r.Memory)
		if err != nil || again.Memory != r.Memory {
			t.Errorf("%q, %q: %+v is read as %+v, %v", cpu, memory, r, again, err)
		}
		if a, err := r.Amounts(); err == nil && (cpu != "" && a.MilliCPU <= 0 || memory != "" && a.Memory <= 0) {
			t.Errorf("%q, %q: %+v are %+v", cpu, memory, r, a)
		}
	})
}
