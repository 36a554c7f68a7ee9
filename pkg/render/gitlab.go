// Package render writes a plan as the pipeline of a CI system. Every value
// goes through the YAML encoder, and none is pasted into a shell line.
package render

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// GitLabOptions say where the jobs of child pipelines find and leave their
// files. Files are relative to the root of the checkout, of letters, digits
// and "._/-".
type GitLabOptions struct {
	// The plan, an artifact of the parent's job that prepares; default: plan.json.
	PlanFile string
	// The child pipeline, another such artifact, beside which chunks are
	// written; default: child.yml.
	ChildFile string
	// Results of builds and publishing; default: .pipegen.
	MetadataDir string
	// Name of the parent's job with these artifacts; default: prepare.
	PrepareJob string
	// Jobs that one pipeline may have; 0: as many as fit into GitLab's other
	// limits. Its ci_pipeline_size is without limit on a server of one's own.
	MaxJobs int
}

// GitLabPipelines is a plan as pipelines.
type GitLabPipelines struct {
	// The pipeline that the parent starts.
	Child []byte
	// Pipelines that the child starts in turn, in dependency order: none
	// unless the plan is beyond what GitLab takes as one.
	Chunks []GitLabChunk
	// The largest of the pipelines with builds.
	Largest GitLabSize
	// Jobs of all pipelines.
	Jobs int
}

// GitLabChunk is a pipeline that the child starts.
type GitLabChunk struct {
	// Relative to the root of the checkout: child-001.yml.
	File string
	Data []byte
}

// GitLabSize says how large a pipeline is.
type GitLabSize struct {
	File string
	// Jobs, the most that one of all jobs needs, bytes of the file, and bytes
	// that its objects take up in GitLab.
	Jobs, Needs, Bytes, Memory int
}

// String is one line about all pipelines, for people.
func (p *GitLabPipelines) String() string {
	l := p.Largest
	what := "1 child pipeline"
	if len(p.Chunks) > 0 {
		what = fmt.Sprintf("%d child pipelines (one starts the %d others)", len(p.Chunks)+1, len(p.Chunks))
	}
	return fmt.Sprintf("%s, %d jobs; the largest, %s: %d jobs, %d KiB, %d of %d KiB in GitLab; the most needs of a job: %d of %d",
		what, p.Jobs, l.File, l.Jobs, l.Bytes>>10, l.Memory>>10, maxMemory>>10, l.Needs, maxNeeds)
}

// GitLab gives the child pipeline of a plan: a job for each build, a job for
// each image that publishes it once its own builds are done, or one job that
// says that there is nothing to do. A plan beyond GitLab's limits
// (https://docs.gitlab.com/administration/instance_limits/) becomes several
// pipelines, which the child starts in dependency order. The same plan gives
// the same bytes. The parent's trigger job passes PARENT_PIPELINE_ID.
//
// The error is a failure.ErrInput for names and values that GitLab cannot
// carry, an *OverlayError for overlays that would break a job.
func GitLab(p *plan.Plan, o GitLabOptions) (*GitLabPipelines, error) {
	r, err := newGitLabRendering(p, o)
	if err != nil {
		return nil, err
	}
	all := make([]int, len(p.Images))
	for i := range all {
		all[i] = i
	}
	whole, err := r.child(0, all)
	if err != nil {
		return nil, err
	}
	root, err := whole.document(whole.stageNames())
	if err != nil {
		return nil, err
	}
	size := GitLabSize{File: r.options.ChildFile, Jobs: len(whole.jobs), Needs: whole.maxNeeds, Memory: rubySize(root)}
	if r.fits(size) {
		data, err := encode(r.comment(), root)
		if err != nil {
			return nil, err
		}
		if size.Bytes = len(data); size.Bytes <= maxMemory {
			return &GitLabPipelines{Child: data, Largest: size, Jobs: size.Jobs}, nil
		}
	}
	// A sixteenth is for what is in every file, beside templates.
	room := cost{maxMemory - maxMemory/16 - costOf(whole.templates).memory, orMany(r.options.MaxJobs)}
	return r.split(room)
}

