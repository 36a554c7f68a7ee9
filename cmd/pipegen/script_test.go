package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pipegen": main})
}

// ciVariables are removed from the environment of scripts: the tests run in
// CI too.
var ciVariables = []string{"CI", "CI_", "GITHUB_", "GITLAB_", "PIPEGEN_", "CICD_", "ECR_", "CHECK_", "LOG_FORMAT", "KANIKO_", "CONTROLLER_URL", "BUILD_CONTROLLER_TOKEN", "DOCKER_", "TRACEPARENT"}

var update = flag.Bool("update", false, "renew the files that scripts compare with")

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		Setup:               setUp,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":      exits,
			"registry":   startRegistry,
			"built":      built,
			"image":      image,
			"forget":     forget,
			"repeat":     repeat,
			"key":        privateKey,
			"referrers":  listReferrers,
			"controller": startController,
			"eventually": eventually,
		},
	})
}

func setUp(env *testscript.Env) error {
	var kept []string
	for _, v := range env.Vars {
		leaks := false
		for _, prefix := range ciVariables {
			leaks = leaks || strings.HasPrefix(v, prefix)
		}
		if !leaks {
			kept = append(kept, v)
		}
	}
	kept = append(kept,
		"HOME="+filepath.Join(env.WorkDir, ".home"), "XDG_CACHE_HOME="+filepath.Join(env.WorkDir, ".cache"),
		"GIT_CONFIG_GLOBAL="+filepath.Join(env.WorkDir, ".gitconfig"), "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_DATE=2026-11-21T01:02:03Z", "GIT_COMMITTER_DATE=2026-11-21T01:02:03Z")
	env.Vars = kept
	if err := os.MkdirAll(filepath.Join(env.WorkDir, ".home"), 0o755); err != nil {
		return err
	}
	config := "[user]\n\tname = Test\n\temail = test@example.com\n[init]\n\tdefaultBranch = main\n[protocol \"file\"]\n\tallow = always\n"
	return os.WriteFile(filepath.Join(env.WorkDir, ".gitconfig"), []byte(config), 0o644)
}

// exits CODE COMMAND ARGS... runs a command that must end with this code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d\n%s%s", strings.Join(args[1:], " "), got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// registry [immutable] starts a registry on loopback and sets $REGISTRY; its
// tags can be written once, or moved.
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	handler := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	if len(args) > 0 && args[0] == "immutable" {
		handler = registrytest.Immutable(http.StatusBadRequest, `{"errors":[{"code":"TAG_INVALID","message":"The image tag already exists and cannot be overwritten because the repository is immutable."}]}`)(handler)
	}
	server := httptest.NewServer(handler)
	ts.Defer(server.Close)
	ts.Setenv("REGISTRY", strings.TrimPrefix(server.URL, "http://"))
}

// image PATH:TAG puts a new image into $REGISTRY: a base that moves.
func image(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: image PATH:TAG")
	}
	img, err := random.Image(64, 1)
	ts.Check(err)
	ref, err := name.ParseReference(ts.Getenv("REGISTRY") + "/" + args[0])
	ts.Check(err)
	ts.Check(remote.Write(ref, img))
}

// forget PATH:TAG removes a tag from $REGISTRY.
func forget(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: forget PATH:TAG")
	}
	ref, err := name.ParseReference(ts.Getenv("REGISTRY") + "/" + args[0])
	ts.Check(err)
	ts.Check(remote.Delete(ref))
}

// built PLAN ID DIR [OS/ARCH|BASE...] does what a build of the plan leaves: an
// image under its destination and DIR/builds/ID.json. With OS/ARCH the image
// is for another platform than the plan says; BASE is PATH:TAG in $REGISTRY.
func built(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: built PLAN ID DIR [OS/ARCH|BASE...]")
	}
	f, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	p, err := plan.Read(f, args[0])
	ts.Check(err)
	planned, b, ok := p.Find(args[1])
	if !ok {
		ts.Fatalf("no build %s", args[1])
	}
	platform, bases := b.Platform, []plan.Base{}
	for _, arg := range args[3:] {
		if !strings.Contains(arg, ":") {
			platform = arg
			continue
		}
		base, err := name.ParseReference(ts.Getenv("REGISTRY") + "/" + arg)
		ts.Check(err)
		held, err := remote.Head(base)
		ts.Check(err)
		bases = append(bases, plan.Base{Ref: base.String(), Digest: held.Digest.String(), Final: true})
	}
	pl, err := v1.ParsePlatform(platform)
	ts.Check(err)
	img, err := random.Image(64, 1)
	ts.Check(err)
	config, err := img.ConfigFile()
	ts.Check(err)
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = pl.OS, pl.Architecture, pl.Variant
	img, err = mutate.ConfigFile(img, config)
	ts.Check(err)
	ref, err := name.ParseReference(b.Destination)
	ts.Check(err)
	ts.Check(remote.Write(ref, img))
	digest, err := img.Digest()
	ts.Check(err)
	size, err := img.Size()
	ts.Check(err)
	mediaType, err := img.MediaType()
	ts.Check(err)
	data, err := json.Marshal(plan.Result{
		ID: b.ID, Ref: b.Destination, Digest: digest.String(), Size: size, MediaType: string(mediaType), Platform: b.Platform,
		Bases: bases, Key: planned.Key, Head: p.Head,
	})
	ts.Check(err)
	file := plan.ResultFile(ts.MkAbs(args[2]), b.ID)
	ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
	ts.Check(os.WriteFile(file, data, 0o644))
}

// repeat N TEXT FILE writes a text many times: files too large to keep here.
func repeat(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: repeat N TEXT FILE")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	text, err := strconv.Unquote(`"` + args[1] + `"`)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), bytes.Repeat([]byte(text), n), 0o644))
}
