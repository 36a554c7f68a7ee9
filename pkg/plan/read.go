package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

// maxSize bounds the plan document in bytes: 10,000 images are some 30 MB.
const maxSize = 256 << 20

// Read reads a plan that Write wrote and checks what everything after
// planning relies on. name is what errors call it. A plan of another version,
// malformed or with an unknown field is a failure.ErrInput.
func Read(r io.Reader, name string) (*Plan, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading plan %s: %w", name, err)
	}
	if len(data) > maxSize {
		return nil, failure.Input("plan %s is larger than %d MiB", name, maxSize>>20)
	}
	var v struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, malformed(name, data, err)
	}
	if v.Version == nil {
		return nil, failure.WithHint(failure.Input("%s is not a plan: it has no version", name),
			"make one with: pipegen plan -f json -o %s", name)
	}
	if *v.Version != Version {
		return nil, failure.WithHint(failure.Input("plan %s has version %d, this pipegen reads version %d", name, *v.Version, Version),
			"use the same pipegen for planning and for what follows")
	}
	var p Plan
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return nil, malformed(name, data, err)
	}
	if dec.More() {
		return nil, failure.Input("plan %s has something after its end", name)
	}
	if err := p.check(); err != nil {
		return nil, failure.Input("plan %s: %w", name, err)
	}
	return &p, nil
}

func malformed(name string, data []byte, err error) error {
	offset := int64(-1)
	var syntax *json.SyntaxError
	var typed *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &typed):
		offset = typed.Offset
	}
	where := name
	if offset >= 0 && offset <= int64(len(data)) {
		before := data[:offset]
		line := bytes.Count(before, []byte("\n")) + 1
		column := len(before) - bytes.LastIndexByte(before, '\n') - 1
		where = fmt.Sprintf("%s:%d:%d", name, line, max(column, 1))
	}
	return failure.WithHint(failure.Input("%s: not a plan: %w", where, err), "make one with: pipegen plan -f json")
}

// component is what a name may be: it is part of tags, of ids and of file names.
var component = lazyregexp.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

var digest = lazyregexp.New(`^sha256:[0-9a-f]{64}$`)

// Check says what is wrong with a plan that came by another way than Read: as
// part of another document. The error is a failure.ErrInput.
func (p *Plan) Check() error {
	if p.Version != Version {
		return failure.WithHint(failure.Input("the plan has version %d, this pipegen reads version %d", p.Version, Version),
			"use the same pipegen for planning and for what follows")
	}
	if err := p.check(); err != nil {
		return failure.Input("the plan: %w", err)
	}
	return nil
}

// check holds what is true of every plan that Compute made, so that a file
// that was edited by hand cannot lead a build out of its directories.
func (p *Plan) check() error {
	names, ids := map[string]bool{}, map[string]bool{}
	for i := range p.Images {
		img := &p.Images[i]
		if !component.MatchString(img.Name) {
			return fmt.Errorf("image %q has no valid name", img.Name)
		}
		if names[img.Name] {
			return fmt.Errorf("image %q is there twice", img.Name)
		}
		if !local(img.Dir) {
			return fmt.Errorf("image %q: directory %q leaves the checkout", img.Name, img.Dir)
		}
		for _, need := range img.Needs {
			if !names[need] {
				return fmt.Errorf("image %q needs %q, which does not stand before it", img.Name, need)
			}
		}
		names[img.Name] = true
		switch {
		case img.Retag == "" && len(img.Builds) == 0:
			return fmt.Errorf("image %q has no builds", img.Name)
		case img.Retag != "" && len(img.Builds) > 0:
			return fmt.Errorf("image %q has builds and retag, which excludes them", img.Name)
		case img.Retag != "" && !digest.MatchString(img.Retag):
			return fmt.Errorf("image %q: retag %q is no sha256 digest", img.Name, img.Retag)
		}
		for _, t := range slices.Concat(img.Tags, img.Aliases) {
			if !component.MatchString(t) {
				return fmt.Errorf("image %q: %q is no valid tag", img.Name, t)
			}
		}
		for j := range img.Builds {
			b := &img.Builds[j]
			pl, err := config.ParsePlatform(b.Platform)
			if err != nil {
				return fmt.Errorf("build %q: %w", b.ID, err)
			}
			if want := img.Name + "@" + pl.Suffix(); b.ID != want {
				return fmt.Errorf("build %q of platform %s should have the id %q", b.ID, b.Platform, want)
			}
			if ids[b.ID] {
				return fmt.Errorf("build %q is there twice", b.ID)
			}
			ids[b.ID] = true
			if !local(b.Context) || !local(b.Dockerfile) {
				return fmt.Errorf("build %q: context %q or Dockerfile %q leaves the source", b.ID, b.Context, b.Dockerfile)
			}
		}
	}
	return nil
}

func local(p string) bool {
	return p != "" && !path.IsAbs(p) && path.Clean(p) == p && p != ".." && !strings.HasPrefix(p, "../") && !strings.ContainsRune(p, 0)
}
