//go:build !unix

package diff

import (
	"io/fs"
	"os"

	"github.com/go-git/go-git/v5/plumbing/format/index"
)

// fileState is what the system says of a file, links not followed.
type fileState struct{ info fs.FileInfo }

func stateOf(name string) (fileState, error) {
	info, err := os.Lstat(name)
	return fileState{info}, err
}

func (s *fileState) mode() fs.FileMode { return s.info.Mode() }

// isAs cannot tell here, so that every file is read.
func (s *fileState) isAs(*index.Entry) bool { return false }
