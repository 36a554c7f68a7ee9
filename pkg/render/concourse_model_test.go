package render_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/plan"
)

// The types here are a pipeline as Concourse takes it, after
// https://concourse-ci.org/docs/ and the types in its package atc. Decoding is
// strict: a key that is not here is none that Concourse knows.

type ccPipeline struct {
	Resources     []ccResource     `yaml:"resources"`
	ResourceTypes []ccResourceType `yaml:"resource_types"`
	VarSources    []map[string]any `yaml:"var_sources"`
	Jobs          []ccJob          `yaml:"jobs"`
}

type ccResource struct {
	Name         string    `yaml:"name"`
	Type         string    `yaml:"type"`
	Source       yaml.Node `yaml:"source"`
	CheckEvery   string    `yaml:"check_every"`
	CheckTimeout string    `yaml:"check_timeout"`
	WebhookToken string    `yaml:"webhook_token"`
	Tags         []string  `yaml:"tags"`
	Icon         string    `yaml:"icon"`
	Public       bool      `yaml:"public"`

	git ccGit
}

// ccGit is the source of concourse/git-resource.
type ccGit struct {
	URI           string   `yaml:"uri"`
	Branch        string   `yaml:"branch"`
	PrivateKey    string   `yaml:"private_key"`
	Username      string   `yaml:"username"`
	Password      string   `yaml:"password"`
	Paths         []string `yaml:"paths"`
	IgnorePaths   []string `yaml:"ignore_paths"`
	DisableCISkip bool     `yaml:"disable_ci_skip"`
}

// ccTime is the source of concourse/time-resource.
type ccTime struct {
	Interval string   `yaml:"interval"`
	Location string   `yaml:"location"`
	Start    string   `yaml:"start"`
	Stop     string   `yaml:"stop"`
	Days     []string `yaml:"days"`

	InitialVersion bool `yaml:"initial_version"`
}

// ccRegistryImage is the source of concourse/registry-image-resource.
type ccRegistryImage struct {
	Repository string `yaml:"repository"`
	Tag        string `yaml:"tag"`
	Username   string `yaml:"username"`
	Password   string `yaml:"password"`
	AWSRegion  string `yaml:"aws_region"`

	AWSAccessKeyID     string `yaml:"aws_access_key_id"`
	AWSSecretAccessKey string `yaml:"aws_secret_access_key"`
	AWSECRRegistryID   string `yaml:"aws_ecr_registry_id"`
}

type ccResourceType struct {
	Name   string         `yaml:"name"`
	Type   string         `yaml:"type"`
	Source map[string]any `yaml:"source"`
}

type ccJob struct {
	Name                 string       `yaml:"name"`
	Plan                 []ccStep     `yaml:"plan"`
	Serial               bool         `yaml:"serial"`
	SerialGroups         []string     `yaml:"serial_groups"`
	MaxInFlight          int          `yaml:"max_in_flight"`
	Public               bool         `yaml:"public"`
	DisableManualTrigger bool         `yaml:"disable_manual_trigger"`
	Interruptible        bool         `yaml:"interruptible"`
	BuildLogRetention    *ccRetention `yaml:"build_log_retention"`
	OnSuccess            *ccStep      `yaml:"on_success"`
	OnFailure            *ccStep      `yaml:"on_failure"`
	OnError              *ccStep      `yaml:"on_error"`
	OnAbort              *ccStep      `yaml:"on_abort"`
	Ensure               *ccStep      `yaml:"ensure"`
}

type ccRetention struct {
	Builds                 int `yaml:"builds"`
	Days                   int `yaml:"days"`
	MinimumSucceededBuilds int `yaml:"minimum_succeeded_builds"`
}

// ccStep is one of the core steps, with what modifies it.
type ccStep struct {
	Get         *ccGet
	Put         *ccPut
	Task        *ccTask
	SetPipeline *ccSetPipeline
	InParallel  []ccStep

	ccModifiers
}

type ccModifiers struct {
	Timeout   string  `yaml:"timeout"`
	Attempts  int     `yaml:"attempts"`
	OnSuccess *ccStep `yaml:"on_success"`
	OnFailure *ccStep `yaml:"on_failure"`
	OnError   *ccStep `yaml:"on_error"`
	OnAbort   *ccStep `yaml:"on_abort"`
	Ensure    *ccStep `yaml:"ensure"`
}

