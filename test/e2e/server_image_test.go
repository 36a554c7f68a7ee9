//go:build e2e

package e2e

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pipegen/pipegen/test/toolcache"
)

// TestServerImage builds the project server with each engine: its user may write
// to /data and /tmp, and to nothing else.
func TestServerImage(t *testing.T) {
	t.Parallel()
	h := newHub(t, nil)
	s := newSite(t, h)
	s.use(buildKit(t, []*hub{h}, ""))
	root, err := toolcache.Root()
	if err != nil {
		t.Fatal(err)
	}
	content := map[string]string{"release/ssl/ca-certificates.crt": "", "release/linux-amd64/pipegen": "amd64", "release/linux-arm64/pipegen": "arm64"}
	for _, name := range []string{"Dockerfile", "passwd", "group"} {
		text, err := os.ReadFile(filepath.Join(root, "projects", "server", name))
		if err != nil {
			t.Fatal(err)
		}
		content[name] = string(text)
	}
	for _, engine := range []string{"kaniko", "buildkit"} {
		content["build-config.yaml"] = "engine: " + engine + "\nplatforms: [linux/amd64, linux/arm64]\nadditional_tags: [latest]\n"
		s.project(t, "server-"+engine, content)
	}
	s.commit(t)
	s.must(t, "run", "--select", "all")
	for _, engine := range []string{"kaniko", "buildkit"} {
		for _, arch := range []string{"amd64", "arm64"} {
			image := s.image(t, "server-"+engine+"-latest", remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
			if got := string(files(t, image)["bin/pipegen"]); got != arch {
				t.Errorf("%s: the program is that of %q", engine, got)
			}
			config, err := image.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if config.Config.User != "65532:65532" || config.Config.WorkingDir != "/data" {
				t.Errorf("%s: it runs as %q in %q", engine, config.Config.User, config.Config.WorkingDir)
			}
			want := map[string]string{"data": "65532:65532", "tmp": "65532:65532"}
			if got := ofOthers(t, image); !maps.Equal(got, want) {
				t.Errorf("%s on %s: not root's are %v, want %v", engine, arch, got, want)
			}
		}
	}
}

// ofOthers gives what belongs to others than root in an image: user and group by
// path.
func ofOthers(t *testing.T, image v1.Image) map[string]string {
	t.Helper()
	all := map[string]string{}
	stream := mutate.Extract(image)
	defer stream.Close()
	for in := tar.NewReader(stream); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 {
			all[strings.Trim(header.Name, "/")] = fmt.Sprintf("%d:%d", header.Uid, header.Gid)
		}
	}
}
