package plan

import (
	"path/filepath"
)

// Result is what a build leaves for the publisher: DIR/builds/ID.json.
type Result struct {
	ID string `json:"id"`
	// Reference with the tag that was pushed; empty if the plan asks for no push.
	Ref string `json:"ref"`
	// Digest of the manifest (or of BuildKit's index); of what was pushed,
	// verified against the registry. Empty if the build made no image.
	Digest string `json:"digest"`
	// Size of that manifest in bytes.
	Size      int64  `json:"size"`
	MediaType string `json:"mediaType"`
	Platform  string `json:"platform"`
	// Whether the build read the config of the image that it pushed, or that is
	// in the index, and it is for Platform; of several images that is not said.
	Verified bool `json:"verified,omitempty"`
	// Build of Windows that the config names then.
	OSVersion string `json:"os_version,omitempty"`
	// What it says the image wants of Windows, such as win32k.
	OSFeatures []string `json:"os_features,omitempty"`
	// Outputs that are files, in the order of the plan.
	Outputs []Output `json:"outputs,omitempty"`
	// Several images that a project's own build made, sorted by name. Ref,
	// Digest, Size and MediaType are then those of the first.
	Parts []Part `json:"parts,omitempty"`
	// What the image was built on, in the order of the Dockerfile.
	Bases []Base `json:"bases"`
	// Content key and head of the plan that the build was made for.
	Key  string `json:"key"`
	Head string `json:"head"`
}

// Output is a file or a directory that a build made beside a pushed image.
type Output struct {
	// docker-tar, oci-tar, oci-layout, rootfs, digest, or artifact for another
	// file that a project's own build left.
	Kind string `json:"kind"`
	// Path below the output directory, with slashes.
	Path string `json:"path"`
	// Name of the part that it is of; empty: the image of the plan.
	Part string `json:"part,omitempty"`
}

// Part is one of several images of a project's own build.
type Part struct {
	// Name of the image, PROJECT-PART, or the project's own.
	Name string `json:"name"`
	// As in Result.
	Ref       string `json:"ref"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	MediaType string `json:"mediaType"`
}

// Base is an image that a build was made on, at the digest it had.
type Base struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
	// Whether the image stands on it, by the FROM of its last stage; files may
	// be copied from the others.
	Final bool `json:"final,omitempty"`
}

// Published is what the publisher leaves: DIR/indexes/NAME.json.
type Published struct {
	Name string `json:"name"`
	// Repository without tag.
	Repository string `json:"repository"`
	Digest     string `json:"digest"`
	Size       int64  `json:"size"`
	MediaType  string `json:"mediaType"`
	// Tags that now carry this digest, without repository.
	Tags []string `json:"tags"`
	// Tags that were left where they are, and why.
	Kept     []KeptTag `json:"kept,omitempty"`
	Children []Child   `json:"children"`
	// Where else it was published, in the order of publish.also.
	Also []Copied `json:"also,omitempty"`
	// The other images that a project's own build made, sorted by name. If none
	// of them is the project's own, what carries its key tag is the first again.
	Parts []Published `json:"parts,omitempty"`
}

// Copied is a publication in another registry, with the same digest.
type Copied struct {
	// Repository without tag.
	Repository string `json:"repository"`
	// As in Published.
	Tags []string  `json:"tags"`
	Kept []KeptTag `json:"kept,omitempty"`
}

// KeptTag is a tag that a publication did not move.
type KeptTag struct {
	Tag    string `json:"tag"`
	Reason string `json:"reason"`
}

// Child is one manifest in an index.
type Child struct {
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	MediaType string `json:"mediaType"`
	Platform  string `json:"platform"`
}

// ResultFile is where the result of a build is kept below the metadata
// directory dir.
func ResultFile(dir, id string) string { return filepath.Join(dir, "builds", id+".json") }

// OutputDir is where the outputs of a build that are files are kept below the
// metadata directory, unless another place is asked for.
func OutputDir(dir, id string) string { return filepath.Join(dir, "outputs", id) }

// LogFile is where the log of a build is kept below the metadata directory.
func LogFile(dir, id string) string { return filepath.Join(dir, "builds", id+".log") }

// PublishedFile is where the result of publishing an image is kept below the
// metadata directory.
func PublishedFile(dir, name string) string { return filepath.Join(dir, "indexes", name+".json") }
