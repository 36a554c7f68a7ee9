package diff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"sync"
)

// maxObject bounds the memory that one object may take, and maxRatio what it
// may take for every byte that it is compressed to.
const (
	maxObject = 1 << 30
	maxRatio  = 1032
)

var errTooLarge = fmt.Errorf("an object is larger than %d bytes, which only git itself can read", maxObject)

// inflate decompresses the zlib stream that data begins with, which has to make
// this many bytes and have the right checksum.
func inflate(data []byte, size int64) ([]byte, error) {
	if size > maxObject {
		return nil, errTooLarge
	}
	if size/maxRatio > int64(len(data)) {
		return nil, damaged("%d compressed bytes cannot hold %d", len(data), size)
	}
	z := inflaters.Get().(*inflater)
	defer inflaters.Put(z)
	out := make([]byte, size)
	n, err := z.run(out, data)
	if err == nil && n != len(out) {
		err = damaged("%d bytes where %d should be", n, size)
	}
	return out, err
}

// inflateSome fills out with what the stream begins with, and gives how much
// that is if it is less.
func inflateSome(out, data []byte) (int, error) {
	z := inflaters.Get().(*inflater)
	defer inflaters.Put(z)
	n, err := z.run(out, data)
	if errors.Is(err, errFull) {
		err = nil
	}
	return n, err
}

// inflater decompresses as RFC 1950 and RFC 1951 say. Input and output are in
// memory as a whole, and its tables are no larger than a code needs: for objects
// as small as most commits and trees are, that takes half of the time that
// readers of streams take, which is what reading a repository mostly is.
type inflater struct {
	in   []byte
	at   int    // of the next byte of in to take up
	hold uint64 // bits taken up, the next one lowest
	n    uint   // how many

	lengths [maxLitLen + maxDist]uint8
	used    [maxLitLen + maxDist]uint16 // symbols that have a length
	litLen  code
	dist    code
}

var inflaters = sync.Pool{New: func() any { return &inflater{} }}

// Numbers of symbols; see RFC 1951, 3.2.5 to 3.2.7.
const (
	maxLitLen = 288
	maxDist   = 32
	endBlock  = 256
	maxBits   = 15
	tableSize = 1 << 10
)

var (
	errDeflate = damaged("what is compressed cannot be read")
	errShort   = damaged("what is compressed ends early")
	// errFull means that there is more output than room for it.
	errFull = damaged("more bytes than there should be")
)

// run gives how much of out it filled.
func (z *inflater) run(out, data []byte) (int, error) {
	if len(data) < 2 || data[0]&15 != 8 || data[0]>>4 > 7 || binary.BigEndian.Uint16(data)%31 != 0 || data[1]&0x20 != 0 {
		return 0, errDeflate
	}
	z.in, z.at, z.hold, z.n = data, 2, 0, 0
	defer func() { z.in = nil }()
	o := 0
	for last := false; !last; {
		z.fill()
		last = z.take(1) == 1
		var err error
		switch z.take(2) {
		case 0:
			o, err = z.stored(out, o)
		case 1:
			fixed := fixedCodes()
			o, err = z.block(out, o, &fixed.litLen, &fixed.dist)
		case 2:
			if err = z.codes(); err == nil {
				o, err = z.block(out, o, &z.litLen, &z.dist)
			}
		default:
			err = errDeflate
		}
		if err != nil && z.beyond() {
			err = errShort
		}
		if err != nil {
			return o, err
		}
	}
	end := z.at - int(z.n/8)
	if end < 0 || end+4 > len(data) {
		return o, errShort
	}
	if binary.BigEndian.Uint32(data[end:]) != adler32.Checksum(out[:o]) {
		return o, damaged("what is compressed has another checksum")
	}
	return o, nil
}

// fill takes up bits, so that there are 56 or more. Beyond the end of the input
// they are zeros; those who come to an end see whether they were there.
func (z *inflater) fill() {
	if z.at+8 <= len(z.in) {
		z.hold |= binary.LittleEndian.Uint64(z.in[z.at:]) << z.n
		z.at += int(63-z.n) >> 3
		z.n |= 56
		return
	}
	for ; z.n < 56; z.n += 8 {
		if z.at < len(z.in) {
			z.hold |= uint64(z.in[z.at]) << z.n
		}
		z.at++
	}
}

// beyond says whether bits were used that are not there.
func (z *inflater) beyond() bool { return z.at-int(z.n/8) > len(z.in) }

func (z *inflater) take(n uint) uint {
	taken := uint(z.hold) & (1<<n - 1)
	z.hold >>= n
	z.n -= n
	return taken
}

// stored copies a block that is not compressed.
func (z *inflater) stored(out []byte, o int) (int, error) {
	at := z.at - int(z.n/8)
	if at+4 > len(z.in) {
		return o, errShort
	}
	size := int(binary.LittleEndian.Uint16(z.in[at:]))
	if size != int(^binary.LittleEndian.Uint16(z.in[at+2:])) {
		return o, errDeflate
	}
	at += 4
	if at+size > len(z.in) {
		return o, errShort
	}
	n := copy(out[o:], z.in[at:at+size])
	z.at, z.hold, z.n = at+size, 0, 0
	if n < size {
		return o + n, errFull
	}
	return o + n, nil
}

