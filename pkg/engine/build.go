package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/go-git/go-git/v5"

	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/dockerfile"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// building is one run of a job.
type building struct {
	*Prepared
	engine engine
	log    *logWriter
	// Directory for all that the build makes here. Of it, a sandbox sees the
	// job's directory alone: steps of a Dockerfile must not reach what scripts
	// run on this machine.
	work string
	// Directory of the source on this machine.
	source string
	bases  []plan.Base
}

// errTimeout is the cause of a context whose build took too long.
type errTimeout struct{ limit time.Duration }

func (e errTimeout) Error() string { return fmt.Sprintf("took longer than its timeout of %s", e.limit) }

// Run does the build and leaves ID.json and ID.log below the metadata
// directory; ID.json only if everything went well, post_script included. If
// the destination already holds what the same plan built, the engine is not
// run again. What is wrong with the plan, the Dockerfile or the machine's
// configuration wraps failure.ErrInput. When ctx ends, everything that was
// started is stopped, and the error wraps its cause.
func Run(ctx context.Context, j Job) (result plan.Result, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("build %s: %w", j.Build.ID, err)
		}
	}()
	b, err := check(&j)
	if err != nil {
		return plan.Result{}, err
	}
	if j.Build.Timeout != "" {
		limit, err := time.ParseDuration(j.Build.Timeout)
		if err != nil {
			return plan.Result{}, failure.Input("timeout: %w", err)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, errTimeout{limit})
		defer cancel()
	}
	if err := b.makeWork(); err != nil {
		return plan.Result{}, fmt.Errorf("making the build's directory: %w", err)
	}
	defer func() {
		if e := archive.RemoveAll(b.work); err == nil && e != nil {
			err = fmt.Errorf("removing the build's directory: %w", e)
		}
	}()
	closeLog, err := b.openLog()
	if err != nil {
		return plan.Result{}, err
	}
	defer func() {
		if err != nil {
			b.log.say("failed: " + err.Error())
			err = b.log.error(err)
		}
		if e := closeLog(); err == nil && e != nil {
			err = fmt.Errorf("writing the log: %w", e)
		}
	}()
	result, err = b.run(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // all else follows from it
	}
	return result, err
}

// check refuses what can be known to be wrong before anything is made.
func check(j *Job) (*building, error) {
	e, err := engineOf(j.Build)
	if err != nil {
		return nil, err
	}
	if j.Build.Pushes() && (j.Plan.Registry == "" || j.Build.Destination == "") {
		return nil, failure.WithHint(failure.Input("the plan names no registry, so there is nowhere to push to"),
			"plan with --registry, registry in pipegen.yaml, or $ECR_REGISTRY")
	}
	if j.OutputDir == "" {
		j.OutputDir = plan.OutputDir(j.MetadataDir, j.Build.ID)
	}
	for _, path := range []*string{&j.Root, &j.MetadataDir, &j.OutputDir, &j.CacheDir} {
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
	}
	if err := sameCommit(j); err != nil {
		return nil, err
	}
	p, err := placed(e, j, false)
	if err != nil {
		return nil, err
	}
	return &building{Prepared: p, engine: e}, nil
}

// sameCommit refuses a plan of another commit than the checkout's.
func sameCommit(j *Job) error {
	if j.Plan.Dirty || j.Unpacked {
		return nil
	}
	repo, err := git.PlainOpenWithOptions(j.Root, &git.PlainOpenOptions{DetectDotGit: true, EnableDotGitCommonDir: true})
	if errors.Is(err, git.ErrRepositoryNotExists) {
		if j.Image.Source != nil {
			return nil // nothing of the checkout is used
		}
		return failure.Input("%s is no git repository, so it cannot be the checkout of commit %.12s that the plan is for", j.Root, j.Plan.Head)
	}
	if err != nil {
		return fmt.Errorf("reading the checkout %s: %w", j.Root, err)
	}
	head, err := repo.Head()
	if err != nil {
		return fmt.Errorf("reading the checkout's HEAD: %w", err)
	}
	if got := head.Hash().String(); got != j.Plan.Head {
		return failure.WithHint(failure.Input("the plan is for commit %.12s, but the checkout is at %.12s", j.Plan.Head, got),
			"plan again, or check out the plan's commit")
	}
	return nil
}

// makeWork makes the build's directories, where the engine wants them or among
// temporary files.
func (b *building) makeWork() (err error) {
	if b.Dir != "" && !b.Mounted {
		if err := archive.RemoveAll(b.Dir); err != nil { // of a build that was killed
			return err
		}
		b.work, b.HostDir = b.Dir, b.Dir
		return os.Mkdir(b.Dir, 0o700)
	}
	if b.work, err = os.MkdirTemp(b.Job.Getenv("TMPDIR"), "pipegen-build-"); err != nil {
		return err
	}
	b.HostDir = filepath.Join(b.work, "job")
	if !b.Mounted {
		b.Dir = b.HostDir
	}
	return os.Mkdir(b.HostDir, 0o700)
}

func (b *building) openLog() (closeLog func() error, err error) {
	path := plan.LogFile(b.Job.MetadataDir, b.Job.Build.ID)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the metadata directory: %w", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("making the log: %w", err)
	}
	outs := []io.Writer{f}
	if b.Job.Log != nil {
		outs = append(outs, b.Job.Log)
	}
	b.log = newLogWriter(outs...)
	closeLog = func() error { return errors.Join(b.log.Close(), f.Close()) }
	if err := b.hideSecrets(); err != nil {
		return nil, errors.Join(err, closeLog())
	}
	return closeLog, nil
}

