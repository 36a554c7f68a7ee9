package plan

import "context"

// Since gives what has changed of each image between an earlier commit and
// the head, as a selection of what changed would say: by name, those that are
// as they were among them, without reasons. What is built on a changed image
// has not changed for that.
func (c *Checkout) Since(ctx context.Context, commit string) (map[string][]Reason, error) {
	if c.Config == nil {
		if err := c.Load(ctx); err != nil {
			return nil, err
		}
	}
	earlier := *c
	var err error
	if earlier.Base, err = c.Repo.Base(ctx, c.CI, commit, c.Head); err != nil {
		return nil, err
	}
	earlier.Base.WorkTree = false
	if err := earlier.changes(ctx); err != nil {
		return nil, err
	}
	changed, err := earlier.defaultsChanged(ctx)
	if err != nil {
		return nil, err
	}
	in := &Input{Config: c.Config, Base: earlier.Base, Changes: earlier.Changes, DefaultsChanged: changed}
	cs := candidates(c.Config, newNaming(c.Registry, c.Config.Pipegen.Layout, c.Created, c.Head.Hash, "", false, true))
	if err := chooseChanged(cs, in); err != nil {
		return nil, err
	}
	reasons := make(map[string][]Reason, len(cs))
	for _, candidate := range cs {
		reasons[candidate.name] = candidate.reasons
	}
	return reasons, nil
}