type ccGet struct {
	Get      string         `yaml:"get"`
	Resource string         `yaml:"resource"`
	Passed   []string       `yaml:"passed"`
	Trigger  bool           `yaml:"trigger"`
	Params   map[string]any `yaml:"params"`
	Tags     []string       `yaml:"tags"`
}

type ccPut struct {
	Put      string         `yaml:"put"`
	Resource string         `yaml:"resource"`
	Params   map[string]any `yaml:"params"`
}

type ccTask struct {
	Task            string            `yaml:"task"`
	Config          *ccTaskConfig     `yaml:"config"`
	Privileged      bool              `yaml:"privileged"`
	Params          map[string]string `yaml:"params"`
	Tags            []string          `yaml:"tags"`
	ContainerLimits map[string]any    `yaml:"container_limits"`
}

type ccTaskConfig struct {
	Platform      string `yaml:"platform"`
	ImageResource struct {
		Type    string            `yaml:"type"`
		Source  ccRegistryImage   `yaml:"source"`
		Version map[string]string `yaml:"version"`
	} `yaml:"image_resource"`
	Inputs          []ccArtifact      `yaml:"inputs"`
	Outputs         []ccArtifact      `yaml:"outputs"`
	Caches          []ccArtifact      `yaml:"caches"`
	Params          map[string]string `yaml:"params"`
	ContainerLimits map[string]any    `yaml:"container_limits"`
	Run             struct {
		Path string   `yaml:"path"`
		Args []string `yaml:"args"`
		Dir  string   `yaml:"dir"`
		User string   `yaml:"user"`
	} `yaml:"run"`
}

type ccArtifact struct {
	Name string `yaml:"name"`
	Path string `yaml:"path"`
}

type ccSetPipeline struct {
	SetPipeline  string         `yaml:"set_pipeline"`
	File         string         `yaml:"file"`
	Vars         map[string]any `yaml:"vars"`
	VarFiles     []string       `yaml:"var_files"`
	InstanceVars map[string]any `yaml:"instance_vars"`
}

// UnmarshalYAML finds out which step it is.
func (s *ccStep) UnmarshalYAML(n *yaml.Node) error {
	core, modifiers := yaml.Node{Kind: yaml.MappingNode}, yaml.Node{Kind: yaml.MappingNode}
	var kinds []string
	for i := 0; i < len(n.Content); i += 2 {
		to := &core
		switch key := n.Content[i].Value; key {
		case "timeout", "attempts", "on_success", "on_failure", "on_error", "on_abort", "ensure":
			to = &modifiers
		case "get", "put", "task", "set_pipeline", "in_parallel":
			kinds = append(kinds, key)
		}
		to.Content = append(to.Content, n.Content[i], n.Content[i+1])
	}
	if len(kinds) != 1 {
		return fmt.Errorf("line %d: a step of the kinds %q", n.Line, kinds)
	}
	var err error
	switch kinds[0] {
	case "get":
		s.Get = new(ccGet)
		err = strictly(&core, s.Get)
	case "put":
		s.Put = new(ccPut)
		err = strictly(&core, s.Put)
	case "task":
		s.Task = new(ccTask)
		err = strictly(&core, s.Task)
	case "set_pipeline":
		s.SetPipeline = new(ccSetPipeline)
		err = strictly(&core, s.SetPipeline)
	case "in_parallel":
		var p struct {
			InParallel []ccStep `yaml:"in_parallel"`
		}
		err = strictly(&core, &p)
		s.InParallel = p.InParallel
	}
	return errors.Join(err, strictly(&modifiers, &s.ccModifiers))
}

func strictly(n *yaml.Node, into any) error {
	if len(n.Content) == 0 {
		return nil
	}
	data, err := yaml.Marshal(n)
	if err != nil {
		return err
	}
	return strictlyBytes(data, into)
}

