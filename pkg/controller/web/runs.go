package web

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/access"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

func (s *Server) createRun(w http.ResponseWriter, r *http.Request, c *call) error {
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	var req api.RunRequest
	if err := decode(w, r, s.o.Limits.RunBytes, &req, false); err != nil {
		return err
	}
	run, created, err := s.submit(r, c, req, key)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/runs/"+run.ID)
	if created {
		return answer(w, http.StatusCreated, run)
	}
	return answer(w, http.StatusOK, run)
}

// submit starts a run if the principal may.
func (s *Server) submit(r *http.Request, c *call, req api.RunRequest, key string) (api.Run, bool, error) {
	if req.Plan == nil {
		return api.Run{}, false, failure.WithHint(failure.Input("the request has no plan"), "pipegen plan -f json makes one")
	}
	if instead := s.o.Instead[req.Runner]; instead != "" {
		c.log.Info("another runner stands for the one that was asked for", "asked", req.Runner, "runner", instead)
		req.Runner = instead
	}
	if err := c.principal.Run(req.Plan, cmp.Or(req.Runner, s.o.DefaultRunner), req.Priority); err != nil {
		return api.Run{}, false, err
	}
	if s.o.Check != nil {
		if err := s.o.Check(req.Plan); err != nil {
			return api.Run{}, false, err
		}
	}
	s.equip(req.Plan)
	run, created, err := s.o.Core.Submit(r.Context(), controller.Submission{Request: req, Submitter: c.principal.Name, IdempotencyKey: key, Trace: c.trace, Grant: grantOf(c.principal)})
	if err != nil {
		return api.Run{}, false, err
	}
	c.detail = "run " + run.ID
	if !created {
		c.detail += ", which was there already"
	}
	return run, created, nil
}

// grantOf is what a principal's token says beside who it is.
func grantOf(p access.Principal) controller.Grant {
	return controller.Grant{Tasks: p.Tasks, Token: p.Token, Runs: p.Runs, Until: p.Expires}
}

// equip gives builds that name no CPU or memory the controller's.
func (s *Server) equip(p *plan.Plan) {
	if s.o.Resources == nil {
		return
	}
	for i := range p.Images {
		for j := range p.Images[i].Builds {
			b := &p.Images[i].Builds[j]
			r := *s.o.Resources
			if b.Resources != nil {
				r = *b.Resources
				r.CPU, r.Memory = cmp.Or(r.CPU, s.o.Resources.CPU), cmp.Or(r.Memory, s.o.Resources.Memory)
			}
			b.Resources = &r
		}
	}
}

func (s *Server) listRuns(w http.ResponseWriter, r *http.Request, c *call) error {
	q, err := query(r, "state", "submitter", "image", "label", "limit", "after")
	if err != nil {
		return err
	}
	f := controller.Filter{Submitter: q.Get("submitter"), Image: q.Get("image"), After: q.Get("after"), Limit: 50}
	for _, list := range q["state"] {
		for state := range strings.SplitSeq(list, ",") {
			switch s := api.State(state); s {
			case api.Queued, api.Running, api.Succeeded, api.Failed, api.Cancelled:
				f.States = append(f.States, s)
			default:
				return nearest(failure.Input("runs have no state %q", state), state, []string{"queued", "running", "succeeded", "failed", "cancelled"})
			}
		}
	}
	for _, label := range q["label"] {
		name, value, ok := strings.Cut(label, "=")
		if !ok || name == "" {
			return failure.Input("the parameter label wants NAME=VALUE, not %q", label)
		}
		if f.Labels == nil {
			f.Labels = map[string]string{}
		}
		f.Labels[name] = value
	}
	if limit := q.Get("limit"); limit != "" {
		if f.Limit, err = strconv.Atoi(limit); err != nil || f.Limit < 1 || f.Limit > 200 {
			return failure.Input("the parameter limit wants a number from 1 to 200, not %q", limit)
		}
	}
	if !c.principal.Has(access.Read) {
		if f.Submitter != "" && f.Submitter != c.principal.Name || !c.principal.Has(access.Submit) {
			return answer(w, http.StatusOK, api.RunList{Runs: []api.Run{}})
		}
		f.Submitter = c.principal.Name
	}
	list, err := s.o.Core.List(r.Context(), f)
	if err != nil {
		return err
	}
	if list.Runs == nil {
		list.Runs = []api.Run{}
	}
	return answer(w, http.StatusOK, list)
}

var runID = lazyregexp.New(`^[0-9a-z]{1,32}$`)

// run gives the run that the path names if the principal may see it.
func (s *Server) run(r *http.Request, c *call) (api.Run, error) {
	id := r.PathValue("run")
	if !runID.MatchString(id) {
		return api.Run{}, missing()
	}
	run, err := s.o.Core.Get(r.Context(), id)
	if err != nil {
		return api.Run{}, err
	}
	if !c.principal.Sees(run.Submitter) {
		return api.Run{}, hidden()
	}
	return run, nil
}

// change gives the run that the path names if the principal may change it.
func (s *Server) change(r *http.Request, c *call, what string) (api.Run, error) {
	run, err := s.run(r, c)
	if err != nil {
		return run, err
	}
	c.detail = what + " run " + run.ID
	if !c.principal.Changes(run.Submitter) {
		return run, forbidden(what+" runs of others", "admin")
	}
	return run, nil
}

func (s *Server) getRun(w http.ResponseWriter, r *http.Request, c *call) error {
	run, err := s.run(r, c)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, run)
}

func (s *Server) cancelRun(w http.ResponseWriter, r *http.Request, c *call) error {
	var req api.CancelRequest
	if err := decode(w, r, small, &req, true); err != nil {
		return err
	}
	if len(req.Reason) > 1024 {
		return failure.Input("the reason has more than 1024 bytes")
	}
	run, err := s.change(r, c, "cancel")
	if err != nil {
		return err
	}
	run, err = s.o.Core.Cancel(r.Context(), run.ID, c.principal.Name, quote.Text(req.Reason))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, run)
}

func (s *Server) retryRun(w http.ResponseWriter, r *http.Request, c *call) error {
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	if err := decode(w, r, small, &struct{}{}, true); err != nil {
		return err
	}
	run, err := s.change(r, c, "retry")
	if err != nil {
		return err
	}
	// The token may be allowed less by now than when it made the run.
	p, err := s.o.Core.Plan(r.Context(), run.ID)
	if err != nil {
		return err
	}
	if err := c.principal.Run(p, run.Runner, run.Priority); err != nil {
		return err
	}
	run, err = s.o.Core.Retry(r.Context(), run.ID, c.principal.Name, key, grantOf(c.principal))
	if err != nil {
		return err
	}
	c.detail += " as " + run.ID
	w.Header().Set("Location", "/v1/runs/"+run.ID)
	return answer(w, http.StatusCreated, run)
}
