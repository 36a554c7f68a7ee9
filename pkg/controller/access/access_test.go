package access

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		pattern, repository string
		want                bool
	}{
		{"r.example.com/team", "r.example.com/team", true},
		{"r.example.com/team", "r.example.com/team:v1", true},
		{"r.example.com/team", "r.example.com/team/app@sha256:" + strings.Repeat("a", 64), true},
		{"r.example.com/team/", "r.example.com/team/app", true},
		{"r.example.com/team", "r.example.com/teammate", false},
		{"r.example.com/team", "r.example.com", false},
		{"r.example.com/team/app", "r.example.com/team", false},
		{"r.example.com", "r.example.com/anything/below", true},
		{"r.example.com", "r.example.com.evil.org/anything", false},
		{"r.example.com", "r.example.com:5000/app", false},
		{"r.example.com:5000", "r.example.com:5000/app:v1", true},
		{"*.example.com/team", "r.example.com/team/app", true},
		{"*/team", "anywhere:1/team/app", true},
		{"r.example.com/*/app", "r.example.com/a/app", true},
		{"r.example.com/*/app", "r.example.com/a/b/app", false},
		{"r.example.com/team-*", "r.example.com/team-a/app", true},
		{"docker.io/team", "team/app", true},
		{"docker.io/library", "alpine", true},
		{"index.docker.io/team", "docker.io/team/app:v1", true},
		{"r.example.com/team", "r.example.com/team/../other", false},
		{"r.example.com/team", "r.example.com/Team", false},
		{"r.example.com/team", "", false},
	} {
		p := Principal{Registries: []string{tt.pattern}}
		if got := p.Writes(tt.repository); got != tt.want {
			t.Errorf("%s and %s: %t", tt.pattern, tt.repository, got)
		}
	}
	for pattern, fine := range map[string]bool{
		"r.example.com/team": true, "*/team": true, "localhost/x": true, "*.example.com": true, "h:5000": true,
		"": false, "team": false, "https://h.x/y": false, "h.x/[": false, "h.x/**": false, "u@h.x/y": false, "h.x/a b": false,
	} {
		if err := CheckPattern(pattern); (err == nil) != fine || err != nil && !errors.Is(err, failure.ErrInput) {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}

func TestRun(t *testing.T) {
	made := func(change func(*plan.Plan, *plan.Image, *plan.Build)) *plan.Plan {
		p := &plan.Plan{Layout: "repository", Registry: "r.x/team", Images: []plan.Image{{
			Name: "app", Repository: "r.x/team/app", Tags: []string{"v1"},
			Builds: []plan.Build{{ID: "app@amd64", Destination: "r.x/team/app:v1-amd64"}},
		}}}
		if change != nil {
			change(p, &p.Images[0], &p.Images[0].Builds[0])
		}
		return p
	}
	limited := Principal{Name: "ci", Roles: []Role{Submit}, Registries: []string{"r.x/team"}, Runners: []string{"local"}, Priority: 5}
	for name, tt := range map[string]struct {
		who      Principal
		change   func(*plan.Plan, *plan.Image, *plan.Build)
		runner   string
		priority int
		says     string // "": it may
	}{
		"all fine":         {limited, nil, "local", 5, ""},
		"reader":           {Principal{Name: "r", Roles: []Role{Read}}, nil, "local", 0, "may not start runs"},
		"no limits":        {Principal{Name: "x", Roles: []Role{Submit}}, func(_ *plan.Plan, i *plan.Image, _ *plan.Build) { i.Repository = "z.y/q" }, "ecs", 0, ""},
		"admin's priority": {Anonymous(), nil, "ecs", 1000, ""},
		"runner":           {limited, nil, "kubernetes", 0, "runner kubernetes"},
		"priority":         {limited, nil, "local", 6, "priority 6"},
		"publishes":        {limited, func(_ *plan.Plan, i *plan.Image, _ *plan.Build) { i.Repository = "r.x/other/app" }, "local", 0, "write to r.x/other/app"},
		"retags": {limited, func(_ *plan.Plan, i *plan.Image, _ *plan.Build) {
			i.Repository, i.Builds, i.Retag = "r.x/o", nil, "sha256:x"
		}, "local", 0, "write to r.x/o"},
		"builds": {limited, func(_ *plan.Plan, _ *plan.Image, b *plan.Build) { b.Destination = "evil.org/x:y" }, "local", 0, "write to evil.org/x:y"},
		"caches": {limited, func(_ *plan.Plan, _ *plan.Image, b *plan.Build) {
			b.Cache = &config.Cache{Enable: true, Repo: "r.x/other/cache"}
		}, "local", 0, "r.x/other/cache"},
		"caches by default": {limited, func(_ *plan.Plan, _ *plan.Image, b *plan.Build) { b.Cache = &config.Cache{Enable: true} }, "local", 0, ""},
		"copies": {limited, func(p *plan.Plan, _ *plan.Image, _ *plan.Build) {
			p.Publish.Also = []config.Also{{Registry: "evil.org"}}
		}, "local", 0, "evil.org"},
		"flag": {limited, func(_ *plan.Plan, _ *plan.Image, b *plan.Build) { b.EngineArgs = []string{"--destination=evil.org/x"} }, "local", 0, "--destination"},
		"flag and its value": {limited, func(_ *plan.Plan, _ *plan.Image, b *plan.Build) {
			b.EngineArgs = []string{"--cache-repo", "evil.org/x"}
		}, "local", 0, "--cache-repo"},
		"short flag": {limited, func(_ *plan.Plan, _ *plan.Image, b *plan.Build) { b.EngineArgs = []string{"-devil.org/x"} }, "local", 0, "-devil.org/x"},
		"exporter": {limited, func(_ *plan.Plan, _ *plan.Image, b *plan.Build) {
			b.OutputOpts = map[string]string{"name": "evil.org/x"}
		}, "local", 0, "output_opts name"},
		"harmless flag": {limited, func(_ *plan.Plan, _ *plan.Image, b *plan.Build) { b.EngineArgs = []string{"--verbosity=debug", "-v"} }, "local", 0, ""},
		"parts within":  {limited, func(_ *plan.Plan, _ *plan.Image, b *plan.Build) { b.Engine = "make" }, "local", 0, ""},
		"parts beside": {Principal{Name: "ci", Roles: []Role{Submit}, Registries: []string{"r.x/team/app"}}, func(_ *plan.Plan, _ *plan.Image, b *plan.Build) {
			b.Engine = "make"
		}, "local", 0, "r.x/team/app-part"},
		"no push": {limited, func(_ *plan.Plan, _ *plan.Image, b *plan.Build) { b.Destination = "" }, "local", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.who.Run(made(tt.change), tt.runner, tt.priority)
			switch {
			case tt.says == "" && err != nil:
				t.Error(err)
			case tt.says != "" && (!errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("got %v, want %q", err, tt.says)
			}
		})
	}
}

func TestSees(t *testing.T) {
	for _, tt := range []struct {
		roles                           []Role
		own, others, changes, ownChange bool
	}{
		{[]Role{Submit}, true, false, false, true},
		{[]Role{Read}, true, true, false, false},
		{[]Role{Submit, Read}, true, true, false, true},
		{[]Role{Admin}, true, true, true, true},
		{nil, false, false, false, false},
	} {
		p := Principal{Name: "me", Roles: tt.roles}
		if p.Sees("me") != tt.own || p.Sees("you") != tt.others || p.Changes("you") != tt.changes || p.Changes("me") != tt.ownChange {
			t.Errorf("%v", tt.roles)
		}
	}
}

func TestStatic(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	given, err := Given("ci", "0123456789abcdef", Submit)
	if err != nil {
		t.Fatal(err)
	}
	given.SHA256 = strings.ToUpper(given.SHA256) // as other tools write it
	short, _ := Given("short", "fedcba9876543210", Read)
	short.Expires = now.Add(time.Minute)
	at := now
	s := Static{Fixed(given, short), func() time.Time { return at }}
	ctx := t.Context()
	if p, err := s.Authenticate(ctx, "0123456789abcdef"); err != nil || p.Name != "ci" || !p.Has(Submit) {
		t.Errorf("%v %v", p, err)
	}
	for _, wrong := range []string{"", "0123456789abcdeF", "0123456789abcde", given.SHA256, strings.ToLower(given.SHA256)} {
		if p, err := s.Authenticate(ctx, wrong); !errors.Is(err, ErrUnknown) || p.Name != "" {
			t.Errorf("%q: %v %v", wrong, p, err)
		}
	}
	if _, err := s.Authenticate(ctx, "fedcba9876543210"); err != nil {
		t.Error(err)
	}
	at = short.Expires
	if _, err := s.Authenticate(ctx, "fedcba9876543210"); !errors.Is(err, ErrExpired) {
		t.Error(err)
	}
	for _, weak := range []string{"", "short", "0123456789 abcdef", "0123456789abcdef\n"} {
		if _, err := Given("x", weak, Submit); !errors.Is(err, failure.ErrInput) || weak != "" && strings.Contains(err.Error(), weak) {
			t.Errorf("%q: %v", weak, err)
		}
	}
}

type broken struct{ error }

func (b broken) Authenticate(context.Context, string) (Principal, error) { return Principal{}, b.error }

func TestAny(t *testing.T) {
	away := errors.New("away")
	token, _ := Given("ci", "0123456789abcdef", Submit)
	known := Static{Source: Fixed(token)}
	for name, tt := range map[string]struct {
		all   Any
		token string
		want  error
	}{
		"second":            {Any{Static{Source: Fixed()}, known}, "0123456789abcdef", nil},
		"one is away":       {Any{broken{away}, known}, "0123456789abcdef", nil},
		"away and unknown":  {Any{broken{away}, known}, "x", away},
		"nobody":            {Any{}, "x", ErrUnknown},
		"expired elsewhere": {Any{broken{ErrExpired}, known}, "x", ErrExpired},
	} {
		if _, err := tt.all.Authenticate(t.Context(), tt.token); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	f := OpenFile(dir)
	if tokens, err := f.Tokens(); err != nil || len(tokens) != 0 {
		t.Fatal(tokens, err)
	}
	secret, err := f.Add(Token{Name: "ci", Roles: []Role{Submit}, Registries: []string{"r.x/team"}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, TokenFile)
	data, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(data), secret) || strings.Contains(string(data), strings.TrimPrefix(secret, prefix)) {
		t.Errorf("%v %s", err, data)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	// Another process has the token as well, and the first one within a second.
	other := OpenFile(dir)
	p, err := (Static{Source: other.Tokens}).Authenticate(t.Context(), secret)
	if err != nil || p.Name != "ci" || !p.Writes("r.x/team/app") || p.Writes("r.x/app") {
		t.Errorf("%v %v", p, err)
	}
	f.asked = time.Time{}
	if tokens, err := f.Tokens(); err != nil || len(tokens) != 1 {
		t.Error(tokens, err)
	}
	for name, wrong := range map[string]Token{
		"taken":   {Name: "ci", Roles: []Role{Read}},
		"no role": {Name: "b"},
		"role":    {Name: "b", Roles: []Role{"root"}},
		"blank":   {Name: "b c", Roles: []Role{Read}},
		"nobody":  {Name: "anonymous", Roles: []Role{Read}},
		"pattern": {Name: "b", Roles: []Role{Read}, Registries: []string{"team"}},
	} {
		if _, err := f.Add(wrong); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := f.Remove("cj"); !errors.Is(err, failure.ErrInput) || failure.Hint(err) != `did you mean "ci"?` {
		t.Error(err, failure.Hint(err))
	}
	if err := f.Remove("ci"); err != nil {
		t.Error(err)
	}
	other.asked = time.Time{}
	if _, err := (Static{Source: other.Tokens}).Authenticate(t.Context(), secret); !errors.Is(err, ErrUnknown) {
		t.Errorf("a token that was removed: %v", err)
	}
	// Nobody is let in by a file that cannot be understood.
	for _, garbage := range []string{"{", `{"version":2}`, `{"version":1,"tokens":[{"name":"x"}]}`, `{"version":1,"extra":1}`} {
		if err := os.WriteFile(file, []byte(garbage), 0o600); err != nil {
			t.Fatal(err)
		}
		other.asked = time.Time{}
		if _, err := (Static{Source: other.Tokens}).Authenticate(t.Context(), secret); err == nil || errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", garbage, err)
		}
	}
}

// Several processes that add tokens at once lose none.
func TestFileSideBySide(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := OpenFile(dir).Add(Token{Name: hex.EncodeToString([]byte{byte(i)}), Roles: []Role{Read}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if tokens, err := OpenFile(dir).Tokens(); err != nil || len(tokens) != 20 {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
}

func FuzzMatches(f *testing.F) {
	f.Add("r.example.com/team", "r.example.com/team/app:v1")
	f.Add("*/team", "h:5000/team")
	f.Fuzz(func(t *testing.T, pattern, repository string) {
		p := Principal{Registries: []string{pattern}}
		if CheckPattern(pattern) != nil || !p.Writes(repository) || strings.ContainsAny(pattern, `*?[\`) {
			return
		}
		// A plain pattern is a prefix that ends at a slash or at the end.
		rest, ok := strings.CutPrefix(strings.TrimPrefix(repository, "index."), strings.TrimPrefix(strings.TrimSuffix(pattern, "/"), "index."))
		if !ok && !strings.HasPrefix(pattern, "docker.io") && !strings.HasPrefix(pattern, "index.docker.io") || ok && rest != "" && !strings.ContainsAny(rest[:1], "/:@") {
			t.Errorf("%q lets through %q", pattern, repository)
		}
	})
}