func (b *building) run(ctx context.Context) (plan.Result, error) {
	j := b.Job
	if s, ok := b.engine.(starter); ok {
		defer s.start(ctx, b)()
	}
	// What is there of an earlier attempt must not pass for this one's.
	if err := os.Remove(plan.ResultFile(j.MetadataDir, j.Build.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return plan.Result{}, fmt.Errorf("removing the result of an earlier build: %w", err)
	}
	if err := b.clearOutputs(); err != nil {
		return plan.Result{}, err
	}
	result, adopted, err := b.adopt(ctx)
	if err != nil {
		return plan.Result{}, err
	}
	if adopted {
		if err := b.again(ctx, &result); err != nil {
			return plan.Result{}, err
		}
	}
	if adopted && j.Build.PostScript == "" {
		return result, b.writeResult(result)
	}
	if err := b.fetchSource(ctx); err != nil {
		return plan.Result{}, err
	}
	if err := b.script(ctx, "pre_script", j.Build.PreScript, nil); err != nil {
		return plan.Result{}, err
	}
	if !adopted {
		if result, err = b.execute(ctx); err != nil {
			return plan.Result{}, err
		}
	}
	extra := map[string]string{"PIPEGEN_DIGEST": result.Digest, "PIPEGEN_OUTPUTS": j.OutputDir}
	if result.Ref != "" {
		extra["PIPEGEN_REF"] = j.Image.Repository + "@" + result.Digest
	}
	err = b.script(ctx, "post_script", j.Build.PostScript, extra)
	if err != nil {
		return plan.Result{}, err
	}
	return result, b.writeResult(result)
}

// execute has the engine build, verifies what it pushed, and makes the outputs
// that are files.
func (b *building) execute(ctx context.Context) (plan.Result, error) {
	if err := b.engine.prepare(ctx, b); err != nil {
		return plan.Result{}, err
	}
	c := b.engine.command(b.Prepared)
	c.Stdout, c.Stderr = b.log, b.log
	if err := b.engine.run(ctx, b, c); err != nil {
		return plan.Result{}, ending(b.Job.Build.Engine, err)
	}
	made, err := b.engine.result(ctx, b)
	if err != nil {
		return plan.Result{}, err
	}
	return b.deliver(ctx, made)
}

// prepareDockerfile reads the Dockerfile, refuses it if the engine cannot
// build it, and puts it into the job's directory with its bases pinned.
func (b *building) prepareDockerfile(ctx context.Context, lacks func(*Prepared) []dockerfile.Finding) error {
	name := b.Job.Build.Dockerfile
	text, err := b.dockerfile()
	if err != nil {
		return err
	}
	if b.File, err = dockerfile.Parse(text); err != nil {
		return located(name, err)
	}
	var refused []error
	for _, f := range lacks(b.Prepared) {
		at := fmt.Sprintf("%s:%d: %s", quote.Text(name), f.Line, quote.Text(f.Msg))
		if f.Warning {
			b.log.say("warning: " + at)
			continue
		}
		refused = append(refused, failure.Input("%s", at))
	}
	if len(refused) > 0 {
		return failure.WithHint(errors.Join(refused...), "engine: buildkit has it")
	}
	if err := b.executable(name); err != nil {
		return err
	}
	digests, err := b.resolveBases(ctx, name)
	if err != nil {
		return err
	}
	pinned := b.File.Pin(arguments(b.Job), b.Job.Build.Target, digests)
	if err := os.WriteFile(filepath.Join(b.HostDir, "Dockerfile"), pinned, 0o600); err != nil {
		return err
	}
	return b.copyIgnore()
}

// dockerfile gives the text that is built: that of the plan, or the file.
func (b *building) dockerfile() ([]byte, error) {
	if inline := b.Job.Build.DockerfileInline; inline != "" {
		return []byte(inline), nil
	}
	return b.readSource(b.Job.Build.Dockerfile)
}

// copyIgnore puts the Dockerfile's own list of ignored files beside it.
func (b *building) copyIgnore() error {
	if b.Job.Build.DockerfileInline != "" {
		return nil
	}
	ignore, err := b.readSource(b.Job.Build.Dockerfile + ".dockerignore")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.HostDir, "Dockerfile.dockerignore"), ignore, 0o600)
}

// executable refuses a Dockerfile with RUN for a platform that this machine
// cannot execute.
func (b *building) executable(name string) error {
	j := b.Job
	if j.Executes == nil || j.Executes(b.Platform) {
		return nil
	}
	line, ok := b.File.Runs(arguments(j), j.Build.Target)
	if !ok {
		return nil
	}
	return failure.WithHint(failure.Input("%s:%d: this machine cannot execute RUN for %s", quote.Text(name), line, b.Platform),
		"build it on a machine of that architecture, or install an interpreter for it (Debian: qemu-user-static, which registers with binfmt_misc)")
}

// located gives an error of a Dockerfile its file and line.
func located(name string, err error) error {
	var syntax *dockerfile.SyntaxError
	if errors.As(err, &syntax) && syntax.Line > 0 {
		return fmt.Errorf("%s:%d: %w", quote.Text(name), syntax.Line, err)
	}
	return fmt.Errorf("%s: %w", quote.Text(name), err)
}

// writeDockerConfig hands the engine the credentials it needs, and no others.
func (b *building) writeDockerConfig(ctx context.Context) error {
	config, err := b.Job.Registry.DockerConfig(ctx, b.Hosts)
	if err != nil {
		return err
	}
	b.log.hide(configSecrets(config)...)
	dir := filepath.Join(b.HostDir, "docker")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600)
}
