package runner

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/width"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// Format says how progress is written.
type Format string

// The formats of progress.
const (
	// Simple is for people: live lines on a terminal, else as Plain.
	Simple Format = "simple"
	// Plain is lines with a prefix and without escape sequences.
	Plain Format = "plain"
	// JSON is one object a line.
	JSON Format = "json"
)

// ProgressOptions say how progress is shown.
type ProgressOptions struct {
	// Empty: Simple.
	Format Format
	// Whether the writer is a terminal, which can be redrawn.
	Terminal bool
	// Whether colours may be used; Plain and JSON never do.
	Color bool
	// Columns and rows of the terminal, asked for with every frame; nil or 0: 80 and 24.
	Size func() (columns, rows int)
	// On a terminal: prints every line of the logs above the live lines, too.
	Logs bool
	// Where the whole log of a build is; nil: not said.
	LogPath func(id string) string
	// Time between two frames on a terminal. 0: a tenth of a second; less: a
	// frame with every event instead.
	Interval time.Duration
	// Default: time.Now.
	Now func() time.Time
}

// tailLines is how much of a failed build's log is shown again.
const tailLines = 15

// NewProgress gives an observer that shows a run on w: what goes on, at the end
// the last lines of each failed build's log, and a table of what became of each
// image. All text of builds is made safe to show.
func NewProgress(w io.Writer, o ProgressOptions) Observer {
	if o.Now == nil {
		o.Now = time.Now
	}
	switch {
	case o.Format == JSON:
		return newJSONLog(w, o.LogPath)
	case o.Format != Plain && o.Terminal:
		return newLive(w, o)
	}
	return &plain{w: w, o: o, paint: paint(o.Color && o.Format != Plain), tails: tails{}}
}

// plain writes lines with a prefix.
type plain struct {
	w     io.Writer
	o     ProgressOptions
	paint paint
	names int // columns of the longest name
	tails tails
	// What is shown at the end.
	failures []string
}

// Observe writes what e says.
func (p *plain) Observe(e Event) {
	p.tails.observe(e)
	switch e.Kind {
	case RunStarted:
		p.names = longestName(e.Plan)
	case BuildFinished:
		if e.State == Failed {
			p.failures = append(p.failures, p.tails.failure(e, p.o.LogPath, p.paint))
		}
	case RunFinished:
		_, _ = io.WriteString(p.w, strings.Join(p.failures, "")+table(*e.Summary, p.paint))
		return
	}
	if text, ok := message(e); ok {
		_, _ = io.WriteString(p.w, prefixed(e, p.names, p.paint)+text+"\n")
	}
}

// message gives an event as a line for people; some need none.
func message(e Event) (string, bool) {
	switch e.Kind {
	case BuildStarted:
		return "building for " + quote.Text(e.Build.Platform), true
	case LogLine:
		return clean(e.Line), true
	case Note:
		return told(e), true
	case BuildFinished:
		switch e.State {
		case Failed:
			return "failed after " + duration(e.Elapsed) + ": " + cause(e), true
		case Interrupted:
			return "interrupted after " + duration(e.Elapsed), true
		}
		return "built in " + duration(e.Elapsed), true
	case ImagePublishing:
		return "publishing", true
	case ImagePublished:
		return "published " + tags(e.Published), true
	case ImageFailed:
		return "not published: " + oneLine(e.Err), true
	case ImageSkipped:
		return "skipped: " + quote.Text(e.Reason), true
	}
	return "", false
}

// told gives a note for people.
func told(e Event) string {
	if e.Warning {
		return "warning: " + clean(e.Line)
	}
	return clean(e.Line)
}

// prefixed gives the start of a line: the build's or image's name in brackets,
// as wide as the longest of the plan, or that of the program for a note.
func prefixed(e Event, names int, p paint) string {
	if e.Kind == Note {
		return "pipegen: "
	}
	name, arch := "", ""
	switch {
	case e.Build != nil:
		name, arch = e.Build.ID, e.Build.Platform
	case e.Image != nil:
		name = e.Image.Name
	}
	name = quote.Text(name)
	return p.arch(arch, "["+name+"]") + strings.Repeat(" ", 1+max(0, names-columns(name)))
}

