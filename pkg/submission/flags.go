package submission

import (
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

var snapshotModes = []string{"full", "redo", "time"}

// flags gives what the original passed to Kaniko beside what a plan says.
func (c *compiler) flags(b *plan.Build, s *settings, at *origin, to target) {
	k := &s.Kaniko
	if b.Engine != "kaniko" {
		for _, key := range []string{"snapshot-mode", "use-new-run", "cleanup", "ignore-path"} {
			if p, ok := at.written("kaniko", key); ok {
				p.warn("other-engine", "", "%s has no effect: it is for engine kaniko", key)
			}
		}
		c.extraFlags(b, k.ExtraFlags, at.at("kaniko", "extra-flags"), to)
		return
	}
	if k.SnapshotMode != "" {
		if !slices.Contains(snapshotModes, k.SnapshotMode) {
			at.at("kaniko", "snapshot-mode").err("unknown-value", oneOf(k.SnapshotMode, snapshotModes), "unknown value %q of snapshot-mode", k.SnapshotMode)
		}
		b.EngineArgs = append(b.EngineArgs, "--snapshot-mode="+k.SnapshotMode)
	}
	if k.UseNewRun != nil && !*k.UseNewRun {
		b.EngineArgs = append(b.EngineArgs, "--use-new-run=false")
	}
	if k.Cleanup != nil && !*k.Cleanup {
		at.at("kaniko", "cleanup").warn("unused-key", "", "cleanup: false has no effect: Kaniko always cleans up")
	}
	for _, path := range k.IgnorePath {
		b.EngineArgs = append(b.EngineArgs, "--ignore-path="+path)
	}
	c.extraFlags(b, k.ExtraFlags, at.at("kaniko", "extra-flags"), to)
}

// extraFlags splits flags as a shell would. Those that a plan has a word for
// become that; the rest are the engine's, in their order.
func (c *compiler) extraFlags(b *plan.Build, line *string, at place, to target) {
	if line == nil {
		return
	}
	words, err := quote.Words(*line)
	if err != nil {
		at.err("bad-flags", "quote words as for a shell", "extra-flags cannot be split: %v", err)
		return
	}
	for i := 0; i < len(words); i++ {
		flag, value, joined := strings.Cut(words[i], "=")
		takes, known := planned[flag]
		if !known || b.Engine != "kaniko" {
			b.EngineArgs = append(b.EngineArgs, words[i])
			continue
		}
		if takes && !joined {
			if i++; i == len(words) {
				at.err("bad-flags", flag+"=VALUE", "%s of extra-flags has no value", flag)
				return
			}
			value = words[i]
		}
		on := takes || !joined || value == "true"
		switch flag {
		case "--target":
			b.Target = value
		case "--label":
			name, text, found := strings.Cut(value, "=")
			if !found || name == "" {
				at.err("bad-flags", "--label NAME=VALUE", "a --label of extra-flags is no NAME=VALUE")
				continue
			}
			if b.Labels == nil {
				b.Labels = map[string]string{}
			}
			b.Labels[name] = text
		case "--registry-mirror":
			b.RegistryMirrors = append(b.RegistryMirrors, value)
		case "--reproducible":
			b.Reproducible = on
		case "--insecure-registry":
			c.insecure = append(c.insecure, value)
		case "--insecure":
			if on && to.repository != "" {
				c.insecure = append(c.insecure, to.ref.Host)
			}
		}
	}
}

// planned are flags of Kaniko that plans have words for: pipegen sets them, or
// must know of them itself. The value says whether one follows.
var planned = map[string]bool{
	"--target": true, "--label": true, "--registry-mirror": true, "--reproducible": false, "--insecure-registry": true, "--insecure": false,
}
