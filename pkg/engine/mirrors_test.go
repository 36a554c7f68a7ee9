package engine

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
)

// hub is docker.io as a test has it: what is asked of it is asked of another
// registry.
type hub struct {
	Registry
	host  string
	asked *[]string
	hosts *[]string
}

// at gives where a reference is looked for.
func (h hub) at(ref string) string {
	if rest, ok := strings.CutPrefix(ref, "index.docker.io/"); ok {
		return h.host + "/" + rest
	}
	return ref
}

func (h hub) Head(ctx context.Context, ref string) (registry.Descriptor, error) {
	*h.asked = append(*h.asked, ref)
	return h.Registry.Head(ctx, h.at(ref))
}

func (h hub) Get(ctx context.Context, ref string) (registry.Descriptor, []byte, error) {
	return h.Registry.Get(ctx, h.at(ref))
}

func (h hub) Config(ctx context.Context, repository string, manifest []byte) (registry.Config, error) {
	return h.Registry.Config(ctx, h.at(repository), manifest)
}

func (h hub) DockerConfig(ctx context.Context, hosts []string) ([]byte, error) {
	*h.hosts = hosts
	return h.Registry.DockerConfig(ctx, hosts)
}

func TestMirrors(t *testing.T) {
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }))
	t.Cleanup(refuses.Close)
	broken := strings.TrimPrefix(refuses.URL, "http://")
	one, two, origin := registryHost(t), registryHost(t), registryHost(t)
	atTwo := pushImage(t, two+"/cache/library/debian:12", "linux/amd64")
	atOrigin := pushImage(t, origin+"/library/debian:12", "linux/amd64")
	pushImage(t, two+"/cache/me/app:latest", "linux/s390x")
	other := pushImage(t, one+"/other:1", "linux/amd64")
	tests := []struct {
		name, from string
		mirrors    []string
		digest     string
		asked      []string
		hosts      []string // beside the destination
		log, err   string
	}{
		{name: "without", from: "debian:12", digest: atOrigin, asked: []string{"index.docker.io/library/debian:12"}, hosts: []string{"index.docker.io"}},
		{name: "second", from: "docker.io/debian:12", mirrors: []string{one, two + "/cache"}, digest: atTwo,
			asked: []string{one + "/library/debian:12", two + "/cache/library/debian:12"}, hosts: []string{"index.docker.io", one, two}, log: "is at the mirror " + two},
		{name: "none has it", from: "debian:12", mirrors: []string{one, two}, digest: atOrigin,
			asked: []string{one + "/library/debian:12", two + "/library/debian:12", "index.docker.io/library/debian:12"}, hosts: []string{"index.docker.io", one, two}},
		{name: "one refuses", from: "debian:12", mirrors: []string{broken, two + "/cache"}, digest: atTwo,
			asked: []string{broken + "/library/debian:12", two + "/cache/library/debian:12"}, hosts: []string{"index.docker.io", broken, two}, log: "warning: mirror " + broken + ": "},
		{name: "not of docker.io", from: one + "/other:1", mirrors: []string{two}, digest: other, asked: []string{one + "/other:1"}, hosts: []string{one}},
		{name: "for another platform", from: "me/app", mirrors: []string{two + "/cache"}, asked: []string{two + "/cache/me/app:latest"}, err: "is for linux/s390x only"},
		{name: "no host", from: "debian:12", mirrors: []string{"mirror/path"}, err: "registry_mirrors: mirror is no registry host"},
		{name: "nowhere", from: "nope", mirrors: []string{one}, asked: []string{one + "/library/nope:latest", "index.docker.io/library/nope:latest"}, err: "there is no image nope"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, map[string]string{"Dockerfile": "FROM " + tt.from + "\n"})
			b.Build.RegistryMirrors = tt.mirrors
			var asked, hosts []string
			b.Registry = hub{b.Registry, origin, &asked, &hosts}
			got, err := b.run(t)
			if !slices.Equal(asked, tt.asked) {
				t.Errorf("asked for %q, want %q", asked, tt.asked)
			}
			contains(t, b.out.String(), tt.log)
			if tt.err != "" {
				if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Bases[0].Digest != tt.digest || got.Bases[0].Ref != tt.from {
				t.Errorf("built on %+v", got.Bases)
			}
			contains(t, b.out.String(), "FROM "+tt.from+"@"+tt.digest)
			if want := append([]string{b.host}, tt.hosts...); !slices.Equal(hosts, want) {
				t.Errorf("credentials for %q, want %q", hosts, want)
			}
			if told := flags(b.sandbox.calls[0].Argv, "registry-mirror"); strings.HasPrefix(tt.log, "is at") && told[0] != tt.mirrors[1] {
				t.Errorf("the engine is to ask %q", told)
			}
			for _, m := range tt.mirrors {
				if !slices.Contains(b.sandbox.calls[0].Argv, "--registry-mirror="+m) {
					t.Errorf("the engine is not told of %s", m)
				}
			}
		})
	}
}
