package render

import (
	"bytes"
	"fmt"
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/config"
)

// GitLabParent lays the overlay for jobs that prepare on that job of a parent
// pipeline, and leaves the rest of the file as it is. The error is an
// *OverlayError when the overlay would break the job.
func GitLabParent(file []byte, job string, overlays map[string]config.Overlay) ([]byte, error) {
	if faults := gitlabOverlays.check(overlays); len(faults) > 0 {
		return nil, faults[0]
	}
	overlay := overlays[kindPrepare]
	if len(overlay) == 0 {
		return file, nil
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(file, &doc); err != nil {
		return nil, fmt.Errorf("reading the parent pipeline: %w", err)
	}
	root := doc.Content[0]
	at := entry(root, job)
	if at < 0 {
		return nil, fmt.Errorf("the parent pipeline has no job %q", job)
	}
	j := namedJob{job, kindPrepare, root.Content[at+1]}
	if err := layGitLab(j, overlay); err != nil {
		return nil, err
	}
	if err := checkOverlaid([]namedJob{j}, overlays); err != nil {
		return nil, err
	}
	key := text(job)
	text, err := encode("", &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{key, j.node}})
	if err != nil {
		return nil, err
	}
	// The job ends where blank lines and the comment of the next key begin.
	lines := bytes.SplitAfter(file, []byte("\n"))
	first, end := root.Content[at].Line-1, len(lines)
	if at+2 < len(root.Content) {
		end = root.Content[at+2].Line - 1
		for end > first+1 && (len(bytes.TrimSpace(lines[end-1])) == 0 || lines[end-1][0] == '#') {
			end--
		}
	}
	return bytes.Join(slices.Concat(lines[:first], [][]byte{text}, lines[end:]), nil), nil
}
