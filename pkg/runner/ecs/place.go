package ecs

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/pipegen/pipegen/pkg/config"
)

// place is where a task runs: a capacity provider, or a launch type by its name.
type place string

const (
	fargate     place = "FARGATE"
	fargateSpot place = "FARGATE_SPOT"
	instances   place = "EC2"
	external    place = "EXTERNAL"
)

func (p place) isFargate() bool { return p == fargate || p == fargateSpot }

// compatibility is what definitions of tasks there must be made for.
func (p place) compatibility() types.Compatibility {
	switch {
	case p.isFargate():
		return types.CompatibilityFargate
	case p == external:
		return types.CompatibilityExternal
	}
	return types.CompatibilityEc2
}

// put asks for this place.
func (p place) put(in *sdk.RunTaskInput) {
	switch p {
	case instances:
		in.LaunchType = types.LaunchTypeEc2
	case external:
		in.LaunchType = types.LaunchTypeExternal
	default:
		in.CapacityProviderStrategy = []types.CapacityProviderStrategyItem{{CapacityProvider: aws.String(string(p)), Weight: 1}}
	}
}

// places gives where an attempt at a task is started, in the order in which
// they are tried. The first attempt goes where the weights say: ECS itself
// looks at weights within one call alone, and each task is a call of its own.
// The choice follows from the task's id, so that whoever starts a task again
// asks for the same. Places without a weight come last. What was lost once goes
// to a place whose capacity nobody takes back: Fargate that is not Spot, else
// the last that is named.
func places(all []config.ECSCapacity, task string, attempt int) []place {
	names := make([]place, len(all))
	sum := 0
	for i, c := range all {
		names[i] = place(c.Provider)
		sum += c.Weight
	}
	if attempt > 1 {
		last := names[len(names)-1]
		if slices.Contains(names, fargate) {
			last = fargate
		}
		// The others still take what it has no room for.
		return append([]place{last}, slices.DeleteFunc(names, func(p place) bool { return p == last })...)
	}
	if sum > 0 {
		hash := sha256.Sum256([]byte(task))
		drawn := int(binary.BigEndian.Uint32(hash[:4]) % uint32(sum))
		for i, c := range all {
			if drawn -= c.Weight; drawn < 0 {
				first := names[i]
				return append([]place{first}, slices.DeleteFunc(names, func(p place) bool { return p == first })...)
			}
		}
	}
	return names
}
