package ecs

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

const (
	// recent is how long a definition is left alone by those who clean up.
	recent = time.Hour
	// mostFailures is how many definitions may fail to go before the rest is
	// left too.
	mostFailures = 10
)

// CleanUp deregisters the task definitions of this family that pipegen
// registered with other settings more than an hour ago, and that no task uses.
// It gives how many those were. What cannot be judged or removed is left, and
// is part of the error.
func (l *Launcher) CleanUp(ctx context.Context) (removed int, err error) {
	used := map[string]bool{}
	if err := l.eachTask(ctx, types.DesiredStatusRunning, func(t *types.Task) { used[aws.ToString(t.TaskDefinitionArn)] = true }); err != nil {
		return 0, explain("listing tasks", err)
	}
	// All are listed before the first goes: pages would move.
	var ours []string
	pages := sdk.NewListTaskDefinitionsPaginator(l.client, &sdk.ListTaskDefinitionsInput{Status: types.TaskDefinitionStatusActive, MaxResults: aws.Int32(batch)})
	for pages.HasMorePages() {
		var page *sdk.ListTaskDefinitionsOutput
		if err := l.persist(ctx, func(ctx context.Context) (err error) { page, err = pages.NextPage(ctx); return err }); err != nil {
			return 0, explain("listing task definitions", err)
		}
		for _, arn := range page.TaskDefinitionArns {
			if _, name, _ := strings.Cut(arn, "/"); strings.HasPrefix(name, l.s.Family+"-") && !used[arn] {
				ours = append(ours, arn)
			}
		}
	}
	var failures []error
	for _, arn := range ours {
		gone, err := l.discard(ctx, arn)
		if ctx.Err() != nil {
			return removed, ctx.Err()
		}
		if gone {
			removed++
		}
		if err != nil {
			failures = append(failures, err)
			if len(failures) == mostFailures {
				break
			}
		}
	}
	return removed, errors.Join(failures...)
}

// discard deregisters a definition that is pipegen's, and old.
func (l *Launcher) discard(ctx context.Context, arn string) (bool, error) {
	var out *sdk.DescribeTaskDefinitionOutput
	if err := l.persist(ctx, func(ctx context.Context) (err error) {
		out, err = l.client.DescribeTaskDefinition(ctx, &sdk.DescribeTaskDefinitionInput{TaskDefinition: aws.String(arn), Include: []types.TaskDefinitionField{types.TaskDefinitionFieldTags}})
		return err
	}); err != nil {
		return false, explain("looking at the task definition "+arn, err)
	}
	registered := out.TaskDefinition.RegisteredAt
	if tag(out.Tags, ownerTag) != l.s.Family || tag(out.Tags, settingsTag) == l.settings || registered != nil && l.now().Sub(*registered) < recent {
		return false, nil
	}
	if err := l.persist(ctx, func(ctx context.Context) error {
		_, err := l.client.DeregisterTaskDefinition(ctx, &sdk.DeregisterTaskDefinitionInput{TaskDefinition: aws.String(arn)})
		return err
	}); err != nil {
		return false, explain("deregistering the task definition "+arn, err)
	}
	return true, nil
}
