package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
)

const (
	clusterTasks  = 500
	clusterQueued = 5_000
	clusterPlaces = 50 // while others are queued
	clusterShare  = 300
	clusterIdle   = 10 * time.Second
	// longestTrial is how long all tasks of a trial may take.
	longestTrial = 5 * time.Minute
)

// onKubernetes measures a controller as a process that starts agents on a real
// control plane without a node: etcd, API server, controllers and scheduler.
// This program is the kubelet, and the agents. Requests are counted by the API
// server's audit log, by the user that the controller is.
func onKubernetes(ctx context.Context, b bench) (err error) {
	c, err := startBenchCluster(ctx, b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	fmt.Printf("\nA controller on Kubernetes 1.34, on SQLite, tasks that do nothing; its agents claim, say %d lines and report\n\n", sharedLines)
	one := func(v float64) column { return column{{v, true}} }
	var t table

	whole, err := c.allAtOnce(ctx, b)
	if err != nil {
		return fmt.Errorf("%d tasks: %w", clusterTasks, err)
	}
	fmt.Printf("%-*s%10s  requests of the API server\n", nameWidth, thousands(clusterTasks)+" tasks", whole.asked)
	fmt.Printf("%-*s%10.1f  s from the first request to the last task's end\n", nameWidth, "", whole.took.Seconds())
	t.goal(thousands(clusterTasks)+" Jobs: requests a task beside watches", "", 3, one(whole.perTask(clusterTasks)))
	t.goal(thousands(clusterTasks)+" Jobs: CPU of the controller, a task", "ms", 10, one(milliseconds(whole.cpu)/clusterTasks))

	part, idle, err := c.behindQueue(ctx, b)
	if err != nil {
		return fmt.Errorf("a queue of %d tasks: %w", clusterQueued, err)
	}
	fmt.Printf("%-*s%10s  requests of the API server\n", nameWidth, fmt.Sprintf("%d tasks before %s queued", clusterShare, thousands(clusterQueued)), part.asked)
	t.goal(thousands(clusterQueued)+" queued: requests a task beside watches", "", 3, one(part.perTask(clusterShare)))
	t.goal(fmt.Sprintf("%s queued: requests in %.0f s without a place", thousands(clusterQueued), clusterIdle.Seconds()), "", 0, one(float64(idle.asked.beside())))
	t.goal(thousands(clusterQueued)+" queued: CPU of the controller, a task", "ms", 10, one(milliseconds(part.cpu)/clusterShare))
	return nil
}

// spent is what a part of a trial took.
type spent struct {
	asked     requests
	cpu, took time.Duration
}

func (s spent) perTask(n int) float64 { return float64(s.asked.beside()) / float64(n) }

// meter measures from now on, until it is read.
func (c *benchCluster) meter(s *serverProcess) (read func() (spent, error), err error) {
	asked, err := c.requests()
	if err != nil {
		return nil, err
	}
	cpu, err := s.cpu()
	began := time.Now()
	return func() (spent, error) {
		all, err := c.requests()
		if err != nil {
			return spent{}, err
		}
		now, err := s.cpu()
		return spent{asked: all.since(asked), cpu: now - cpu, took: time.Since(began)}, err
	}, err
}

// allAtOnce has all tasks run side by side.
func (c *benchCluster) allAtOnce(ctx context.Context, b bench) (all spent, err error) {
	s, err := c.startServer(ctx, b, clusterTasks)
	if err != nil {
		return all, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	node, err := c.startNode(ctx, s)
	if err != nil {
		return all, err
	}
	defer node.stop()
	read, err := c.meter(s)
	if err != nil {
		return all, err
	}
	if err := s.submit(ctx, 0, clusterTasks); err != nil {
		return all, err
	}
	if err := node.wait(ctx, clusterTasks); err != nil {
		return all, err
	}
	if err := s.allOver(ctx, c.jobs); err != nil {
		return all, err
	}
	return read()
}

// behindQueue has some tasks run while others are queued, and measures too when
// no agent begins.
func (c *benchCluster) behindQueue(ctx context.Context, b bench) (part, idle spent, err error) {
	s, err := c.startServer(ctx, b, clusterPlaces)
	if err != nil {
		return part, idle, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.submit(ctx, 0, clusterQueued+clusterShare); err != nil {
		return part, idle, err
	}
	if err := c.untilJobs(ctx, clusterPlaces); err != nil {
		return part, idle, err
	}
	still, err := c.meter(s)
	if err != nil {
		return part, idle, err
	}
	select {
	case <-time.After(clusterIdle):
	case <-ctx.Done():
		return part, idle, ctx.Err()
	}
	if idle, err = still(); err != nil {
		return part, idle, err
	}
	read, err := c.meter(s)
	if err != nil {
		return part, idle, err
	}
	node, err := c.startNode(ctx, s)
	if err != nil {
		return part, idle, err
	}
	defer node.stop()
	if err := node.wait(ctx, clusterShare); err != nil {
		return part, idle, err
	}
	part, err = read()
	return part, idle, err
}

// allOver waits until every run has ended well and no agents are left of them.
func (s *serverProcess) allOver(ctx context.Context, agents func(context.Context) (int, error)) error {
	for late := time.Now().Add(longestTrial); ; time.Sleep(100 * time.Millisecond) {
		list, err := s.client.Runs(ctx, api.RunQuery{States: []api.State{api.Queued, api.Running}, Limit: 1})
		if err != nil {
			return err
		}
		left, err := agents(ctx)
		if err != nil {
			return err
		}
		if len(list.Runs) == 0 && left == 0 {
			break
		}
		if time.Now().After(late) {
			return fmt.Errorf("%d agents are left, and %d runs at least", left, len(list.Runs))
		}
	}
	list, err := s.client.Runs(ctx, api.RunQuery{States: []api.State{api.Failed, api.Cancelled}, Limit: 1})
	if err == nil && len(list.Runs) > 0 {
		err = fmt.Errorf("run %s: %s", list.Runs[0].ID, list.Runs[0].Reason)
	}
	return err
}