func longestName(p *plan.Plan) int {
	longest := 0
	for i := range p.Images {
		longest = max(longest, columns(quote.Text(p.Images[i].Name)))
		for j := range p.Images[i].Builds {
			longest = max(longest, columns(quote.Text(p.Images[i].Builds[j].ID)))
		}
	}
	return longest
}

// tails holds the last lines of the builds that run.
type tails map[string][]string

func (t tails) observe(e Event) {
	switch e.Kind {
	case LogLine:
		lines := t[e.Build.ID]
		lines = append(lines, e.Line)
		if len(lines) > 2*tailLines {
			lines = append(lines[:0], lines[len(lines)-tailLines:]...)
		}
		t[e.Build.ID] = lines
	case BuildFinished:
		if e.State != Failed {
			delete(t, e.Build.ID)
		}
	}
}

// failure gives the last lines of a build that failed, and drops them.
func (t tails) failure(e Event, logPath func(string) string, p paint) string {
	lines := t[e.Build.ID]
	delete(t, e.Build.ID)
	lines = lines[max(0, len(lines)-tailLines):]
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s %s failed after %s: %s\n", p.red("✗"), p.bold(quote.Text(e.Build.ID)), duration(e.Elapsed), cause(e))
	for _, l := range lines {
		b.WriteString(p.dim("│") + " " + clean(l) + "\n")
	}
	if hint := failure.Hint(e.Err); hint != "" {
		b.WriteString("  hint: " + quote.Text(hint) + "\n")
	}
	if logPath != nil {
		b.WriteString("  " + p.dim("whole log: "+quote.Text(logPath(e.Build.ID))) + "\n")
	}
	return b.String()
}

// clean makes a line of a log safe to show.
func clean(line string) string {
	return quote.Text(strings.ReplaceAll(line, "\t", "    "))
}

// oneLine gives an error for a line of text.
func oneLine(err error) string {
	return clean(strings.NewReplacer(":\n", ": ", "\n", "; ").Replace(strings.TrimSpace(err.Error())))
}

// cause gives the error of a build where its id is shown already.
func cause(e Event) string {
	return strings.TrimPrefix(oneLine(e.Err), "build "+e.Build.ID+": ")
}

func tags(p *plan.Published) string {
	if p == nil {
		return ""
	}
	if p.Digest == "" {
		return "nothing: its outputs are files"
	}
	text := strings.Join(p.Tags, ", ")
	if p.Repository != "" && len(p.Tags) > 0 {
		text = p.Repository + ":" + text
	}
	for _, k := range p.Kept {
		text += fmt.Sprintf("; %s left where it is: %s", k.Tag, k.Reason)
	}
	text = quote.Text(text)
	for i := range p.Parts {
		text += "; " + tags(&p.Parts[i])
	}
	return text
}

// duration gives a time for people: 0.4s, 12s, 1m05s, 2h03m.
func duration(d time.Duration) string {
	switch {
	case d < 9950*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute-time.Second/2:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
}

// columns gives the width of safe text on a terminal.
func columns(s string) int {
	n := 0
	for _, r := range s {
		n += columnsOf(r)
	}
	return n
}

func columnsOf(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// cut gives what of safe text fits n columns.
func cut(s string, n int) string {
	if columns(s) <= n {
		return s
	}
	used := 0
	for i, r := range s {
		if used += columnsOf(r); used > n-1 {
			return s[:i] + strings.Repeat("…", min(1, max(0, n)))
		}
	}
	return s
}

func padded(s string, n int) string { return s + strings.Repeat(" ", max(0, n-columns(s))) }

// paint colours text, or leaves it.
type paint bool

func (p paint) with(code, s string) string {
	if !p || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p paint) red(s string) string   { return p.with("31", s) }
func (p paint) green(s string) string { return p.with("32", s) }
func (p paint) dim(s string) string   { return p.with("2", s) }
func (p paint) bold(s string) string  { return p.with("1", s) }

// arch colours s by a platform's architecture.
func (p paint) arch(platform, s string) string {
	_, arch, _ := strings.Cut(platform, "/")
	arch, _, _ = strings.Cut(arch, "/")
	switch arch {
	case "":
		return s
	case "amd64":
		return p.with("36", s)
	case "arm64":
		return p.with("35", s)
	}
	return p.with("33", s)
}