func orMany(n int) int {
	if n <= 0 {
		return 1 << 30
	}
	return n
}

// gitlabRendering is what all pipelines of a plan have in common.
type gitlabRendering struct {
	plan     *plan.Plan
	options  GitLabOptions
	overlays map[string]config.Overlay
	// Whether a newer pipeline may stop builds that have not been published.
	interruptible bool

	// Of each image: those that it needs, the chunk that it is in, 1 + the
	// highest level of what it needs in there, and what its jobs take up.
	needs [][]int
	chunk []int
	level []int
	costs []cost
}

func newGitLabRendering(p *plan.Plan, o GitLabOptions) (*gitlabRendering, error) {
	for _, d := range []struct {
		value *string
		usual string
	}{{&o.PlanFile, "plan.json"}, {&o.ChildFile, "child.yml"}, {&o.MetadataDir, ".pipegen"}} {
		if *d.value == "" {
			*d.value = d.usual
		}
		if !plainPath.MatchString(*d.value) || path.Clean(*d.value) != *d.value || strings.HasPrefix(*d.value, "..") {
			return nil, failure.Input("%q cannot be used in GitLab jobs: want a path in the checkout, of letters, digits and ._/-", *d.value)
		}
	}
	if o.PrepareJob == "" {
		o.PrepareJob = "prepare"
	}
	if len(o.PrepareJob) > maxJobName || strings.ContainsRune(o.PrepareJob, '$') {
		return nil, failure.Input("%q cannot be needed by GitLab jobs: want a name of up to %d characters without $", o.PrepareJob, maxJobName)
	}
	if o.MaxJobs < 0 {
		return nil, failure.Input("a pipeline cannot have %d jobs", o.MaxJobs)
	}
	overlays := p.CI.Overlays["gitlab"]
	if faults := gitlabOverlays.check(overlays); len(faults) > 0 {
		return nil, faults[0]
	}
	n := len(p.Images)
	r := &gitlabRendering{
		plan: p, options: o, overlays: overlays, interruptible: interruptible(p),
		needs: make([][]int, n), chunk: make([]int, n), level: make([]int, n), costs: make([]cost, n),
	}
	index := make(map[string]int, n)
	for i := range p.Images {
		img := &p.Images[i]
		once := make(map[int]bool, len(img.Needs))
		for _, name := range img.Needs {
			need, ok := index[name]
			if !ok {
				return nil, failure.Input("image %q needs %q, which does not stand before it in the plan", img.Name, name)
			}
			if !once[need] {
				once[need] = true
				r.needs[i] = append(r.needs[i], need)
			}
		}
		index[img.Name] = i
	}
	return r, nil
}

var plainPath = lazyregexp.New(`^[A-Za-z0-9._][A-Za-z0-9._/-]*$`)

// interruptible says whether a newer pipeline that stops builds of this plan
// does them itself: it does if it looks for content that the registry lacks,
// and the reason for each image is its content. A merge request's newer
// pipeline stands for the older in any case.
func interruptible(p *plan.Plan) bool {
	if p.Event == "merge_request" {
		return true
	}
	if p.Event != "push" {
		return false
	}
	for i := range p.Images {
		if p.Images[i].KeyTag == "" {
			return false
		}
		for _, reason := range p.Images[i].Reasons {
			if !slices.Contains([]plan.ReasonKind{plan.Changed, plan.Watched, plan.Missing, plan.Dependency}, reason.Kind) {
				return false
			}
		}
	}
	return true
}

func (r *gitlabRendering) comment() string {
	return fmt.Sprintf("Generated by pipegen for commit %s. Do not edit:\nchange build-config.yaml or pipegen.yaml (overlays), and plan again.\n", quote.Text(r.plan.Head))
}

