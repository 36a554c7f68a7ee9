package runner

import (
	"fmt"
	"io"
	"strings"

	"github.com/pipegen/pipegen/pkg/quote"
)

// WriteTable writes a table for people: each image with its state, platforms,
// time, and its tags or the reason why it has none.
func (s Summary) WriteTable(w io.Writer, color bool) error {
	_, err := io.WriteString(w, table(s, paint(color)))
	return err
}

func table(s Summary, p paint) string {
	if len(s.Images) == 0 {
		return "nothing to build\n"
	}
	type cell struct{ text, painted string }
	same := func(t string) cell { return cell{t, t} }
	rows := [][]cell{}
	for _, h := range []string{"IMAGE", "STATE", "PLATFORMS", "TIME", "TAGS OR REASON"} {
		if len(rows) == 0 {
			rows = append(rows, nil)
		}
		rows[0] = append(rows[0], cell{h, p.dim(h)})
	}
	count := map[State]int{}
	for _, img := range s.Images {
		count[img.State]++
		var platforms, paintedPlatforms []string
		for _, b := range img.Builds {
			name := quote.Text(strings.TrimPrefix(b.Platform, "linux/"))
			platforms = append(platforms, mark(b.State)+" "+name)
			paintedPlatforms = append(paintedPlatforms, p.state(b.State, mark(b.State))+" "+name)
		}
		took := "–"
		if img.Elapsed > 0 {
			took = duration(img.Elapsed)
		}
		rows = append(rows, []cell{
			same(quote.Text(img.Name)),
			{string(img.State), p.state(img.State, string(img.State))},
			{strings.Join(platforms, "  "), strings.Join(paintedPlatforms, "  ")},
			same(took), same(outcome(img)),
		})
	}
	widths := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, c := range r {
			widths[i] = max(widths[i], columns(c.text))
		}
	}
	var b strings.Builder
	b.WriteByte('\n')
	for _, r := range rows {
		for i, c := range r {
			b.WriteString(c.painted)
			rest := false
			for _, next := range r[i+1:] {
				rest = rest || next.text != ""
			}
			if !rest {
				break
			}
			b.WriteString(strings.Repeat(" ", widths[i]-columns(c.text)+2))
		}
		b.WriteByte('\n')
	}
	var parts []string
	for _, st := range []State{Published, Failed, Skipped, Interrupted} {
		if n := count[st]; n > 0 {
			parts = append(parts, p.state(st, fmt.Sprintf("%d %s", n, st)))
		}
	}
	fmt.Fprintf(&b, "\n%s in %s\n", strings.Join(parts, ", "), duration(s.Elapsed))
	return b.String()
}

// outcome is an image's tags, or why it has none.
func outcome(img ImageSummary) string {
	switch {
	case img.Published != nil:
		return tags(img.Published)
	case img.Err != nil:
		return oneLine(img.Err)
	}
	return quote.Text(img.Reason)
}

func mark(s State) string {
	switch s {
	case Succeeded, Published:
		return "✓"
	case Failed:
		return "✗"
	case Building, Publishing:
		return "●"
	case Queued:
		return "○"
	}
	return "–"
}

// state colours s by what a state means.
func (p paint) state(st State, s string) string {
	switch st {
	case Succeeded, Published:
		return p.green(s)
	case Failed, Interrupted:
		return p.red(s)
	case Skipped, Queued:
		return p.dim(s)
	}
	return s
}
