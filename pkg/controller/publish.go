package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// publish publishes an image.
func (c *Controller) publish(k *care) {
	pub, err := c.join(k)
	if err != nil {
		switch {
		case c.life.Err() != nil: // the next controller publishes again
		case k.ctx.Err() != nil:
			c.conclude(k.task, "", "")
		case again(err):
			c.conclude(k.task, api.Lost, reason(err))
		default:
			c.conclude(k.task, api.Failed, reason(err), kind(err))
		}
		return
	}
	text, err := json.Marshal(pub)
	if err != nil {
		c.conclude(k.task, api.Failed, reason(err))
		return
	}
	err = c.insist(onTask(k.task), func(ch *change) error {
		t, err := ch.task(k.task)
		if err != nil || t.State != api.Publishing || t.Owner != c.o.Instance {
			return err
		}
		img, err := ch.image(t.Run, t.Image)
		if err != nil {
			return err
		}
		img.Published = text
		if err := ch.SaveImage(img); err != nil {
			return err
		}
		t.Digest = pub.Digest
		for _, tag := range pub.Kept {
			ch.say(t.Run, subject{image: img.Name}, "warning", "left the tag %s where it is: %s", tag.Tag, words(tag.Reason, ""))
		}
		ch.say(t.Run, about(t, img.Name, api.Succeeded), "info", "published %s%s@%s", pub.Repository, prefixed(":", strings.Join(pub.Tags, ", ")), pub.Digest)
		return ch.end(t, api.Succeeded, "")
	})
	if err != nil && c.life.Err() == nil {
		c.log.Error("noting what was published", "task", k.task, "err", err)
	}
}

// kind notes of what kind a failure to publish is, for those who asked for it.
func kind(err error) func(*store.Task) {
	_, immutable := errors.AsType[*registry.ImmutableError](err)
	return func(t *store.Task) {
		if immutable {
			t.Result = []byte(`"` + api.ImmutableTag + `"`)
		}
	}
}

// again says whether publishing may do better another time.
func again(err error) bool {
	if errors.Is(err, failure.ErrInput) {
		return false
	}
	if e, ok := errors.AsType[*registry.Error](err); ok {
		return e.Status == 0 || e.Status == http.StatusTooManyRequests || e.Status >= http.StatusInternalServerError
	}
	return errors.Is(err, ErrUnavailable)
}

// join joins the builds of an image and tags them.
func (c *Controller) join(k *care) (plan.Published, error) {
	var none plan.Published
	var w store.Work
	var tasks []store.Task
	if err := c.o.Store.Read(k.ctx, func(tx *store.Tx) (err error) {
		if w, err = tx.Work(k.task); err != nil {
			return err
		}
		tasks, err = tx.ImageTasks(w.Run.ID, w.Image.Position)
		return err
	}); err != nil {
		return none, err
	}
	t, img := &w.Task, &w.Image
	in, err := c.inputs(k.ctx, t.Run)
	if err != nil {
		return none, err
	}
	p := in.plan
	of, ok := p.Image(img.Name)
	if !ok {
		return none, fmt.Errorf("the plan has no image %s", img.Name)
	}
	secret, err := c.unseal(in.sealed)
	if err != nil {
		return none, err
	}
	results := make([]plan.Result, 0, len(tasks))
	for i := range tasks {
		if tasks[i].Build == "" {
			continue
		}
		var r plan.Result
		if err := json.Unmarshal(tasks[i].Result, &r); err != nil {
			return none, fmt.Errorf("the result of %s: %w", tasks[i].Build, err)
		}
		results = append(results, r)
	}
	ctx, cancel := context.WithTimeout(k.ctx, t.Timeout)
	defer cancel()
	pub, err := c.o.Publish(ctx, p, of, results, secret.Credentials, func(level, msg string) { c.sayLater(t.Run, img.Name, level, msg) })
	if err != nil && ctx.Err() != nil && k.ctx.Err() == nil {
		return none, fmt.Errorf("it took longer than %s: %w", t.Timeout, err)
	}
	return pub, err
}

// sayLater adds text about an image to the log of a run, as well as it can.
func (c *Controller) sayLater(run, image, level, text string) {
	err := c.change(c.life, onRun(run), func(ch *change) error {
		for line := range strings.Lines(text) {
			ch.say(run, subject{image: image}, level, "%s", strings.TrimRight(line, "\r\n"))
		}
		return nil
	})
	if err != nil && c.life.Err() == nil {
		c.log.Warn("writing to a log", "run", run, "err", err)
	}
}

// unseal gives the secrets of a run.
func (c *Controller) unseal(sealed []byte) (in inputs, err error) {
	if sealed == nil {
		return in, nil
	}
	plain, err := c.o.Keys.Open(sealed)
	if err != nil {
		return in, fmt.Errorf("opening the run's secrets: %w", err)
	}
	return in, json.Unmarshal(plain, &in)
}
