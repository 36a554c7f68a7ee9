package dockerfile

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/pipegen/pipegen/pkg/failure"
)

// graph is what one target of a file needs.
type graph struct {
	needed []bool // by stage
	bases  []Base
	runs   []int
}

// resolver walks from the target to what it needs.
type resolver struct {
	*File
	env environ
	lex *shell.Lex
	g   graph
	// References that were met: a trigger is met once for each stage that it
	// runs in.
	met map[ref]bool
}

func (f *File) resolve(args map[string]string, target string) (*graph, error) {
	env, err := f.environ(args)
	if err != nil {
		return nil, err
	}
	last, err := f.target(target)
	if err != nil {
		return nil, err
	}
	r := &resolver{File: f, env: env, lex: shell.NewLex(rune(f.escape)), met: map[ref]bool{}}
	r.g.needed = make([]bool, len(f.stages))
	if err := r.stage(last, true); err != nil {
		return nil, err
	}
	slices.SortStableFunc(r.g.bases, func(a, b Base) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.at.mount, b.at.mount))
	})
	return &r.g, nil
}

func (f *File) target(name string) (int, error) {
	if name == "" {
		return len(f.stages) - 1, nil
	}
	if i, ok := f.named(name, len(f.stages)); ok {
		return i, nil
	}
	var names []string
	for _, s := range f.stages {
		if s.name != "" {
			names = append(names, s.name)
		}
	}
	err := failure.Input("there is no stage %q", name)
	if len(names) == 0 {
		return 0, failure.WithHint(err, "no stage of this Dockerfile has a name")
	}
	return 0, failure.WithHint(err, "the stages are: %s", strings.Join(names, ", "))
}

// named finds the last stage of this name before the stage with number before.
func (f *File) named(name string, before int) (int, bool) {
	for i := before - 1; i >= 0; i-- {
		if f.stages[i].name != "" && strings.EqualFold(f.stages[i].name, name) {
			return i, true
		}
	}
	return 0, false
}

// stage notes all that stage i needs. final says that the image which is
// built starts with it.
func (r *resolver) stage(i int, final bool) error {
	s := &r.stages[i]
	seen := r.g.needed[i]
	if seen && !final {
		return nil
	}
	r.g.needed[i] = true
	base, isStage, err := r.from(i)
	if err != nil {
		return err
	}
	if isStage {
		if err := r.stage(base, final); err != nil {
			return err
		}
	} else if err := r.image(s.from, s.id, final); err != nil {
		return err
	}
	if seen {
		return nil
	}
	if isStage {
		if err := r.body(r.stages[base].onbuild, s.id); err != nil {
			return err
		}
	}
	return r.body(s.body, s.id)
}

// from says which stage i starts from, if it is one of this file.
func (r *resolver) from(i int) (base int, isStage bool, err error) {
	s := &r.stages[i]
	name, err := r.expand(s.from, s.from.text)
	if err != nil {
		return 0, false, err
	}
	if name == "" {
		return 0, false, &SyntaxError{s.from.line, fmt.Sprintf("FROM %s: the name is empty once its variables are expanded", s.from.text)}
	}
	base, isStage = r.named(name, i)
	return base, isStage, nil
}

func (r *resolver) body(b body, id string) error {
	r.g.runs = append(r.g.runs, b.runs...)
	for _, at := range b.refs {
		name, err := r.expand(at, at.text)
		if err != nil {
			return err
		}
		if n, err := strconv.Atoi(name); err == nil && at.by == byCopy {
			if n < 0 || n >= len(r.stages) {
				return &SyntaxError{at.line, fmt.Sprintf("there is no stage %d", n)}
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
	name, err := r.expand(at, at.text)
	if err != nil {
		return err
	}
	if r.met[at] {
		for i := range r.g.bases {
			if r.g.bases[i].at == at && final {
				r.g.bases[i].Final = true
			}
		}
		return nil
	}
	r.met[at] = true
	if name == "scratch" || name == "" {
		return nil
	}
	platform, err := r.expand(at, at.platform)
	if err != nil {
		return err
	}
	r.g.bases = append(r.g.bases, Base{Ref: name, Line: at.line, Stage: id, Final: final, Platform: platform, at: at})
	return nil
}

func (r *resolver) expand(at ref, word string) (string, error) {
	if word == "" {
		return "", nil
	}
	s, _, err := r.lex.ProcessWord(word, r.env)
	if err != nil {
		return "", &SyntaxError{at.line, fmt.Sprintf("expanding %q: %v", word, err)}
	}
	return s, nil
}
