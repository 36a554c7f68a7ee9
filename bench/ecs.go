package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pipegen/pipegen/internal/awstest"
)

const (
	fargateTasks = 500
	// fargateStill is how long all of them run side by side.
	fargateStill = 30 * time.Second
	// launcherPoll is how often the launcher looks at tasks, and launcherBatch
	// how many one request may be about.
	launcherPoll  = 5 * time.Second
	launcherBatch = 100
)

// onECS measures a controller as a process that starts agents on ECS, which is
// an emulator. This program is Fargate, and the agents, which show the
// controller who they are as agents do. Requests are counted before the
// emulator; what it takes itself is not measured.
func onECS(ctx context.Context, b bench) (err error) {
	c, err := startBenchCloud(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	fmt.Printf("\nA controller on ECS (moto), on SQLite, tasks that do nothing; its agents show who they are, claim, say %d lines,\nrun side by side for %.0f s and report\n\n", sharedLines, fargateStill.Seconds())
	all, err := c.sideBySide(ctx, b)
	if err != nil {
		return fmt.Errorf("%d tasks: %w", fargateTasks, err)
	}
	one := func(v float64) column { return column{{v, true}} }
	name := thousands(fargateTasks) + " tasks"
	polls, least := polls(all.looks)
	fmt.Printf("%-*s%10s  requests of AWS\n", nameWidth, name, all.asked)
	fmt.Printf("%-*s%10d  polls\n", nameWidth, "", polls)
	fmt.Printf("%-*s%10.1f  s from the first request to the last task's end\n", nameWidth, "", all.took.Seconds())
	var t table
	t.goal(name+": requests a task to launch it", "", 1.2, one(float64(all.asked.launching())/fargateTasks))
	t.goal(name+": requests for 100 tasks and poll", "", 1, one(float64(all.asked[describeTasks])/float64(least)))
	t.goal(name+": CPU of the controller, a task", "ms", 20, one(milliseconds(all.cpu)/fargateTasks))
	return nil
}

// cloudSpent is what a trial took.
type cloudSpent struct {
	asked     requests
	looks     []look
	cpu, took time.Duration
}

// launching is how many requests are neither about how tasks are nor about who
// agents are.
func (r requests) launching() (n int) {
	for what, times := range r {
		if what != describeTasks && what != getCallerIdentity {
			n += times
		}
	}
	return n
}

// look is a request for how some tasks are.
type look struct {
	at    time.Time
	tasks []string
}

// polls gives how often tasks were looked at, and how many requests that takes
// at least.
func polls(looks []look) (n, least int) {
	var began time.Time
	seen := map[string]bool{}
	for _, l := range looks {
		if n == 0 || l.at.Sub(began) >= launcherPoll { // the launcher waits so long after a poll
			least += batches(len(seen))
			clear(seen)
			n, began = n+1, l.at
		}
		for _, task := range l.tasks {
			seen[task] = true
		}
	}
	return n, least + batches(len(seen))
}

func batches(tasks int) int { return (tasks + launcherBatch - 1) / launcherBatch }

// sideBySide has all tasks run until each has been looked at several times.
func (c *benchCloud) sideBySide(ctx context.Context, b bench) (all cloudSpent, err error) {
	b.env = c.Env(awstest.Controller)
	s, err := startServerWith(ctx, b, c.settings, "--runner", "ecs")
	if err != nil {
		return all, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	before, _ := c.requests()
	cpu, err := s.cpu()
	if err != nil {
		return all, err
	}
	began := time.Now()
	if err := s.submit(ctx, 0, fargateTasks); err != nil {
		return all, err
	}
	if err := c.wait(ctx, func() int { return c.claimed }); err != nil {
		return all, err
	}
	select {
	case <-time.After(fargateStill):
	case <-ctx.Done():
		return all, ctx.Err()
	}
	close(c.release)
	if err := c.wait(ctx, func() int { return c.ended }); err != nil {
		return all, err
	}
	if err := s.allOver(ctx, c.watched); err != nil {
		return all, err
	}
	after, looks := c.requests()
	now, err := s.cpu()
	return cloudSpent{asked: after.since(before), looks: looks, cpu: now - cpu, took: time.Since(began)}, err
}
