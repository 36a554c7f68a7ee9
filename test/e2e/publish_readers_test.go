//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/test/toolcache"
)

// TestPublishReaders has crane, skopeo, regctl and containerd's resolver find
// in what was published the image of each platform, in an OCI index and in a
// Docker list, of images with the media types of OCI and of Docker.
func TestPublishReaders(t *testing.T) {
	t.Parallel()
	skopeo := program(t, "skopeo", "apt-get install skopeo")
	crane, regctl, resolve := tool(t, toolcache.Crane), tool(t, toolcache.RegCtl), tool(t, toolcache.Resolve)
	host := serveDistribution(t)
	for list, wants := range map[string]string{
		"oci": "application/vnd.oci.image.index.v1+json", "docker": "application/vnd.docker.distribution.manifest.list.v2+json",
	} {
		t.Run(list, func(t *testing.T) {
			p := newPublisher(t, host, "app-"+list)
			p.write("pipegen.yaml", "registry: "+host+"/images\ndefaults: {platforms: [linux/amd64, linux/arm64, linux/arm/v6, linux/arm/v7, windows/amd64], engine: buildkit}\npublish: {media_type: "+list+"}\n")
			p.commit("platforms")
			made := p.plan("plan.json")
			img := &made.Images[0]
			children, configs := map[string]string{}, map[string]string{}
			for i := range img.Builds {
				b := &img.Builds[i]
				child := oneFile(t, b.Platform, types.OCIManifestSchema1, types.OCIConfigJSON, types.OCILayer)
				if i%2 == 1 {
					child = oneFile(t, b.Platform, types.DockerManifestSchema2, types.DockerConfigJSON, types.DockerLayer)
				}
				r := p.push(img, b, host, made.Head, child)
				r.Verified = false
				p.leave(r)
				config, err := child.ConfigName()
				if err != nil {
					t.Fatal(err)
				}
				children[b.Platform], configs[b.Platform] = r.Digest, config.String()
			}
			p.must("manifest", "app-"+list)
			ref := host + "/images:" + img.Tags[0]
			read := func(program string, args ...string) string {
				t.Helper()
				cmd := exec.Command(program, args...)
				cmd.Env = append(os.Environ(), "HOME="+p.dir)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil {
					t.Errorf("%s: %v: %s", strings.Join(cmd.Args, " "), err, stderr.String())
				}
				return strings.TrimSpace(string(out))
			}
			var index v1.IndexManifest
			if err := json.Unmarshal([]byte(read(crane, "manifest", ref)), &index); err != nil || string(index.MediaType) != wants || len(index.Manifests) != len(children) {
				t.Errorf("crane shows %+v (%v)", index, err)
			}
			read(crane, "validate", "--remote", ref)
			read(skopeo, "inspect", "--tls-verify=false", "--raw", "docker://"+ref)
			for platform, digest := range children {
				osName, rest, _ := strings.Cut(platform, "/")
				arch, variant, _ := strings.Cut(rest, "/")
				if got := read(crane, "digest", "--platform", platform, ref); got != digest {
					t.Errorf("crane: %s is %s, want %s", platform, got, digest)
				}
				if got := read(regctl, "--host", "reg="+host+",tls=disabled", "manifest", "head", "--platform", platform, ref); got != digest {
					t.Errorf("regctl: %s is %s, want %s", platform, got, digest)
				}
				// Skopeo shows the config, whose digest it does not say.
				var config v1.ConfigFile
				text := read(skopeo, "--override-os", osName, "--override-arch", arch, "--override-variant", variant, "inspect", "--tls-verify=false", "--config", "docker://"+ref)
				if err := json.Unmarshal([]byte(text), &config); err != nil || config.OS != osName || config.Architecture != arch || config.Variant != variant {
					t.Errorf("skopeo: %s is %s/%s/%s (%v)", platform, config.OS, config.Architecture, config.Variant, err)
				}
				got := read(resolve, ref, platform)
				if config, of, _ := strings.Cut(got, " "); config != configs[platform] || !strings.HasPrefix(of, osName) || !strings.HasSuffix(of, rest) {
					t.Errorf("containerd's resolver: %s is %s, want %s", platform, got, configs[platform])
				}
			}
		})
	}
}

// oneFile makes an image with a layer of one file, which clients look into.
func oneFile(t *testing.T, platform string, manifest, config, layer types.MediaType) v1.Image {
	t.Helper()
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	if err := errors.Join(
		out.WriteHeader(&tar.Header{Name: "platform", Mode: 0o644, Size: int64(len(platform))}), second(out.Write([]byte(platform))), out.Close(),
	); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil }, tarball.WithMediaType(layer))
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, manifest), config), l)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Variant = p.OS, p.Architecture, p.Variant
	if p.OS == "windows" {
		file.OSVersion = "10.0.20348.2322"
	}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// TestPublishProvenance joins what BuildKit built with provenance, and compares
