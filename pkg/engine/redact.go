package engine

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"slices"
	"sort"
	"strings"
)

const (
	// minSecret is the shortest value that is masked: replacing shorter ones
	// would garble the log and tell what they are.
	minSecret = 4
	// longestPiece bounds what is compared at once, and so what is held back of
	// a stream: longer texts are looked for in pieces, each masked by itself.
	longestPiece = 64
	mask         = "***"
)

// redactor replaces texts in a stream, also where writes cut them in two.
// Those that overlap or touch are masked as one. What it takes is linear in
// the stream, whatever is written.
type redactor struct {
	texts []string
	ready bool // texts are sorted, each is there once, and the rest is made of them
	// Index of the longest text that the one at this index starts with; -1: none.
	shorter []int32
	// Which hashes the first four bytes of a text can have, and the first byte.
	hashes []uint64
	shift  int
	first  [256]bool

	rest    []byte // may be the start of a text
	covered int    // how much of rest belongs to a text already masked
	masking bool   // whether the last byte was masked
	out     []byte
}

// hide looks for a secret, and its usual encodings, from now on. One too short
// is left alone.
func (r *redactor) hide(secret string) {
	if tooShort(secret) {
		return
	}
	for text := range disguises(secret) {
		r.add(text)
	}
}

// tooShort says whether a secret would not be masked.
func tooShort(secret string) bool { return len(strings.TrimSpace(secret)) < minSecret }

// add looks for a text from now on. Of one with several lines, each is masked
// by itself: the log is read line by line.
func (r *redactor) add(text string) {
	for line := range chunks(text) {
		n := (len(line) + longestPiece - 1) / longestPiece
		for i := range n {
			if piece := line[i*len(line)/n : (i+1)*len(line)/n]; len(piece) >= minSecret {
				r.texts, r.ready = append(r.texts, piece), false
			}
		}
	}
}

// chunks gives the lines of a text without the blanks around them, and those
// too short to be told from other text together with the next.
func chunks(text string) iter.Seq[string] {
	const short = 8
	return func(yield func(string) bool) {
		text = strings.TrimSpace(text)
		for text != "" {
			n := 0
			for n < len(text) && (n < short || len(strings.TrimSpace(text[:n])) < short) {
				line := strings.IndexByte(text[n:], '\n')
				if line < 0 {
					n = len(text)
				} else {
					n += line + 1
				}
			}
			if rest := strings.TrimSpace(text[n:]); len(rest) < short {
				n = len(text) // what is left is short: together with what is before it, too
				if last := strings.TrimSpace(text[:len(text)-len(rest)]); rest != "" && !yield(last) {
					return
				}
			}
			if !yield(strings.TrimSpace(text[:n])) {
				return
			}
			text = strings.TrimSpace(text[n:])
		}
	}
}

// compile makes what next works with.
func (r *redactor) compile() {
	slices.Sort(r.texts)
	r.texts, r.ready = slices.Compact(r.texts), true
	size := min(max(bits.Len(uint(32*len(r.texts))), 16), 22) // 8 to 512 KiB
	r.hashes, r.shift = make([]uint64, 1<<size/64), 32-size
	r.shorter = make([]int32, len(r.texts))
	for i, text := range r.texts {
		h := r.hash([]byte(text))
		r.hashes[h/64] |= 1 << (h % 64)
		r.first[text[0]] = true
		p := i - 1
		for p >= 0 && !strings.HasPrefix(text, r.texts[p]) {
			p = int(r.shorter[p])
		}
		r.shorter[i] = int32(p)
	}
}

// hash is that of the first four bytes.
func (r *redactor) hash(b []byte) uint32 {
	return binary.LittleEndian.Uint32(b) * 0x9e3779b1 >> r.shift
}

// next gives what can be shown of the stream once p has come; at its end, all.
// The answer is good until the next call.
func (r *redactor) next(p []byte, end bool) []byte {
	if len(r.texts) == 0 {
		return p
	}
	if !r.ready {
		r.compile()
	}
	buf := p
	if len(r.rest) > 0 {
		r.rest = append(r.rest, p...)
		buf = r.rest
	}
	out := r.out[:0]
	masked := -1 // up to where the stream belongs to a text; -1: not even what was before it
	if r.masking {
		masked = r.covered
	}
	hold := len(buf)
	for i := r.candidate(buf, 0); i < len(buf); i = r.candidate(buf, i+1) {
		n, more := r.match(buf[i:])
		if more && !end {
			hold = i
			break
		}
		if n == 0 {
			continue
		}
		if i > masked {
			out = append(out, buf[max(masked, 0):i]...)
			out = append(out, mask...)
		}
		masked = max(masked, i+n)
	}
	if masked < hold {
		out = append(out, buf[max(masked, 0):hold]...)
	}
	r.masking, r.covered = masked >= hold, max(masked-hold, 0)
	r.rest = append(r.rest[:0], buf[hold:]...)
	r.out = out
	return out
}

// text gives a text that is not of the stream.
func (r *redactor) text(text string) string {
	if !r.ready {
		r.compile()
	}
	whole := *r
	whole.rest, whole.covered, whole.masking, whole.out = nil, 0, false, nil
	return string(whole.next([]byte(text), true))
}

// candidate gives the first place from i on where a text may start.
func (r *redactor) candidate(buf []byte, i int) int {
	for hashes, shift := r.hashes, r.shift; i+4 <= len(buf); i++ {
		h := binary.LittleEndian.Uint32(buf[i:]) * 0x9e3779b1 >> shift
		if hashes[h/64]>>(h%64)&1 != 0 {
			return i
		}
	}
	for i < len(buf) && !r.first[buf[i]] {
		i++
	}
	return i
}

// match gives the length of the longest text that b starts with, and whether b
// might be the start of a longer one.
func (r *redactor) match(b []byte) (n int, more bool) {
	b = b[:min(len(b), longestPiece)]
	above := sort.Search(len(r.texts), func(i int) bool { return r.texts[i] > string(b) })
	if above < len(r.texts) {
		next := r.texts[above]
		more = len(next) > len(b) && next[:len(b)] == string(b)
	}
	// All texts that b starts with are what the last one before b starts with.
	for i := above - 1; i >= 0; i = int(r.shorter[i]) {
		if text := r.texts[i]; len(text) <= len(b) && text == string(b[:len(text)]) {
			return len(text), more
		}
	}
	return 0, more
}
