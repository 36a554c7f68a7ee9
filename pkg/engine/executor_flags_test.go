package engine

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/dockerfile"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

func helpOf(t *testing.T, fork string) *dialect {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "help", fork))
	if err != nil {
		t.Fatal(err)
	}
	d, err := parseHelp(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestParseHelp(t *testing.T) {
	tests := []struct {
		fork      string
		flags     int
		has, not  []string
		abilities dockerfile.Abilities
	}{
		{chainguard, 60, []string{"customPlatform", "custom-platform", "use-new-run", "force-build-metadata", "verbosity"}, []string{"secret", "Use"}, dockerfile.Abilities{}},
		{"osscontainertools", 65, []string{"secret", "pre-cleanup", "use-new-run"}, []string{"default"}, dockerfile.Abilities{HereDocuments: true, Secrets: true, Caches: true, Binds: true}},
		{"old", 24, []string{"customPlatform"}, []string{"custom-platform", "secret", "oci-layout-path"}, dockerfile.Abilities{}},
	}
	for _, tt := range tests {
		t.Run(tt.fork, func(t *testing.T) {
			d := helpOf(t, tt.fork)
			if len(d.flags) != tt.flags {
				t.Errorf("%d flags: %q", len(d.flags), d.names())
			}
			for _, name := range tt.has {
				if !d.has(name) {
					t.Errorf("no %s", name)
				}
			}
			for _, name := range tt.not {
				if d.has(name) {
					t.Errorf("there is %s", name)
				}
			}
			if got := d.abilities(); got != tt.abilities {
				t.Errorf("abilities are %+v", got)
			}
			want := map[string]string{"c": "context", "d": "destination", "f": "dockerfile", "h": "help", "v": "verbosity"}
			if tt.fork == "old" {
				delete(want, "h")
			}
			if !reflect.DeepEqual(d.letters, want) {
				t.Errorf("letters are %v", d.letters)
			}
			if takes := map[string]bool{"cache": false, "context": true, "build-arg": true, "cache-ttl": true}; takes["cache"] != d.flags["cache"] || !d.flags["context"] || !d.flags["build-arg"] || !d.flags["cache-ttl"] {
				t.Errorf("values: %v", d.flags)
			}
		})
	}
	if d, err := parseHelp("Usage: ls [OPTION]...\n  -a, --all   do not ignore entries\n"); err == nil {
		t.Errorf("ls is an executor: %+v", d)
	}
}

func TestSpell(t *testing.T) {
	argv := []string{"--context=x", "--custom-platform=linux/arm64", "--use-new-run", "--skip-unused-stages", "--oci-layout-path=/x", "--label=a=--b", "--label=c", "--image-download-retry=3"}
	tests := map[string]struct{ spelled, missing string }{
		"old":               {"--context=x --customPlatform=linux/arm64 --use-new-run --label=a=--b --label=c", "oci-layout-path"},
		chainguard:          {strings.Join(argv, " "), ""},
		"osscontainertools": {strings.Join(argv, " "), ""},
	}
	for fork, want := range tests {
		spelled, missing := helpOf(t, fork).spell(argv)
		if strings.Join(spelled, " ") != want.spelled || strings.Join(missing, " ") != want.missing {
			t.Errorf("%s: %q, missing %q", fork, spelled, missing)
		}
	}
	if spelled, missing := (*dialect)(nil).spell(argv); !reflect.DeepEqual(spelled, argv) || len(missing) > 0 {
		t.Errorf("not asked: %q, missing %q", spelled, missing)
	}
}

func TestEngineArgsOfAnotherFork(t *testing.T) {
	tests := []struct {
		name, fork string
		args       []string
		want, hint string
	}{
		{"its own", chainguard, []string{"--snapshot-mode", "redo", "--compression-level", "-1", "-vdebug", "-v", "-x", "--single-snapshot", "--ignore-path=/x", "--bucket=b"}, "", ""},
		{"of the other", chainguard, []string{"--pre-cleanup"}, "engine_args: this executor of kaniko has no flag --pre-cleanup", ""},
		{"there", "osscontainertools", []string{"--pre-cleanup"}, "", ""},
		{"misspelled", chainguard, []string{"--snapshot-mod=redo"}, "no flag --snapshot-mod", "did you mean --snapshot-mode?"},
		{"after a flag without value", chainguard, []string{"--single-snapshot", "--nope"}, "no flag --nope", ""},
		{"letter", chainguard, []string{"-x"}, "no flag -x", ""},
		{"two", chainguard, []string{"--nope=1", "--nix"}, "no flag --nope\nengine_args: this executor of kaniko has no flag --nix", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := helpOf(t, tt.fork).refuse(&plan.Build{EngineArgs: tt.args}, nil)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, failure.ErrInput) {
				t.Fatalf("got %v", err)
			}
			contains(t, err.Error(), tt.want)
			contains(t, failure.Hint(err), tt.hint)
		})
	}
}

