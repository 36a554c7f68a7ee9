package manifest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/registry"
)

// FuzzMerge merges what two builds made: whatever stands in their indexes, the
// one that comes out can be read, holds their images once for each platform,
// and attestations of these alone.
func FuzzMerge(f *testing.F) {
	image := func(of, platform, more string) string {
		return fmt.Sprintf(`{"mediaType":%q,"size":3,"digest":%q,"platform":%s%s}`, types.OCIManifestSchema1, registry.Digest([]byte(of)), platform, more)
	}
	const amd64, arm64, none = `{"os":"linux","architecture":"amd64"}`, `{"os":"linux","architecture":"arm64","variant":"v8"}`, `{"os":"unknown","architecture":"unknown"}`
	index := func(children ...string) []byte {
		return []byte(`{"schemaVersion":2,"manifests":[` + strings.Join(children, ",") + `]}`)
	}
	f.Add(index(image("a", amd64, "")), index(image("b", arm64, "")), false)
	f.Add(index(image("a", amd64, "")), index(image("b", amd64, "")), false)
	f.Add(index(image("a", amd64, ""), image("of a", none, `,"annotations":{"vnd.docker.reference.digest":"`+registry.Digest([]byte("a"))+`"}`)), index(image("b", arm64, ""), image("of b", none, "")), false)
	f.Add(index(image("a", amd64, `,"annotations":{"x":"\u001b"},"data":"AA==","urls":["x"],"artifactType":"y"`)), index(image("b", arm64, "")), true)
	p := &plan.Plan{Head: commit(1)}
	f.Fuzz(func(t *testing.T, one, two []byte, docker bool) {
		var made []part
		of := map[string]bool{}
		for _, raw := range [][]byte{one, two} {
			held, err := flatten(raw)
			if err != nil || len(held.images) != 1 || held.images[0].Platform == nil {
				return
			}
			m := part{image: held.images[0]}
			n := registry.NormalPlatform(m.image.Platform.OS, m.image.Platform.Architecture, m.image.Platform.Variant, "")
			m.image.Platform = &v1.Platform{OS: n.OS, Architecture: n.Architecture, Variant: n.Variant}
			of[m.image.Digest.String()] = true
			for _, a := range held.attestations {
				if a, err = pointed(a, m.image.Digest); err != nil {
					return
				}
				m.attestations = append(m.attestations, a)
			}
			made = append(made, m)
		}
		p.Publish.MediaType = ""
		if docker {
			p.Publish.MediaType = "docker"
		}
		raw, mediaType, left, err := join(p, map[string]string{plan.CommitAnnotation: p.Head}, made)
		if (err != nil) != (made[0].image.Platform.String() == made[1].image.Platform.String()) {
			t.Fatalf("%v and %v: %v", made[0].image.Platform, made[1].image.Platform, err)
		}
		if err != nil {
			return
		}
		again, _, _, err := join(p, map[string]string{plan.CommitAnnotation: p.Head}, made)
		if err != nil || !bytes.Equal(raw, again) {
			t.Errorf("the same parts give %s and %s", raw, again)
		}
		merged, err := flatten(raw)
		if err != nil || len(merged.images) != 2 || len(merged.indexes) > 0 {
			t.Fatalf("%s: %+v, %v", raw, merged, err)
		}
		for i, d := range merged.images {
			if d.Digest != made[i].image.Digest || d.Size != made[i].image.Size || (d.Annotations[plan.CommitAnnotation] == "") != docker {
				t.Errorf("%+v became %+v", made[i].image, d)
			}
		}
		if attested := len(made[0].attestations) + len(made[1].attestations); docker && (left != attested || len(merged.attestations) > 0) || !docker && len(merged.attestations) != attested {
			t.Errorf("%d attestations became %d, %d left", attested, len(merged.attestations), left)
		}
		for _, a := range merged.attestations {
			if !of[a.Annotations[referenceDigest]] {
				t.Errorf("an attestation is of %q", a.Annotations[referenceDigest])
			}
		}
		if want := map[bool]types.MediaType{false: types.OCIImageIndex, true: types.DockerManifestList}[docker]; mediaType != string(want) {
			t.Errorf("media type %s", mediaType)
		}
	})
}
