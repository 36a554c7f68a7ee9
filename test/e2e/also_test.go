//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/crypto/bcrypt"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
	"github.com/pipegen/pipegen/test/monorepo"
)

// guarded is Docker's Distribution with TLS and one user.
type guarded struct {
	host, user, password string
	server               *serverName
}

func newGuarded(t *testing.T, user string) *guarded {
	t.Helper()
	g := &guarded{user: user, password: rand.Text(), server: newServerName(t, user+".example.org")}
	hash, err := bcrypt.GenerateFromPassword([]byte(g.password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(g.server.dir, "users")
	if err := os.WriteFile(users, []byte(user+":"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.host = serveSecured(t, g.server, fmt.Sprintf("auth: {htpasswd: {realm: %s, path: %q}}\n", user, users))
	return g
}

// dockerConfig is a Docker config.json with the credentials for some of them.
func dockerConfig(all ...*guarded) string {
	var auths []string
	for _, g := range all {
		auths = append(auths, fmt.Sprintf(`%q:{"auth":%q}`, g.host, base64.StdEncoding.EncodeToString([]byte(g.user+":"+g.password))))
	}
	return `{"auths":{` + strings.Join(auths, ",") + `}}`
}

// push leaves what a build of the plan does: an image, and its result.
func (g *guarded) push(t *testing.T, img *plan.Image, b *plan.Build, p *plan.Plan, dir string) {
	t.Helper()
	made := registrytest.Image(t, b.Platform, map[string]string{"commit": p.Head})
	ref, err := name.ParseReference(b.Destination)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: g.server.config()}
	if err := remote.Write(ref, made, remote.WithAuth(&authn.Basic{Username: g.user, Password: g.password}), remote.WithTransport(transport)); err != nil {
		t.Fatal(err)
	}
	digest, derr := made.Digest()
	size, serr := made.Size()
	mediaType, merr := made.MediaType()
	raw, err := json.Marshal(plan.Result{
		ID: b.ID, Ref: b.Destination, Digest: digest.String(), Size: size, MediaType: string(mediaType), Platform: b.Platform, Bases: []plan.Base{}, Key: img.Key, Head: p.Head,
	})
	file := plan.ResultFile(dir, b.ID)
	if err := errors.Join(derr, serr, merr, err, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, raw, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// TestAlso publishes to two registries of Docker's Distribution with a user
// each. What skopeo reads of both is the same.
func TestAlso(t *testing.T) {
	skopeo := program(t, "skopeo", "apt-get install skopeo")
	own, public := newGuarded(t, "own"), newGuarded(t, "public")
	work := scratch(t)
	authorities, configs := filepath.Join(work, "ca.pem"), filepath.Join(work, "docker")
	var bundle []byte
	for _, g := range []*guarded{own, public} {
		data, err := os.ReadFile(g.server.cert)
		if err != nil {
			t.Fatal(err)
		}
		bundle = append(bundle, data...)
	}
	both := filepath.Join(work, "both.json")
	if err := errors.Join(
		os.WriteFile(authorities, bundle, 0o644), os.Mkdir(configs, 0o755), os.WriteFile(both, []byte(dockerConfig(own, public)), 0o600),
		os.WriteFile(filepath.Join(configs, "config.json"), []byte(dockerConfig(own)), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}

	p := &planned{T: t, dir: filepath.Join(work, "repo"), pipegen: binary(t)}
	p.write("pipegen.yaml", `registry: `+own.host+`/images
defaults: {additional_tags: [latest]}
publish:
  attest: true
  sign: {key: env://SIGNING_KEY}
  also: [{registry: `+public.host+`/acme/images, images: [app]}]
`)
	for _, name := range []string{"app", "tool"} {
		p.write("projects/"+name+"/build-config.yaml", "use_local_context: true\n")
		p.write("projects/"+name+"/Dockerfile", "FROM scratch\nCOPY Dockerfile /"+name+"\n")
	}
	p.write(".gitignore", "*.json\n")
	p.git("init", "-q", "-b", "main")
	p.commit("two images")

	env := slices.Concat(monorepo.Env(os.Environ()), []string{
		"DOCKER_CONFIG=" + configs, "LOCAL_CA_CERTIFICATE=" + authorities, "SIGNING_KEY=" + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	pipegen := func(args ...string) (string, bool) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), p.pipegen, args...)
		cmd.Dir, cmd.Env = p.dir, env
		return run(t, cmd)
	}
	must := func(args ...string) string {
		t.Helper()
		out, ok := pipegen(args...)
		if !ok {
			t.FailNow()
		}
		return out
	}
	build := func(file, date string) {
		t.Helper()
		must("plan", "--select", "all", "--date", date, "-f", "json", "-o", file, "-q")
		f, err := os.Open(filepath.Join(p.dir, file))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		made, err := plan.Read(f, file)
		if err != nil {
			t.Fatal(err)
		}
		for i := range made.Images {
			for j := range made.Images[i].Builds {
				own.push(t, &made.Images[i], &made.Images[i].Builds[j], made, filepath.Join(p.dir, "meta-"+file))
			}
		}
	}
	read := func(ref string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), skopeo, "inspect", "--raw", "--authfile", both, "docker://"+ref)
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+authorities)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("skopeo inspect %s: %v", ref, err)
		}
		return string(out)
	}

	// Without the other registry's credentials the own one is right.
	build("first.json", "2026-11-21")
	if out, ok := pipegen("manifest", "app", "--plan", "first.json", "--metadata-dir", "meta-first.json"); ok || !strings.Contains(out, "publishing to "+public.host+"/acme/images: ") || !strings.Contains(out, "401") {
		t.Errorf("a registry took what nobody signed in for")
	}
	index := read(own.host + "/images:app-latest")
	env = append(env, "DOCKER_AUTH_CONFIG="+dockerConfig(public))
	said := must("manifest", "--all", "--plan", "first.json", "--metadata-dir", "meta-first.json")
	if !strings.Contains(said, "  also "+public.host+"/acme/images\n    tag app-20261121-") {
		t.Error("it does not say where the image went")
	}
	var published plan.Published
	data, err := os.ReadFile(plan.PublishedFile(filepath.Join(p.dir, "meta-first.json"), "app"))
	if err == nil {
		err = json.Unmarshal(data, &published)
	}
	if err != nil || len(published.Also) != 1 || len(published.Also[0].Tags) != 2 {
		t.Fatalf("%s, %v", data, err)
	}
	for _, tag := range published.Also[0].Tags {
		if a, b := read(own.host+"/images:"+tag), read(public.host+"/acme/images:"+tag); a != index || b != index {
			t.Errorf("%s is not the same in both:\n%s\n%s", tag, a, b)
		}
	}
	// What refers to it is listed there too, and is there.
	list := strings.Replace(published.Digest, ":", "-", 1)
	var referrers struct {
		Manifests []struct {
			Digest string `json:"digest"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal([]byte(read(public.host+"/acme/images:"+list)), &referrers); err != nil || len(referrers.Manifests) != 2 {
		t.Fatalf("%d referrers, %v", len(referrers.Manifests), err)
	}
	sources := []string{public.host + "/acme/images:app-latest"}
	for _, m := range referrers.Manifests {
		sources = append(sources, public.host+"/acme/images@"+m.Digest)
	}
	for i, ref := range sources {
		cmd := exec.CommandContext(t.Context(), skopeo, "--insecure-policy", "copy", "--all", "--src-authfile", both, "docker://"+ref, "dir:"+filepath.Join(work, fmt.Sprint("copy", i)))
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+authorities)
		if _, ok := run(t, cmd); !ok {
			t.Errorf("skopeo does not read all of %s", ref)
		}
	}
	if tags := must("tags", "tool", "--registry", public.host+"/acme/images", "-q"); strings.TrimSpace(tags) != "" {
		t.Errorf("an image that is not meant went along: %s", tags)
	}

	// A later commit moves the tags in both, and an earlier one does not take
	// them back.
	p.write("projects/app/Dockerfile", "FROM scratch\nCOPY Dockerfile /new\n")
	p.commit("a new app")
	build("second.json", "2026-11-22")
	must("manifest", "--all", "--plan", "second.json", "--metadata-dir", "meta-second.json")
	later := read(public.host + "/acme/images:app-latest")
	must("manifest", "--all", "--plan", "first.json", "--metadata-dir", "meta-first.json")
	if later == index || read(public.host+"/acme/images:app-latest") != later || read(own.host+"/images:app-latest") != later {
		t.Error("the tag did not move, or went back")
	}
}
