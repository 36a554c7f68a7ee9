package config

import (
	"crypto/sha1" //nolint:gosec // git names files so
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/pipegen/pipegen/internal/packed"
)

// FileCache keeps texts between runs of the same pipegen. What it does not hold
// any more is found out anew. Its methods are called from several goroutines.
type FileCache interface {
	Get(key [sha256.Size]byte) (string, bool)
	Put(key [sha256.Size]byte, value []byte)
}

// Listed is what a file system implements that knows from git what its files
// are.
type Listed interface {
	// Blob says whether name is a regular file that no symbolic link leads to,
	// and gives git's hash of it in hex, or "" when only reading it tells.
	Blob(name string) (hash string, regular bool)
}

// blobOf is Blob of file systems that have it.
func blobOf(fsys fs.FS, name string) (hash string, regular bool) {
	if l, ok := fsys.(Listed); ok {
		return l.Blob(name)
	}
	return "", false
}

// Blob is the hash by which git names a file with this text (in repositories
// that use SHA-1), in hex.
func Blob(text []byte) string {
	h := sha1.New() //nolint:gosec // as above
	h.Write(append(strconv.AppendInt([]byte("blob "), int64(len(text)), 10), 0))
	h.Write(text)
	return hex.EncodeToString(h.Sum(nil))
}

// keep takes the meaning of files from a cache, and puts it there.
type keep struct {
	cache    FileCache // may be nil
	settings string
	layout   string
}

// kept is what a build-config.yaml means, as the cache has it. It holds for
// one directory, one pipegen.yaml and one layout.
type kept struct {
	Config     BuildConfig
	ByPlatform []BuildConfig
	Watches    bool
	Faults     Faults // warnings
}

func (k *keep) key(p *Project, blob string) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s %s %s %q %s", BuildFile, k.settings, k.layout, p.Dir, blob))
}

// restore fills in p from the cache.
func (k *keep) restore(p *Project, blob string) bool {
	if k.cache == nil {
		return false
	}
	data, ok := k.cache.Get(k.key(p, blob))
	var all kept
	if !ok || packed.Decode(data, &all) != nil {
		return false
	}
	p.Config, p.byPlatform, p.watches = all.Config, all.ByPlatform, all.Watches
	p.doc = &document{file: p.File, faults: all.Faults}
	return true
}

// store puts p into the cache, unless there is an error in it.
func (k *keep) store(p *Project, blob string) {
	if k.cache == nil || p.doc.root == nil || p.doc.faults.Err() != nil {
		return
	}
	if data, ok := packed.Append(nil, kept{p.Config, p.byPlatform, p.watches, p.doc.faults}); ok {
		k.cache.Put(k.key(p, blob), data)
	}
}
