package render

import "github.com/rogpeppe/go-internal/diff"

// TextDiff gives what turns one text into another as a unified diff under
// their names; nil when they are the same. It takes n log n time for n lines.
func TextDiff(fromName string, from []byte, toName string, to []byte) []byte {
	return diff.Diff(fromName, from, toName, to)
}
