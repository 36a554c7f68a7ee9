//go:build !unix

package diff

import (
	"errors"
	"io"
	"os"
)

// mapFile reads the file: mapping differs between systems.
func mapFile(f *os.File, size int64) (mapped, error) {
	if size > maxObject {
		return mapped{}, errors.New("too large to be read into memory")
	}
	data := make([]byte, size)
	_, err := io.ReadFull(f, data)
	return mapped{data, func() error { return nil }}, err
}
