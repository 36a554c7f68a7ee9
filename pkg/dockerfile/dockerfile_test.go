package dockerfile

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

const bom = "\xef\xbb\xbf"

func arm64() map[string]string { return PlatformArgs("linux/arm64", "linux/amd64") }

func TestBases(t *testing.T) {
	tests := []struct {
		name, text, target string
		args               map[string]string
		want               string // ref@line stage[ final][ platform], one a line
	}{
		{name: "one", text: "FROM alpine:3\n", want: "alpine:3@1 0 final"},
		{name: "lower case", text: "from alpine:3 as x\n", want: "alpine:3@1 x final"},
		{name: "scratch", text: "FROM scratch\nCOPY --from=scratch a b\n"},
		{name: "bom and crlf", text: bom + "FROM alpine:3\r\nRUN a \\\r\n  b\r\nCOPY --from=tools:1 a b\r\n", want: "alpine:3@1 0 final\ntools:1@4 0"},
		{name: "syntax directive", text: "# syntax=docker/dockerfile:1\nFROM alpine\n", want: "alpine@2 0 final"},
		{name: "escape directive", text: "# escape=`\nFROM `\n alpine `\n AS x\nCOPY --from=\"a b\" c d\n", want: "alpine@2 x final\na b@5 x"},
		{name: "continuation with comment and blank line", text: "FROM \\\n# why\n\n  alpine \\\n AS x\n", want: "alpine@1 x final"},
		{
			name: "platform", text: "FROM --platform=$BUILDPLATFORM golang:1 AS build\nFROM alpine:${TARGETARCH}\nCOPY --from=build a b\n",
			args: arm64(), want: "golang:1@1 build linux/amd64\nalpine:arm64@2 1 final",
		},
		{name: "platform args by default", text: "FROM a-${TARGETOS}-${BUILDARCH}\n", want: "a-linux-amd64@1 0 final"},
		{name: "platform args by half", text: "FROM a-${TARGETARCH}${BUILDVARIANT}\n", args: map[string]string{"TARGETPLATFORM": "linux/arm/v7"}, want: "a-armv7@1 0 final"},
		{name: "arg default", text: "ARG V=3\nARG N=alpine:$V\nFROM ${N}\n", want: "alpine:3@3 0 final"},
		{name: "arg given", text: "ARG V=3\nARG N=\"alpine:$V\"\nFROM ${N}\n", args: map[string]string{"V": "4"}, want: "alpine:4@3 0 final"},
		{name: "arg undeclared", text: "FROM ${PIPEGEN_REGISTRY}:base\n", args: map[string]string{"PIPEGEN_REGISTRY": "r/i"}, want: "r/i:base@1 0 final"},
		{name: "arg modifier", text: "FROM ${X:-alpine}\n", want: "alpine@1 0 final"},
		{name: "arg names a stage", text: "ARG B=one\nFROM a AS one\nFROM b AS two\nFROM ${B}\n", want: "a@2 one final"},
		{name: "chain", text: "FROM a AS one\nFROM one AS two\nFROM two\n", want: "a@1 one final"},
		{name: "stage named like its image", text: "FROM alpine AS alpine\nFROM alpine\n", want: "alpine@1 alpine final"},
		{name: "unneeded stage left out", text: "FROM a AS one\nFROM b AS two\nFROM c\nCOPY --from=one x y\n", want: "a@1 one\nc@3 2 final"},
		{name: "target", text: "FROM a AS one\nFROM b AS Two\nFROM c\n", target: "TWO", want: "b@2 two final"},
		{name: "numeric stage", text: "FROM a\nFROM b\nFROM c\nCOPY --from=1 x y\n", want: "b@2 1\nc@3 2 final"},
		{name: "number in FROM is an image", text: "FROM a\nFROM 0\n", want: "0@2 1 final"},
		{name: "copy from an image", text: "FROM a\nCOPY --chown=1 --from=tools:1 x y\nCOPY --from=Tools:1 x y\n", want: "a@1 0 final\ntools:1@2 0\nTools:1@3 0"},
		{name: "copy from a stage in another case", text: "FROM a AS build\nFROM scratch\nCOPY --from=BUILD x y\n", want: "a@1 build"},
		{name: "mounts", text: "FROM a\nRUN --mount=from=m:1,target=/m --mount=type=cache,target=/c --mount=type=bind,\"from=m:2\",target=/n true\n", want: "a@1 0 final\nm:1@2 0\nm:2@2 0"},
		{name: "onbuild of an image of one's own", text: "FROM a\nONBUILD COPY --from=tools x y\n", want: "a@1 0 final"},
		{name: "onbuild of a stage", text: "FROM a AS one\nONBUILD COPY --from=tools x y\nFROM one\n", want: "a@1 one final\ntools@2 1"},
		{name: "heredoc", text: "FROM a\nRUN <<EOF\nFROM b\nEOF\nCOPY <<X /x\nCOPY --from=c d e\nX\n", want: "a@1 0 final"},
		{name: "both final and not", text: "FROM a AS one\nFROM one AS two\nCOPY --from=one x y\n", want: "a@1 one final"},
		{name: "final met second", text: "FROM a AS one\nFROM b AS two\nFROM one AS last\nCOPY --from=two x y\nCOPY --from=one x y\n", want: "a@1 one final\nb@2 two"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := mustParse(t, tt.text)
			bases, err := file.Bases(tt.args, tt.target)
			if err != nil {
				t.Fatal(err)
			}
			other, err := file.Bases(PlatformArgs("windows/arm/v7", "darwin/riscv64"), tt.target)
			if file.Portable() && len(tt.args) == 0 && (err != nil || list(other) != list(bases)) {
				t.Errorf("portable, but on another platform\n%s", list(other))
			}
			if got := list(bases); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func list(bases []Base) string {
	var lines []string
	for _, b := range bases {
		s := fmt.Sprintf("%s@%d %s", b.Ref, b.Line, b.Stage)
		if b.Final {
			s += " final"
		}
		if b.Platform != "" {
			s += " " + b.Platform
		}
		lines = append(lines, s)
	}
	return strings.Join(lines, "\n")
}

func mustParse(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestSyntaxErrors(t *testing.T) {
	tests := []struct {
		name, text string
		line       int
		msg        string
	}{
		{"empty", "", 0, "no instructions"},
		{"no FROM", "ARG A=1\n", 1, "there is no FROM"},
		{"unknown instruction", "FROM a\nRUM x\n", 2, "unknown instruction: RUM (did you mean RUN?)"},
		{"before FROM", "RUN x\nFROM a\n", 1, "no build stage"},
		{"after a continuation", "FROM a\nRUN a \\\n  b\nCOPY x\n", 4, "COPY requires at least two arguments"},
		{"unterminated heredoc", "FROM a\nRUN <<EOF\nx\n", 2, "unterminated heredoc"},
		{"escape", "# escape=x\nFROM a\n", 0, "invalid escape token"},
		{"long line", "FROM a\nRUN " + strings.Repeat("x", 1<<16) + "\n", 1, "line greater than max"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.text))
			var syntax *SyntaxError
			if !errors.As(err, &syntax) || !errors.Is(err, failure.ErrInput) {
				t.Fatalf("got %v, want a syntax error", err)
			}
			if syntax.Line != tt.line || !strings.Contains(syntax.Msg, tt.msg) {
				t.Errorf("got line %d: %s; want line %d: %s", syntax.Line, syntax.Msg, tt.line, tt.msg)
			}
		})
	}
}

func TestBasesErrors(t *testing.T) {
	tests := []struct {
		name, text, target string
		line               int
		msg, hint          string
	}{
		{"unknown target", "FROM a AS one\nFROM b AS two\n", "three", 0, `there is no stage "three"`, "the stages are: one, two"},
		{"no names", "FROM a\n", "x", 0, `there is no stage "x"`, "no stage of this Dockerfile has a name"},
		{"empty name", "ARG B\nFROM $B\n", "", 2, "the name is empty", ""},
		{"bad substitution", "FROM ${A!b}\n", "", 1, "expanding", ""},
		{"bad default", "ARG A=${B!c}\nFROM x\n", "", 1, "expanding ARG A", ""},
		{"bad number", "FROM a\nCOPY --from=7 x y\n", "", 2, "there is no stage 7", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := mustParse(t, tt.text)
			_, err := f.Bases(nil, tt.target)
			if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), tt.msg) || failure.Hint(err) != tt.hint {
				t.Fatalf("got %v (hint %q), want %s (hint %q)", err, failure.Hint(err), tt.msg, tt.hint)
			}
			var syntax *SyntaxError
			if errors.As(err, &syntax) != (tt.line > 0) || tt.line > 0 && syntax.Line != tt.line {
				t.Errorf("got %#v, want line %d", err, tt.line)
			}
			if _, ok := f.Runs(nil, tt.target); ok {
				t.Error("a file that cannot be resolved has runs")
			}
			if got := f.Pin(nil, tt.target, map[string]string{"a": "b"}); string(got) != tt.text {
				t.Errorf("pinned to %q", got)
			}
		})
	}
}

