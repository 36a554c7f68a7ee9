package config

import (
	"math/big"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
)

// What a bare number means, wherever one is written for the build service: the
// file of a submission, DEFAULT_BUILD_CPU and DEFAULT_BUILD_MEMORY. It is the
// same on every runner.
const (
	// A whole number from here on is in the units of ECS, of which a processor
	// has 1024; a smaller one, or one with a fraction, is in processors.
	cpuUnitsFrom, cpuUnits = 128, 1024
	// Memory is in MiB, as ECS has it, and what is below this is a mistake.
	leastMiB = 32
)

// ReadResources gives CPU and memory as config.yaml of the build service writes
// them in the quantities of Kubernetes that Resources hold. An empty text stays
// empty. Errors wrap failure.ErrInput.
//
// CPU: "0.5", "1" and "500m" are processors; a bare number from 128 on is in
// units of ECS: "1024" is one processor. Memory: "2G" is 2,000,000,000 bytes and
// "2Gi" 2,147,483,648, as in Kubernetes; a bare number is in MiB: "1024" is
// "1024Mi".
func ReadResources(cpu, memory string) (Resources, error) {
	r := Resources{CPU: cpu, Memory: memory}
	switch {
	case cpu == "":
	case badCPU(cpu) != "":
		return Resources{}, failure.WithHint(failure.Input("cpu %s %s", show(cpu), badCPU(cpu)), `"0.5", "2" or "500m" processors, or 1024 units of ECS a processor`)
	case !strings.HasSuffix(cpu, "m"):
		n, _ := new(big.Rat).SetString(cpu)
		if n.IsInt() && n.Cmp(big.NewRat(cpuUnitsFrom, 1)) >= 0 {
			n.Quo(n, big.NewRat(cpuUnits, 1))
		}
		r.CPU = quantity(n)
	}
	bare := strings.Trim(memory, "0123456789") == ""
	switch {
	case memory == "":
	case bare && badSize(memory+"Mi") == "":
		if n, _ := new(big.Int).SetString(memory, 10); n.Cmp(big.NewInt(leastMiB)) < 0 {
			return Resources{}, failure.WithHint(failure.Input("memory %s is %s MiB, which is too little for a build", memory, memory), `write a unit: "%sGi"`, memory)
		}
		r.Memory = strings.TrimLeft(memory, "0") + "Mi"
	case badSize(memory) != "":
		return Resources{}, failure.WithHint(failure.Input("memory %s %s", show(memory), badSize(memory)), `a number with a unit: "2G" or "512Mi", or MiB without one`)
	}
	return r, nil
}

// quantity writes processors: whole ones, or thousandths, rounded up.
func quantity(n *big.Rat) string {
	if n.IsInt() {
		return n.Num().String()
	}
	thousandths := new(big.Rat).Mul(n, big.NewRat(1000, 1))
	up, rest := new(big.Int).DivMod(thousandths.Num(), thousandths.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		up.Add(up, big.NewInt(1))
	}
	return up.String() + "m"
}

// Amounts are Resources as numbers; 0: nothing is said.
type Amounts struct {
	// Thousandths of a processor.
	MilliCPU int64
	// Bytes.
	Memory, EphemeralStorage int64
}

// Amounts gives the numbers behind quantities of Kubernetes, rounded up: what
// every runner asks its platform for. Errors wrap failure.ErrInput.
func (r *Resources) Amounts() (Amounts, error) {
	if r == nil {
		return Amounts{}, nil
	}
	var a Amounts
	for _, q := range []struct {
		name, text string
		judge      func(string) string
		scale      int64
		to         *int64
	}{
		{"cpu", r.CPU, badCPU, 1000, &a.MilliCPU},
		{"memory", r.Memory, badSize, 1, &a.Memory},
		{"ephemeral_storage", r.EphemeralStorage, badSize, 1, &a.EphemeralStorage},
	} {
		if q.text == "" {
			continue
		}
		if problem := q.judge(q.text); problem != "" {
			return Amounts{}, failure.Input("%s %s %s", q.name, show(q.text), problem)
		}
		number := strings.TrimRight(q.text, "kMGTPEim")
		n, ok := new(big.Rat).SetString(number)
		if !ok {
			return Amounts{}, failure.Input("%s %s is no quantity", q.name, show(q.text))
		}
		n.Mul(n, suffixes[q.text[len(number):]])
		n.Mul(n, big.NewRat(q.scale, 1))
		whole, rest := new(big.Int).DivMod(n.Num(), n.Denom(), new(big.Int))
		if rest.Sign() > 0 {
			whole.Add(whole, big.NewInt(1))
		}
		if !whole.IsInt64() {
			return Amounts{}, failure.Input("%s %s is too large", q.name, show(q.text))
		}
		*q.to = whole.Int64()
	}
	return a, nil
}

// suffixes are those of Kubernetes quantities that Resources may have.
var suffixes = map[string]*big.Rat{
	"": big.NewRat(1, 1), "m": big.NewRat(1, 1000),
	"k": big.NewRat(1e3, 1), "M": big.NewRat(1e6, 1), "G": big.NewRat(1e9, 1), "T": big.NewRat(1e12, 1), "P": big.NewRat(1e15, 1), "E": big.NewRat(1e18, 1),
	"Ki": big.NewRat(1<<10, 1), "Mi": big.NewRat(1<<20, 1), "Gi": big.NewRat(1<<30, 1), "Ti": big.NewRat(1<<40, 1), "Pi": big.NewRat(1<<50, 1), "Ei": big.NewRat(1<<60, 1),
}
