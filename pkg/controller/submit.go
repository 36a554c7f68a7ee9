package controller

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner"
)

const (
	maxTasks    = 50_000
	maxLabels   = 64
	maxLabel    = 256 // bytes of a name or a value
	maxKey      = 256
	maxPriority = 1000
	maxTrace    = 256
)

// contextDigest is what a context is called.
var contextDigest = lazyregexp.New(`^sha256:[0-9a-f]{64}$`)

// inputs is what is sealed of a run.
type inputs struct {
	Credentials []api.Credential  `json:"credentials,omitempty"`
	Secrets     map[string]string `json:"secrets,omitempty"`
}

// draft is a run that is about to be added.
type draft struct {
	run    store.Run
	plan   *plan.Plan
	grant  Grant
	packed []byte // the plan as it is kept
	sealed []byte
	// Images that were published already, by another run.
	done map[string]*store.Image
	// Of the request, for telling another one with the same key.
	hash [sha256.Size]byte
}

// Submit makes a run. The same submission sent again with its idempotency key
// gives the run that it made, and created is false; another submission with
// that key is ErrConflict. A token that has started its runs is ErrSpent. It is
// durable when Submit returns.
func (c *Controller) Submit(ctx context.Context, s Submission) (run api.Run, created bool, err error) {
	d, err := c.draft(&s)
	if err != nil {
		return api.Run{}, false, err
	}
	return c.add(ctx, d)
}

// draft checks a submission.
func (c *Controller) draft(s *Submission) (*draft, error) {
	r := &s.Request
	if r.Plan == nil {
		return nil, failure.Input("the request has no plan")
	}
	if err := r.Plan.Check(); err != nil {
		return nil, err
	}
	if len(r.Plan.Images) == 0 {
		return nil, failure.Input("the plan has no images: there is nothing to do")
	}
	d := &draft{plan: r.Plan, grant: s.Grant, run: store.Run{
		Runner: r.Runner, Submitter: s.Submitter, Priority: r.Priority, Labels: r.Labels, Context: r.Context, Head: r.Plan.Head,
		Trace: s.Trace, IdempotencyKey: s.IdempotencyKey, Timeout: c.o.Limits.Total, Serial: r.Serial,
	}}
	if d.run.Runner == "" {
		d.run.Runner = c.o.Default
	}
	if c.o.Launchers[d.run.Runner] == nil {
		return nil, failure.WithHint(failure.Input("there is no runner %s", quote.Text(d.run.Runner)), "this controller has %s", strings.Join(runners(c.o), ", "))
	}
	if r.Timeout != "" {
		t, err := time.ParseDuration(r.Timeout)
		if err != nil || t <= 0 {
			return nil, failure.WithHint(failure.Input("the timeout %s is no duration", quote.Text(r.Timeout)), "write it as 90m or 1h30m")
		}
		d.run.Timeout = t
	}
	if err := checkWords(s); err != nil {
		return nil, err
	}
	done, err := publishedBefore(r)
	if err != nil {
		return nil, err
	}
	d.done = done
	if err := checkBuilds(r, done); err != nil {
		return nil, err
	}
	if err := judge(c.o.Launchers[d.run.Runner], r.Plan, done); err != nil {
		return nil, err
	}
	text, err := json.Marshal(r.Plan)
	if err != nil {
		return nil, err
	}
	if c.o.MayName != nil {
		for i := range r.Plan.Images {
			for j := range r.Plan.Images[i].Builds {
				if err := c.o.MayName(s.Submitter, r.Plan.Images[i].Builds[j].Stored()); err != nil {
					return nil, err
				}
			}
		}
	}
	d.packed = c.codec.pack(text)
	rest := *r
	rest.Plan = nil
	other, err := json.Marshal(&rest)
	if err != nil {
		return nil, err
	}
	d.hash = sha256.Sum256(slices.Concat(text, []byte{0}, other))
	if len(r.Credentials)+len(r.Secrets) > 0 {
		secret, err := json.Marshal(inputs{r.Credentials, r.Secrets})
		if err != nil {
			return nil, err
		}
		d.sealed = c.o.Keys.Seal(secret)
	}
	return d, nil
}

