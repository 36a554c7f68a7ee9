package api

import (
	"context"
	"net/http"
	"time"
)

// TaskToken gets the token of a task for its agent, which shows who it is. It is
// a call for a client without a token. ErrForbidden: it is not that agent;
// ErrConflict: an agent has the task; ErrGone: it ended meanwhile.
func (c *Client) TaskToken(ctx context.Context, task string, id Identity) (string, error) {
	var t TaskToken
	err := c.call(ctx, request{method: http.MethodPost, path: []string{"tasks", task, "token"}, body: id, out: &t})
	return t.Token, err
}

// Claim takes a task for an agent. ErrConflict: another agent has it; ErrGone:
// it ended meanwhile. ahead is how far the controller's clock, by which times in
// the assignment are given, goes before this machine's: to a second and the time
// that the answer took.
func (c *Client) Claim(ctx context.Context, task string, cl Claim) (a Assignment, ahead time.Duration, err error) {
	err = c.call(ctx, request{method: http.MethodPost, path: []string{"tasks", task, "claim"}, body: cl, out: &a, ahead: &ahead})
	return a, ahead, err
}

// AppendLog hands a piece of a task's log over; it is durable when the answer
// comes. ErrConflict: lines before it are missing.
func (c *Client) AppendLog(ctx context.Context, task string, l TaskLog) (LogAck, error) {
	var ack LogAck
	err := c.call(ctx, request{method: http.MethodPost, path: []string{"tasks", task, "logs"}, body: l, out: &ack})
	return ack, err
}

// Heartbeat says that the task's agent lives, and learns whether it is to go on.
func (c *Client) Heartbeat(ctx context.Context, task string, h Heartbeat) (HeartbeatAck, error) {
	var ack HeartbeatAck
	err := c.call(ctx, request{method: http.MethodPost, path: []string{"tasks", task, "heartbeat"}, body: h, out: &ack})
	return ack, err
}

// Finish reports what came of a task.
func (c *Client) Finish(ctx context.Context, task string, r TaskResult) error {
	return c.call(ctx, request{method: http.MethodPost, path: []string{"tasks", task, "result"}, body: r})
}
