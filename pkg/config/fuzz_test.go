package config

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// wellFormed says what every fault must have.
func wellFormed(t *testing.T, faults Faults) {
	t.Helper()
	for _, f := range faults {
		if f.File == "" || f.Rule == "" || f.Message == "" || f.Severity == "" || f.Line < 0 || f.Line > 0 && f.Column < 1 {
			t.Errorf("%+v", f)
		}
		if strings.ContainsFunc(f.Message+f.Hint, isControl) {
			t.Errorf("a control character is in %+v", f)
		}
	}
}

func FuzzBuildConfig(f *testing.F) {
	for _, seed := range []string{
		"index: true\n", "a: &a [*a]\n", bomb(), "<<: {target: x}\n", "<<: [*a]\n", "overrides: {linux/arm64: {<<: {target: x}}}", "? [a]\n: b\n", "build_args: [A=1, ~, {a: b}]\n",
		"targets: [{name: a}]\ntarget: b\n", "platforms: [linux/arm64/v8, x]\n", "env: {A: !!binary aGk=}\n", "name: !x y\n", "- a\n--- b\n", "%YAML 1.1\n---\na: b\n", "upstream_repo: https://a:b@c/d\n", "{{ x }}: 1\n", "\ufeffname: x\n",
	} {
		f.Add(seed, "defaults: {timeout: 1h}\n")
		f.Add("index: true\n", seed)
		f.Add("name: x\n", "defaults:\n  "+seed)
	}
	f.Fuzz(func(t *testing.T, build, pipegen string) {
		fsys := tree(map[string]string{"a/build-config.yaml": build, "pipegen.yaml": pipegen, "a/Dockerfile": ""})
		repo, err := Load(fsys, paths(fsys), Options{CheckReadme: true})
		sameWithCache(t, fsys, paths(fsys), Options{CheckReadme: true})
		wellFormed(t, faultsOf(t, err, repo))
		for _, p := range repo.Projects {
			for _, image := range p.Images() {
				for _, pl := range image.Platforms {
					b := p.For(pl)
					if err == nil && (b.Engine == "" || b.DockerfilePath == "" || strings.HasPrefix(b.DockerfilePath, "..") || len(b.Outputs) == 0) {
						t.Errorf("%+v", b)
					}
				}
				if err == nil && !isTag(image.Name) {
					t.Errorf("the name %q", image.Name)
				}
			}
			wellFormed(t, Faults{p.Fault("rule", "message", "", "build_args", "A", 0)})
		}
		if again, err2 := Load(fsys, paths(fsys), Options{CheckReadme: true}); !slices.Equal(faultsOf(t, err2, again), faultsOf(t, err, repo)) {
			t.Errorf("a second reading has other faults: %v, then %v", err, err2)
		}
	})
}

// FuzzPairs checks that a list and a map of the same pairs mean the same, and
// that values come through as they are.
func FuzzPairs(f *testing.F) {
	f.Add("A", "1")
	f.Add("", "")
	f.Add("A B", "x\ny")
	f.Add("a=b", "'\"\\")
	f.Add("A", "\x00")
	f.Add("<<", "~")
	f.Fuzz(func(t *testing.T, name, value string) {
		read := func(text string) (Pairs, Faults) {
			doc := parse("f", []byte(text), false)
			var b BuildConfig
			decode(doc, doc.root, &b)
			wellFormed(t, doc.faults)
			return b.BuildArgs, doc.faults
		}
		quoted := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
		if !strings.ContainsFunc(name+value, func(r rune) bool {
			return isControl(r) || r == '\ufeff' || r == '\ufffd' || r == '\u2028' || r == '\u2029' || r == '\ufffe' || r == '\uffff'
		}) {
			asMap, inMap := read("build_args: {" + quoted(name) + ": " + quoted(value) + "}\n")
			asList, inList := read("build_args: [" + quoted(name+"="+value) + "]\n")
			// In a list, a name ends at the first =.
			if !strings.Contains(name, "=") && (len(inMap) != len(inList) || !maps.Equal(asMap, asList)) {
				t.Errorf("as a map %v %v, as a list %v %v", asMap, inMap, asList, inList)
			}
			if len(inMap) == 0 && asMap[name] != value {
				t.Errorf("%q became %q", value, asMap[name])
			}
		}
		_, _ = read("build_args: {" + name + ": " + value + "}\n")
		_, _ = read("build_args:\n- " + name + "=" + value + "\n")
	})
}

func FuzzWeekly(f *testing.F) {
	f.Add("app stale # x\n\"a b\" always\r\n")
	f.Add("\"a\n")
	f.Add("\ufeffa[ b c\n")
	f.Add("\x00\n a\tb")
	f.Fuzz(func(t *testing.T, text string) {
		if invalidUTF8([]byte(text)) >= 0 {
			return // refused before
		}
		entries, faults := parseWeekly([]byte(text))
		wellFormed(t, faults)
		lines := strings.Count(text, "\n") + 1
		last := 0
		p := &Project{Dir: "a/b", Config: BuildConfig{Name: "b"}}
		for _, e := range entries {
			if e.Pattern == "" || !slices.Contains(policies, e.Policy) || e.Line <= last || e.Line > lines || e.column < 1 {
				t.Errorf("%+v of %q", e, text)
			}
			last = e.Line
			e.Matches(p, "b")
		}
		wellFormed(t, unmatched(entries, []*Project{p}))
	})
}

func FuzzPlatform(f *testing.F) {
	for _, s := range []string{"linux/amd64", "linux/arm64/v8.2", "linux/arm", "windows(10.0)/amd64", "a/b/c/d", "linux/arm64/9.0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePlatform(s)
		if err != nil {
			return
		}
		again, err := ParsePlatform(p.String())
		if err != nil || again != p {
			t.Errorf("%q is %s, and that is %s, %v", s, p, again, err)
		}
		if !isTag(p.Suffix()) {
			t.Errorf("%q has the suffix %q", s, p.Suffix())
		}
	})
}
