package ecs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner"
)

// What task definitions and tasks are known by: keys of tags. Owner is the
// family that all of an installation begin with.
const (
	ownerTag      = "pipegen:owner"
	definitionTag = "pipegen:definition" // hash of all that matters
	settingsTag   = "pipegen:settings"   // hash of what the server's file says
	taskTag       = "pipegen:task"
	runTag        = "pipegen:run"
	buildTag      = "pipegen:build"
	labelTag      = "pipegen:"
)

const (
	agentContainer = "agent"
	// grace is what an agent has to stop its engine and to say so, in seconds.
	grace = 45
)

// The agent's environment.
const (
	urlVariable         = "PIPEGEN_AGENT_URL"
	taskVariable        = "PIPEGEN_AGENT_TASK"
	stsVariable         = "PIPEGEN_AGENT_STS"
	insecureVariable    = "PIPEGEN_AGENT_INSECURE"
	interruptedVariable = "PIPEGEN_AGENT_INTERRUPTED"
	regionVariable      = "AWS_REGION"
)

// notNeeded are those of a container's usual capabilities that installing
// software does not take; see the launcher for Kubernetes for those it does.
var notNeeded = []string{"MKNOD", "NET_BIND_SERVICE", "NET_RAW"}

// definition is a task definition as it is to be.
type definition struct {
	input *sdk.RegisterTaskDefinitionInput
	hash  string
}

func (d definition) family() string { return *d.input.Family }

// define gives the task definition of a task at a place. Errors wrap
// failure.ErrInput.
func (l *Launcher) define(launch runner.Launch, at place) (definition, error) {
	var d definition
	arch, err := cpuArchitecture(launch.Platform)
	if err != nil {
		return d, err
	}
	image := cmp.Or(launch.Image, l.s.Image)
	if image == "" {
		return d, failure.WithHint(failure.Input("there is no image for the agent of %s", launch.Build), "set server.ecs.image or AGENT_IMAGE of the controller, or builder_image of the project")
	}
	want, err := request(cmp.Or(launch.Resources, l.s.Resources))
	if err != nil {
		return d, err
	}
	if defaults, err := request(l.s.Resources); err == nil { // a build may say one of them
		want.cpu, want.memory = cmp.Or(want.cpu, defaults.cpu), cmp.Or(want.memory, defaults.memory)
	}
	got, err := onInstances(want)
	if at.isFargate() {
		got, err = onFargate(want)
	}
	if err != nil {
		return d, err
	}
	memory := int32(got.memory) //nolint:gosec // at most some hundred thousand
	env := maps.Clone(l.s.Environment)
	if env == nil {
		env = map[string]string{}
	}
	env[stsVariable], env[regionVariable] = l.sts, l.s.Region
	if l.insecure {
		env[insecureVariable] = "true"
	}
	c := types.ContainerDefinition{
		Name: aws.String(agentContainer), Image: aws.String(image), Essential: aws.Bool(true),
		EntryPoint: []string{"pipegen"}, Command: []string{"agent"}, Environment: pairs(env), Memory: aws.Int32(memory), StopTimeout: aws.Int32(grace),
		LinuxParameters: &types.LinuxParameters{Capabilities: &types.KernelCapabilities{Drop: slices.Clone(notNeeded)}, InitProcessEnabled: aws.Bool(l.s.EnableExecuteCommand)},
	}
	if l.s.ImageSecret != "" && sameRegistry(image, l.s.Image) {
		c.RepositoryCredentials = &types.RepositoryCredentials{CredentialsParameter: aws.String(l.s.ImageSecret)}
	}
	if l.s.LogGroup != "" {
		c.LogConfiguration = &types.LogConfiguration{LogDriver: types.LogDriverAwslogs, Options: map[string]string{
			"awslogs-group": l.s.LogGroup, "awslogs-region": l.s.Region, "awslogs-stream-prefix": l.s.Family,
		}}
	}
	in := &sdk.RegisterTaskDefinitionInput{
		ContainerDefinitions:    []types.ContainerDefinition{c},
		Cpu:                     aws.String(strconv.FormatInt(got.cpu, 10)),
		Memory:                  aws.String(strconv.FormatInt(got.memory, 10)),
		NetworkMode:             types.NetworkModeAwsvpc,
		RequiresCompatibilities: []types.Compatibility{at.compatibility()},
		RuntimePlatform:         &types.RuntimePlatform{CpuArchitecture: arch, OperatingSystemFamily: types.OSFamilyLinux},
		TaskRoleArn:             aws.String(l.s.TaskRole),
	}
	if l.s.ExecutionRole != "" {
		in.ExecutionRoleArn = aws.String(l.s.ExecutionRole)
	}
	if got.disk > 0 {
		in.EphemeralStorage = &types.EphemeralStorage{SizeInGiB: int32(got.disk)} //nolint:gosec // at most 200
	}
	if !at.isFargate() {
		in.PlacementConstraints = []types.TaskDefinitionPlacementConstraint{{
			Type: types.TaskDefinitionPlacementConstraintTypeMemberOf, Expression: aws.String("attribute:ecs.cpu-architecture == " + map[types.CPUArchitecture]string{"X86_64": "x86_64", "ARM64": "arm64"}[arch]),
		}}
	}
	if at == external {
		in.NetworkMode = types.NetworkModeBridge
	}
	in.Tags = tags(l.s.Tags, nil)
	if d.hash, err = hashOf(in); err != nil {
		return d, err
	}
	in.Family = aws.String(l.s.Family + "-" + strings.ToLower(strings.ReplaceAll(string(arch), "_", "-")) + "-" + d.hash[:16])
	in.Tags = tags(l.s.Tags, map[string]string{ownerTag: l.s.Family, definitionTag: d.hash, settingsTag: l.settings})
	d.input = in
	return d, nil
}

