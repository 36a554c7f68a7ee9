package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	spec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pipegen/pipegen/pkg/quote"
)

// Platform is what an image's config says it runs on, normalised as containerd
// does (linux/arm64/v8 is linux/arm64, linux/arm is linux/arm/v7).
type Platform struct {
	OS, Architecture, Variant string
	// OSVersion is the build of Windows; empty elsewhere.
	OSVersion string
	// OSFeatures are what the image wants of Windows (win32k), as its config
	// lists them.
	OSFeatures []string
	// Unspecific says that the config gives no variant, so that Variant is
	// only what is usual for the architecture.
	Unspecific bool
}

// String gives os/arch[/variant].
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return quote.Text(s)
}

// NormalPlatform normalises what a config or a descriptor says.
func NormalPlatform(os, arch, variant, osVersion string) Platform {
	n := platforms.Normalize(spec.Platform{OS: os, Architecture: arch, Variant: variant})
	return Platform{OS: n.OS, Architecture: n.Architecture, Variant: n.Variant, OSVersion: osVersion, Unspecific: variant == ""}
}

// Config is what pipegen reads of an image's config.
type Config struct {
	Platform Platform
	Labels   map[string]string
}

// Config reads the config of an image whose manifest is raw, and verifies it
// against the digest and size that the manifest gives.
func (c *Client) Config(ctx context.Context, repository string, raw []byte) (Config, error) {
	const op = "reading the config of"
	r, err := ParseReference(repository)
	if err != nil {
		return Config{}, err
	}
	digest := Digest(raw)
	r.Tag, r.Digest = "", digest
	bad := func(format string, args ...any) (Config, error) {
		return Config{}, &Error{Op: op, Ref: r.String(), Message: fmt.Sprintf(format, args...)}
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return bad("the manifest cannot be read: %s", quote.Text(err.Error()))
	}
	if t := m.Config.MediaType; t != types.OCIConfigJSON && t != types.DockerConfigJSON {
		return bad("it is no image: the config's media type is %q", quote.Text(string(t)))
	}
	if m.Config.Size < 0 || m.Config.Size > maxManifest {
		return bad("the config has %d bytes", m.Config.Size)
	}
	want := m.Config.Digest.String()
	if !digestPattern.MatchString(want) {
		return bad("the config's digest %q cannot be verified", quote.Text(want))
	}
	_, blob, err := c.fetch(ctx, r, "blobs/"+want, "*/*")
	if err != nil {
		return Config{}, c.explain(ctx, op, r, err)
	}
	if int64(len(blob)) != m.Config.Size || digestLike(want, blob) != want {
		return bad("the config that the registry sent is not the one that the manifest names (%d bytes, %s)", m.Config.Size, want)
	}
	var file struct {
		OS           string   `json:"os"`
		Architecture string   `json:"architecture"`
		Variant      string   `json:"variant"`
		OSVersion    string   `json:"os.version"`
		OSFeatures   []string `json:"os.features"`
		Config       struct {
			Labels map[string]string
		} `json:"config"`
	}
	if err := json.Unmarshal(blob, &file); err != nil {
		return bad("the config cannot be read: %s", quote.Text(err.Error()))
	}
	if file.OS == "" || file.Architecture == "" {
		return bad("the config names no platform")
	}
	config := Config{NormalPlatform(file.OS, file.Architecture, file.Variant, file.OSVersion), file.Config.Labels}
	config.Platform.OSFeatures = file.OSFeatures
	c.mu.Lock()
	c.platforms[digest] = config.Platform
	c.mu.Unlock()
	return config, nil
}

// Platform reads manifest and config of an image, which must not be an index.
func (c *Client) Platform(ctx context.Context, repository, digest string) (Platform, error) {
	d, raw, err := c.Get(ctx, repository+"@"+digest)
	if err != nil {
		return Platform{}, err
	}
	if IsIndex(d.MediaType) {
		return Platform{}, &Error{Op: "reading the platform of", Ref: repository + "@" + digest, Message: "it is an index"}
	}
	config, err := c.Config(ctx, repository, raw)
	return config.Platform, err
}

// KnownPlatform gives the platform of an image whose config this client has
// read already: a digest never changes what it names.
func (c *Client) KnownPlatform(digest string) (Platform, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.platforms[digest]
	return p, ok
}
