package ecs

import (
	"errors"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

func TestOnFargate(t *testing.T) {
	for _, c := range []struct {
		cpu, memory, disk string
		want              string // or the words of an error
	}{
		{"", "", "", "0.25 vCPU and 512 MiB"},
		{"500m", "2G", "", "0.5 vCPU and 2 GiB"},
		{"0.25", "1Gi", "", "0.25 vCPU and 1 GiB"},
		{"0.25", "1100Mi", "", "0.25 vCPU and 2 GiB"},
		{"0.25", "2049Mi", "", "0.5 vCPU and 3 GiB"},
		{"251m", "512Mi", "", "0.5 vCPU and 1 GiB"},
		{"1", "8Gi", "20Gi", "1 vCPU and 8 GiB"},
		{"1", "8193Mi", "21Gi", "2 vCPU and 9 GiB with 21 GiB of disk"},
		{"1", "1Gi", "20.1Gi", "1 vCPU and 2 GiB with 21 GiB of disk"},
		{"4", "30Gi", "200Gi", "4 vCPU and 30 GiB with 200 GiB of disk"},
		{"4", "31Gi", "", "8 vCPU and 32 GiB"},
		{"8", "60Gi", "", "8 vCPU and 60 GiB"},
		{"8", "61Gi", "", "16 vCPU and 64 GiB"},
		{"16", "120Gi", "", "16 vCPU and 120 GiB"},
		{"0.5", "120Gi", "", "16 vCPU and 120 GiB"},
		{"17", "4Gi", "", "no size of Fargate holds 17 vCPU and 4 GiB (nearest: 16 vCPU and 32 GiB;"},
		{"8", "121Gi", "", "no size of Fargate holds 8 vCPU and 121 GiB (nearest: 8 vCPU and 60 GiB, or 16 vCPU and 120 GiB;"},
		{"20", "500Gi", "", "no size of Fargate holds 20 vCPU and 500 GiB (nearest: 16 vCPU and 120 GiB;"},
		{"1", "2Gi", "201Gi", "resources.ephemeral_storage of 201 GiB is more than Fargate has (it has 21 to 200 GiB"},
	} {
		want, err := request(&config.Resources{CPU: c.cpu, Memory: c.memory, EphemeralStorage: c.disk})
		if err != nil {
			t.Fatal(err)
		}
		s, err := onFargate(want)
		got := s.String()
		if err != nil {
			got = err.Error() + " (" + failure.Hint(err)
			if !errors.Is(err, failure.ErrInput) {
				t.Errorf("%v is nobody's fault", err)
			}
		}
		if err == nil && got != c.want || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s, %s, %s: %s, want %s", c.cpu, c.memory, c.disk, got, c.want)
		}
		if err == nil && !validSize(int(s.cpu), int(s.memory)) {
			t.Errorf("%s is no size of Fargate", s)
		}
	}
}

// The spellings of config.yaml mean on ECS what they mean elsewhere.
func TestRequest(t *testing.T) {
	for _, c := range []struct {
		cpu, memory string
		want        size
	}{
		{"0.5", "2G", size{cpu: 512, memory: 1908}},
		{"1", "1024", size{cpu: 1024, memory: 1024}},
		{"1024", "512", size{cpu: 1024, memory: 512}},
		{"256", "2Gi", size{cpu: 256, memory: 2048}},
	} {
		r, err := config.ReadResources(c.cpu, c.memory)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := request(&r); err != nil || got != c.want {
			t.Errorf("%s, %s: %+v %v, want %+v", c.cpu, c.memory, got, err, c.want)
		}
	}
}

// Whatever is asked for, what is given is a size of Fargate that holds it and
// no smaller one does.
func FuzzOnFargate(f *testing.F) {
	f.Add(uint16(256), uint32(512))
	f.Add(uint16(1025), uint32(8193))
	f.Fuzz(func(t *testing.T, cpu uint16, memory uint32) {
		want := size{cpu: int64(cpu), memory: int64(memory % 200_000)}
		got, err := onFargate(want)
		fits := want.cpu <= 16384 && want.memory <= 122880
		if (err == nil) != fits {
			t.Fatalf("%+v: %v", want, err)
		}
		if err == nil && (got.cpu < want.cpu || got.memory < want.memory || !validSize(int(got.cpu), int(got.memory))) {
			t.Errorf("%+v gets %+v", want, got)
		}
	})
}

func TestPlaces(t *testing.T) {
	spot := []config.ECSCapacity{{Provider: "FARGATE_SPOT", Weight: 3}, {Provider: "FARGATE", Weight: 1}}
	drawn := map[place]int{}
	for i := range 400 {
		order := places(spot, "run-"+strings.Repeat("x", i%7)+string(rune('a'+i%26))+"-"+strings.Repeat("1", i/26), 1)
		if len(order) != 2 || order[0] == order[1] {
			t.Fatal(order)
		}
		drawn[order[0]]++
	}
	if drawn[fargateSpot] < 240 || drawn[fargate] < 50 {
		t.Errorf("%v of 400, with weights 3 and 1", drawn)
	}
	for attempt, want := range map[int][]place{1: {fargateSpot, fargate}, 2: {fargate, fargateSpot}} {
		if got := places([]config.ECSCapacity{{Provider: "FARGATE_SPOT", Weight: 1}, {Provider: "FARGATE"}}, "run-0-1", attempt); got[0] != want[0] || got[1] != want[1] {
			t.Errorf("attempt %d goes to %v", attempt, got)
		}
	}
	if got := places([]config.ECSCapacity{{Provider: "cheap", Weight: 1}, {Provider: "dear"}}, "run-0-2", 2); got[0] != "dear" {
		t.Errorf("a second attempt goes to %v", got)
	}
}
