package diff

import (
	"crypto/sha1" //nolint:gosec // git's object ids are SHA-1
	"encoding/hex"
	"hash"
	"strconv"
	"sync"
)

// oid is an object id of a repository that uses SHA-1. The zero value stands
// for no object.
type oid [idSize]byte

const idSize = sha1.Size

// parseID reads a full id in lower-case hex.
func parseID[S string | []byte](text S) (id oid, ok bool) {
	if len(text) != 2*idSize {
		return oid{}, false
	}
	for i := range len(text) {
		var digit byte
		switch c := text[i]; {
		case '0' <= c && c <= '9':
			digit = c - '0'
		case 'a' <= c && c <= 'f':
			digit = c - 'a' + 10
		default:
			return oid{}, false
		}
		id[i/2] = id[i/2]<<4 | digit
	}
	return id, true
}

func (id oid) String() string { return hex.EncodeToString(id[:]) }

// kind is the type of an object, numbered as in pack entries.
type kind byte

const (
	kindCommit kind = 1 + iota
	kindTree
	kindBlob
	kindTag
)

var kindNames = [...]string{kindCommit: "commit", kindTree: "tree", kindBlob: "blob", kindTag: "tag"}

func (k kind) String() string { return kindNames[k] }

// hasher computes the id of an object from what is written to it.
type hasher struct {
	hash.Hash
	head [32]byte
}

func newHasher() *hasher { return &hasher{Hash: sha1.New()} } //nolint:gosec // as above

func (h *hasher) begin(k kind, size int64) {
	h.Reset()
	head := append(append(h.head[:0], kindNames[k]...), ' ')
	h.Write(append(strconv.AppendInt(head, size, 10), 0))
}

func (h *hasher) id() (id oid) {
	h.Sum(id[:0])
	return id
}

var hashers = sync.Pool{New: func() any { return newHasher() }}

// hashObject gives the id of an object.
func hashObject(k kind, data []byte) oid {
	h := hashers.Get().(*hasher)
	defer hashers.Put(h)
	h.begin(k, int64(len(data)))
	h.Write(data)
	return h.id()
}
