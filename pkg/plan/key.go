package plan

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/diff"
	"github.com/pipegen/pipegen/pkg/glob"
)

// KeyInput is one thing that decides an image's bytes.
type KeyInput struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// abridgedInputs are inputs as a plan and a publication carry them: enough to
// see which of them differ.
func abridgedInputs(inputs []KeyInput) map[string]string {
	out := make(map[string]string, len(inputs))
	for _, in := range inputs {
		sum := sha256.Sum256([]byte(in.Value))
		out[in.Name] = hex.EncodeToString(sum[:6])
	}
	return out
}

// keyVersion changes when the meaning of a content key does.
const keyVersion = "1"

// keyOf is the SHA-256 over the inputs as JSON.
func keyOf(inputs []KeyInput) (string, error) {
	data, err := json.Marshal(inputs)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// keys computes the content keys that the wanted candidates do not have yet,
// what they are built on among them. order has dependencies first.
func keys(ctx context.Context, order [][]*candidate, wanted map[string]bool, tree *contentTree) error {
	done := map[string]string{}
	for _, level := range order {
		for _, c := range level {
			if c.key != "" {
				done[c.name] = c.key
			}
			if !wanted[c.name] || c.key != "" {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			inputs, err := c.keyInputs(tree, done)
			if err != nil {
				return fmt.Errorf("content key of image %s: %w", c.name, err)
			}
			if c.key, err = keyOf(inputs); err != nil {
				return fmt.Errorf("content key of image %s: %w", c.name, err)
			}
			c.inputs = inputs
			done[c.name] = c.key
		}
	}
	return nil
}

// keyInputs lists what decides the image's bytes. docs/content-keys.md says
// the same for users.
func (c *candidate) keyInputs(tree *contentTree, done map[string]string) ([]KeyInput, error) {
	in := []KeyInput{{"version", keyVersion}}
	if c.upstream() {
		in = append(in, KeyInput{"upstream", c.project.Config.UpstreamRepo + "@" + c.commit})
	} else {
		in = append(in, KeyInput{"tree", tree.of(c.project.Dir)})
	}
	if w := c.project.Config.Watch; len(w) > 0 {
		in = append(in, KeyInput{"watch", tree.matching(w)})
	}
	var spec string
	for i, pl := range c.platforms {
		if i == 0 || c.specs[i] != c.specs[i-1] {
			data, err := json.Marshal(keySpec(*c.specs[i]))
			if err != nil {
				return nil, err
			}
			spec = string(data)
		}
		in = append(in, KeyInput{"build " + pl.String(), spec})
	}
	for _, e := range c.edges {
		in = append(in, KeyInput{"needs " + e.to, done[e.to]})
	}
	return in, nil
}

// keySpec is the part of a build's configuration that decides bytes: not the
// tags, nor where it runs, how long, with which cache.
func keySpec(s config.BuildConfig) any {
	script := func(p *string) string {
		if p == nil {
			return ""
		}
		return *p
	}
	secrets := make([]string, 0, len(s.Secrets))
	for _, sec := range s.Secrets {
		secrets = append(secrets, sec.ID)
	}
	return struct {
		Engine, BuilderImage, Dockerfile, Context, Target string
		Args                                              map[string]string
		EngineArgs                                        []string
		Frontend                                          string
		FrontendOpts, Contexts                            map[string]string
		Command, PreScript, PostScript                    string
		Env, Labels                                       map[string]string
		Outputs, Secrets                                  []string
		OutputOpts                                        map[string]string `json:",omitempty"`
		Reproducible                                      bool              `json:",omitempty"`
	}{
		s.Engine, s.BuilderImage, s.DockerfilePath, s.ContextPath, s.Target,
		s.BuildArgs, s.EngineArgs, s.Frontend, s.FrontendOpts, s.Contexts,
		s.Command, script(s.PreScript), script(s.PostScript),
		s.Env, s.Labels, s.Outputs, secrets, s.OutputOpts, s.Reproducible != nil && *s.Reproducible,
	}
}

// contentTree answers what the files of a directory are, by the object ids
// that git knows already.
type contentTree struct {
	entries []diff.Entry // sorted by path
	ignore  glob.Set
	nested  map[string][]string // project directories below another one
}

func newContentTree(entries []diff.Entry, ignore []string, projects []*config.Project) *contentTree {
	t := &contentTree{entries: entries, ignore: glob.New(ignore), nested: map[string][]string{}}
	dirs := make(map[string]bool, len(projects))
	for _, p := range projects {
		dirs[p.Dir] = true
	}
	for dir := range dirs {
		for up := dir; up != "."; {
			up = path.Dir(up)
			if dirs[up] {
				t.nested[up] = append(t.nested[up], dir)
			}
		}
	}
	return t
}

// of hashes the files below dir that can change the image: those that are not
// ignored, belong to no nested project, and are not build-config.yaml, whose
// meaning stands in the key already.
func (t *contentTree) of(dir string) string {
	prefix := dir + "/"
	if dir == "." {
		prefix = ""
	}
	first := sort.Search(len(t.entries), func(i int) bool { return t.entries[i].Path >= prefix })
	h := sha256.New()
	var line []byte
next:
	for _, e := range t.entries[first:] {
		if !strings.HasPrefix(e.Path, prefix) {
			break
		}
		rel := strings.TrimPrefix(e.Path, prefix)
		if rel == config.BuildFile || t.ignore.Match(e.Path) {
			continue
		}
		for _, n := range t.nested[dir] {
			if strings.HasPrefix(e.Path, n+"/") {
				continue next
			}
		}
		line = append(append(append(line[:0], e.Mode...), ' '), e.Object...)
		line = append(append(append(line, ' '), rel...), 0)
		h.Write(line)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (t *contentTree) matching(globs []string) string {
	h := sha256.New()
	for i := range glob.Find(glob.New(globs), t.entries, func(e *diff.Entry) string { return e.Path }) {
		if e := &t.entries[i]; !t.ignore.Match(e.Path) {
			fmt.Fprintf(h, "%s %s %s\x00", e.Mode, e.Object, e.Path)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}
