package runner

import (
	"math"
	"strconv"
	"strings"
)

// idCount is how many ids an image may use: all that fit 16 bits, which
// distributions keep to.
const idCount = 1 << 16

// subIDs is a range of at least idCount-1 subordinate ids.
type subIDs struct{ first uint32 }

// findSubIDs finds the first range for a user, known by name or number, that
// is large enough in a text as subuid(5) describes it: lines of
// "user:first:count".
func findSubIDs(text, name, id string) (subIDs, bool) {
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || (f[0] != name && f[0] != id) {
			continue
		}
		first, err := strconv.ParseUint(f[1], 10, 32)
		if err != nil || first == 0 {
			continue
		}
		count, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil || count < idCount-1 || first > math.MaxUint32-idCount {
			continue
		}
		return subIDs{first: uint32(first)}, true
	}
	return subIDs{}, false
}

// freeSubIDs gives the first of idCount ids that none of the texts gives to
// anyone, as useradd(8) would choose it.
func freeSubIDs(texts ...string) uint64 {
	free := uint64(100000)
	for _, text := range texts {
		for line := range strings.Lines(text) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if len(f) != 3 {
				continue
			}
			first, err := strconv.ParseUint(f[1], 10, 32)
			count, countErr := strconv.ParseUint(f[2], 10, 32)
			if err == nil && countErr == nil {
				free = max(free, first+count)
			}
		}
	}
	return free
}
