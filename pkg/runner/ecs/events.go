package ecs

import (
	"context"
	"encoding/json"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// event is what EventBridge says of a task, as far as it matters here
// ("Amazon ECS task state change events" in the documentation).
type event struct {
	Type   string `json:"detail-type"`
	Detail struct {
		TaskARN       string     `json:"taskArn"`
		LastStatus    string     `json:"lastStatus"`
		DesiredStatus string     `json:"desiredStatus"`
		StartedBy     string     `json:"startedBy"`
		StopCode      string     `json:"stopCode"`
		StoppedReason string     `json:"stoppedReason"`
		Memory        string     `json:"memory"`
		Version       int64      `json:"version"`
		CreatedAt     *time.Time `json:"createdAt"`
		PullStartedAt *time.Time `json:"pullStartedAt"`
		PullStoppedAt *time.Time `json:"pullStoppedAt"`
		StoppedAt     *time.Time `json:"stoppedAt"`
		Containers    []struct {
			Name       string `json:"name"`
			Image      string `json:"image"`
			LastStatus string `json:"lastStatus"`
			ExitCode   *int32 `json:"exitCode"`
			Reason     string `json:"reason"`
		} `json:"containers"`
	} `json:"detail"`
}

// task gives the task of an event as an answer of ECS would have it.
func (e *event) task() *types.Task {
	d := &e.Detail
	t := &types.Task{
		TaskArn: &d.TaskARN, LastStatus: &d.LastStatus, DesiredStatus: &d.DesiredStatus, StartedBy: &d.StartedBy, StopCode: types.TaskStopCode(d.StopCode),
		StoppedReason: &d.StoppedReason, Memory: &d.Memory, Version: d.Version, CreatedAt: d.CreatedAt, PullStartedAt: d.PullStartedAt, PullStoppedAt: d.PullStoppedAt,
		StoppedAt: d.StoppedAt,
	}
	for _, c := range d.Containers {
		t.Containers = append(t.Containers, types.Container{Name: aws.String(c.Name), Image: aws.String(c.Image), LastStatus: aws.String(c.LastStatus), ExitCode: c.ExitCode, Reason: aws.String(c.Reason)})
	}
	return t
}

// listen takes events from the queue until ctx ends. Tasks are looked at
// without them too, only less often: an event that is lost delays and breaks
// nothing.
func (l *Launcher) listen(ctx context.Context) {
	for ctx.Err() == nil {
		var out *sqs.ReceiveMessageOutput
		err := l.again(ctx, func(context.Context) (err error) {
			asked, cancel := context.WithTimeout(ctx, 2*requestTime)
			defer cancel()
			out, err = l.queue.ReceiveMessage(asked, &sqs.ReceiveMessageInput{QueueUrl: &l.s.EventQueue, MaxNumberOfMessages: 10, WaitTimeSeconds: 20})
			return err
		}, func(error) {})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.log.Warn("events of tasks cannot be read", "err", explain("reading server.ecs.event_queue", err))
			pause(ctx, pollSeldom)
			continue
		}
		l.take(ctx, out.Messages)
	}
}

// take notes what messages say, and deletes them.
func (l *Launcher) take(ctx context.Context, messages []sqstypes.Message) {
	if len(messages) == 0 {
		return
	}
	var done []sqstypes.DeleteMessageBatchRequestEntry
	for _, m := range messages {
		var e event
		if err := json.Unmarshal([]byte(aws.ToString(m.Body)), &e); err != nil {
			l.log.Warn("an event is not understood", "err", err)
		} else if e.Type == "ECS Task State Change" && e.Detail.StartedBy == l.s.Family {
			l.heard(e.task())
		}
		done = append(done, sqstypes.DeleteMessageBatchRequestEntry{Id: m.MessageId, ReceiptHandle: m.ReceiptHandle})
	}
	err := l.persist(ctx, func(ctx context.Context) error {
		_, err := l.queue.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &l.s.EventQueue, Entries: done})
		return err
	})
	if err != nil && ctx.Err() == nil {
		l.log.Warn("events that were read stay in their queue", "err", explain("deleting messages of server.ecs.event_queue", err))
	}
}

// heard notes how a task is that an event tells of. Of one that is not known
// here it says too little: the next listing finds it.
func (l *Launcher) heard(t *types.Task) {
	l.mu.Lock()
	known := l.arns[aws.ToString(t.TaskArn)] != ""
	l.mu.Unlock()
	if known {
		l.saw(t)
	}
}