// codeOrder is in which order the lengths of the code for lengths are given.
var codeOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// codes reads the codes of a block that has its own; see RFC 1951, 3.2.7.
func (z *inflater) codes() error {
	z.fill()
	literals, distances, count := int(z.take(5))+257, int(z.take(5))+1, int(z.take(4))+4
	if literals > 286 || distances > 30 {
		return errDeflate
	}
	clear(z.lengths[:len(codeOrder)])
	for _, i := range codeOrder[:count] {
		if z.n < 3 {
			z.fill()
		}
		z.lengths[i] = uint8(z.take(3)) //nolint:gosec // 3 bits
	}
	// The code for lengths is not needed any more when that for distances is made.
	if err := z.dist.make(z.lengths[:len(codeOrder)], z.usedOf(0, len(codeOrder)), nil, 7); err != nil {
		return err
	}
	all := literals + distances
	used, usedLiterals := 0, 0
	for i := 0; i < all; {
		z.fill()
		if z.beyond() {
			return errShort
		}
		e, ok := z.dist.next(z)
		if !ok {
			return errDeflate
		}
		length, times := uint8(e>>entryValue), 1 //nolint:gosec // 0 to 18
		switch length {
		case 16:
			if i == 0 {
				return errDeflate
			}
			length, times = z.lengths[i-1], 3+int(z.take(2))
		case 17:
			length, times = 0, 3+int(z.take(3))
		case 18:
			length, times = 0, 11+int(z.take(7))
		}
		if i+times > all {
			return errDeflate
		}
		for end := i + times; i < end; i++ {
			z.lengths[i] = length
			if length == 0 {
				continue
			}
			if i < literals {
				z.used[used] = uint16(i)
				usedLiterals++
			} else {
				z.used[used] = uint16(i - literals) //nolint:gosec // a few
			}
			used++
		}
	}
	if z.lengths[endBlock] == 0 {
		return errDeflate
	}
	if err := z.litLen.make(z.lengths[:literals], z.used[:usedLiterals], litLenEntries[:], 10); err != nil {
		return err
	}
	return z.dist.make(z.lengths[literals:all], z.used[usedLiterals:used], distEntries[:], 8)
}

// usedOf lists the symbols among those from one number to another that have a length.
func (z *inflater) usedOf(from, to int) []uint16 {
	n := 0
	for i := from; i < to; i++ {
		if z.lengths[i] > 0 {
			z.used[n] = uint16(i - from) //nolint:gosec // a few hundred
			n++
		}
	}
	return z.used[:n]
}

// block decompresses a block into out from o on.
func (z *inflater) block(out []byte, o int, litLen, dist *code) (int, error) {
	// What changes with every symbol is kept where the processor has it at hand.
	in, at, hold, n := z.in, z.at, z.hold, z.n
	table, mask := &litLen.table, litLen.mask
	for {
		if at+8 <= len(in) {
			hold |= binary.LittleEndian.Uint64(in[at:]) << (n & 63)
			at += int(63-n) >> 3
			n |= 56
		} else {
			z.at, z.hold, z.n = at, hold, n
			z.fill()
			at, hold, n = z.at, z.hold, z.n
		}
		// Of 56 bits three literals and a length take 45 and 5 at most.
		var e uint32
		for range 3 {
			if e = table[hold&mask&(tableSize-1)]; e == 0 {
				if e = litLen.long(hold); e == 0 {
					z.at, z.n = at, n
					return o, errDeflate
				}
			}
			hold >>= e & 15
			n -= uint(e & 15)
			if e&entryLiteral == 0 {
				break
			}
			if o >= len(out) {
				z.at, z.n = at, n
				return o, errFull
			}
			out[o] = byte(e >> entryValue) //nolint:gosec // 0 to 255
			o++
		}
		if e&entryLiteral != 0 {
			continue
		}
		if e&entryEnd != 0 {
			z.at, z.hold, z.n = at, hold, n
			return o, nil
		}
		extra := e >> entryExtra & 15
		size := int(e>>entryValue) + int(hold&(1<<extra-1)) //nolint:gosec // 5 bits at most
		hold >>= extra
		z.at, z.hold, z.n = at, hold, n-uint(extra)
		z.fill()
		e, ok := dist.next(z)
		if !ok {
			return o, errDeflate
		}
		back := int(e>>entryValue) + int(z.take(uint(e>>entryExtra&15)))
		if back > o || back == 0 || size == 0 {
			return o, errDeflate
		}
		if z.beyond() {
			return o, errShort
		}
		at, hold, n = z.at, z.hold, z.n
		room := min(size, len(out)-o)
		if back >= size {
			copy(out[o:o+room], out[o-back:])
		} else {
			for i := o; i < o+room; i++ {
				out[i] = out[i-back]
			}
		}
		o += room
		if room < size {
			return o, errFull
		}
	}
}
