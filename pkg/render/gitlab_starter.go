package render

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// chunkFile is the file of a chunk, beside that of the child: child-001.yml.
func (r *gitlabRendering) chunkFile(number, of int) string {
	ext := path.Ext(r.options.ChildFile)
	return strings.TrimSuffix(r.options.ChildFile, ext) + "-" + numbered(number, of) + ext
}

// numbered gives all numbers the same width, so that they sort.
func numbered(number, of int) string {
	return fmt.Sprintf("%0*d", max(3, len(strconv.Itoa(of))), number)
}

// starter writes the child that starts the chunks. GitLab starts a pipeline
// from the artifacts of a job in the same pipeline alone, so its first job
// hands on those of the parent's: to a chunk the child is what the parent is to
// a child. Variables that the parent passes are passed on.
//
// A chunk starts when those are done that it needs something of, whatever
// became of them: what was not published is missed by the jobs that look for
// it, and only by what they stand before. A chunk that was cancelled keeps
// those that need it from starting.
func (r *gitlabRendering) starter(out *GitLabPipelines, chunks [][]int) error {
	c := &gitlabChild{gitlabRendering: r, names: map[string]bool{}}
	files := []string{r.options.PlanFile}
	for _, chunk := range out.Chunks {
		files = append(files, chunk.File)
	}
	j := c.light("plan", "echo 'pipegen: passing the plan on'")
	j.needs, j.variables = list(r.prepared(false)), mapping("GIT_STRATEGY", "none")
	j.artifacts = mapping("expire_in", keepArtifacts, "paths", files)
	if err := c.add(planJob, kindGate, j); err != nil {
		return err
	}
	name := func(number int) string { return "chunk " + numbered(number, len(chunks)) }
	for k, images := range chunks {
		j := gitlabJob{
			stage: "build", variables: mapping("PIPEGEN_PIPELINE_ID", "$CI_PIPELINE_ID"), trigger: out.Chunks[k].File,
		}
		waits := []string{planJob}
		if before := r.before(k+1, images); len(before) > 0 {
			j.when = "always"
			names := make([]string, len(before))
			for i, number := range before {
				names[i] = name(number)
			}
			var err error
			if names, err = c.gates(name(k+1), names); err != nil {
				return err
			}
			waits = append(waits, names...)
		}
		j.needs = list(waits...)
		if err := c.add(name(k+1), kindGate, j); err != nil {
			return err
		}
	}
	root, err := c.document([]string{"plan", "build"})
	if err != nil {
		return err
	}
	if out.Child, err = encode(r.comment(), root); err != nil {
		return err
	}
	out.Jobs += len(c.jobs)
	out.Largest.Needs = max(out.Largest.Needs, c.maxNeeds)
	return nil
}

// before gives the numbers of the chunks that images of a chunk need.
func (r *gitlabRendering) before(number int, images []int) []int {
	var before []int
	for _, i := range images {
		for _, need := range r.needs[i] {
			if n := r.chunk[need]; n != number {
				before = append(before, n)
			}
		}
	}
	slices.Sort(before)
	return slices.Compact(before)
}

// gates puts jobs that do nothing before a chunk that needs too many.
func (c *gitlabChild) gates(chunk string, jobs []string) ([]string, error) {
	for gate := 1; len(jobs) >= maxNeeds; {
		var fewer []string
		for some := range slices.Chunk(jobs, maxNeeds) {
			j := c.light("build", "echo 'pipegen: done'")
			j.needs, j.when, j.variables = list(some...), "always", mapping("GIT_STRATEGY", "none")
			name := "gate " + chunk + " " + strconv.Itoa(gate)
			gate++
			if err := c.add(name, kindGate, j); err != nil {
				return nil, err
			}
			fewer = append(fewer, name)
		}
		jobs = fewer
	}
	return jobs, nil
}
