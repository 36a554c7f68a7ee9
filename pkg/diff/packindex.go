package diff

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"sort"
	"strings"
)

// errDamaged is wrapped by errors that mean: a file of the object store does
// not hold what it should.
var errDamaged = errors.New("damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDamaged, fmt.Sprintf(format, args...))
}

// packIndex is a file that says where the objects of a pack are; see
// gitformat-pack(5), versions 1 and 2. Offsets in it are not to be trusted.
type packIndex struct {
	fanout  []byte // 256 numbers: how many ids begin with this byte or a lower one
	count   int
	ids     []byte // sorted, one every stride bytes
	stride  int
	offsets []byte // 4 bytes, one every offsetStride bytes
	every   int
	large   []byte // 8 bytes each
	sum     []byte // the last bytes of the pack
}

const fanoutSize = 256 * 4

var indexMagic = []byte{0xff, 't', 'O', 'c', 0, 0, 0, 2}

// parseIndex keeps parts of data.
func parseIndex(data []byte) (packIndex, error) {
	if len(data) < fanoutSize+2*idSize {
		return packIndex{}, damaged("%d bytes are too few for a pack index", len(data))
	}
	var x packIndex
	body := data[:len(data)-2*idSize]
	x.sum = data[len(body) : len(body)+idSize]
	second := bytes.HasPrefix(body, indexMagic)
	if second {
		body = body[len(indexMagic):]
	} else if bytes.HasPrefix(body, indexMagic[:4]) {
		return packIndex{}, fmt.Errorf("a pack index of version %d, which only git itself can read", binary.BigEndian.Uint32(body[4:]))
	}
	if len(body) < fanoutSize {
		return packIndex{}, damaged("the pack index ends early")
	}
	x.fanout, body = body[:fanoutSize], body[fanoutSize:]
	last := uint32(0)
	for i := 0; i < fanoutSize; i += 4 {
		n := binary.BigEndian.Uint32(x.fanout[i:])
		if n < last {
			return packIndex{}, damaged("the fan-out table of the pack index is not in order")
		}
		last = n
	}
	each := int64(4 + idSize)
	if second {
		each += 4
	}
	if int64(last)*each > int64(len(body)) || !second && int64(last)*each != int64(len(body)) {
		return packIndex{}, damaged("a pack index of %d bytes cannot hold %d objects", len(data), last)
	}
	n := int(last)
	x.count = n
	if second {
		x.ids, x.stride = body[:n*idSize], idSize
		x.offsets, x.every = body[n*(idSize+4):n*(idSize+8)], 4
		x.large = body[n*(idSize+8):]
	} else {
		x.ids, x.stride = body[min(4, len(body)):], idSize+4
		x.offsets, x.every = body, idSize+4
	}
	return x, nil
}

func (x *packIndex) id(i int) []byte { return x.ids[i*x.stride:][:idSize] }

// from is where ids that begin with this byte begin.
func (x *packIndex) from(first int) int {
	if first == 0 {
		return 0
	}
	return int(binary.BigEndian.Uint32(x.fanout[4*first-4:]))
}

// find gives the number of an object in the pack, or -1.
func (x *packIndex) find(id oid) int {
	low, high := x.from(int(id[0])), x.from(int(id[0])+1)
	begin := binary.BigEndian.Uint64(id[:])
	for low < high {
		middle := int(uint(low+high) >> 1)
		there := x.id(middle)
		// Eight bytes nearly always tell.
		c := cmp.Compare(binary.BigEndian.Uint64(there), begin)
		if c == 0 {
			if c = bytes.Compare(there, id[:]); c == 0 {
				return middle
			}
		}
		if c < 0 {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return -1
}

// withPrefix gives the ids that begin with these hexadecimal digits.
func (x *packIndex) withPrefix(digits string) []oid {
	least, _ := parseID(digits + strings.Repeat("0", 2*idSize-len(digits)))
	var found []oid
	for i := sort.Search(x.count, func(i int) bool { return bytes.Compare(x.id(i), least[:]) >= 0 }); i < x.count; i++ {
		id := oid(x.id(i))
		if id.String()[:len(digits)] != digits {
			break
		}
		found = append(found, id)
	}
	return found
}

// offset says where in the pack object number i begins.
func (x *packIndex) offset(i int) (int64, error) {
	at := binary.BigEndian.Uint32(x.offsets[i*x.every:])
	if at < 1<<31 || x.every != 4 {
		return int64(at), nil
	}
	far := int64(at&^(1<<31)) * 8
	if far+8 > int64(len(x.large)) {
		return 0, damaged("the pack index refers to an offset beyond its end")
	}
	wide := binary.BigEndian.Uint64(x.large[far:])
	if wide > 1<<62 {
		return 0, damaged("the pack index holds the offset %d", wide)
	}
	return int64(wide), nil
}
