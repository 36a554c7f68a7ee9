package plan

import (
	"maps"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
)

// defaultTag is the CI variable with the tag of runners for every platform.
const defaultTag = "CICD_TAG"

// runnerOf says which runners take the jobs of a platform: what pipegen.yaml
// says, and defaults for what it does not say.
func runnerOf(configured map[string]config.Runner, pl config.Platform, getenv func(string) string) config.Runner {
	r := configuredRunner(configured, pl)
	if len(r.GitLab) == 0 {
		own := defaultTag + "_" + strings.ToUpper(strings.ReplaceAll(pl.Suffix(), "-", "_"))
		// The variable is named, not its value: the plan says the same on a
		// laptop, and GitLab expands variables in tags.
		if getenv(own) == "" && getenv(defaultTag) != "" {
			own = defaultTag
		}
		r.GitLab = []string{"$" + own}
	}
	if r.GitHub == "" && pl.OS == "linux" {
		switch pl.Arch {
		case "amd64":
			r.GitHub = "ubuntu-24.04"
		case "arm64":
			r.GitHub = "ubuntu-24.04-arm"
		}
	}
	if len(r.Concourse) == 0 && pl.Arch != "amd64" {
		r.Concourse = []string{pl.Suffix()}
	}
	return r
}

// lightRunner takes jobs that plan or publish, on whatever platform.
func lightRunner(configured map[string]config.Runner, getenv func(string) string) config.Runner {
	r := config.Runner{GitHub: "ubuntu-24.04"}
	switch {
	case getenv(defaultTag) != "":
		r.GitLab = []string{"$" + defaultTag}
	case len(configured) > 0:
		for _, key := range slices.Sorted(maps.Keys(configured)) {
			if tags := configured[key].GitLab; len(tags) > 0 {
				r.GitLab = tags
				break
			}
		}
	}
	if len(r.GitLab) == 0 {
		r.GitLab = []string{"$" + defaultTag}
		for _, arch := range []string{"_AMD64", "_ARM64"} {
			if getenv(defaultTag+arch) != "" {
				r.GitLab = []string{"$" + defaultTag + arch}
				break
			}
		}
	}
	return r
}

func configuredRunner(configured map[string]config.Runner, pl config.Platform) config.Runner {
	for key, r := range configured {
		if p, err := config.ParsePlatform(key); err == nil && p == pl {
			return r
		}
	}
	return config.Runner{}
}
