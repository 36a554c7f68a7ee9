package ecs

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

// size is what a task gets.
type size struct {
	// Units of ECS, of which a processor has 1024.
	cpu int64
	// MiB.
	memory int64
	// GiB; 0: what there is anyhow, 20 on Fargate.
	disk int64
}

// tier is one of Fargate's numbers of CPU units with the memory that it goes
// with, in MiB: from least to most in steps.
type tier struct{ cpu, least, most, step int64 }

// tiers are Fargate's for Linux, as the documentation of task definitions lists
// them under "Task CPU and memory".
var tiers = []tier{
	{256, 512, 2048, 512}, // and no 1536, see memoryOf
	{512, 1024, 4096, 1024},
	{1024, 2048, 8192, 1024},
	{2048, 4096, 16384, 1024},
	{4096, 8192, 30720, 1024},
	{8192, 16384, 61440, 4096},
	{16384, 32768, 122880, 8192},
}

// memoryOf gives the least memory of a tier that is enough; 0: none is.
func (t tier) memoryOf(memory int64) int64 {
	m := t.least
	if memory > m {
		m += (memory - m + t.step - 1) / t.step * t.step
	}
	if t.cpu == 256 && m == 1536 {
		m = 2048
	}
	if m > t.most {
		return 0
	}
	return m
}

const (
	mib = 1 << 20
	gib = 1 << 30
	// Fargate's disk without a word of it, and the limits of what can be asked for.
	freeDisk, leastDisk, mostDisk = 20, 21, 200
)

// request gives what a build needs in the units of ECS, rounded up; what is
// not said is 0.
func request(r *config.Resources) (size, error) {
	a, err := r.Amounts()
	if err != nil {
		return size{}, err
	}
	return size{
		cpu:    (a.MilliCPU*1024 + 999) / 1000,
		memory: (a.Memory + mib - 1) / mib,
		disk:   (a.EphemeralStorage + gib - 1) / gib,
	}, nil
}

// onFargate gives the smallest size of Fargate that holds a request. Errors
// wrap failure.ErrInput and name the sizes that come next to it.
func onFargate(want size) (size, error) {
	if want.disk > mostDisk {
		return size{}, failure.WithHint(failure.Input("resources.ephemeral_storage of %d GiB is more than Fargate has", want.disk), "it has %d to %d GiB; or run the build on a capacity provider of instances", leastDisk, mostDisk)
	}
	got := size{disk: want.disk}
	if want.disk <= freeDisk {
		got.disk = 0
	}
	for _, t := range tiers {
		if t.cpu < want.cpu {
			continue
		}
		if m := t.memoryOf(want.memory); m > 0 {
			got.cpu, got.memory = t.cpu, m
			return got, nil
		}
	}
	return size{}, failure.WithHint(failure.Input("no size of Fargate holds %s", want), "nearest: %s; or run the build on a capacity provider of instances: server.ecs.projects", strings.Join(nearest(want), ", or "))
}

// nearest names sizes that hold as much of a request as they can.
func nearest(want size) []string {
	last := tiers[len(tiers)-1]
	cpu, memory := min(want.cpu, last.cpu), min(want.memory, last.most)
	var found []string
	if memory < want.memory { // the processors, and as much memory as goes with them
		for _, t := range tiers {
			if t.cpu >= cpu {
				found = append(found, size{cpu: t.cpu, memory: t.most}.String())
				break
			}
		}
	}
	for _, t := range tiers {
		if m := t.memoryOf(memory); t.cpu >= cpu && m > 0 {
			if s := (size{cpu: t.cpu, memory: m}).String(); len(found) == 0 || found[0] != s {
				found = append(found, s)
			}
			break
		}
	}
	return found
}

// onInstances gives what instances are asked for. Errors wrap failure.ErrInput.
func onInstances(want size) (size, error) {
	const leastCPU, mostCPU, leastMemory = 128, 196608, 32
	switch {
	case want.disk > 0:
		return size{}, failure.WithHint(failure.Input("resources.ephemeral_storage cannot be given on instances: tasks share the disk of theirs"), "leave it out, or run the build on Fargate")
	case want.cpu > mostCPU:
		return size{}, failure.Input("resources.cpu: a task of ECS has at most %d processors", mostCPU/1024)
	}
	return size{cpu: max(want.cpu, leastCPU), memory: max(want.memory, leastMemory)}, nil
}

func (s size) String() string {
	text := fmt.Sprintf("%s vCPU and %s", amount(s.cpu, 1024), memoryText(s.memory))
	if s.disk > 0 {
		text += fmt.Sprintf(" with %d GiB of disk", s.disk)
	}
	return text
}

func memoryText(m int64) string {
	if m < 1024 {
		return strconv.FormatInt(m, 10) + " MiB"
	}
	return amount(m, 1024) + " GiB"
}

// amount writes a number of parts as a decimal with at most two digits.
func amount(n, parts int64) string {
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(float64(n)/float64(parts), 'f', 2, 64), "0"), ".")
}