// TestForks builds with executors that differ in what they have.
func TestForks(t *testing.T) {
	yes := true
	const steps = "FROM scratch\nRUN <<E\nx\nE\nRUN --mount=type=secret,id=s --mount=target=/c x\nRUN --mount=type=cache,target=/c x\n"
	tests := []struct {
		name, fork, text string
		change           func(*bench)
		want, hint       string // of the error
		log              []string
		argv, not        string
	}{
		{name: "chainguard", fork: chainguard, text: steps,
			want: "projects/app/Dockerfile:2: kaniko has no here-documents: RUN <<E would run nothing\nprojects/app/Dockerfile:5: kaniko has no RUN --mount=type=secret\nprojects/app/Dockerfile:5: kaniko has no RUN --mount=type=bind",
			hint: "engine: buildkit", log: []string{"warning: projects/app/Dockerfile:6: kaniko ignores RUN --mount=type=cache"}},
		{name: "osscontainertools", fork: "osscontainertools", text: steps,
			log: []string{`"FF_KANIKO_RUN_MOUNT_BIND=true"`, `"FF_KANIKO_RUN_MOUNT_SECRET=true"`}, argv: "--cache=false --use-new-run --cleanup"},
		{name: "secret", fork: "osscontainertools", text: "FROM scratch\nRUN --mount=type=secret,id=s x\n", change: func(b *bench) {
			b.Build.Secrets = []config.Secret{{ID: "s", Env: "S"}, {ID: "file", File: "f"}}
			fakeMode(b, "secrets")
		}, log: []string{"secret s has 11 bytes: ***\n", "secret file has 13 bytes: ***"}, argv: "--secret=id=s,src=/.kaniko/job/secret-0 --secret=id=file,src=/.kaniko/job/secret-1"},
		{name: "secrets of scripts alone", fork: "osscontainertools", text: scratch, change: func(b *bench) {
			b.Build.Secrets, b.Build.PreScript = []config.Secret{{ID: "s", Env: "S"}}, "true"
		}, not: "--secret"},
		{name: "secret for chainguard", fork: chainguard, text: scratch, change: func(b *bench) {
			b.Build.Secrets = []config.Secret{{ID: "s", Env: "S"}}
		}, want: "secret s: nothing can use it: this executor of kaniko has no build secrets", hint: "buildkit"},
		{name: "file secret for chainguard", fork: chainguard, text: scratch, change: func(b *bench) {
			b.Build.Secrets, b.Build.PreScript = []config.Secret{{ID: "file", File: "f"}}, "true"
		}, want: "secret file: nothing can use it"},
		{name: "old", fork: "old", text: scratch, argv: "--customPlatform=linux/amd64", not: "image-download-retry"},
		{name: "old and files", fork: "old", text: scratch, change: func(b *bench) { b.Build.Outputs = []string{"image", "docker-tar"} },
			want: "outputs: this executor of kaniko has no --oci-layout-path", hint: "KANIKO_EXECUTOR"},
		{name: "old and cached copies", fork: "old", text: scratch, change: func(b *bench) {
			b.Build.Cache = &config.Cache{Enable: true, CopyLayers: &yes, Compressed: &yes}
		}, want: "cache.copy_layers: this executor of kaniko has no --cache-copy-layers\ncache.compressed: this executor of kaniko has no --compressed-caching"},
		{name: "flag", fork: chainguard, text: scratch, change: func(b *bench) { b.Build.EngineArgs = []string{"--reproducibel"} },
			want: "build app@amd64: engine_args: this executor of kaniko has no flag --reproducibel", hint: "did you mean --reproducible?"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, map[string]string{"Dockerfile": tt.text, "f": "1"})
			b.sandbox.executor = asExecutor(t, tt.fork)
			b.env["S"] = "hunter2hunt"
			write(t, b.Root, map[string]string{"f": "hunter2hunter"})
			if tt.change != nil {
				tt.change(b)
			}
			_, err := b.run(t)
			contains(t, b.out.String(), tt.log...)
			lacks(t, b.out.String(), "hunter2")
			if tt.want != "" {
				if !errors.Is(err, failure.ErrInput) || len(b.sandbox.calls) > 0 {
					t.Fatalf("got %v after %d calls", err, len(b.sandbox.calls))
				}
				contains(t, err.Error(), tt.want)
				contains(t, failure.Hint(err), tt.hint)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			argv := strings.Join(b.sandbox.calls[0].Argv, " ")
			contains(t, argv, tt.argv)
			if tt.not != "" {
				lacks(t, argv, tt.not)
			}
			lacks(t, argv+strings.Join(b.sandbox.calls[0].Env, " "), "hunter2")
		})
	}
}

