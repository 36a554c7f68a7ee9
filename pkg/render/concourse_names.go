package render

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
)

// concourseIdentifier is what Concourse takes as a name in all its versions
// (https://concourse-ci.org/docs/config-basics/#identifier-schema): a letter,
// and letters, digits, - _ and . after it, none of them a capital.
var concourseIdentifier = lazyregexp.New(`^[a-z][a-z0-9._-]*$`)

// Names in a pipeline that are pipegen's own, so that no image or project
// gets them.
const (
	concourseSource   = "source"       // artifact: the checkout that is built
	concoursePlan     = "plan"         // artifact and task: what is built
	concourseManifest = "manifest"     // task that publishes
	concourseWeekly   = "weekly"       // resource: the time of rebuilding
	concoursePipeline = "pipeline"     // resource: the file with this pipeline
	concourseSet      = "set-pipeline" // job that sets it
	concourseBuilt    = "built-"       // artifacts: results of a platform
	// Sources of variables: the identity of a job for AWS, for signing, and for
	// the controller.
	concourseAWS        = "pipegen-aws"
	concourseSigning    = "pipegen-signing"
	concourseController = "pipegen-controller"
)

// concourseNames gives names that are unique after they were made to fit.
type concourseNames map[string]bool

// newConcourseNames gives a set in which pipegen's own names are taken.
func newConcourseNames() concourseNames {
	return concourseNames{concourseSource: true, concoursePlan: true, concourseManifest: true, concourseWeekly: true, concoursePipeline: true, concourseSet: true}
}

// add gives the identifier for a name. One that is no identifier as it stands,
// or is taken, is made one and gets a part that depends on whole alone, so that
// it stays the same whatever other names come and go.
func (taken concourseNames) add(name, whole string) string {
	if !concourseIdentifier.MatchString(name) || strings.HasPrefix(name, concourseBuilt) || taken[name] {
		stem := strings.Map(func(r rune) rune {
			switch {
			case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
				return r
			case r >= 'A' && r <= 'Z':
				return r - 'A' + 'a'
			}
			return '-'
		}, name)
		if !concourseIdentifier.MatchString(stem) || strings.HasPrefix(stem, concourseBuilt) {
			stem = "x-" + stem
		}
		sum := sha256.Sum256([]byte(whole))
		for n := 3; n == 3 || taken[name]; n++ {
			name = stem + "-" + hex.EncodeToString(sum[:n])
		}
	}
	taken[name] = true
	return name
}

// ecrHost is the host of a private registry of Amazon ECR.
var ecrHost = lazyregexp.New(`^[0-9]{12}\.dkr\.ecr(-fips)?\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?$`)

// concourseImage gives the anonymous resource with the container image of a
// task: type registry-image, which comes with Concourse. Without a name it is
// what the variable pipegen_image says, with its fields repository and tag.
func concourseImage(image string) (*yaml.Node, error) {
	if image == "" {
		return mapping("type", "registry-image", "source", mapping("repository", "((pipegen_image.repository))", "tag", "((pipegen_image.tag))")), nil
	}
	if strings.Contains(image, "$") {
		return nil, failure.WithHint(failure.Input("image %q: Concourse has no variables of this form", image),
			"write the image's name, or leave it out: then the variables pipegen_image.repository and pipegen_image.tag say it")
	}
	ref, err := registry.ParseReference(image)
	if err != nil {
		return nil, err
	}
	source := mapping("repository", ref.Repository())
	if ecr := ecrHost.FindStringSubmatch(ref.Host); ecr != nil {
		// The resource asks AWS for the host, and puts it before the path.
		source = mapping("repository", ref.Path, "aws_region", ecr[2])
	}
	if ref.Tag != "" {
		source.Content = append(source.Content, text("tag"), text(ref.Tag))
	}
	var version *yaml.Node
	if ref.Digest != "" {
		version = mapping("digest", ref.Digest)
	}
	return mapping("type", "registry-image", "source", source, "version", version), nil
}

// concourseText refuses a value that Concourse would not leave as it is: it
// replaces ((NAME)) wherever it stands in a pipeline, and knows no escape.
func concourseText(s string) error {
	if strings.Contains(s, "((") {
		return failure.WithHint(failure.Input("%q would be replaced by Concourse, which takes ((…)) for a variable", s),
			"only overlays can name variables of Concourse")
	}
	return nil
}
