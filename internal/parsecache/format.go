package parsecache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"io"
	"slices"
	"sort"
	"strings"
)

// A cache file is a header (magic, the program's identity, a checksum of what
// follows, the number of records), a record for each entry sorted by key (key,
// day of last use, length of the value, where its value begins), and the
// values.
const (
	magic      = "pipegen parse cache 1\n"
	headerSize = len(magic) + sha256.Size + 4 + 4
	recordSize = sha256.Size + 4 + 4 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// entry is one value.
type entry struct {
	key   Key
	day   uint32 // of its last use
	value string
}

func encode(identity [sha256.Size]byte, entries []entry) []byte {
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b entry) int { return bytes.Compare(a.key[:], b.key[:]) })
	size := headerSize
	for _, e := range entries {
		size += recordSize + len(e.value)
	}
	b := make([]byte, 0, size)
	b = append(b, magic...)
	b = append(b, identity[:]...)
	b = append(b, make([]byte, headerSize-len(b))...)
	at := uint32(0)
	for _, e := range entries {
		b = append(b, e.key[:]...)
		b = binary.LittleEndian.AppendUint32(b, e.day)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(e.value))) //nolint:gosec // at most maxValue
		b = binary.LittleEndian.AppendUint32(b, at)
		at += uint32(len(e.value)) //nolint:gosec // at most maxSize in all
	}
	for _, e := range entries {
		b = append(b, e.value...)
	}
	numbers := b[headerSize-8:]
	binary.LittleEndian.PutUint32(numbers, crc32.Checksum(b[headerSize:], castagnoli))
	binary.LittleEndian.PutUint32(numbers[4:], uint32(len(entries))) //nolint:gosec // at most maxSize
	return b
}

// stored is a cache file that was read.
type stored struct {
	records, values string
}

// decode reads a file of about this size. It gives nil for anything but what
// encode wrote for this identity.
func decode(r io.Reader, size int, identity [sha256.Size]byte) *stored {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil
	}
	rest, ok := bytes.CutPrefix(header, append([]byte(magic), identity[:]...))
	if !ok {
		return nil
	}
	var body strings.Builder // whose text is not copied
	body.Grow(size)
	sum := crc32.New(castagnoli)
	if _, err := io.Copy(io.MultiWriter(&body, sum), r); err != nil || sum.Sum32() != binary.LittleEndian.Uint32(rest) {
		return nil
	}
	text, n := body.String(), int(binary.LittleEndian.Uint32(rest[4:]))
	if n > len(text)/recordSize {
		return nil
	}
	s := &stored{text[:n*recordSize], text[n*recordSize:]}
	for i := range n {
		if at, size := s.place(i); at+size > len(s.values) || i > 0 && s.key(i-1) >= s.key(i) {
			return nil
		}
	}
	return s
}

func (s *stored) len() int { return len(s.records) / recordSize }

func (s *stored) key(i int) string { return s.records[i*recordSize:][:sha256.Size] }

// number reads one of the three numbers that follow a key.
func (s *stored) number(i, which int) uint32 {
	r := s.records[i*recordSize+sha256.Size+4*which:]
	return uint32(r[0]) | uint32(r[1])<<8 | uint32(r[2])<<16 | uint32(r[3])<<24
}

// place says where a value is.
func (s *stored) place(i int) (at, size int) { return int(s.number(i, 2)), int(s.number(i, 1)) }

func (s *stored) value(i int) string {
	at, size := s.place(i)
	return s.values[at:][:size]
}

func (s *stored) entry(i int) entry {
	return entry{Key([]byte(s.key(i))), s.number(i, 0), s.value(i)}
}

func (s *stored) find(key Key) (int, bool) {
	wanted := string(key[:])
	return sort.Find(s.len(), func(i int) int { return strings.Compare(wanted, s.key(i)) })
}
