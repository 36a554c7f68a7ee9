package config

import (
	"fmt"
	"slices"
	"strings"
)

// Nearest gives the word among those given that was probably meant: the one
// with the fewest letters added, left out, changed or swapped, where that is
// at most a third of them; else one of which word is a part between
// underscores, dashes or slashes. It is "" when none is near.
func Nearest(word string, among []string) string {
	const longest = 64
	w := fold(word)
	if len(w) < 2 || len(w) > longest {
		return ""
	}
	best, distance := "", max(1, len(w)/3)+1
	for _, candidate := range among {
		d := edits(w, fold(candidate), distance+1)
		// Of two that are equally near, the one that was not written to its end.
		longer := best != "" && d == distance && strings.HasPrefix(candidate, word) && !strings.HasPrefix(best, word)
		if d < distance || longer {
			best, distance = candidate, d
		}
	}
	if best != "" || len(w) < 3 {
		return best
	}
	for _, candidate := range among {
		parts := strings.FieldsFunc(candidate, func(r rune) bool { return strings.ContainsRune("_-/", r) })
		if slices.ContainsFunc(parts, func(part string) bool { return string(w) == part || string(w) == part+"s" }) {
			return candidate
		}
	}
	return ""
}

// fold takes away what is written differently out of habit only.
func fold(s string) []rune {
	return []rune(strings.ReplaceAll(strings.ToLower(s), "-", "_"))
}

// edits counts the letters to add, leave out, change or swap with the next to
// turn a into b (optimal string alignment); counts from limit on are limit.
func edits(a, b []rune, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		last[j] = j
	}
	for i := range a {
		row[0] = i + 1
		for j := range b {
			same := last[j]
			if a[i] != b[j] {
				same++
			}
			row[j+1] = min(same, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return min(last[len(b)], limit)
}

// oneOf is a hint for a value that is not in its set.
func oneOf(word string, set []string) string {
	if near := Nearest(word, set); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "one of: " + strings.Join(set, ", ")
}
