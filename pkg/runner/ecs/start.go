package ecs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner"
)

// noCapacity says why a place takes no task now.
type noCapacity struct {
	at     place
	reason string
}

func (e *noCapacity) Error() string { return fmt.Sprintf("%s has no capacity: %s", e.at, e.reason) }

// Start starts a task of ECS. A place without capacity is passed over for the
// next one; where none has any it waits until ctx ends, and so it does while
// AWS is away or throttles. What AWS refuses in any case wraps failure.ErrInput.
func (l *Launcher) Start(ctx context.Context, launch runner.Launch) error {
	if !taskName.MatchString(launch.Task) {
		return failure.Input("%q is no id of a task", launch.Task)
	}
	if _, known := l.known(launch.Task); known {
		return nil
	}
	l.update(launch.Task, func(*record) {}) // what is said of it from now on counts
	order := places(l.s.CapacityOf(launch.Labels["image"]), launch.Task, launch.Attempt)
	fitting := map[place]definition{}
	var unfit error
	for _, at := range order {
		d, err := l.define(launch, at)
		if err == nil {
			fitting[at] = d
		} else if unfit == nil {
			unfit = err
		}
	}
	if len(fitting) == 0 {
		return unfit
	}
	order = slices.DeleteFunc(order, func(at place) bool { _, fits := fitting[at]; return !fits })
	said := ""
	const hint = "it is tried again; name subnets of more availability zones (server.ecs.subnets), or more of server.ecs.capacity"
	for round := 0; ; round++ {
		var full []string
		for _, at := range order {
			err := l.run(ctx, launch, at, fitting[at], round, full)
			none, is := errors.AsType[*noCapacity](err)
			if !is {
				if ctx.Err() != nil && said != "" { // that is what took so long
					return failure.WithHint(errors.New(said), "%s", hint)
				}
				return err
			}
			l.log.Info("no capacity", "task", launch.Task, "at", string(at), "reason", none.reason)
			full = append(full, string(at))
		}
		said = fmt.Sprintf("AWS has no capacity for it at present: %s", strings.Join(full, ", "))
		l.update(launch.Task, func(r *record) { r.waits = trouble{said, hint} })
		pause := min(l.capacityWait<<min(round, 3), 6*l.capacityWait)
		timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // no secret
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return failure.WithHint(errors.New(said), "%s", hint)
		}
	}
}

// run starts a task at a place; full are those that had no capacity.
func (l *Launcher) run(ctx context.Context, launch runner.Launch, at place, d definition, round int, full []string) error {
	for again := 0; ; again++ {
		definition, err := l.registered(ctx, launch.Task, d)
		if err != nil {
			return explain("registering the task definition "+d.family(), err)
		}
		in, err := l.input(launch, at, definition, round)
		if err != nil {
			return err
		}
		var out *sdk.RunTaskOutput
		err = l.insist(ctx, launch.Task, "starting the task", func(ctx context.Context) (err error) {
			// What is asked for is waited for, or it would run without anybody's knowledge.
			asked, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTime)
			defer cancel()
			out, err = l.client.RunTask(asked, in)
			return err
		})
		code, message := codeOf(err)
		conflict, isConflict := errors.AsType[*types.ConflictException](err)
		switch {
		case err == nil:
		case isConflict && len(conflict.ResourceIds) > 0: // it was started with other settings
			l.started(launch, at, conflict.ResourceIds[0], nil, full)
			return nil
		case again < 2 && code != "" && definitionGone(message):
			l.definitions.forget(ctx, d.family(), definition)
			continue
		case isCapacity(message):
			return &noCapacity{at, quote.Text(message)}
		default:
			return explain("starting the task", err)
		}
		if len(out.Tasks) > 0 {
			l.started(launch, at, aws.ToString(out.Tasks[0].TaskArn), &out.Tasks[0], full)
			return nil
		}
		if err := refused(at, out.Failures); err != nil {
			return err
		}
	}
}

func definitionGone(message string) bool {
	return strings.Contains(message, "TaskDefinition is inactive") || strings.Contains(message, "TaskDefinition not found")
}

