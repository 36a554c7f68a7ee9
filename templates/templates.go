// Package templates holds the files that pipegen init and pipegen new write.
package templates

import (
	"archive/zip"
	"bytes"
	"embed"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

//go:embed gitlab github concourse project
var embedded embed.FS

// File is a file to write: its path relative to the root of the repository,
// with slashes, and what is in it.
type File struct {
	Path string
	Data []byte
}

// entryFiles are what a CI system starts from, and the file each comes from.
var entryFiles = map[string][][2]string{
	"gitlab": {
		{".gitlab-ci.yml", "gitlab/gitlab-ci.yml"},
		{"pipegen.yaml", "gitlab/pipegen.yaml"},
		{"rebuild-weekly.txt", "gitlab/rebuild-weekly.txt"},
	},
	// Beside the workflows, which are rendered from the configuration.
	"concourse": {
		{"pipegen.yaml", "concourse/pipegen.yaml"},
		{"rebuild-weekly.txt", "concourse/rebuild-weekly.txt"},
	},
	"github": {
		{"pipegen.yaml", "github/pipegen.yaml"},
		{"rebuild-weekly.txt", "github/rebuild-weekly.txt"},
	},
}

// Init gives the files that a repository starts with, for the CI systems
// gitlab, github and concourse. Another system is a failure.ErrInput.
func Init(system string) ([]File, error) {
	pairs, ok := entryFiles[system]
	if !ok {
		return nil, failure.WithHint(failure.Input("%q is no CI system that pipegen writes for", system), "it writes for gitlab, github and concourse")
	}
	files := make([]File, len(pairs))
	for i, pair := range pairs {
		data, err := embedded.ReadFile(pair[1])
		if err != nil {
			return nil, fmt.Errorf("reading the template of %s: %w", pair[0], err)
		}
		files[i] = File{pair[0], data}
	}
	return files, nil
}

// NewOptions say what project New writes.
type NewOptions struct {
	// Name of the image.
	Name string
	// Directory of the project, relative to the root; default: projects/NAME.
	Dir string
	// Git URL of the upstream repository and a tag, branch or commit in it;
	// both or neither. Without them the project has a Dockerfile of its own.
	Upstream, Ref string
}

// New gives the files of a new project. Values that build-config.yaml could
// not hold are a failure.ErrInput.
func New(o NewOptions) ([]File, error) {
	if !nameShape.MatchString(o.Name) || len(o.Name) > maxName {
		return nil, failure.WithHint(failure.Input("%q cannot be the name of an image", o.Name), "lower case letters and digits, with . _ or - between them")
	}
	if (o.Upstream == "") != (o.Ref == "") {
		return nil, failure.WithHint(failure.Input("an upstream and a ref belong together"), "give both --upstream URL and --ref REF, or neither")
	}
	dir := o.Dir
	if dir == "" {
		dir = "projects/" + o.Name
	}
	dir = path.Clean(dir)
	if strings.ContainsAny(dir, "\\\x00") || path.IsAbs(dir) || dir == ".." || strings.HasPrefix(dir, "../") || slices.Contains(strings.Split(dir, "/"), ".git") {
		return nil, failure.Input("%q cannot be the directory of a project: want a path below the root of the repository", o.Dir)
	}
	c := config.BuildConfig{
		UpstreamRepo: o.Upstream, UpstreamRef: o.Ref,
		Platforms: []string{"linux/amd64", "linux/arm64"}, AdditionalTags: []string{"latest"},
	}
	if path.Base(dir) != o.Name {
		c.Name = o.Name
	}
	if o.Upstream != "" {
		c.DockerfilePath = "Dockerfile"
	}
	data, err := buildConfig(c)
	if err != nil {
		return nil, err
	}
	files := []File{
		{path.Join(dir, "build-config.yaml"), data},
		{path.Join(dir, "README.md"), []byte("# " + o.Name + "\n\nWhat is in this image, what it is for, and who looks after it.\n")},
	}
	if o.Upstream == "" {
		data, err := embedded.ReadFile("project/Dockerfile")
		if err != nil {
			return nil, fmt.Errorf("reading the template of the Dockerfile: %w", err)
		}
		files = append(files, File{path.Join(dir, "Dockerfile"), data})
	}
	if err := judge(files); err != nil {
		return nil, fmt.Errorf("project %q: %w", o.Name, err)
	}
	return files, nil
}

// nameShape is a name that every layout of a registry takes: a component of a
// repository's name in the OCI distribution specification.
var nameShape = lazyregexp.New(`^[a-z0-9]+([._-][a-z0-9]+)*$`)

// maxName leaves room in a tag (128 characters) for date, commit and platform.
const maxName = 90

func buildConfig(c config.BuildConfig) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# What this image is built from and called. Every key: docs/configuration.md of pipegen.\n")
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(c); err != nil {
		return nil, fmt.Errorf("writing build-config.yaml: %w", err)
	}
	return b.Bytes(), enc.Close()
}

// judge loads files as the checkout that they will be.
func judge(files []File) error {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	paths := make([]string, len(files))
	for i, f := range files {
		paths[i] = f.Path
		entry, err := w.Create(f.Path)
		if err != nil {
			return err
		}
		if _, err := entry.Write(f.Data); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	fsys, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		return err
	}
	slices.Sort(paths)
	_, err = config.Load(fsys, paths, config.Options{})
	var faults config.Faults
	if !errors.As(err, &faults) {
		return err
	}
	messages := make([]string, len(faults))
	for i, f := range faults {
		messages[i] = quote.Text(f.Message)
	}
	return failure.WithHint(failure.Input("%s", strings.Join(messages, "; ")), "%s", faults[0].Hint)
}
