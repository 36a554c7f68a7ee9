package render

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"io"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
)

// GitLab's limits, as a new installation has them
// (https://docs.gitlab.com/administration/instance_limits/).
const (
	maxJobName = 255
	// maxNeeds is what one job may need, jobs of other pipelines included.
	maxNeeds = 50
	// maxMemory is max_yaml_size_bytes: what the objects of one file may take
	// up in GitLab, some five to eight times the file.
	maxMemory = 2 << 20
	// maxJob is what one job may be as JSON, after templates are put in.
	maxJob = 1 << 20
	// maxArchive is what the artifacts of a job may be, compressed, for a
	// pipeline to be made from one of them.
	maxArchive = 5 << 20
	// maxPipelines is pipeline_hierarchy_size: all pipelines below one parent,
	// with it.
	maxPipelines = 1000
)

// plainName is what names may be in job names, variables and file names: it
// holds nothing that GitLab, a shell or a glob would expand.
var plainName = lazyregexp.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// rubySize estimates what Ruby's ObjectSpace.memsize_of gives for the
// objects of a document, in bytes: for large ones a tenth too much. It counts
// as GitLab's lib/gitlab/utils/deep_size.rb does: each key and value once more
// as often as it occurs.
func rubySize(n *yaml.Node) int {
	size := 0
	switch n.Kind {
	case yaml.ScalarNode:
		if n.ShortTag() != "!!str" {
			return 0 // true, false, null and small integers are in the reference
		}
		if size = 40; len(n.Value) > 15 {
			// Either beside the object, or in a slot of the next size.
			size = max(size+len(n.Value)+1, 80)
			for slot := 80; slot <= 640; slot *= 2 {
				if len(n.Value)+25 <= slot {
					size = max(size, slot)
					break
				}
			}
		}
	case yaml.SequenceNode:
		if size = 40; len(n.Content) > 3 {
			size += 8 * max(16, 2*len(n.Content))
		}
	case yaml.MappingNode:
		entries := len(n.Content) / 2
		if size = 168; entries > 8 {
			slots := 16
			for slots < entries {
				slots *= 2
			}
			size = 40 + 56 + slots*24 + 2*slots*4
		}
	}
	for _, child := range n.Content {
		size += rubySize(child)
	}
	return size
}

// rubyEntry is what an entry of a large mapping takes beside key and value.
const rubyEntry = 2 * (24 + 2*4)

// checkJobSize refuses a template that alone makes jobs over GitLab's limit.
func checkJobSize(name string, job *yaml.Node) error {
	var v any
	if err := job.Decode(&v); err != nil {
		return err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(raw) > maxJob/2 { // what jobs add to a template is far less than the rest
		return failure.Input("the jobs made from %s are too big: %d KiB, GitLab allows %d KiB", name, len(raw)>>10, maxJob>>10)
	}
	return nil
}

// CheckGitLabArchive refuses files that are together too big, compressed, for
// GitLab to make a child pipeline from one of them: the artifacts of the job
// that prepares it.
func CheckGitLabArchive(files ...[]byte) error {
	raw := 0
	for _, f := range files {
		raw += len(f)
	}
	if raw <= maxArchive {
		return nil
	}
	var size counter
	w, err := flate.NewWriter(&size, flate.BestSpeed)
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := io.Copy(w, bytes.NewReader(f)); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	if size > maxArchive {
		return failure.WithHint(
			failure.Input("the plan and its pipelines are %d KiB, compressed: GitLab reads pipelines out of artifacts of up to %d KiB", int(size)>>10, maxArchive>>10),
			"plan fewer images at a time, or raise GitLab's max_artifacts_content_include_size")
	}
	return nil
}

type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