// isCapacity says whether words of AWS mean that there is no room now.
func isCapacity(message string) bool {
	return strings.Contains(message, "Capacity is unavailable") || strings.Contains(message, "No Container Instances were found")
}

// refused says why ECS answered without a task: for want of room, mostly.
func refused(at place, failures []types.Failure) error {
	if len(failures) == 0 {
		return &noCapacity{at, "ECS started no task and gave no reason"}
	}
	reason, detail := aws.ToString(failures[0].Reason), aws.ToString(failures[0].Detail)
	text := quote.Text(strings.TrimSpace(reason + " " + detail))
	if reason == "MISSING" || reason == "INACTIVE" {
		return failure.WithHint(failure.Input("starting the task: the cluster, or what it needs, is %s: %s", strings.ToLower(reason), quote.Text(aws.ToString(failures[0].Arn))), "see server.ecs.cluster and server.ecs.capacity")
	}
	return &noCapacity{at, text}
}

// input is what ECS is asked for.
func (l *Launcher) input(launch runner.Launch, at place, definition string, round int) (*sdk.RunTaskInput, error) {
	env := map[string]string{taskVariable: launch.Task, urlVariable: l.s.URL}
	if at == fargateSpot {
		env[interruptedVariable] = "AWS took the capacity of Spot back, or somebody stopped the task"
	}
	overrides := &types.TaskOverride{ContainerOverrides: []types.ContainerOverride{{Name: aws.String(agentContainer), Environment: pairs(env)}}}
	if text, err := json.Marshal(overrides); err != nil || len(text) > mostOverrides {
		return nil, failure.Input("the overrides of the task take more than %d characters: the controller's URL is too long", mostOverrides)
	}
	labels := map[string]string{taskTag: launch.Task, runTag: launch.Run, buildTag: launch.Build}
	for _, key := range []string{"image", "submitter"} {
		if value := launch.Labels[key]; value != "" {
			labels[labelTag+key] = value
		}
	}
	for key, value := range labels {
		labels[key] = tagText(value)
	}
	in := &sdk.RunTaskInput{
		TaskDefinition: &definition, Cluster: &l.s.Cluster, Count: aws.Int32(1), ClientToken: aws.String(clientToken(launch.Task, at, round)),
		StartedBy: &l.s.Family, Overrides: overrides, Tags: tags(labels), PropagateTags: types.PropagateTagsTaskDefinition, EnableECSManagedTags: true,
		EnableExecuteCommand: l.s.EnableExecuteCommand,
	}
	at.put(in)
	if at != external {
		public := types.AssignPublicIpDisabled
		if l.s.AssignPublicIP && at.isFargate() {
			public = types.AssignPublicIpEnabled
		}
		in.NetworkConfiguration = &types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{
			Subnets: l.s.Subnets, SecurityGroups: l.s.SecurityGroups, AssignPublicIp: public,
		}}
	}
	if at.isFargate() {
		in.PlatformVersion = &l.s.PlatformVersion
	}
	return in, nil
}

// clientToken makes the same request known as such, for a day. A place that had
// no capacity is asked anew with another: of the same one it might be said again.
func clientToken(task string, at place, round int) string {
	if sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", at, round)); len(task) <= 40 {
		return task + "-" + hex.EncodeToString(sum[:8])
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", task, at, round))
	return hex.EncodeToString(sum[:])
}

// tagText makes any text the value of a tag.
func tagText(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < 128 && !strings.ContainsRune("_.:/=+-@ ", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') || r >= 128 {
			return '_'
		}
		return r
	}, text)
	return text[:min(len(text), 256)]
}

// started notes what was started, and tells where, if that is not where it was
// meant to be.
func (l *Launcher) started(launch runner.Launch, at place, arn string, t *types.Task, full []string) {
	note := ""
	switch {
	case len(full) > 0:
		note = fmt.Sprintf("on %s now: %s has no capacity at present", at, strings.Join(full, ", "))
	case launch.Attempt > 1 && len(l.s.CapacityOf(launch.Labels["image"])) > 1:
		note = fmt.Sprintf("on %s now, as the attempt before it was lost", at)
	}
	l.update(launch.Task, func(r *record) { r.arn, r.task, r.note, r.waits, r.asked = arn, t, note, trouble{}, time.Now() })
}