func (r *gitlabRendering) fits(s GitLabSize) bool {
	return s.Memory <= maxMemory && s.Jobs <= orMany(r.options.MaxJobs)
}

// split gives the plan as several pipelines, and one that starts them.
func (r *gitlabRendering) split(room cost) (*GitLabPipelines, error) {
	p := partition{needs: r.needs, level: levels(r.needs), cost: r.costs, room: room, lookup: make([]cost, len(r.needs))}
	for i := range p.lookup {
		p.lookup[i] = lookupCost(r.plan.Images[i].Name)
	}
	chunks := p.chunks()
	if len(chunks)+2 > maxPipelines {
		return nil, failure.WithHint(failure.Input("the plan is %d pipelines, GitLab allows %d", len(chunks)+1, maxPipelines-1),
			"plan fewer images at a time: pipegen plan NAME...")
	}
	for number, images := range chunks {
		for _, i := range images {
			r.chunk[i] = number + 1
		}
	}
	out := &GitLabPipelines{Chunks: make([]GitLabChunk, len(chunks))}
	sizes, errs := make([]GitLabSize, len(chunks)), make([]error, len(chunks))
	var g errgroup.Group
	g.SetLimit(2) // each holds the nodes of a whole file
	for k, images := range chunks {
		g.Go(func() error {
			file := r.chunkFile(k+1, len(chunks))
			out.Chunks[k], sizes[k], errs[k] = r.writeChunk(k+1, file, images)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	// The first in the order of the plan, whichever came first.
	if at := slices.IndexFunc(errs, func(err error) bool { return err != nil }); at >= 0 {
		return nil, errs[at]
	}
	for _, s := range sizes {
		out.Jobs += s.Jobs
		needs := max(out.Largest.Needs, s.Needs)
		if s.Memory > out.Largest.Memory {
			out.Largest = s
		}
		out.Largest.Needs = needs
	}
	if err := r.starter(out, chunks); err != nil {
		return nil, err
	}
	return out, nil
}

func (r *gitlabRendering) writeChunk(number int, file string, images []int) (GitLabChunk, GitLabSize, error) {
	c, err := r.child(number, images)
	if err != nil {
		return GitLabChunk{}, GitLabSize{}, err
	}
	root, err := c.document(c.stageNames())
	if err != nil {
		return GitLabChunk{}, GitLabSize{}, err
	}
	size := GitLabSize{File: file, Jobs: len(c.jobs), Needs: c.maxNeeds, Memory: rubySize(root)}
	data, err := encode(r.comment(), root)
	if err != nil {
		return GitLabChunk{}, GitLabSize{}, err
	}
	size.Bytes = len(data)
	if !r.fits(size) || size.Bytes > maxMemory {
		// What one image alone needs is more than a pipeline can be.
		name := r.plan.Images[images[len(images)-1]].Name
		if size.Jobs > orMany(r.options.MaxJobs) {
			return GitLabChunk{}, GitLabSize{}, failure.Input("image %q alone is %d jobs, and a pipeline may have %d", name, size.Jobs, r.options.MaxJobs)
		}
		return GitLabChunk{}, GitLabSize{}, failure.Input("image %q alone is too big for GitLab: %d KiB, its limit is %d KiB", name, max(size.Memory, size.Bytes)>>10, maxMemory>>10)
	}
	return GitLabChunk{file, data}, size, nil
}

// GitLabDirs gives the directories of the plan's projects for people and
// scripts: one a line, each once, in the order of the plan.
func GitLabDirs(p *plan.Plan) []byte {
	var b bytes.Buffer
	seen := make(map[string]bool, len(p.Images))
	for i := range p.Images {
		if dir := p.Images[i].Dir; !seen[dir] {
			seen[dir] = true
			b.WriteString(quote.Text(dir) + "\n")
		}
	}
	return b.Bytes()
}
