package client

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/quote"
)

// WriteRuns writes runs as a table for people; times are ages.
func WriteRuns(w io.Writer, runs []api.Run, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "RUN\tSTATE\tRUNNER\tSUBMITTER\tAGE\tTOOK\tIMAGES")
	for _, r := range runs {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", quote.Text(r.ID), quote.Text(string(r.State)), quote.Text(r.Runner),
			quote.Text(r.Submitter), age(now.Sub(r.Created)), took(r, now), images(r))
	}
	return t.Flush()
}

// images says which images a run has, and how far they are where they differ.
func images(r api.Run) string {
	const shown = 4
	var parts []string
	for i, img := range r.Images {
		if i == shown {
			parts = append(parts, fmt.Sprintf("and %d more", len(r.Images)-shown))
			break
		}
		text := quote.Text(img.Name)
		if img.State != r.State {
			text += " (" + quote.Text(string(img.State)) + ")"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

func took(r api.Run, now time.Time) string {
	switch {
	case r.Started == nil:
		return "-"
	case r.Finished != nil:
		return age(r.Finished.Sub(*r.Started))
	}
	return age(now.Sub(*r.Started))
}

// age gives a duration in its largest unit; clocks may differ.
func age(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
