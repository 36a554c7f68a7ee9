package diff

import "slices"

// A delta makes an object of another: instructions to copy parts of that, and
// bytes to insert; see gitformat-pack(5), "Deltified representation".

// patched is an object as pieces of others, the way a chain of deltas makes it.
// No byte is copied before the end of the chain: a large tree that changes with
// every commit is at the end of a long one.
type patched struct {
	pieces [][]byte
	ends   []int64 // where in the object each piece ends
}

// manyPieces is when looking for pieces costs more than copying them.
const manyPieces = 1 << 16

func whole(data []byte) patched { return patched{[][]byte{data}, []int64{int64(len(data))}} }

func (p *patched) size() int64 {
	if len(p.ends) == 0 {
		return 0
	}
	return p.ends[len(p.ends)-1]
}

func (p *patched) add(piece []byte) {
	p.ends = append(p.ends, p.size()+int64(len(piece)))
	p.pieces = append(p.pieces, piece)
}

// bytes copies the pieces into one.
func (p *patched) bytes() []byte { return slices.Concat(p.pieces...) }

// apply makes the object that delta describes.
func (p *patched) apply(delta []byte) (patched, error) {
	baseSize, rest, err := deltaSize(delta)
	if err != nil {
		return patched{}, err
	}
	if baseSize != p.size() {
		return patched{}, damaged("a delta for %d bytes, applied to %d", baseSize, p.size())
	}
	size, rest, err := deltaSize(rest)
	if err != nil {
		return patched{}, err
	}
	if size > maxObject {
		return patched{}, errTooLarge
	}
	base := *p
	if int64(len(base.pieces)) > min(16+baseSize/1024, manyPieces) {
		base = whole(base.bytes())
	}
	var made patched
	for at := rest; len(at) > 0; {
		var in instruction
		if in, at, err = nextInstruction(at); err != nil {
			return patched{}, err
		}
		if in.insert != nil {
			made.add(in.insert)
		} else if !made.copy(&base, in.from, in.size) {
			return patched{}, damaged("a delta copies from beyond the end of its base")
		}
		if made.size() > size {
			break
		}
		if len(made.pieces) > 2*manyPieces && len(base.pieces) > 1 {
			base, made, at = whole(base.bytes()), patched{}, rest
		}
	}
	if made.size() != size {
		return patched{}, damaged("a delta says that it makes %d bytes, and does not", size)
	}
	return made, nil
}

// copy adds a part of base, and says whether base has such a part.
func (p *patched) copy(base *patched, from, size int64) bool {
	if from+size > base.size() {
		return false
	}
	i, _ := slices.BinarySearch(base.ends, from+1)
	for ; size > 0; i++ {
		piece := base.pieces[i]
		skip := from - (base.ends[i] - int64(len(piece)))
		piece = piece[skip:min(int64(len(piece)), skip+size)]
		p.add(piece)
		from, size = from+int64(len(piece)), size-int64(len(piece))
	}
	return true
}

// instruction inserts bytes, or copies some of the base.
type instruction struct {
	insert     []byte
	from, size int64
}

func nextInstruction(delta []byte) (instruction, []byte, error) {
	op, rest := delta[0], delta[1:]
	switch {
	case op == 0:
		return instruction{}, nil, damaged("a delta has an instruction that is reserved")
	case op < 0x80:
		if int(op) > len(rest) {
			return instruction{}, nil, damaged("a delta ends early")
		}
		return instruction{insert: rest[:op]}, rest[op:], nil
	}
	var in instruction
	for bit := range 7 {
		if op&(1<<bit) == 0 {
			continue
		}
		if len(rest) == 0 {
			return instruction{}, nil, damaged("a delta ends early")
		}
		if bit < 4 {
			in.from |= int64(rest[0]) << (8 * bit)
		} else {
			in.size |= int64(rest[0]) << (8 * (bit - 4))
		}
		rest = rest[1:]
	}
	if in.size == 0 {
		in.size = 0x10000
	}
	return in, rest, nil
}

// deltaSize reads a number of 7 bits a byte, the lowest first.
func deltaSize(delta []byte) (int64, []byte, error) {
	n := int64(0)
	for i := 0; i < len(delta) && i < 8; i++ {
		n |= int64(delta[i]&0x7f) << (7 * i)
		if delta[i] < 0x80 {
			return n, delta[i+1:], nil
		}
	}
	return 0, nil, damaged("a delta has no size")
}
