package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// Severity says whether a fault stops planning.
type Severity string

// The severities of a fault.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Fault is one thing that is wrong with the configuration, and where.
type Fault struct {
	// File is relative to the root of the repository, with slashes.
	File string `json:"file"`
	// Line and Column start at 1; 0: the file as a whole.
	Line     int      `json:"line"`
	Column   int      `json:"column"`
	Severity Severity `json:"severity"`
	// Rule names the kind of fault, for example unknown-key.
	Rule    string `json:"rule"`
	Message string `json:"message"`
	// Hint says what to do, or the nearest valid value; may be empty.
	Hint string `json:"hint,omitempty"`
}

// String gives file:line:column: message, with the hint on a line of its own.
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(quote.Text(f.File))
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
	}
	b.WriteString(": ")
	if f.Severity == Warning {
		b.WriteString("warning: ")
	}
	b.WriteString(f.Message)
	if f.Hint != "" {
		b.WriteString("\n  hint: " + f.Hint)
	}
	return b.String()
}

// Faults are all faults of a configuration, in the order of file, line and
// column. As an error it means: the input is wrong, nothing was done; it
// matches failure.ErrInput.
type Faults []Fault

// Error gives one fault a line.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Is says that faults are wrong input.
func (fs Faults) Is(target error) bool { return target == failure.ErrInput }

// Err gives fs as an error, or nil when none of them has severity Error.
func (fs Faults) Err() error {
	if slices.ContainsFunc(fs, func(f Fault) bool { return f.Severity == Error }) {
		return fs
	}
	return nil
}

// Sort orders fs by file, line and column.
func (fs Faults) Sort() {
	slices.SortStableFunc(fs, func(a, b Fault) int {
		return cmp.Or(
			cmp.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Rule, b.Rule),
			cmp.Compare(a.Message, b.Message),
		)
	})
}

// split parts fs by severity, each part sorted and without repetitions.
func (fs Faults) split() (errs, warnings Faults) {
	fs.Sort()
	for _, f := range slices.Compact(fs) {
		if f.Severity == Warning {
			warnings = append(warnings, f)
		} else {
			errs = append(errs, f)
		}
	}
	return errs, warnings
}

// show gives a value from a file for a message: quoted, on one line, and cut
// when it is long.
func show(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return fmt.Sprintf("%q", s)
}
