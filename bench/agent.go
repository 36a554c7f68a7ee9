package main

import (
	"context"
	"fmt"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/plan"
)

// sharedLines is how long each log is of agents that build nothing; they say it
// in two pieces.
const sharedLines = 20

// told is who agents talk to: a controller, or a client of one.
type told interface {
	AppendLog(ctx context.Context, task string, l api.TaskLog) (api.LogAck, error)
	Finish(ctx context.Context, task string, r api.TaskResult) error
}

// speak says an agent's log.
func speak(ctx context.Context, c told, task string) error {
	for from := int64(0); from < sharedLines; from += sharedLines / 2 {
		said := api.TaskLog{From: from}
		for i := range int64(sharedLines / 2) {
			said.Lines = append(said.Lines, api.TaskLine{Time: time.Now(), Level: "info", Message: fmt.Sprint("line ", from+i)})
		}
		if _, err := c.AppendLog(ctx, task, said); err != nil {
			return err
		}
	}
	return nil
}

// succeed reports that a build has succeeded.
func succeed(ctx context.Context, c told, task, build string) error {
	return c.Finish(ctx, task, api.TaskResult{Result: &plan.Result{ID: build, Digest: "sha256:" + fmt.Sprintf("%064d", 1)}, LogLines: sharedLines})
}
