package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/client"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/manifest"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

// runSubmitted has a controller do what pipegen run does on this machine.
func (a *app) runSubmitted(cmd *cobra.Command, p planning, w working, s sending, names []string, ifPlanned bool) error {
	r, err := s.request(a)
	if err != nil {
		return err
	}
	if w.plan == "" {
		r.Plan, err = a.planToRun(cmd, p, w, names)
	} else {
		r.Plan, r.Published, err = a.partToRun(p, w, names, ifPlanned)
	}
	if err != nil {
		return err
	}
	if len(r.Plan.Images) == 0 {
		a.note("nothing to build")
		return nil
	}
	if err := w.ready(r.Plan); err != nil {
		return err
	}
	nameBuilders(r.Plan, a.getenv)
	if r.Secrets, err = secretsFor(r.Plan, a.getenv); err != nil {
		return err
	}
	var context parcel
	if builds := client.Contexts(r.Plan, r.Published...); len(builds) > 0 {
		if context, err = a.checkoutParcel(cmd.Context(), w, r, builds); err != nil {
			return err
		}
	}
	env, err := a.environment(cmd)
	if err != nil {
		return err
	}
	c, err := a.connect(s.access, env)
	if err != nil {
		return err
	}
	run, err := a.send(cmd.Context(), s, c, &r, context)
	return errors.Join(explained(c, err), keepPublished(w.metadata, run, r.Published))
}

// partToRun gives the images of these names of a plan that is there, all if
// there are none, and what others published that they need.
func (a *app) partToRun(p planning, w working, names []string, ifPlanned bool) (*plan.Plan, []plan.Published, error) {
	if len(p.selects) > 0 || p.base != "" || p.head != "" || p.date != "" || p.registry != "" {
		return nil, nil, failure.Input("--plan is run as it is: --select, --base, --head, --date and --registry belong to planning")
	}
	whole, err := a.readPlan(w.plan)
	if err != nil || len(names) == 0 {
		return whole, nil, err
	}
	var there []string
	for _, name := range names {
		_, err := wanted(whole, []string{name})
		switch {
		case err == nil:
			there = append(there, name)
		case ifPlanned:
			a.note("the plan does not have %s: nothing to do for it", name)
		default:
			return nil, nil, err
		}
	}
	part, needed, err := whole.Only(there...)
	if err != nil {
		return nil, nil, err
	}
	var published []plan.Published
	for _, name := range needed {
		if img, _ := whole.Image(name); !img.Pushes() {
			leaveOut(part, name)
			continue
		}
		pub, err := manifest.ReadPublished(w.metadata, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, failure.WithHint(failure.Input("%s is not there: what these images need is published first", plan.PublishedFile(w.metadata, name)),
				"pipegen published %s --plan %s fetches it from the registry, if it is there", name, w.plan)
		}
		if err != nil {
			return nil, nil, err
		}
		published = append(published, pub)
	}
	return part, published, nil
}

// nameBuilders puts the values of variables into the names of builder images:
// the CI system has them, and the controller does not.
func nameBuilders(p *plan.Plan, getenv func(string) string) {
	for i := range p.Images {
		for j := range p.Images[i].Builds {
			b := &p.Images[i].Builds[j]
			if image, err := runner.BuilderImage(b.BuilderImage, getenv); err == nil && b.BuilderImage != "" {
				b.BuilderImage = image
			}
		}
	}
}

// leaveOut removes an image that others need only to be built after it.
func leaveOut(p *plan.Plan, name string) {
	p.Images = slices.DeleteFunc(p.Images, func(img plan.Image) bool { return img.Name == name })
	for i := range p.Images {
		p.Images[i].Needs = slices.DeleteFunc(slices.Clone(p.Images[i].Needs), func(need string) bool { return need == name })
	}
}