// cpuArchitecture gives the machine that a platform is built on. Agents are
// Linux programs; processors of 64 bits run what is for their smaller kin.
func cpuArchitecture(platform string) (types.CPUArchitecture, error) {
	p, err := config.ParsePlatform(platform)
	if err != nil {
		return "", failure.Input("%w", err)
	}
	switch p.Arch {
	case "amd64", "386":
		return types.CPUArchitectureX8664, nil
	case "arm64", "arm":
		return types.CPUArchitectureArm64, nil
	}
	return "", failure.WithHint(failure.Input("ECS has no machines for %s", quote.Text(platform)), "it has linux/amd64 and linux/arm64; build others elsewhere: runner")
}

// sameRegistry says whether two images are in one registry, so that the
// credentials for one are meant for the other.
func sameRegistry(a, b string) bool {
	x, err := name.ParseReference(a)
	y, other := name.ParseReference(b)
	return err == nil && other == nil && x.Context().RegistryStr() == y.Context().RegistryStr()
}

func pairs(env map[string]string) []types.KeyValuePair {
	all := make([]types.KeyValuePair, 0, len(env))
	for _, key := range slices.Sorted(maps.Keys(env)) {
		all = append(all, types.KeyValuePair{Name: aws.String(key), Value: aws.String(env[key])})
	}
	return all
}

// tags gives two sets as one, in order.
func tags(sets ...map[string]string) []types.Tag {
	merged := map[string]string{}
	for _, set := range sets {
		maps.Copy(merged, set)
	}
	all := make([]types.Tag, 0, len(merged))
	for _, key := range slices.Sorted(maps.Keys(merged)) {
		all = append(all, types.Tag{Key: aws.String(key), Value: aws.String(merged[key])})
	}
	return all
}