func checkWords(s *Submission) error {
	r := &s.Request
	switch {
	case s.Submitter == "":
		return failure.Input("a run needs a submitter")
	case len(s.IdempotencyKey) > maxKey:
		return failure.Input("the idempotency key is longer than %d bytes", maxKey)
	case len(s.Trace) > maxTrace:
		return failure.Input("the trace is longer than %d bytes", maxTrace)
	case r.Priority < -maxPriority || r.Priority > maxPriority:
		return failure.Input("the priority %d is not between -%d and %d", r.Priority, maxPriority, maxPriority)
	case len(r.Labels) > maxLabels:
		return failure.Input("there are more than %d labels", maxLabels)
	case r.Context != "" && !contextDigest.MatchString(r.Context):
		return failure.Input("the context %s is no sha256 digest", quote.Text(r.Context))
	}
	for name, value := range r.Labels {
		if name == "" || len(name) > maxLabel || len(value) > maxLabel {
			return failure.Input("label %s: names and values are at most %d bytes, and a name is not empty", quote.Text(name), maxLabel)
		}
	}
	for _, cred := range r.Credentials {
		if cred.Registry == "" {
			return failure.Input("a credential names no registry")
		}
	}
	return nil
}

func checkBuilds(r *api.RunRequest, done map[string]*store.Image) error {
	tasks := 0
	for i := range r.Plan.Images {
		img := &r.Plan.Images[i]
		if done[img.Name] != nil {
			continue
		}
		tasks += len(img.Builds) + 1
		if img.Source == nil && len(img.Builds) > 0 && r.Context == "" {
			return failure.WithHint(failure.Input("image %s is built from a context, and the request has none", img.Name),
				"upload the context and name its digest")
		}
		for j := range img.Builds {
			b := &img.Builds[j]
			if b.Pushes() && b.Destination == "" {
				return failure.WithHint(failure.Input("build %s has no destination", b.ID), "set a registry when planning")
			}
			if t, err := time.ParseDuration(b.Timeout); b.Timeout != "" && (err != nil || t <= 0) {
				return failure.Input("build %s: the timeout %s is no duration", b.ID, quote.Text(b.Timeout))
			}
		}
	}
	if tasks > maxTasks {
		return failure.Input("the plan has %d builds and images, more than %d", tasks, maxTasks)
	}
	return nil
}

// judge asks a launcher whether it can do the builds of a plan.
func judge(l runner.Launcher, p *plan.Plan, done map[string]*store.Image) error {
	j, ok := l.(runner.Judge)
	if !ok {
		return nil
	}
	for i := range p.Images {
		img := &p.Images[i]
		for b := range img.Builds {
			if done[img.Name] != nil {
				continue
			}
			if err := j.Judge(p, img, &img.Builds[b]); err != nil {
				return fmt.Errorf("build %s: %w", img.Builds[b].ID, err)
			}
		}
	}
	return nil
}