func strictlyBytes(data []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// steps gives all steps below some, those in parallel after what comes before.
func ccSteps(steps []ccStep) []*ccStep {
	var all []*ccStep
	for i := range steps {
		all = append(all, &steps[i])
		all = append(all, ccSteps(steps[i].InParallel)...)
	}
	return all
}

func (g *ccGet) resource() string {
	if g.Resource != "" {
		return g.Resource
	}
	return g.Get
}

var ccIdentifier = regexp.MustCompile(`^[\p{Ll}\p{Lt}\p{Lm}\p{Lo}][\p{Ll}\p{Lt}\p{Lm}\p{Lo}\d\-_.]*$`)

// ccParse decodes a pipeline and checks what Concourse checks when it is set
// (atc/configvalidate and atc/step_validator.go), and more: that each artifact
// is there before it is used.
func ccParse(t testing.TB, data []byte) *ccPipeline {
	t.Helper()
	var p ccPipeline
	if err := strictlyBytes(data, &p); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	identifier := func(what, name string) {
		if !ccIdentifier.MatchString(name) {
			t.Errorf("%s %q is no identifier", what, name)
		}
	}
	resources := map[string]bool{}
	for i := range p.Resources {
		r := &p.Resources[i]
		identifier("resource", r.Name)
		if resources[r.Name] {
			t.Errorf("two resources %q", r.Name)
		}
		resources[r.Name] = true
		var err error
		switch r.Type {
		case "git":
			err = strictly(&r.Source, &r.git)
			if r.git.URI == "" {
				t.Errorf("resource %s has no uri", r.Name)
			}
		case "time":
			var s ccTime
			if err = strictly(&r.Source, &s); err == nil && (len(s.Days) == 0 || s.Start == "" || s.Stop == "" || !s.InitialVersion) {
				t.Errorf("resource %s: %+v", r.Name, s)
			}
		default:
			if !slices.ContainsFunc(p.ResourceTypes, func(rt ccResourceType) bool { return rt.Name == r.Type }) {
				t.Errorf("resource %s has the unknown type %q", r.Name, r.Type)
			}
		}
		if err != nil {
			t.Errorf("resource %s: %v", r.Name, err)
		}
	}
	fetched := map[string][]string{} // job → resources
	for i := range p.Jobs {
		identifier("job", p.Jobs[i].Name)
		if fetched[p.Jobs[i].Name] != nil {
			t.Errorf("two jobs %q", p.Jobs[i].Name)
		}
		fetched[p.Jobs[i].Name] = []string{}
		for _, s := range ccSteps(p.Jobs[i].Plan) {
			if s.Get != nil {
				fetched[p.Jobs[i].Name] = append(fetched[p.Jobs[i].Name], s.Get.resource())
			}
		}
	}
	used := map[string]bool{}
	for i := range p.Jobs {
		j := &p.Jobs[i]
		artifacts := map[string]bool{}
		for _, top := range j.Plan {
			made := map[string]bool{} // by steps that run at the same time
			for _, s := range ccSteps([]ccStep{top}) {
				for _, hook := range []*ccStep{s.OnFailure, s.OnSuccess, s.OnError, s.OnAbort, s.Ensure} {
					if hook != nil && hook.Put != nil {
						used[hook.Put.Put] = true
					}
				}
				if _, err := time.ParseDuration(s.Timeout); s.Timeout != "" && err != nil {
					t.Errorf("job %s: %v", j.Name, err)
				}
				switch {
				case s.Get != nil:
					identifier("get", s.Get.Get)
					r := s.Get.resource()
					used[r] = true
					if !resources[r] || made[s.Get.Get] || artifacts[s.Get.Get] {
						t.Errorf("job %s: get %s of the resource %s: not there, or there twice", j.Name, s.Get.Get, r)
					}
					for _, passed := range s.Get.Passed {
						if !slices.Contains(fetched[passed], r) || passed == j.Name {
							t.Errorf("job %s: get %s passed %s, which does not get it", j.Name, r, passed)
						}
					}
					made[s.Get.Get] = true
				case s.Task != nil:
					identifier("task", s.Task.Task)
					c := s.Task.Config
					if c == nil || c.Platform != "linux" || c.Run.Path != "pipegen" || c.ImageResource.Type != "registry-image" || c.ImageResource.Source.Repository == "" {
						t.Fatalf("job %s: task %s: %+v", j.Name, s.Task.Task, c)
					}
					for _, in := range c.Inputs {
						if !artifacts[in.Name] {
							t.Errorf("job %s: task %s has the input %q, which nothing made before", j.Name, s.Task.Task, in.Name)
						}
					}
					if !slices.Contains(c.Inputs, ccArtifact{Name: c.Run.Dir}) {
						t.Errorf("job %s: task %s runs in %q, which is no input", j.Name, s.Task.Task, c.Run.Dir)
					}
					for _, out := range c.Outputs {
						identifier("artifact", out.Name)
						if made[out.Name] || artifacts[out.Name] {
							t.Errorf("job %s: two artifacts %q", j.Name, out.Name)
						}
						made[out.Name] = true
					}
					// All that the command names beside its checkout is an input or an output.
					for _, arg := range c.Run.Args {
						if _, rest, ok := strings.Cut(arg, "../"); ok {
							name, _, _ := strings.Cut(rest, "/")
							if !slices.Contains(c.Inputs, ccArtifact{Name: name}) && !slices.Contains(c.Outputs, ccArtifact{Name: name}) {
								t.Errorf("job %s: task %s uses %q, which is neither input nor output", j.Name, s.Task.Task, arg)
							}
						}
					}
				case s.SetPipeline != nil:
					if name, _, _ := strings.Cut(s.SetPipeline.File, "/"); s.SetPipeline.SetPipeline != "self" || !artifacts[name] {
						t.Errorf("job %s: %+v", j.Name, s.SetPipeline)
					}
				}
			}
			maps.Copy(artifacts, made)
		}
		for _, hook := range []*ccStep{j.OnFailure, j.OnSuccess, j.OnError, j.OnAbort, j.Ensure} {
			if hook != nil && hook.Put != nil {
				used[hook.Put.Put] = true
			}
		}
	}
	for r := range resources {
		if !used[r] {
			t.Errorf("the resource %s is not used", r)
		}
	}
	return &p
}

// checkConcourse checks a pipeline against what it was made from: each project
// has its resource, each image its job, each build its task, and dependencies
// their order.
func checkConcourse(t testing.TB, p *plan.Plan, cfg *config.Repository, data []byte) *ccPipeline {
	t.Helper()
	pipeline := ccParse(t, data)
	if want := 1 + len(p.Images); len(pipeline.Jobs) != want {
		t.Fatalf("%d jobs, want %d", len(pipeline.Jobs), want)
	}
	set := pipeline.Jobs[0]
	if set.Name != "set-pipeline" || len(set.Plan) != 2 || set.Plan[1].SetPipeline == nil || !set.Plan[0].Get.Trigger {
		t.Errorf("the first job does not set the pipeline: %+v", set)
	}
	jobOf := map[string]*ccJob{} // by image
	for i := range p.Images {
		j := &pipeline.Jobs[i+1]
		jobOf[p.Images[i].Name] = j
		if !j.Serial {
			t.Errorf("job %s moves tags in several builds at once", j.Name)
		}
	}
	for i := range p.Images {
		img := &p.Images[i]
		j := jobOf[img.Name]
		var tasks []*ccStep
		triggers := map[string][]string{} // resource → passed
		for _, s := range ccSteps(j.Plan) {
			if s.Task != nil {
				tasks = append(tasks, s)
				if want := "concourse"; s.Task.Config.Params["PIPEGEN_CI"] != want {
					t.Errorf("task %s of %s does not know where it runs", s.Task.Task, j.Name)
				}
			}
			if s.Get != nil && s.Get.Trigger {
				triggers[s.Get.resource()] = s.Get.Passed
			}
		}
		published := 0
		if img.Pushes() {
			published = 1
		}
		if got := tasks[0].Task.Config.Run.Args; got[0] != "plan" || got[1] != img.Name {
			t.Errorf("job %s plans by %q", j.Name, got)
		}
		if len(img.Builds) > 0 && img.Builds[0].Runner != "ci" {
			checkConcourseController(t, img, tasks[1:])
		} else {
			if len(tasks) != 1+len(img.Builds)+published {
				t.Fatalf("job %s has %d tasks", j.Name, len(tasks))
			}
			for k, b := range img.Builds {
				task := tasks[1+k].Task
				privileged := b.Engine == "make" || b.Engine == "buildkit" && len(cfg.Pipegen.BuildKit.Addresses) == 0
				if got := task.Config.Run.Args; got[0] != "build" || got[1] != b.ID || task.Config.Run.User != "root" || task.Privileged != privileged {
					t.Errorf("build %s runs %+v", b.ID, task.Config.Run)
				}
				if _, overlaid := cfg.Pipegen.Overlays["concourse"]["build"]["tags"]; !overlaid && !slices.Equal(task.Tags, b.RunsOn.Concourse) {
					t.Errorf("build %s runs on %q, want %q", b.ID, task.Tags, b.RunsOn.Concourse)
				}
			}
			if len(img.Builds) > 0 && len(j.Plan[2].InParallel) != len(img.Builds) {
				t.Errorf("job %s does not build its platforms at the same time", j.Name)
			}
			if got := tasks[len(tasks)-1].Task.Config.Run.Args; published == 1 && (got[0] != "manifest" || got[1] != img.Name) {
				t.Errorf("job %s publishes by %q", j.Name, got)
			}
		}
		// Whatever triggers what an image is built on leads to the image too,
		// through the jobs in between.
		for _, need := range img.Needs {
			for resource := range triggersOf(jobOf[need]) {
				if !slices.Contains(triggers[resource], jobOf[need].Name) {
					t.Errorf("%s is not rebuilt when %s changes %s: it gets %q", img.Name, resource, need, triggers)
				}
			}
		}
		var after []string
		for _, arg := range tasks[0].Task.Config.Run.Args {
			if pair, ok := strings.CutPrefix(arg, "--after="); ok {
				name, _, _ := strings.Cut(pair, "=")
				after = append(after, name)
			}
		}
		if want := closure(p, img); !slices.Equal(after, want) {
			t.Errorf("%s is planned after %q, want %q", img.Name, after, want)
		}
		_, weekly := triggers["weekly"]
		if want := isWeekly(cfg, p, img); weekly != want {
			t.Errorf("%s is rebuilt weekly: %v, want %v", img.Name, weekly, want)
		}
	}
	return pipeline
}

func triggersOf(j *ccJob) map[string]bool {
	all := map[string]bool{}
	for _, s := range ccSteps(j.Plan) {
		if s.Get != nil && s.Get.Trigger {
			all[s.Get.resource()] = true
		}
	}
	return all
}

// closure is all that an image is built on, in the order of the plan.
func closure(p *plan.Plan, img *plan.Image) []string {
	in := map[string]bool{}
	var visit func(*plan.Image)
	visit = func(img *plan.Image) {
		for _, need := range img.Needs {
			if in[need] = true; in[need] {
				n, _ := p.Image(need)
				visit(n)
			}
		}
	}
	visit(img)
	var all []string
	for i := range p.Images {
		if in[p.Images[i].Name] {
			all = append(all, p.Images[i].Name)
		}
	}
	return all
}

func isWeekly(cfg *config.Repository, p *plan.Plan, img *plan.Image) bool {
	for _, name := range append(closure(p, img), img.Name) {
		of, _ := p.Image(name)
		for _, project := range cfg.Projects {
			for _, e := range cfg.Weekly {
				if project.Dir == of.Dir && e.Matches(project, name) {
					return true
				}
			}
		}
	}
	return false
}

// checkConcourseController checks that one task has the controller do all of
// an image, on any worker, with the token in a variable.
func checkConcourseController(t testing.TB, img *plan.Image, tasks []*ccStep) {
	t.Helper()
	if len(tasks) != 1 {
		t.Fatalf("%s has %d tasks beside planning", img.Name, len(tasks))
	}
	task := tasks[0].Task
	want := []string{"run", img.Name, "--if-planned", "--plan=../plan/plan.json", "--metadata-dir=../published", "--runner=" + img.Builds[0].Runner}
	if got := task.Config.Run.Args; !slices.Equal(got, want) {
		t.Errorf("%s is run by %q", img.Name, got)
	}
	params := task.Config.Params
	if params["PIPEGEN_SERVER"] != "((pipegen_server))" || !slices.Contains([]string{"((pipegen_token))", "((pipegen-controller:token))"}, params["PIPEGEN_TOKEN"]) || len(task.Tags) > 0 || task.Privileged || task.Config.Run.User != "" {
		t.Errorf("%s runs with %v on workers %v, as %q", img.Name, params, task.Tags, task.Config.Run.User)
	}
	for _, b := range img.Builds {
		for _, name := range b.Credentials() {
			if params[name] != "(("+name+"))" {
				t.Errorf("%s lacks %s", img.Name, name)
			}
		}
	}
}
