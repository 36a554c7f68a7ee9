package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// GitHub's limits.
const (
	// maxMatrix is how many jobs one matrix may make.
	maxMatrix = 256
	// maxWorkflow is the size of a workflow file in bytes.
	maxWorkflow = 500_000
	// maxOutputs is what the outputs of one job may take up in UTF-16, in bytes.
	maxOutputs = 1 << 20
	// maxSummary is the size of a step's summary in bytes.
	maxSummary = 1 << 20
	// maxGitHubJob is how long a job may take, on runners of one's own.
	maxGitHubJob = 5 * 24 * time.Hour
	// maxPattern keeps patterns of artifacts short.
	maxPattern = 2000
)

// levelsOf gives the level of each image in the order of the plan: 1 for those
// that need no other, else one more than the highest that it needs.
func levelsOf(p *plan.Plan) ([]int, error) {
	byName := make(map[string]int, len(p.Images))
	levels := make([]int, len(p.Images))
	for i := range p.Images {
		img := &p.Images[i]
		if !plainName.MatchString(img.Name) {
			return nil, failure.Input("image %q cannot be rendered: want a name of letters, digits, _, . and -", img.Name)
		}
		if byName[img.Name] != 0 {
			return nil, failure.Input("the plan has two images %q", img.Name)
		}
		levels[i] = 1
		for _, need := range img.Needs {
			if byName[need] == 0 {
				return nil, failure.Input("image %q needs %q, which does not stand before it in the plan", img.Name, need)
			}
			levels[i] = max(levels[i], byName[need]+1)
		}
		byName[img.Name] = levels[i]
	}
	return levels, nil
}

// waveJobs gives the ids of the jobs that any plan of these images can need.
// What an image needs may be left out of a plan, and then it is in an earlier
// wave: each wave has room for its own images and those of all later ones.
func waveJobs(levels []int) [][]string {
	var images []int // of each wave and all later ones
	for _, level := range levels {
		for len(images) < level {
			images = append(images, 0)
		}
		images[level-1]++
	}
	for wave := len(images) - 2; wave >= 0; wave-- {
		images[wave] += images[wave+1]
	}
	jobs := make([][]string, len(images))
	for wave, n := range images {
		for chunk := range (n + maxMatrix - 1) / maxMatrix {
			jobs[wave] = append(jobs[wave], waveJob(wave+1, chunk))
		}
	}
	return jobs
}

func waveJob(wave, chunk int) string {
	id := "wave-" + strconv.Itoa(wave)
	if chunk > 0 {
		id += "-" + strconv.Itoa(chunk+1)
	}
	return id
}

// githubMatrix is the matrix of a job that calls the workflow of an image.
type githubMatrix struct {
	Include []githubEntry `json:"include"`
}

type githubEntry struct {
	Image string `json:"image"`
	// The suffixes of its builds; nil: those that most images have.
	Platforms *[]string `json:"platforms,omitempty"`
	// Pattern of the artifacts that its builds need.
	Needs string `json:"needs,omitempty"`
	// Runner of the controller that does its builds; empty: jobs do them.
	Runner string `json:"runner,omitempty"`
}

// GitHubOutputs gives the outputs of the step of the workflow that chooses its
// jobs: for each wave and chunk of a plan NAME=JSON on a line, and the list of
// these names as waves. No registry is in them: GitHub drops an output that
// holds a secret. The error is a failure.ErrInput for a plan over GitHub's limits.
func GitHubOutputs(p *plan.Plan) ([]byte, error) {
	levels, err := levelsOf(p)
	if err != nil {
		return nil, err
	}
	usual := usualPlatforms(p)
	var waves [][]githubEntry
	for i, level := range levels {
		if _, err := checkedRunner(p, &p.Images[i]); err != nil {
			return nil, err
		}
		if len(waves) < level {
			waves = append(waves, nil)
		}
		waves[level-1] = append(waves[level-1], entryOf(&p.Images[i], usual))
	}
	out := outputs{}
	ids := []string{}
	for wave, entries := range waves {
		chunk := 0
		for part := range slices.Chunk(entries, maxMatrix) {
			id := waveJob(wave+1, chunk)
			chunk++
			ids = append(ids, id)
			if err := out.put(id, githubMatrix{part}); err != nil {
				return nil, err
			}
		}
	}
	if err := out.put("waves", ids); err != nil {
		return nil, err
	}
	if err := out.put("platforms", usual); err != nil {
		return nil, err
	}
	if out.size > maxOutputs {
		return nil, failure.WithHint(
			failure.Input("the plan has %d images, too many for one run: the matrices would take %d KiB, GitHub's limit is %d KiB", len(p.Images), out.size>>10, maxOutputs>>10),
			"start runs of the workflow with the names of fewer images")
	}
	return out.text.Bytes(), nil
}

type outputs struct {
	text bytes.Buffer
	size int // of the values, in UTF-16
}

func (o *outputs) put(name string, value any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return fmt.Errorf("writing the output %s: %w", name, err)
	}
	for _, r := range b.String() {
		o.size += 2 * utf16.RuneLen(r)
	}
	_, err := fmt.Fprintf(&o.text, "%s=%s", name, b.Bytes())
	return err
}

func entryOf(img *plan.Image, usual []string) githubEntry {
	e := githubEntry{Image: img.Name, Needs: indexPattern(img.Needs), Runner: ControllerRunner(img)}
	if platforms := jobSuffixes(img); !slices.Equal(platforms, usual) {
		e.Platforms = &platforms
	}
	return e
}

// jobSuffixes are those of the builds that jobs do.
func jobSuffixes(img *plan.Image) []string {
	if ControllerRunner(img) != "" {
		return []string{}
	}
	return suffixes(img)
}

func suffixes(img *plan.Image) []string {
	out := make([]string, 0, len(img.Builds))
	for i := range img.Builds {
		out = append(out, strings.TrimPrefix(img.Builds[i].ID, img.Name+"@"))
	}
	return out
}

// usualPlatforms are those that most images of a plan are built for.
func usualPlatforms(p *plan.Plan) []string {
	count := map[string]int{}
	usual, most := []string{}, 0
	for i := range p.Images {
		platforms := jobSuffixes(&p.Images[i])
		key := strings.Join(platforms, " ")
		if count[key]++; count[key] > most {
			usual, most = platforms, count[key]
		}
	}
	return usual
}

// indexPattern matches the artifacts with what was published of images: names
// hold nothing that a pattern gives a meaning.
func indexPattern(names []string) string {
	list := strings.Join(names, ",")
	switch {
	case len(names) == 0:
		return ""
	case len(list) > maxPattern:
		return indexArtifact + "*"
	case len(names) > 1:
		list = "{" + list + "}"
	}
	return indexArtifact + list
}