// what crane shows of it with what it shows of the children.
func TestPublishProvenance(t *testing.T) {
	t.Parallel()
	crane := tool(t, toolcache.Crane)
	h := newHub(t, nil)
	s := newSite(t, h)
	s.use(buildKit(t, []*hub{h}, ""))
	s.project(t, "app", map[string]string{
		"build-config.yaml": "engine: buildkit\nplatforms: [linux/amd64, linux/arm64]\nfrontend_opts: {\"attest:provenance\": mode=max}\n",
		"Dockerfile":        "FROM scratch\nCOPY a.txt /\n", "a.txt": "a\n",
	})
	s.commit(t)
	made := s.plan(t, "app")
	s.must(t, "run", "--plan", "plan.json")
	manifest := func(of string) (v1.IndexManifest, string) {
		t.Helper()
		out, err := exec.Command(crane, "manifest", of).Output()
		var m v1.IndexManifest
		if err == nil {
			err = json.Unmarshal(out, &m)
		}
		if err != nil {
			t.Fatalf("crane manifest %s: %v", of, err)
		}
		return m, string(out)
	}
	ours, text := manifest(s.registry + ":" + made.Images[0].Tags[0])
	t.Logf("crane manifest of the index:\n%s", text)
	kept := 0
	for _, b := range made.Images[0].Builds {
		r, ok := s.result(t, b.ID)
		if !ok || !r.Verified {
			t.Fatalf("%s left the result %+v", b.ID, r)
		}
		child, text := manifest(s.registry + "@" + r.Digest)
		t.Logf("crane manifest of %s:\n%s", b.ID, text)
		for _, d := range child.Manifests {
			at := slices.IndexFunc(ours.Manifests, func(o v1.Descriptor) bool { return o.Digest == d.Digest })
			if at < 0 {
				t.Errorf("%s of %s is not in the index", d.Digest, b.ID)
				continue
			}
			kept++
			o := ours.Manifests[at]
			if o.MediaType != d.MediaType || o.Size != d.Size || o.Platform.String() != d.Platform.String() {
				t.Errorf("%s is %+v in the index, and was %+v", d.Digest, o, d)
			}
			for key, value := range d.Annotations {
				if o.Annotations[key] != value {
					t.Errorf("%s: annotation %s is %q, and was %q", d.Digest, key, o.Annotations[key], value)
				}
			}
		}
	}
	if kept != 4 || len(ours.Manifests) != kept {
		t.Errorf("the index holds %d manifests, of which %d are the children's; want two images and two attestations", len(ours.Manifests), kept)
	}
}

// TestPublishTokens publishes over TLS to Docker's Distribution, with tokens
// that it checks: one for the repository.
func TestPublishTokens(t *testing.T) {
	t.Parallel()
	const name, user, password = "registry.example.org", "ci", "pass word"
	host := newServerName(t, name)
	tokens := &tokenService{t: t, host: host, user: user, password: password}
	service := httptest.NewUnstartedServer(tokens)
	service.TLS = host.config()
	service.StartTLS()
	defer service.Close()
	_, port, _ := net.SplitHostPort(service.Listener.Addr().String())
	address := serveSecured(t, host, fmt.Sprintf("auth: {token: {realm: %q, service: registry, issuer: e2e, rootcertbundle: %q}}\n", "https://"+name+":"+port+"/token", host.cert))
	through, _ := forward(t, map[string]string{name + ":443": address, name + ":" + port: service.Listener.Addr().String()})

	p := newPublisher(t, name, "app")
	p.write("pipegen.yaml", "registry: "+name+"/team/images\ndefaults: {platforms: [linux/amd64, linux/arm64], additional_tags: [latest]}\n")
	p.commit("team")
	docker := scratch(t)
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, name, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	if err := os.WriteFile(filepath.Join(docker, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p.env = append(p.env, "HTTPS_PROXY="+through, "LOCAL_CA_CERTIFICATE="+host.cert, "DOCKER_CONFIG="+docker)
	made := p.plan("plan.json")
	direct := &http.Transport{TLSClientConfig: host.config(), Proxy: proxyTo(through)}
	p.build(made, "one", name, remote.WithTransport(direct), remote.WithAuth(&authn.Basic{Username: user, Password: password}))
	before := tokens.given()
	if out := p.must("manifest", "app"); !strings.Contains(out, "  tag app-latest\n") {
		t.Error("latest was not published")
	}
	if given := tokens.given() - before; given != 1 {
		t.Errorf("%d tokens for one repository", given)
	}
}
