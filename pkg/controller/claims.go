package controller

import (
	"context"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/controller/store"
)

// mostClaims is how many tasks are remembered.
const mostClaims = 4096

// claims remember of tasks that agents have what is wanted of each whenever its
// agent says something. The store has it too.
type claims struct {
	mu    sync.Mutex
	tasks map[string]claimed
}

// claimed is what is remembered of a task.
type claimed struct {
	build string
	since time.Time // it runs
	lines int64     // of its log that are there, or fewer
}

func (c *claims) put(task string, t claimed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tasks == nil || len(c.tasks) >= mostClaims {
		c.tasks = map[string]claimed{}
	}
	c.tasks[task] = t
}

// received notes how many lines of a task's log are there.
func (c *claims) received(task string, lines int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.tasks[task]; ok {
		t.lines = lines
		c.tasks[task] = t
	}
}

func (c *claims) drop(task string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tasks, task)
}

// claimed gives what is remembered of a task, or what the store has.
func (c *Controller) claimed(ctx context.Context, task string) (claimed, error) {
	c.claims.mu.Lock()
	t, ok := c.claims.tasks[task]
	c.claims.mu.Unlock()
	if ok {
		return t, nil
	}
	err := c.o.Store.Ask(ctx, func(tx *store.Tx) error {
		row, err := tx.Task(task)
		t = claimed{row.Build, row.Changed, row.Lines}
		return err
	})
	return t, err
}