func TestRunsAndStages(t *testing.T) {
	tests := []struct {
		name, text, target string
		line               int
		stages             string
	}{
		{"none", "FROM a\nCOPY x y\n", "", 0, "0"},
		{"first of two", "FROM a\nRUN x\nRUN y\n", "", 2, "0"},
		{"in a stage that is not needed", "FROM a AS one\nRUN x\nFROM b\n", "", 0, "1"},
		{"in the target", "FROM a AS one\nRUN x\nFROM b\n", "one", 2, "one"},
		{"in a stage copied from", "FROM a AS one\nRUN x\nFROM b\nCOPY --from=0 x y\n", "", 2, "one 1"},
		{"trigger", "FROM a AS one\nONBUILD RUN x\nFROM one\n", "", 2, "one 1"},
		{"trigger for others", "FROM a\nONBUILD RUN x\n", "", 0, "0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := mustParse(t, tt.text)
			line, ok := f.Runs(nil, tt.target)
			if line != tt.line || ok != (tt.line > 0) {
				t.Errorf("got line %d, %t; want %d", line, ok, tt.line)
			}
			stages, err := f.Stages(nil, tt.target)
			if err != nil || strings.Join(stages, " ") != tt.stages {
				t.Errorf("got stages %v, %v; want %s", stages, err, tt.stages)
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	fork := Abilities{HereDocuments: true, Secrets: true, Caches: true, Binds: true}
	tests := []struct {
		name, text string
		want       string // line stage, warning as w, and a part of the message
		fork       string // the same for an executor with all abilities
	}{
		{name: "plain", text: "FROM a\nRUN a <<< b\nCOPY --chown=1 --chmod=0755 x y\nADD --chmod=$M https://x/y.tar.gz z\nSHELL [\"a\"]\nONBUILD RUN x\nHEALTHCHECK --interval=1s CMD x\n"},
		{name: "syntax", text: "# syntax=docker/dockerfile:1.7-labs\nFROM a\n"},
		{name: "syntax with host", text: "# syntax=docker.io/docker/dockerfile-upstream@sha256:0\nFROM a\n"},
		{name: "frontend", text: "#!/x\n# syntax = example.org/docker/dockerfile\nFROM a\n", want: "2  e as example.org/docker/dockerfile would", fork: "2  e frontends"},
		{name: "target platform", text: "FROM --platform=$TARGETPLATFORM a\nFROM --platform=${TARGETPLATFORM} b\n"},
		{name: "build platform", text: "FROM --platform=$BUILDPLATFORM a AS x\n", want: "1 x w FROM --platform", fork: "1 x w FROM --platform"},
		{name: "cache mount", text: "FROM a\nRUN --mount=type=cache,target=/c x\n", want: "2 0 w type=cache"},
		{name: "cache from a stage", text: "FROM a AS a\nRUN --mount=type=cache,target=/c,from=a x\n", want: "2 a e from=a", fork: "2 a e from=a"},
		{name: "secret mount", text: "FROM a\nRUN --mount=type=secret,id=s x\n", want: "2 0 e RUN --mount=type=secret"},
		{name: "default mount", text: "FROM a\nRUN --mount=target=/c x\n", want: "2 0 e RUN --mount=type=bind"},
		{name: "bind from a stage", text: "FROM a AS a\nRUN --mount=target=/c,from=a x\n", want: "2 a e from=a", fork: "2 a e from=a"},
		{name: "other mounts", text: "FROM a\nRUN --mount=type=ssh --mount=type=tmpfs,target=/t x\n", want: "2 0 e type=ssh\n2 0 e type=tmpfs", fork: "2 0 e type=ssh\n2 0 e type=tmpfs"},
		{name: "variable mount", text: "FROM a\nRUN --mount=type=$T x\n", want: "2 0 e RUN --mount", fork: "2 0 e RUN --mount"},
		{name: "run heredoc", text: "FROM a\nRUN <<EOF\nx\nEOF\n", want: "2 0 e RUN <<EOF"},
		{name: "run heredoc of another program", text: "FROM a\nRUN python <<EOF\n#!x\nEOF\nRUN <<EOF\n#!/usr/bin/python\nEOF\n", want: "2 0 e RUN <<EOF\n5 0 e RUN <<EOF", fork: "5 0 e with sh"},
		{name: "copy heredoc", text: "FROM a\nCOPY <<EOF /x\nx\nEOF\n", want: "2 0 e COPY <<EOF"},
		{name: "copy heredoc with variables", text: "FROM a\nCOPY <<EOF <<'F' /x\n$x\nEOF\n$y\nF\n", want: "2 0 e COPY <<EOF", fork: "2 0 e no variables in the here-document of COPY <<EOF"},
		{name: "onbuild", text: "FROM a\nONBUILD RUN --mount=type=ssh x\n", want: "2 0 e RUN --mount", fork: "2 0 e RUN --mount"},
		{name: "copy flags", text: "FROM a\nCOPY --parents --exclude=*.md x y\nCOPY --from=${B} x y\nCOPY --chmod=u+x --link x y\n",
			want: "2 0 e --exclude\n2 0 e --parents\n3 0 e no variables\n4 0 w --link\n4 0 e octal only, not u+x", fork: "2 0 e --exclude\n2 0 e --parents\n3 0 e no variables\n4 0 w --link\n4 0 e octal"},
		{name: "add flags", text: "FROM a\nADD --checksum=sha256:0 https://x/y z\nADD --unpack x y\nADD https://x/y.git#v1 z\nADD --exclude=a b c\n",
			want: "2 0 e --checksum\n3 0 e --unpack\n4 0 e git repository\n5 0 e ADD --exclude", fork: "2 0 e --checksum\n3 0 e --unpack\n4 0 e git repository\n5 0 e ADD --exclude"},
		{name: "run flags", text: "FROM a\nRUN --network=none x\nRUN --network=default x\nRUN --security=insecure x\nRUN --security=sandbox x\n",
			want: "2 0 w --network\n4 0 e --security=insecure", fork: "2 0 w --network\n4 0 e --security=insecure"},
		{name: "health", text: "FROM a\nHEALTHCHECK --start-interval=1s CMD x\n", want: "2 0 w --start-interval", fork: "2 0 w --start-interval"},
	}
	for _, tt := range tests {
		for _, by := range []struct {
			have Abilities
			want string
		}{{Abilities{}, tt.want}, {fork, tt.fork}} {
			t.Run(fmt.Sprintf("%s/%t", tt.name, by.have.Secrets), func(t *testing.T) {
				got := mustParse(t, tt.text).Unsupported(by.have)
				var want []string
				if by.want != "" {
					want = strings.Split(by.want, "\n")
				}
				if len(got) != len(want) {
					t.Fatalf("got %+v, want %q", got, want)
				}
				for i, f := range got {
					kind := map[bool]string{true: "w", false: "e"}[f.Warning]
					head := fmt.Sprintf("%d %s %s ", f.Line, f.Stage, kind)
					if part, ok := strings.CutPrefix(want[i], head); !ok || !strings.Contains(f.Msg, part) {
						t.Errorf("got %s%s, want %s", head, f.Msg, want[i])
					}
				}
			})
		}
	}
}

func TestMounts(t *testing.T) {
	for text, want := range map[string][2]bool{
		"FROM a\nRUN --mount=type=cache,target=/c x\n":               {},
		"FROM a\nONBUILD RUN --mount=type=secret,id=s x\n":           {true, false},
		"FROM a AS a\nRUN --mount=target=/c,from=a x\n":              {},
		"FROM a\nRUN --mount=target=/c --mount=type=secret,id=s x\n": {true, true},
	} {
		secrets, binds := mustParse(t, text).Mounts()
		if got := [2]bool{secrets, binds}; got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestSkippable(t *testing.T) {
	tests := []struct {
		name, text, target string
		want               bool
	}{
		{"one stage", "FROM a\n", "", false},
		{"all needed", "FROM a AS one\nFROM one\n", "", false},
		{"one is not needed", "FROM a AS one\nFROM b AS two\nFROM c\nCOPY --from=two x y\n", "", true},
		{"chain", "FROM a AS one\nFROM b AS two\nFROM two\n", "", true},
		{"by an argument", "ARG S=two\nFROM a AS one\nFROM b AS two\nFROM $S\n", "", true},
		{"only later ones are not needed", "FROM a AS one\nFROM b\n", "one", false},
		{"by number", "FROM a AS one\nFROM b AS two\nFROM c\nCOPY --from=1 x y\n", "", false},
		{"without a name", "FROM a AS one\nFROM b\nFROM c\nCOPY --from=1 x y\n", "", false},
		{"in another case", "FROM a AS one\nFROM b AS two\nFROM Two\n", "", false},
		{"twice the same name", "FROM a AS one\nFROM b AS two\nFROM c AS two\nFROM two\n", "", false},
		{"in a trigger, by number", "FROM a AS one\nFROM b AS two\nONBUILD COPY --from=1 x y\nFROM two\n", "", false},
		{"no such target", "FROM a AS one\nFROM b\n", "x", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := mustParse(t, tt.text).Skippable(nil, tt.target); got != tt.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

const pin = "r/i@sha256:0000000000000000000000000000000000000000000000000000000000000000"

func TestPin(t *testing.T) {
	tests := []struct{ name, text, target, want string }{
		{"from", "FROM  base  AS x\nRUN echo base\n", "", "FROM  PIN  AS x\nRUN echo base\n"},
		{"no newline", "from base", "", "from PIN"},
		{"bom and crlf", bom + "FROM base\r\nRUN x\r\n", "", bom + "FROM PIN\r\nRUN x\r\n"},
		{"variable", "ARG B=base\nFROM \"${B}\"\n", "", "ARG B=base\nFROM PIN\n"},
		{"platform", "FROM --platform=linux/amd64 base\n", "", "FROM --platform=linux/amd64 PIN\n"},
		{"continuation", "FROM \\\n  # base\n  base \\\n  AS x\n", "", "FROM \\\n  # base\n  PIN \\\n  AS x\n"},
		{"split by a continuation", "FROM ba\\\nse\nRUN x\n", "", "FROM \\\nPIN\nRUN x\n"},
		{"split in three", "FROM b\\\na\\\nse\nRUN x\n", "", "FROM \\\n\\\nPIN\nRUN x\n"},
		{"copy", "FROM a\nCOPY --chown=base --from=base base base\n", "", "FROM a\nCOPY --chown=base --from=PIN base base\n"},
		{"copy with quotes", "FROM a\nCOPY --from=\"base\" base base\n", "", "FROM a\nCOPY --from=PIN base base\n"},
		{"stage of that name", "FROM a AS base\nFROM base\nCOPY --from=base x y\n", "", "FROM a AS base\nFROM base\nCOPY --from=base x y\n"},
		{"mount", "FROM a\nRUN --mount=type=cache,target=/base --mount=target=/m,from=base,ro cat base\n", "", "FROM a\nRUN --mount=type=cache,target=/base --mount=target=/m,from=PIN,ro cat base\n"},
		{"mount with quotes", "FROM a\nRUN --mount='from=base,target=/a b' x\n", "", "FROM a\nRUN --mount=from=PIN,target=/a\\ b x\n"},
		{"two mounts", "FROM a\nRUN --mount=from=base,target=/m --mount=from=base,target=/n x\n", "", "FROM a\nRUN --mount=from=PIN,target=/m --mount=from=PIN,target=/n x\n"},
		{"heredoc", "FROM base\nRUN <<EOF\nFROM base\nEOF\nCOPY --from=base x y\n", "", "FROM PIN\nRUN <<EOF\nFROM base\nEOF\nCOPY --from=PIN x y\n"},
		{"not needed", "FROM base AS one\nFROM a\n", "", "FROM base AS one\nFROM a\n"},
		{"target", "FROM base AS one\nFROM base\n", "one", "FROM PIN AS one\nFROM base\n"},
		{"onbuild", "FROM base AS one\nONBUILD COPY --from=base x y\nFROM one\n", "", "FROM PIN AS one\nONBUILD COPY --from=PIN x y\nFROM one\n"},
		{"escape directive", "# escape=`\nFROM `\nbase\nCOPY --from=base c:\\x y\n", "", "# escape=`\nFROM `\nPIN\nCOPY --from=PIN c:\\x y\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := mustParse(t, tt.text).Pin(nil, tt.target, map[string]string{"base": pin})
			if want := strings.ReplaceAll(tt.want, "PIN", pin); string(got) != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			mustParse(t, string(got))
		})
	}
}

func seeds(f *testing.F) {
	for _, s := range []string{
		"FROM a\n", "from a as b\nFROM b\nCOPY --from=0 x y\n", bom + "# escape=`\r\nFROM a `\r\n  AS b\r\n",
		"ARG A=b\nFROM --platform=$BUILDPLATFORM ${A:-c} AS x\nRUN --mount=type=bind,from=m,\"target=/a,b\" --mount=from=n,target=/n x\nFROM x\nONBUILD COPY --from=\"t\" a b\n",
		"FROM a\nRUN <<A <<-B\nx\nA\n\ty\n\tB\nCOPY <<E /e\nE\n", "FROM b\\\n# c\n\na\\\n  AS d\n", "#\n# syntax=x\nFROM a\nADD --chown=a\\ b x y\n",
	} {
		f.Add([]byte(s), "")
	}
}

func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text []byte, target string) {
		file, err := Parse(text)
		if err != nil {
			if _, ok := errors.AsType[*SyntaxError](err); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		bases, err := file.Bases(arm64(), target)
		if err != nil && !errors.Is(err, failure.ErrInput) {
			t.Fatal(err)
		}
		lines := strings.Count(string(text), "\n") + 1
		for _, b := range bases {
			if b.Ref == "" || b.Line < 1 || b.Line > lines {
				t.Errorf("%+v in a file of %d lines", b, lines)
			}
		}
		file.Runs(arm64(), target)
		file.Unsupported(Abilities{})
	})
}

func FuzzPin(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text []byte, target string) {
		file, err := Parse(text)
		if err != nil {
			return
		}
		if got := file.Pin(nil, target, nil); string(got) != string(text) {
			t.Fatalf("pinning nothing gives %q", got)
		}
		before, err := file.Bases(nil, target)
		if err != nil {
			return
		}
		digests := map[string]string{}
		for i, b := range before {
			digests[b.Ref] = fmt.Sprintf("%d/%s", i, pin)
		}
		pinned := file.Pin(nil, target, maps.Clone(digests))
		again, err := Parse(pinned)
		if err != nil {
			t.Fatalf("%q\npinned to %q: %v", text, pinned, err)
		}
		after, err := again.Bases(nil, target)
		if err != nil || len(after) != len(before) {
			t.Fatalf("%q\npinned to %q: %v, %v; before: %v", text, pinned, after, err, before)
		}
		for i := range before {
			if after[i].Ref != digests[before[i].Ref] || after[i].Line != before[i].Line {
				t.Fatalf("%q\npinned to %q: %+v for %+v", text, pinned, after[i], before[i])
			}
		}
	})
}

func TestBelow(t *testing.T) {
	for text, want := range map[string]string{
		"FROM scratch\nCOPY a /kaniko/a\n":                          "2 0",
		"FROM scratch AS x\nADD a /kaniko\n":                        "2 x",
		"FROM scratch\nWORKDIR /kaniko\nWORKDIR bin\nCOPY a b /\n":  "",
		"FROM scratch\nWORKDIR /kaniko\nWORKDIR bin\nCOPY a b ./\n": "4 0",
		"FROM scratch\nCOPY a /tmp/../kaniko/\n":                    "2 0",
		"FROM scratch\nCOPY a kaniko/a\n":                           "2 0",
		"FROM scratch\nCOPY a /kanikos/a\n":                         "",
		"FROM scratch\nCOPY /kaniko/a /a\n":                         "",
	} {
		f, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range f.Below("/kaniko") {
			got = append(got, fmt.Sprintf("%d %s", d.Line, d.Stage))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
