package diff

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Bounds of a pack: its header, and the checksum at its end.
const (
	packHead = 12
	packTail = idSize
	// maxChain is how many deltas may follow each other. git makes chains of 4095
	// at most.
	maxChain = 10_000
)

// Types of pack entries that are no kinds of object.
const (
	offsetDelta = 6
	idDelta     = 7
)

// pack is one pack and its index; see gitformat-pack(5). The pack itself is
// mapped when it is first read from.
type pack struct {
	name    string // of the pack file
	index   packIndex
	indexed mapped

	mu     sync.Mutex
	body   mapped
	failed error // what is wrong with it
}

// openPack reads the index of a pack.
func openPack(indexName string) (*pack, error) {
	indexed, err := openMapped(indexName)
	if err != nil {
		return nil, err
	}
	p := &pack{name: strings.TrimSuffix(indexName, ".idx") + ".pack", indexed: indexed}
	err = guard(func() (err error) {
		p.index, err = parseIndex(indexed.data)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", indexName, err), indexed.close())
	}
	return p, nil
}

func (p *pack) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.indexed.close()
	if p.body.close != nil {
		err = errors.Join(err, p.body.close())
	}
	return err
}

// data gives the pack without its checksum.
func (p *pack) data() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.body.close == nil {
		var err error
		if p.body, err = openMapped(p.name); err != nil {
			return nil, err
		}
		p.failed = p.check()
	}
	if p.failed != nil {
		return nil, p.failed
	}
	return p.body.data[:len(p.body.data)-packTail], nil
}

// check sees whether this is the pack that the index is of.
func (p *pack) check() error {
	data := p.body.data
	switch {
	case len(data) < packHead+packTail || string(data[:4]) != "PACK":
		return damaged("it is no pack")
	case !bytes.Equal(data[len(data)-packTail:], p.index.sum):
		return damaged("it does not end with the checksum that its index names")
	case int64(binary.BigEndian.Uint32(data[8:])) != int64(p.index.count):
		return damaged("it does not hold as many objects as its index names")
	}
	if version := binary.BigEndian.Uint32(data[4:]); version != 2 && version != 3 {
		return fmt.Errorf("it is a pack of version %d, which only git itself can read", version)
	}
	return nil
}

// read gives an object if the pack holds it, and has seen that its content has
// this id. Nobody may change the data.
func (p *pack) read(id oid, kept *keptObjects) (o keptObject, found bool, err error) {
	err = guard(func() error {
		i := p.index.find(id)
		if i < 0 {
			return nil
		}
		found = true
		at, err := p.index.offset(i)
		if err != nil {
			return err
		}
		if o, err = p.readAt(at, kept); err != nil || o.id == id {
			return err
		}
		if hashObject(o.kind, o.data) != id {
			return damagedAt(at, damaged("object %s has another hash", id))
		}
		o.id = id
		if o.kind == kindTree {
			kept.put(p, at, o)
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("%s: %w", p.name, err)
	}
	return o, found, err
}

func (p *pack) readAt(at int64, kept *keptObjects) (o keptObject, err error) {
	body, err := p.data()
	if err != nil {
		return o, err
	}
	// Down to an object that is whole, and up again from delta to delta.
	var chain []packEntry
	for {
		var known bool
		if o, known = kept.get(p, at); known {
			break
		}
		e, err := p.entry(body, at)
		if err != nil {
			return o, err
		}
		if e.base == 0 {
			o.kind = e.kind
			if o.data, err = inflate(e.stream, e.size); err != nil {
				return o, damagedAt(at, err)
			}
			break
		}
		if chain = append(chain, e); len(chain) > maxChain {
			return o, damagedAt(chain[0].at, damaged("more than %d deltas follow each other", maxChain))
		}
		at = e.base
	}
	if len(chain) == 0 {
		return o, nil
	}
	kept.put(p, at, o)
	object := whole(o.data)
	for _, e := range slices.Backward(chain) {
		delta, err := inflate(e.stream, e.size)
		if err == nil {
			object, err = object.apply(delta)
		}
		if err != nil {
			return o, damagedAt(e.at, err)
		}
	}
	return keptObject{kind: o.kind, data: object.bytes()}, nil
}

func damagedAt(at int64, err error) error { return fmt.Errorf("object at byte %d: %w", at, err) }

// packEntry is where an object or a delta is in a pack.
type packEntry struct {
	at     int64
	kind   kind
	size   int64  // when decompressed
	base   int64  // of a delta: where the entry is that it changes; else 0
	stream []byte // compressed, and all that follows in the pack
}

// entry reads the beginning of an entry; see gitformat-pack(5), "pack-*.pack
// files have the following format".
func (p *pack) entry(body []byte, at int64) (packEntry, error) {
	e, baseID, err := parseEntry(body, at)
	if err != nil {
		return e, damagedAt(at, err)
	}
	if e.kind == idDelta {
		i := p.index.find(baseID)
		if i < 0 {
			return e, damagedAt(at, damaged("its base %s is not in the pack", baseID))
		}
		if e.base, err = p.index.offset(i); err != nil {
			return e, damagedAt(at, err)
		}
		if e.base < packHead {
			return e, damagedAt(at, damaged("its base is outside of the pack"))
		}
	}
	return e, nil
}

// parseEntry gives the id of the base of an idDelta, and the place of that of
// an offsetDelta, which is always a lower one.
func parseEntry(body []byte, at int64) (e packEntry, baseID oid, err error) {
	if at < packHead || at >= int64(len(body)) {
		return e, oid{}, damaged("it is outside of the pack")
	}
	rest := body[at:]
	first := rest[0]
	e = packEntry{at: at, kind: kind(first >> 4 & 7), size: int64(first & 15)}
	used := 1
	for shift := 4; rest[used-1]&0x80 != 0; shift += 7 {
		if used == len(rest) || shift > 53 {
			return e, oid{}, damaged("it has no size")
		}
		e.size |= int64(rest[used]&0x7f) << shift
		used++
	}
	rest = rest[used:]
	switch {
	case e.kind >= kindCommit && e.kind <= kindTag:
	case e.kind == offsetDelta:
		back := int64(0)
		for i := 0; ; i++ {
			if i == len(rest) || i > 7 {
				return e, oid{}, damaged("it has no base")
			}
			back = back<<7 | int64(rest[i]&0x7f)
			if rest[i] < 0x80 {
				rest = rest[i+1:]
				break
			}
			back++
		}
		if e.base = at - back; back <= 0 || e.base < packHead {
			return e, oid{}, damaged("its base is outside of the pack")
		}
	case e.kind == idDelta:
		if len(rest) < idSize {
			return e, oid{}, damaged("it has no base")
		}
		baseID, rest = oid(rest[:idSize]), rest[idSize:]
	default:
		return e, oid{}, damaged("it is of the unknown type %d", e.kind)
	}
	e.stream = rest
	return e, baseID, nil
}
