package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/plan"
)

// cachedPlans is about how many bytes of packed plans are kept decoded; one is in any case.
const cachedPlans = 1 << 20

// planCache keeps the plans of runs that were looked at last.
type planCache struct {
	mu    sync.Mutex
	plans map[string]cachedPlan
	order []string // of runs, the one that goes first first
	size  int
}

type cachedPlan struct {
	plan   *plan.Plan
	sealed []byte // what is secret of the run
	size   int
}

func (c *planCache) get(run string) cachedPlan {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.plans[run]
}

func (c *planCache) put(run string, p cachedPlan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plans == nil {
		c.plans = map[string]cachedPlan{}
	}
	if _, ok := c.plans[run]; ok {
		return
	}
	c.plans[run] = p
	c.order = append(c.order, run)
	for c.size += p.size; c.size > cachedPlans && len(c.order) > 1; c.order = c.order[1:] {
		c.size -= c.plans[c.order[0]].size
		delete(c.plans, c.order[0])
	}
}

func (c *planCache) drop(run string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.plans[run]; ok {
		c.size -= p.size
		delete(c.plans, run)
		i := slices.Index(c.order, run)
		c.order = slices.Delete(c.order, i, i+1)
	}
}

// Plan gives the plan of a run, which is shared and not to be changed. ErrGone:
// what the run worked with has expired.
func (c *Controller) Plan(ctx context.Context, run string) (*plan.Plan, error) {
	return c.plan(ctx, run)
}

// plan gives the plan of a run, which is shared and not to be changed.
func (c *Controller) plan(ctx context.Context, run string) (*plan.Plan, error) {
	p, err := c.inputs(ctx, run)
	return p.plan, err
}

// inputs gives what a run works with.
func (c *Controller) inputs(ctx context.Context, run string) (cachedPlan, error) {
	if p := c.plans.get(run); p.plan != nil {
		return p, nil
	}
	var none cachedPlan
	var packed, sealed []byte
	err := c.o.Store.Ask(ctx, func(tx *store.Tx) (err error) { packed, sealed, err = tx.Inputs(run); return err })
	if errors.Is(err, ErrNotFound) {
		return none, fmt.Errorf("%w: what run %s works with has expired", ErrGone, run)
	}
	if err != nil {
		return none, err
	}
	p, err := c.decodePlan(packed)
	if err != nil {
		return none, fmt.Errorf("the plan of run %s: %w", run, err)
	}
	in := cachedPlan{p, sealed, len(packed) + len(sealed)}
	c.plans.put(run, in)
	return in, nil
}

func (c *Controller) decodePlan(packed []byte) (*plan.Plan, error) {
	text, err := c.codec.unpack(packed)
	if err != nil {
		return nil, err
	}
	var p plan.Plan
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, err
	}
	return &p, nil
}
