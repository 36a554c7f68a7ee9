package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/plan"
)

// publishSite is a registry on loopback with what builds pushed, near and, by a
// relay, far away, and a checkout whose plan publishes it.
type publishSite struct {
	bench
	dir       string
	near, far string // HOST:PORT of the registry
	requests  *atomic.Int64
	images    []plan.Image
	results   map[string]plan.Result // by id
}

var publishPlatforms = []string{"linux/amd64", "linux/arm64"}

// newPublishSite pushes the children of so many images.
func newPublishSite(ctx context.Context, b bench, images int) (*publishSite, error) {
	dir, err := os.MkdirTemp(b.work, "publish-")
	if err != nil {
		return nil, err
	}
	s := &publishSite{bench: b, dir: dir, requests: &atomic.Int64{}, results: map[string]plan.Result{}}
	content := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		content.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(listener) }()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	s.near = listener.Addr().String()
	if s.far, err = relay(ctx, s.near, farAway); err != nil {
		return nil, err
	}
	for i := range images {
		if err := s.push(i); err != nil {
			return nil, err
		}
	}
	for _, argv := range [][]string{{"init", "-q", "-b", "main"}, {"-c", "user.name=Bench", "-c", "user.email=bench@example.com", "commit", "-q", "--allow-empty", "-m", "Images"}} {
		cmd := exec.CommandContext(ctx, b.git, argv...)
		cmd.Dir, cmd.Env = dir, environment(os.Getenv("PATH"), "")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("git %s: %w\n%s", argv[0], err, out)
		}
	}
	return s, nil
}

// push pushes the children of one more image, and adds it to what is published.
func (s *publishSite) push(i int) error {
	img := plan.Image{
		Name: fmt.Sprintf("app%03d", i), Dir: fmt.Sprintf("projects/app%03d", i), Key: strings.Repeat("0123456789abcdef", 4), Reasons: []plan.Reason{{Kind: plan.All}},
		Needs: []string{}, Index: true,
	}
	for _, platform := range publishPlatforms {
		made, err := child(img.Name, platform)
		if err != nil {
			return err
		}
		ref, err := name.ParseReference(s.near + "/images:" + img.Name + "-" + strings.TrimPrefix(platform, "linux/"))
		if err != nil {
			return err
		}
		if err := remote.Write(ref, made); err != nil {
			return err
		}
		raw, err := made.RawManifest()
		if err != nil {
			return err
		}
		digest, err := made.Digest()
		if err != nil {
			return err
		}
		id := img.Name + "@" + strings.TrimPrefix(platform, "linux/")
		img.Builds = append(img.Builds, plan.Build{
			ID: id, Platform: platform, Engine: "kaniko", Destination: ref.Name(), Context: img.Dir, Dockerfile: img.Dir + "/Dockerfile",
			Outputs: []string{"image"}, Runner: "ci", Timeout: "1h",
		})
		s.results[id] = plan.Result{
			ID: id, Ref: ref.Name(), Digest: digest.String(), Size: int64(len(raw)), MediaType: string(types.OCIManifestSchema1),
			Platform: platform, Verified: true, Bases: []plan.Base{}, Key: img.Key, Head: publishHead,
		}
	}
	s.images = append(s.images, img)
	return nil
}

const publishHead = "0123456789abcdef0123456789abcdef01234567"

// child makes an image with one small layer.
func child(of, platform string) (v1.Image, error) {
	layer := static.NewLayer([]byte("files of "+of+" for "+platform), types.OCILayer)
	img, err := mutate.AppendLayers(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), layer)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config.OS, config.Architecture, _ = strings.Cut(platform, "/")
	return mutate.ConfigFile(img, config)
}

// plan writes a plan that puts so many tags on the first images, and the
// results of their builds, at the registry's address; it gives the arguments
// that publish it.
func (s *publishSite) plan(host string, images, tags int, verified bool) ([]string, error) {
	dir, err := os.MkdirTemp(s.dir, "")
	if err != nil {
		return nil, err
	}
	at := time.Date(2026, 11, 21, 1, 2, 3, 0, time.UTC)
	p := plan.Plan{
		Version: plan.Version, Event: "push", Head: publishHead, Committed: at, Created: at, Pipeline: "100",
		Registry: host + "/images", Layout: "tag", Skipped: []plan.Skipped{},
	}
	for _, img := range s.images[:images] {
		img.Repository, img.Tags, img.Builds = host+"/images", tagsOf(img.Name, tags), append([]plan.Build(nil), img.Builds...)
		for i := range img.Builds {
			b := &img.Builds[i]
			b.Destination = host + strings.TrimPrefix(b.Destination, s.near)
			r := s.results[b.ID]
			r.Ref, r.Verified = b.Destination, verified
			if err := writeJSON(plan.ResultFile(dir, b.ID), r); err != nil {
				return nil, err
			}
		}
		p.Images = append(p.Images, img)
	}
	file := filepath.Join(dir, "plan.json")
	return []string{"manifest", "--all", "--plan", file, "--metadata-dir", dir}, writeJSON(file, p)
}

func tagsOf(image string, n int) []string {
	tags := []string{image + "-20261121-0123456"}
	for i := 1; i < n; i++ {
		tags = append(tags, fmt.Sprintf("%s-v%d", image, i))
	}
	return tags
}

func writeJSON(file string, v any) error {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// forget removes the tags that so many images were given: what is published
// already would not be written again.
func (s *publishSite) forget(ctx context.Context, images, tags int) error {
	for _, img := range s.images[:images] {
		for _, tag := range tagsOf(img.Name, tags) {
			r, err := http.NewRequestWithContext(ctx, http.MethodDelete, "http://"+s.near+"/v2/images/manifests/"+tag, nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				return err
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusNotFound {
				return fmt.Errorf("removing tag %s: %s", tag, resp.Status)
			}
		}
	}
	return nil
}

// published says whether the tags are all there, on an index of two children.
func (s *publishSite) published(images, tags int) error {
	for _, img := range s.images[:images] {
		for _, tag := range tagsOf(img.Name, tags) {
			ref, err := name.ParseReference(s.near + "/images:" + tag)
			if err != nil {
				return err
			}
			index, err := remote.Index(ref)
			if err != nil {
				return fmt.Errorf("tag %s: %w", tag, err)
			}
			m, err := index.IndexManifest()
			if err != nil {
				return err
			}
			if len(m.Manifests) != len(publishPlatforms) {
				return fmt.Errorf("tag %s has %d children", tag, len(m.Manifests))
			}
		}
	}
	return nil
}

// relay gives another address of a server, from which everything takes a while
// longer: a connection once there and back until it is made, and after that
// each byte the half of it, either way.
func relay(ctx context.Context, to string, away time.Duration) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := new(net.Dialer).DialContext(ctx, "tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			made := time.Now().Add(away)
			go carry(server, client, away/2, made)
			go carry(client, server, away/2, made)
		}
	}()
	return listener.Addr().String(), nil
}

// carry copies what comes in, each piece a while after it came, and none of it
// before the connection is made.
func carry(to, from net.Conn, delay time.Duration, made time.Time) {
	type piece struct {
		due  time.Time
		data []byte
	}
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			data := make([]byte, 32<<10)
			n, err := from.Read(data)
			if n > 0 {
				came := time.Now()
				if came.Before(made) {
					came = made
				}
				pieces <- piece{came.Add(delay), data[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	_ = to.Close()
	_ = from.Close()
	for range pieces {
		continue // until the reader ends, with its connection
	}
}