// asked gives how often an executor was asked for its help.
func asked(t *testing.T, executor string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(executor), "asked"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return len(text)
}

func TestExecutorIsAskedOnce(t *testing.T) {
	b := newBench(t, map[string]string{"Dockerfile": scratch, "f": "1"})
	b.Plan.Dirty = true // nothing is adopted
	executor := b.sandbox.executor
	run := func(want int) {
		t.Helper()
		if _, err := b.run(t); err != nil {
			t.Fatal(err)
		}
		if got := asked(t, executor); got != want {
			t.Errorf("asked %d times, want %d", got, want)
		}
	}
	run(1) // what file it is is not known
	run(2)
	b.Executor = executor
	run(3)
	run(3)
	if err := os.WriteFile(executor+".new", nil, 0o700); err != nil { // another file by this name
		t.Fatal(err)
	}
	kept, err := filepath.Glob(filepath.Join(b.CacheDir, "executors", "*"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept %v, %v", kept, err)
	}
	write(t, "", map[string]string{kept[0]: "half of it"})
	run(4)
	inPlace(b)
	run(4)
}

func TestWrongExecutor(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"other.sh": "#!/bin/sh\necho usage: other\n", "fails.sh": "#!/bin/sh\necho 'no such\033[31m flag' >&2\nexit 3\n", "none.sh": "#!/nowhere\n", "plain": "",
	})
	tests := []struct{ program, want, hint string }{
		{"other.sh", "is no executor of kaniko: it does not say what Kaniko's executor says of itself (it says: usage: other)", "KANIKO_EXECUTOR names"},
		{"fails.sh", `fails.sh cannot be run: exit status 3 (it says: no such\x1b[31m flag)`, "KANIKO_EXECUTOR names"},
		{"none.sh", "none.sh cannot be run: fork/exec", "KANIKO_EXECUTOR names"},
		{"plain", "KANIKO_EXECUTOR: " + filepath.Join(dir, "plain") + " is no executable file", "make tools"},
		{"nowhere", "KANIKO_EXECUTOR: " + filepath.Join(dir, "nowhere") + " is no executable file", "make tools"},
	}
	for _, tt := range tests {
		t.Run(tt.program, func(t *testing.T) {
			b := newBench(t, map[string]string{"Dockerfile": scratch, "f": "1"})
			inPlace(b)
			b.Executor, b.env["KANIKO_EXECUTOR"] = "", filepath.Join(dir, tt.program)
			b.place.dir = dir
			_, err := b.run(t)
			if !errors.Is(err, failure.ErrInput) {
				t.Fatalf("got %v", err)
			}
			contains(t, err.Error(), tt.want)
			contains(t, failure.Hint(err), tt.hint)
		})
	}
}

func FuzzParseHelp(f *testing.F) {
	for _, fork := range []string{chainguard, "osscontainertools", "old"} {
		text, err := os.ReadFile(filepath.Join("testdata", "help", fork))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseHelp(text)
		if err != nil {
			return
		}
		for _, name := range d.names() {
			if name == "" || strings.ContainsAny(name, "= \n") || !strings.Contains(text, "--"+name) {
				t.Errorf("flag %q", name)
			}
		}
		_ = d.refuse(&plan.Build{EngineArgs: strings.Fields(text)}, nil)
	})
}
