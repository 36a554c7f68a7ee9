package main

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/spf13/pflag"

	"github.com/pipegen/pipegen/pkg/archive"
	"github.com/pipegen/pipegen/pkg/config"
)

func TestDirectoryParams(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{"args": "a=1\n\nb=x=y\r\n", "labels": "l=2\n", "target": "last\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"src/sub", "other", "cache"} {
		if err := os.MkdirAll(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var d directory
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	d.flags(flags)
	err := d.fromParams([]string{
		"CONTEXT=src/sub", "DOCKERFILE=other/Dockerfile.x", "TARGET=first", "TARGET_FILE=target", "BUILD_ARG_foo=b a,r", "BUILD_ARGS_FILE=args",
		"LABEL_org.example=x", "LABELS_FILE=labels", "IMAGE_PLATFORM=linux/arm/v7", "OUTPUT_OCI=true", "UNPACK_ROOTFS=1",
		"REGISTRY_MIRRORS=m.example,n.example:5000", "BUILDKIT_SECRET_config=src/config", "BUILDKIT_SECRETTEXT_token=t", "BUILDKIT_SSH=key=src/key",
	}, flags)
	if err != nil {
		t.Fatal(err)
	}
	p, root, err := d.plan(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	b := p.Images[0].Builds[0]
	if root != dir || b.Context != "src/sub" || b.Dockerfile != "other/Dockerfile.x" || b.Target != "last" || b.Platform != "linux/arm/v7" || b.ID != "sub@arm-v7" {
		t.Errorf("root %s, build %+v", root, b)
	}
	if want := map[string]string{"foo": "b a,r", "a": "1", "b": "x=y"}; !maps.Equal(b.Args, want) {
		t.Errorf("arguments %v", b.Args)
	}
	if want := map[string]string{"org.example": "x", "l": "2"}; !maps.Equal(b.Labels, want) {
		t.Errorf("labels %v", b.Labels)
	}
	if !slices.Equal(b.Outputs, []string{"oci-layout", "digest", "rootfs"}) || d.output != "image" || !slices.Equal(b.RegistryMirrors, []string{"m.example", "n.example:5000"}) {
		t.Errorf("outputs %v in %s, mirrors %v", b.Outputs, d.output, b.RegistryMirrors)
	}
	secrets := []config.Secret{{ID: "config", File: filepath.Join(dir, "src/config")}, {ID: "token", Env: "BUILDKIT_SECRETTEXT_token"}}
	if !reflect.DeepEqual(b.Secrets, secrets) || !reflect.DeepEqual(b.SSH, []config.SSH{{ID: "key", File: filepath.Join(dir, "src/key")}}) {
		t.Errorf("secrets %v, ssh %v", b.Secrets, b.SSH)
	}
	if want := (config.Cache{Enable: true, Type: "local", Path: filepath.Join(dir, "cache"), Mode: "max"}); b.Cache == nil || *b.Cache != want {
		t.Errorf("cache %+v", b.Cache)
	}
}

// TestDirectoryDefaults has nothing but a context.
func TestDirectoryDefaults(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "My App")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d := directory{}
	d.flags(pflag.NewFlagSet("", pflag.ContinueOnError))
	d.context = dir
	p, root, err := d.plan(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	b := p.Images[0].Builds[0]
	if root != dir || b.Context != "." || b.Dockerfile != "Dockerfile" || b.Engine != "buildkit" || b.Frontend != "dockerfile.v0" || b.Platform != "linux/"+runtime.GOARCH || b.Pushes() {
		t.Errorf("root %s, build %+v", root, b)
	}
	if p.Images[0].Name != "my-app" || !p.Dirty || p.Registry != "" {
		t.Errorf("plan %+v", p)
	}
}

func TestImageName(t *testing.T) {
	for dir, want := range map[string]string{"app": "app", "My App": "my-app", "a..b": "a-b", "_x_": "x", "ä": "image", "/": "image", "a.b_c--d": "a.b_c--d"} {
		if got := imageName(dir); got != want {
			t.Errorf("%q gives %q, want %q", dir, got, want)
		}
	}
}

func TestSecretFlag(t *testing.T) {
	for s, want := range map[string]config.Secret{"id=a,env=B": {ID: "a", Env: "B"}, "id=a,src=/x": {ID: "a", File: "/x"}, "id=a,file=/x": {ID: "a", File: "/x"}} {
		if got, err := secretFlag(s); err != nil || got != want {
			t.Errorf("%s gives %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "id=a", "env=B", "id=a,env=B,file=/x", "id=a,env=B,mode=1"} {
		if got, err := secretFlag(s); err == nil {
			t.Errorf("%s gives %+v", s, got)
		}
	}
}

// TestTaskOutputs leaves what Concourse's own task does.
func TestTaskOutputs(t *testing.T) {
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.Config(img, v1.Config{User: "app", Env: []string{"A=1"}}); err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for _, oci := range []bool{false, true} {
		dir := t.TempDir()
		write := func() error {
			if oci {
				return archive.WriteLayout(t.Context(), filepath.Join(dir, "oci"), img, nil, "x:latest")
			}
			return archive.WriteDockerTar(t.Context(), filepath.Join(dir, "image.tar"), img, "x:latest")
		}
		for range 2 { // what an earlier run left is in nobody's way
			if err := write(); err != nil {
				t.Fatal(err)
			}
			if err := (taskOutputs{asked: true, oci: oci, rootfs: true}).finish(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(filepath.Join(dir, "digest")); err != nil || string(got) != config.String() {
			t.Errorf("digest %q, %v, want %s", got, err, config)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "metadata.json")); err != nil || string(got) != `{"env":["A=1"],"user":"app"}`+"\n" {
			t.Errorf("metadata %q, %v", got, err)
		}
		if oci {
			if _, err := os.Stat(filepath.Join(dir, "image", "oci-layout")); err != nil {
				t.Error(err)
			}
		}
	}
}