func tag(all []types.Tag, key string) string {
	for _, t := range all {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

func hashOf(v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// settingsHash is of all that definitions of one controller have in common.
func settingsHash(s *config.ServerECS, sts string, insecure bool) (string, error) {
	return hashOf([]any{s.Region, s.ExecutionRole, s.TaskRole, s.Family, s.Image, s.ImageSecret, s.LogGroup, s.Tags, s.Environment, s.EnableExecuteCommand, sts, insecure})
}

// definitions are the ARNs of task definitions by family, each looked for by
// one goroutine.
type definitions struct {
	mu  sync.Mutex
	all map[string]*known
}

type known struct {
	sem chan struct{} // held by who looks
	arn string
}

func (d *definitions) of(family string) *known {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.all[family]
	if k == nil {
		k = &known{sem: make(chan struct{}, 1)}
		d.all[family] = k
	}
	return k
}

// forget has a family looked for again, unless that was done since.
func (d *definitions) forget(ctx context.Context, family, arn string) {
	k := d.of(family)
	select {
	case k.sem <- struct{}{}:
		defer func() { <-k.sem }()
		if k.arn == arn {
			k.arn = ""
		}
	case <-ctx.Done():
	}
}

// registered gives the ARN of a definition: what was found or registered
// before, else what is there, else it is registered.
func (l *Launcher) registered(ctx context.Context, task string, d definition) (string, error) {
	k := l.definitions.of(d.family())
	select {
	case k.sem <- struct{}{}:
		defer func() { <-k.sem }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if k.arn != "" {
		return k.arn, nil
	}
	var arn string
	err := l.insist(ctx, task, "looking for the task definition "+d.family(), func(ctx context.Context) (err error) {
		arn, err = l.lookUp(ctx, d)
		return err
	})
	if err == nil && arn == "" {
		err = l.insist(ctx, task, "registering the task definition "+d.family(), func(ctx context.Context) (err error) {
			arn, err = l.register(ctx, d)
			return err
		})
	}
	if err != nil {
		return "", err
	}
	k.arn = arn
	return arn, nil
}

// lookUp gives the ARN of a definition that is there, or "".
func (l *Launcher) lookUp(ctx context.Context, d definition) (string, error) {
	out, err := l.client.DescribeTaskDefinition(ctx, &sdk.DescribeTaskDefinitionInput{TaskDefinition: d.input.Family, Include: []types.TaskDefinitionField{types.TaskDefinitionFieldTags}})
	if client, ok := errors.AsType[*types.ClientException](err); ok && strings.Contains(client.ErrorMessage(), "Unable to describe task definition") {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	t := out.TaskDefinition
	switch {
	case t == nil || t.Status != types.TaskDefinitionStatusActive:
		return "", nil
	case tag(out.Tags, definitionTag) != d.hash:
		return "", failure.WithHint(failure.Input("the task definition %s is not pipegen's, or was changed", aws.ToString(t.TaskDefinitionArn)), "deregister it, or name another family: server.ecs.family")
	}
	return aws.ToString(t.TaskDefinitionArn), nil
}

// register registers a definition. Of what controllers registered at the same
// time the first revision stays.
func (l *Launcher) register(ctx context.Context, d definition) (string, error) {
	out, err := l.client.RegisterTaskDefinition(ctx, d.input)
	if err != nil {
		return "", err
	}
	own := aws.ToString(out.TaskDefinition.TaskDefinitionArn)
	if out.TaskDefinition.Revision == 1 {
		return own, nil
	}
	list, err := l.client.ListTaskDefinitions(ctx, &sdk.ListTaskDefinitionsInput{FamilyPrefix: d.input.Family, Status: types.TaskDefinitionStatusActive, Sort: types.SortOrderAsc})
	if err != nil || len(list.TaskDefinitionArns) == 0 || list.TaskDefinitionArns[0] == own {
		return own, nil //nolint:nilerr // there are two then, which does no harm
	}
	first := list.TaskDefinitionArns[0]
	if _, err := l.client.DeregisterTaskDefinition(ctx, &sdk.DeregisterTaskDefinitionInput{TaskDefinition: aws.String(own)}); err != nil {
		l.log.Warn("deregistering a task definition that another controller registered too", "definition", own, "err", err)
	}
	return first, nil
}
