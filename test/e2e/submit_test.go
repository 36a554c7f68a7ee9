//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pipegen/pipegen/test/monorepo"
)

// The examples, submitted as a user does: two architectures of a config.yaml,
// then services of a compose file side by side from the same context.
func TestSubmitExamples(t *testing.T) {
	program := binary(t)
	url, _ := devServer(t, &monorepo.Monorepo{Pipegen: program})
	address, err := monorepo.Serve(t.Context(), monorepo.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(address, "http://")
	dir := filepath.Join(scratch(t), "examples")
	if err := os.CopyFS(dir, os.DirFS("../../examples")); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"config.yaml", "compose.yaml"} {
		file = filepath.Join(dir, file)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "registry.example.com", host)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".env"), []byte("CONTROLLER_URL="+url+"\nBUILD_CONTROLLER_TOKEN="+serviceToken+"\nTAG=v7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	submit := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, append([]string{"submit"}, args...)...)
		cmd.Dir, cmd.Env = dir, monorepo.Env(os.Environ())
		out, ok := run(t, cmd)
		if !ok {
			t.Fatal("it failed")
		}
		return out
	}
	holds := func(ref, file, text string, platforms ...string) {
		t.Helper()
		parsed, err := name.ParseReference(host + "/" + ref)
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(parsed)
		if err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
		list, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, child := range list.Manifests {
			got = append(got, child.Platform.String())
			image, err := index.Image(child.Digest)
			if err != nil {
				t.Fatal(err)
			}
			if all := files(t, image); len(all) != 1 || string(all[file]) != text {
				t.Errorf("%s for %s holds %q", ref, child.Platform, all)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, platforms) {
			t.Errorf("%s is for %v, want %v", ref, got, platforms)
		}
	}

	out := submit()
	for _, want := range []string{"context sent", "[myapp@amd64] building", "[myapp@arm64] building", "Pushed " + host + "/myapp@sha256:"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	holds("myapp:latest", "hello.txt", "hello\n", "linux/amd64", "linux/arm64")

	out = submit("--compose", "compose.yaml", "--services", "app, worker", "--async")
	if !strings.Contains(out, "context unchanged") || strings.Contains(out, "[db") {
		t.Error("the context was sent again, or more was built than asked for")
	}
	holds("app:v7", "hello.txt", "hello\n", "linux/amd64", "linux/arm64")
	parsed, err := name.ParseReference(host + "/worker:v7")
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(parsed)
	if err != nil {
		t.Fatal(err)
	}
	if all := files(t, image); string(all["work.txt"]) != "work\n" {
		t.Errorf("worker holds %q", all)
	}
}