// add adds a run.
func (c *Controller) add(ctx context.Context, d *draft) (run api.Run, created bool, err error) {
	seal := []byte(nil)
	if d.run.IdempotencyKey != "" {
		seal = c.o.Keys.Seal(d.hash[:])
	}
	var earlier string
	var images []store.Image
	var tasks []store.Task
	err = c.change(ctx, d.keys(), func(ch *change) error {
		earlier = ""
		if d.run.IdempotencyKey != "" {
			found, err := ch.RunByKey(d.run.Submitter, d.run.IdempotencyKey)
			if err == nil {
				earlier = found.ID
				return c.sameRequest(&found, d)
			}
			if !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		r := &d.run
		r.ID, r.Created, r.State, r.Log, r.IdempotencySeal = newRunID(ch.now), ch.now, api.Queued, store.LogRows, seal
		if err := ch.grant(r.Submitter, d.grant, r.ID, r.RetryOf); err != nil {
			return err
		}
		if r.Context != "" {
			if _, err := ch.HasContext(r.Context); errors.Is(err, ErrNotFound) {
				return failure.WithHint(failure.Input("the context %s is not there", r.Context), "upload it first")
			} else if err != nil {
				return err
			}
			if err := ch.UseContext(r.Context, ch.now); err != nil {
				return err
			}
		}
		images, tasks = c.rows(d, ch.now)
		r.Images, r.Unended = len(images), 0
		for i := range images {
			if !images[i].State.Ended() {
				r.Unended++
			}
		}
		if err := ch.AddRun(r, d.packed, d.sealed); err != nil {
			return err
		}
		position := map[string]int{}
		for i := range images {
			var needs []int
			for _, need := range needsOf(&d.plan.Images[i]) {
				needs = append(needs, position[need])
			}
			position[images[i].Name] = i
			if err := ch.AddImage(&images[i], needs); err != nil {
				return err
			}
		}
		for i := range tasks {
			if err := ch.AddTask(&tasks[i]); err != nil {
				return err
			}
		}
		e := Event{Kind: RunCreated, Time: ch.now, Run: r.ID, Trace: r.Trace, Runner: r.Runner, Submitter: r.Submitter, To: api.Queued}
		ch.After(func() { c.o.Observe(e); poke(c.wakes) })
		return nil
	})
	if err != nil {
		return api.Run{}, false, err
	}
	if earlier != "" {
		run, err := c.Get(ctx, earlier)
		return run, false, err
	}
	c.plans.put(d.run.ID, cachedPlan{d.plan, d.sealed, len(d.packed) + len(d.sealed)})
	run, err = document(&d.run, images, tasks)
	return run, true, err
}

// keys are what adding the run is about: there is one run to an idempotency key,
// a context that it uses stays, and a token starts as many as it may.
func (d *draft) keys() (keys []store.Key) {
	if d.run.IdempotencyKey != "" {
		keys = append(keys, store.Key("submission "+d.run.Submitter+"\n"+d.run.IdempotencyKey))
	}
	if d.run.Context != "" {
		keys = append(keys, store.OnContext(d.run.Context))
	}
	if d.grant.Token != "" {
		keys = append(keys, store.Key("token "+d.grant.Token))
	}
	if d.grant.Tasks != 0 {
		keys = append(keys, store.Key("quota "+d.run.Submitter))
	}
	return keys
}

// sameRequest says whether a run was made by the same request.
func (c *Controller) sameRequest(r *store.Run, d *draft) error {
	hash, err := c.o.Keys.Open(r.IdempotencySeal)
	if err != nil {
		return fmt.Errorf("run %s: its idempotency key: %w", r.ID, err)
	}
	if subtle.ConstantTimeCompare(hash, d.hash[:]) != 1 {
		return fmt.Errorf("%w: the idempotency key was used for another request, run %s", ErrConflict, r.ID)
	}
	return nil
}

// rows makes the images and tasks of a run, in the order of its plan.
func (c *Controller) rows(d *draft, now time.Time) (images []store.Image, tasks []store.Task) {
	number, first := 0, true
	add := func(i int, ready bool, b *plan.Build) {
		t := store.Task{
			ID: taskID(d.run.ID, number, 1), Run: d.run.ID, Number: number, Attempt: 1, Image: i, Submitter: d.run.Submitter,
			Priority: d.run.Priority, Ready: ready, Timeout: d.run.Timeout,
		}
		if b != nil {
			t.Build, t.Platform, t.Runner = b.ID, b.Platform, d.run.Runner
			if limit, err := time.ParseDuration(b.Timeout); err == nil {
				t.Timeout = limit
			}
		}
		t.Move(api.Queued, now, "")
		tasks = append(tasks, t)
		number++
	}
	for i := range d.plan.Images {
		img := &d.plan.Images[i]
		row := store.Image{Run: d.run.ID, Position: i, Name: img.Name, State: api.Queued}
		if done := d.done[img.Name]; done != nil {
			row.State, row.Published = api.Succeeded, done.Published
			images = append(images, row)
			continue
		}
		for _, need := range needsOf(img) {
			if d.done[need] == nil {
				row.Missing++
			}
		}
		admitted := row.Missing == 0 && (first || !d.run.Serial)
		first = false
		for j := range img.Builds {
			add(i, admitted, &img.Builds[j])
		}
		if img.Pushes() {
			add(i, admitted && len(img.Builds) == 0, nil)
		}
		images = append(images, row)
	}
	return images, tasks
}

// needsOf gives the names of what an image needs, each once.
func needsOf(img *plan.Image) []string {
	return slices.Compact(slices.Sorted(slices.Values(img.Needs)))
}

// Retry makes a run of the images of an ended run that were not published.
// ErrConflict: the run has not ended, or there is nothing left to do; ErrGone:
// what it worked with has expired; ErrSpent, as with Submit.
func (c *Controller) Retry(ctx context.Context, id, by, idempotencyKey string, g Grant) (api.Run, error) {
	if by == "" || len(idempotencyKey) > maxKey {
		return api.Run{}, failure.Input("a run needs a submitter, and a key of at most %d bytes", maxKey)
	}
	d := &draft{grant: g, hash: sha256.Sum256([]byte("retry " + id)), done: map[string]*store.Image{}}
	var packed []byte
	err := c.o.Store.Read(ctx, func(tx *store.Tx) error {
		r, err := tx.Run(id)
		if err != nil {
			return fmt.Errorf("run %s: %w", id, err)
		}
		if !r.State.Ended() {
			return fmt.Errorf("%w: run %s has not ended: it is %s", ErrConflict, id, r.State)
		}
		if packed, d.sealed, err = tx.Inputs(id); errors.Is(err, ErrNotFound) {
			return fmt.Errorf("%w: what run %s worked with has expired", ErrGone, id)
		} else if err != nil {
			return err
		}
		images, err := tx.Images(id)
		if err != nil {
			return err
		}
		for i := range images {
			if images[i].State == api.Succeeded {
				d.done[images[i].Name] = &images[i]
			}
		}
		if r.Context != "" {
			if _, err := tx.HasContext(r.Context); errors.Is(err, ErrNotFound) {
				return fmt.Errorf("%w: the context of run %s has expired", ErrGone, id)
			} else if err != nil {
				return err
			}
		}
		d.run = store.Run{
			Runner: r.Runner, Submitter: by, Priority: r.Priority, Labels: r.Labels, Context: r.Context, Head: r.Head, RetryOf: id,
			Timeout: r.Timeout, IdempotencyKey: idempotencyKey, Trace: r.Trace, Serial: r.Serial,
		}
		return nil
	})
	if err != nil {
		return api.Run{}, err
	}
	full, err := c.decodePlan(packed)
	if err != nil {
		return api.Run{}, fmt.Errorf("the plan of run %s: %w", id, err)
	}
	if len(d.done) == len(full.Images) {
		return api.Run{}, fmt.Errorf("%w: all images of run %s were published", ErrConflict, id)
	}
	if c.o.Launchers[d.run.Runner] == nil {
		return api.Run{}, failure.Input("there is no runner %s any more", quote.Text(d.run.Runner))
	}
	d.plan = rest(full, d.done)
	text, err := json.Marshal(d.plan)
	if err != nil {
		return api.Run{}, err
	}
	d.packed = c.codec.pack(text)
	run, _, err := c.add(ctx, d)
	return run, err
}

// rest gives the part of a plan that is not done, with those that are done and
// needed by it.
func rest(p *plan.Plan, done map[string]*store.Image) *plan.Plan {
	wanted := map[string]bool{}
	for i := range p.Images {
		if img := &p.Images[i]; done[img.Name] == nil {
			wanted[img.Name] = true
			for _, need := range img.Needs {
				wanted[need] = true
			}
		}
	}
	part := *p
	part.Images = nil
	for _, img := range p.Images {
		if wanted[img.Name] {
			img.Needs = slices.DeleteFunc(slices.Clone(img.Needs), func(need string) bool { return !wanted[need] })
			part.Images = append(part.Images, img)
		}
	}
	return &part
}
