package engine

import (
	"errors"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/dockerfile"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// dialect is what one executor of Kaniko understands, by its own help text: the
// forks of Kaniko, and their versions, differ in it. A nil dialect is that of
// an executor that was not asked; it has the flags of chainguard-dev/kaniko
// v1.25.3.
type dialect struct {
	// By name; whether a value may follow as an argument of its own.
	flags map[string]bool
	// Names by the letter that is short for them.
	letters map[string]string
	// Subcommands.
	commands []string
}

// A flag in a help text of spf13/pflag: "  -c, --context string   Path …".
var (
	helpFlag    = lazyregexp.New(`^ {2,}(?:-([A-Za-z]), )?--([A-Za-z][A-Za-z0-9-]*)((?: \S+)*)(?: {2,}|$)`)
	helpCommand = lazyregexp.New(`^ {2}([a-z]+) {2,}`)
)

// parseHelp reads what an executor says to --help.
func parseHelp(text string) (*dialect, error) {
	d := &dialect{flags: map[string]bool{}, letters: map[string]string{}}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if m := helpFlag.FindStringSubmatch(line); m != nil {
			d.flags[m[2]] = m[3] != ""
			if m[1] != "" {
				d.letters[m[1]] = m[2]
			}
		} else if m := helpCommand.FindStringSubmatch(line); m != nil {
			d.commands = append(d.commands, m[1])
		}
	}
	for _, name := range []string{"context", "dockerfile", "destination", "build-arg"} {
		if !d.has(name) {
			return nil, errors.New("it does not say what Kaniko's executor says of itself")
		}
	}
	return d, nil
}

// has says whether there is a flag.
func (d *dialect) has(name string) bool {
	if d == nil {
		return true
	}
	_, ok := d.flags[name]
	return ok
}

// abilities are what it can do with a Dockerfile. Its help does not say it all:
// of osscontainertools/kaniko the flag --secret came after here-documents and
// cache mounts, and the command push after RUN --mount=type=bind.
func (d *dialect) abilities() dockerfile.Abilities {
	if d == nil || !d.has("secret") {
		return dockerfile.Abilities{}
	}
	return dockerfile.Abilities{HereDocuments: true, Secrets: true, Caches: true, Binds: slices.Contains(d.commands, "push")}
}

var (
	// Flags by the name that executors had for them before.
	formerly = map[string]string{"custom-platform": "customPlatform"}
	// Flags of pipegen's own that only make a build faster, safer or its log
	// shorter.
	dispensable = []string{
		"use-new-run", "cleanup", "skip-unused-stages", "push-retry", "image-download-retry", "image-fs-extract-retry",
		"log-format", "log-timestamp", "verbosity",
	}
	// Flags that executors take, but do not speak of.
	hidden = []string{"bucket", "whitelist-var-run", "azure-container-registry-config"}
	// Keys of the configuration that ask for a flag.
	askedBy = map[string]string{
		"cache-copy-layers": "cache.copy_layers", "cache-run-layers": "cache.run_layers", "compressed-caching": "cache.compressed",
		"cache-ttl": "cache.ttl", "cache-repo": "cache.repo", "reproducible": "reproducible", "registry-mirror": "registry_mirrors",
		"no-push": "outputs", "oci-layout-path": "outputs", "target": "target",
	}
)

const otherExecutor = "take another version of Kaniko (KANIKO_EXECUTOR or builder_image), or engine: buildkit"

// spell gives an argument vector, all of it --NAME or --NAME=VALUE, in the
// executor's own words. Flags that it does not have come back too.
func (d *dialect) spell(argv []string) (spelled, missing []string) {
	for _, a := range argv {
		name, value, has := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		former, renamed := formerly[name]
		switch {
		case d.has(name):
			spelled = append(spelled, a)
		case renamed && d.has(former):
			if has {
				former += "=" + value
			}
			spelled = append(spelled, "--"+former)
		case !slices.Contains(dispensable, name) && !slices.Contains(missing, name):
			missing = append(missing, name)
		}
	}
	return spelled, missing
}

// refuse says what a build asks for in vain: flags of pipegen's own that are
// missing, and those of engine_args.
func (d *dialect) refuse(b *plan.Build, missing []string) error {
	var refused []error
	for _, name := range missing {
		refused = append(refused, failure.WithHint(failure.Input("%s: this executor of kaniko has no --%s", firstOf(askedBy[name], "engine kaniko"), name), otherExecutor))
	}
	valueFollows := false
	for _, a := range b.EngineArgs {
		if valueFollows || !strings.HasPrefix(a, "-") || a == "-" {
			valueFollows = false
			continue
		}
		name, _, has := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if !strings.HasPrefix(a, "--") {
			letter := a[1:2]
			name, has = d.letters[letter], has || len(a) > 2
			if name == "" {
				refused = append(refused, failure.Input("engine_args: this executor of kaniko has no flag -%s", quote.Text(letter)))
				continue
			}
		}
		if takes, known := d.flags[name]; known || slices.Contains(hidden, name) {
			valueFollows = takes && !has
			continue
		}
		err := failure.Input("engine_args: this executor of kaniko has no flag --%s", quote.Text(name))
		if near := config.Nearest(name, d.names()); near != "" {
			err = failure.WithHint(err, "did you mean --%s?", near)
		}
		refused = append(refused, err)
	}
	return errors.Join(refused...)
}

// names gives all flags, sorted.
func (d *dialect) names() []string {
	names := make([]string, 0, len(d.flags))
	for name := range d.flags {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
