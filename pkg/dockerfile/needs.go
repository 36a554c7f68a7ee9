package dockerfile

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
)

// needs are what one target of a file needs.
type needs struct {
	needed []bool
	bases  []Base
	runs   []int
}

// resolver walks from the target to what it needs.
type resolver struct {
	*Graph
	env *environ
	needs
	// References that were met: a trigger is met once for each stage that it
	// runs in.
	met []ref
}

func (g *Graph) resolve(args map[string]string, target string) (*needs, error) {
	env, err := g.environ(args)
	if err != nil {
		return nil, err
	}
	last, err := g.target(target)
	if err != nil {
		return nil, err
	}
	r := &resolver{Graph: g, env: env}
	r.needed = make([]bool, len(g.stages))
	if err := r.stage(last, true); err != nil {
		return nil, err
	}
	slices.SortStableFunc(r.bases, func(a, b Base) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.at.Mount, b.at.Mount))
	})
	return &r.needs, nil
}

// stage notes all that stage i needs. final says that the image which is
// built starts with it.
func (r *resolver) stage(i int, final bool) error {
	s := &r.stages[i]
	seen := r.needed[i]
	if seen && !final {
		return nil
	}
	r.needed[i] = true
	base, isStage, err := r.from(i)
	if err != nil {
		return err
	}
	if isStage {
		if err := r.stage(base, final); err != nil {
			return err
		}
	} else if err := r.image(s.From, s.ID, final); err != nil {
		return err
	}
	if seen {
		return nil
	}
	if isStage {
		if err := r.body(&r.stages[base].OnBuild, s.ID); err != nil {
			return err
		}
	}
	return r.body(&s.Body, s.ID)
}

// from says which stage i starts from, if it is one of this file.
func (r *resolver) from(i int) (base int, isStage bool, err error) {
	s := &r.stages[i]
	name, err := r.expand(s.From, s.From.Text)
	if err != nil {
		return 0, false, err
	}
	if name == "" {
		return 0, false, &SyntaxError{s.From.Line, fmt.Sprintf("FROM %s: the name is empty once its variables are expanded", s.From.Text)}
	}
	base, isStage = r.named(name, i)
	return base, isStage, nil
}

func (r *resolver) body(b *body, id string) error {
	r.runs = append(r.runs, b.Runs...)
	for _, at := range b.Refs {
		name, err := r.expand(at, at.Text)
		if err != nil {
			return err
		}
		if n, err := strconv.Atoi(name); err == nil && at.By == byCopy {
			if n < 0 || n >= len(r.stages) {
				return &SyntaxError{at.Line, fmt.Sprintf("there is no stage %d", n)}
			}
			if err := r.stage(n, false); err != nil {
				return err
			}
		} else if n, ok := r.named(name, len(r.stages)); ok {
			if err := r.stage(n, false); err != nil {
				return err
			}
		} else if err := r.image(at, id, false); err != nil {
			return err
		}
	}
	return nil
}

// image notes that an image is referred to.
func (r *resolver) image(at ref, id string, final bool) error {
	name, err := r.expand(at, at.Text)
	if err != nil {
		return err
	}
	if slices.Contains(r.met, at) {
		for i := range r.bases {
			if r.bases[i].at == at && final {
				r.bases[i].Final = true
			}
		}
		return nil
	}
	r.met = append(r.met, at)
	if name == "scratch" || name == "" {
		return nil
	}
	platform, err := r.expand(at, at.Platform)
	if err != nil {
		return err
	}
	r.bases = append(r.bases, Base{Ref: name, Line: at.Line, Stage: id, Final: final, Platform: platform, at: at})
	return nil
}

func (r *resolver) expand(at ref, word string) (string, error) {
	s, err := r.env.expand(word)
	if err != nil {
		return "", &SyntaxError{at.Line, fmt.Sprintf("expanding %q: %v", word, err)}
	}
	return s, nil
}