// secretsFor gives the values of the variables that a plan takes secrets from.
// Those that are not set here the controller has, or its builds say so.
func secretsFor(p *plan.Plan, getenv func(string) string) (map[string]string, error) {
	values := map[string]string{}
	for i := range p.Images {
		img := &p.Images[i]
		var names []string
		for j := range img.Builds {
			names = append(names, img.Builds[j].Credentials()...)
		}
		if img.Source != nil && img.Source.Auth != nil {
			names = append(names, img.Source.Auth.TokenEnv, img.Source.Auth.SSHKeyEnv)
		}
		if ownGitLab(img.Source, getenv) {
			names = append(names, plan.OwnGitLab...)
		}
		for _, name := range names {
			if value := getenv(name); name != "" && value != "" {
				values[name] = value
			}
		}
		// A key may be given as the path of a file, which agents do not have.
		if img.Source == nil || img.Source.Auth == nil || img.Source.Auth.SSHKeyEnv == "" {
			continue
		}
		name := img.Source.Auth.SSHKeyEnv
		if value := values[name]; value != "" && !strings.Contains(value, "-----BEGIN") {
			key, err := os.ReadFile(strings.TrimSpace(value))
			if err != nil {
				return nil, failure.Input("%s: reading the key: %w", name, err)
			}
			values[name] = string(key)
		}
	}
	return values, nil
}

// ownGitLab says whether a source is opened by the token of the job that this
// is.
func ownGitLab(source *plan.Source, getenv func(string) string) bool {
	if source == nil || source.Auth != nil || getenv("CI_JOB_TOKEN") == "" {
		return false
	}
	u, err := url.Parse(source.Repo)
	return err == nil && strings.EqualFold(u.Hostname(), getenv("CI_SERVER_HOST"))
}

// checkoutParcel says what of the checkout goes to the controller: what builds
// take, or all if scripts or a project's own make may read anything.
func (a *app) checkoutParcel(ctx context.Context, w working, r api.RunRequest, builds []buildcontext.Build) (parcel, error) {
	dir, _, err := root(ctx)
	if err != nil {
		return parcel{}, err
	}
	results, err := filepath.Abs(w.metadata)
	if err != nil {
		return parcel{}, err
	}
	if results, err = filepath.Rel(dir, results); err != nil {
		return parcel{}, err
	}
	results = filepath.ToSlash(results)
	p := parcel{dir: dir, pack: buildcontext.PackOptions{Builds: builds}}
	taken, all := takes(r.Plan, builds)
	p.pack.Skip = func(name string) bool {
		return name == results || !all && !slices.ContainsFunc(taken, func(t string) bool { return t == "." || inside(name, t) || inside(t, name) })
	}
	return p, nil
}

// takes gives the paths that builds of a checkout read, and whether they may
// read anything.
func takes(p *plan.Plan, builds []buildcontext.Build) (paths []string, all bool) {
	for _, b := range builds {
		paths = append(paths, path.Clean(b.Context), path.Clean(b.Dockerfile), path.Clean(b.Dockerfile)+".dockerignore")
	}
	for i := range p.Images {
		img := &p.Images[i]
		for j := range img.Builds {
			b := &img.Builds[j]
			if img.Source == nil && (b.Engine == "make" || b.PreScript != "" || b.PostScript != "" || len(b.Contexts) > 0) {
				return nil, true
			}
			for _, s := range b.Secrets {
				if s.File != "" {
					paths = append(paths, path.Clean(s.File))
				}
			}
			for _, s := range b.SSH {
				if s.File != "" {
					paths = append(paths, path.Clean(s.File))
				}
			}
		}
	}
	return paths, false
}

// inside says whether a path is dir, or below it.
func inside(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

// keepPublished leaves what a run published in the metadata directory, as
// pipegen manifest does.
func keepPublished(metadata string, run api.Run, before []plan.Published) error {
	var errs []error
	for _, img := range run.Images {
		known := slices.ContainsFunc(before, func(p plan.Published) bool { return p.Name == img.Name })
		if img.Published == nil || known {
			continue
		}
		if err := manifest.WritePublished(metadata, *img.Published); err != nil {
			errs = append(errs, fmt.Errorf("keeping what was published of %s: %w", img.Name, err))
		}
	}
	return errors.Join(errs...)
}

// elsewhere says of flags that they mean nothing for builds that a controller does.
func elsewhere(cmd *cobra.Command, names ...string) error {
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			return failure.Input("--%s is for builds on this machine, and the controller does these", name)
		}
	}
	return nil
}

// here says the same of flags for builds on this machine.
func here(cmd *cobra.Command) error {
	for _, name := range []string{"token-file", "insecure", "patience", "priority", "timeout", "label", "send-credentials", "credentials-for", "detach", "on-interrupt", "if-planned"} {
		if cmd.Flags().Changed(name) {
			return failure.WithHint(failure.Input("--%s is for builds that a controller does", name), "use --server or --runner")
		}
	}
	return nil
}
