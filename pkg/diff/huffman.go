package diff

import (
	"errors"
	"math/bits"
	"sync"
)

// Parts of an entry of a code: how many bits it takes in the lowest 4; then
// flags; the number of extra bits; and its value, to which those are added.
// An entry of 0 is no symbol, or one with more bits than the table has.
const (
	entryLiteral = 1 << 4
	entryEnd     = 1 << 5
	entryExtra   = 8
	entryValue   = 12
)

// code is a Huffman code: a table by the next bits of the input, and for longer
// symbols how many there are of each length, and they in order.
type code struct {
	table   [tableSize]uint32
	mask    uint64
	bits    int // of the table
	longest int
	counts  [maxBits + 1]uint16
	sorted  [maxLitLen]uint32
}

// make makes a code of the lengths of its symbols. used are those that have one,
// in order; entries are what they mean, or nil for their numbers. The table has
// at most that many bits.
func (c *code) make(lengths []uint8, used []uint16, entries []uint32, tableBits int) error {
	c.counts = [maxBits + 1]uint16{}
	for _, symbol := range used {
		c.counts[lengths[symbol]&maxBits]++
	}
	var next, first [maxBits + 2]uint16
	c.longest = 0
	left := 1
	for n := 1; n <= maxBits; n++ {
		if left = left<<1 - int(c.counts[n]); left < 0 {
			return errDeflate // more symbols than codes
		}
		if c.counts[n] > 0 {
			c.longest = n
		}
		next[n+1] = (next[n] + c.counts[n]) << 1
		first[n+1] = first[n] + c.counts[n]
	}
	if left > 0 && c.longest > 1 {
		return errDeflate // codes without a symbol; a single one is allowed
	}
	c.bits = min(tableBits, max(c.longest, 1))
	c.mask = 1<<c.bits - 1
	table := c.table[:1<<c.bits]
	if left > 0 || c.longest > c.bits {
		clear(table)
	}
	for _, symbol := range used {
		n := lengths[symbol] & maxBits
		entry := uint32(symbol) << entryValue
		if entries != nil {
			entry = entries[symbol]
		}
		entry |= uint32(n)
		c.sorted[first[n]] = entry
		first[n]++
		// The first bit of a symbol is the highest of its code.
		at := int(bits.Reverse16(next[n]) >> (16 - n))
		next[n]++
		if int(n) <= c.bits {
			for ; at < len(table); at += 1 << n {
				table[at] = entry
			}
		}
	}
	return nil
}

// next takes the next symbol; 15 bits have to be there. It gives false if there
// is no such symbol.
func (c *code) next(z *inflater) (uint32, bool) {
	e := c.table[z.hold&c.mask&(tableSize-1)]
	if e == 0 {
		if e = c.long(z.hold); e == 0 {
			return 0, false
		}
	}
	z.hold >>= e & 15
	z.n -= uint(e & 15)
	return e, true
}

// long finds a symbol bit by bit.
func (c *code) long(hold uint64) uint32 {
	value, first, index := 0, 0, 0
	for n := 1; n <= c.longest; n++ {
		value |= int(hold & 1)
		hold >>= 1
		count := int(c.counts[n])
		if value-first < count {
			return c.sorted[index+value-first]
		}
		index += count
		first = (first + count) << 1
		value <<= 1
	}
	return 0
}

// litLenEntries and distEntries are what symbols mean; see RFC 1951, 3.2.5.
var litLenEntries, distEntries = func() (l [maxLitLen]uint32, d [maxDist]uint32) {
	for i := range uint32(endBlock) {
		l[i] = entryLiteral | i<<entryValue
	}
	l[endBlock] = entryEnd
	base := uint32(3)
	for i := range uint32(28) {
		extra := uint32(0)
		if i >= 8 {
			extra = i/4 - 1
		}
		l[endBlock+1+i] = extra<<entryExtra | base<<entryValue
		base += 1 << extra
	}
	l[285] = 258 << entryValue
	base = 1
	for i := range uint32(30) {
		extra := uint32(0)
		if i >= 4 {
			extra = i/2 - 1
		}
		d[i] = extra<<entryExtra | base<<entryValue
		base += 1 << extra
	}
	return l, d
}()

// fixedCodes are those of blocks that do not bring their own; see RFC 1951, 3.2.6.
var fixedCodes = sync.OnceValue(func() *inflater {
	z := &inflater{}
	for i := range maxLitLen {
		switch {
		case i < 144, i >= 280:
			z.lengths[i] = 8
		case i < 256:
			z.lengths[i] = 9
		default:
			z.lengths[i] = 7
		}
	}
	err := z.litLen.make(z.lengths[:maxLitLen], z.usedOf(0, maxLitLen), litLenEntries[:], 10)
	for i := range maxDist {
		z.lengths[i] = 5
	}
	if err = errors.Join(err, z.dist.make(z.lengths[:maxDist], z.usedOf(0, maxDist), distEntries[:], 8)); err != nil {
		panic(err)
	}
	return z
})
