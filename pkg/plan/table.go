package plan

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/quote"
)

// WriteTable writes the plan for people: one line an image with what it is
// built for, its tags and the first reason, and one line for all that is left
// out.
func (p *Plan) WriteTable(w io.Writer) error {
	builds := 0
	for i := range p.Images {
		builds += len(p.Images[i].Builds)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s of %s at %s", count(builds, "build"), count(len(p.Images), "image"), short(p.Head))
	if p.Dirty {
		b.WriteString(" with uncommitted changes")
	}
	fmt.Fprintf(&b, ", %s", p.Event)
	if p.Base != "" {
		fmt.Fprintf(&b, ", compared with %s", short(p.Base))
	}
	b.WriteString("\n")
	if len(p.Images) > 0 {
		b.WriteString("\n")
		tw := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
		fmt.Fprintln(tw, "IMAGE\tBUILDS\tTAGS\tWHY")
		for i := range p.Images {
			img := &p.Images[i]
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", img.Name, platforms(img), quote.Text(strings.Join(img.Tags, " ")), why(img.Reasons))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	if also := p.copied(); len(also) > 0 {
		b.WriteString("\nalso published to:\n")
		for _, to := range also {
			fmt.Fprintf(&b, "  %s: %s\n", quote.Text(to.registry), quote.Text(abridged(to.names)))
		}
	}
	if len(p.Skipped) > 0 {
		b.WriteString("\nleft out:\n")
		for _, group := range groupSkipped(p.Skipped) {
			fmt.Fprintf(&b, "  %s: %s\n", quote.Text(group.reason), group.names)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// platforms are those that are built for.
func platforms(img *Image) string {
	if img.Retag != "" {
		return "retag"
	}
	out := make([]string, 0, len(img.Builds))
	for i := range img.Builds {
		s := img.Builds[i].Platform
		if pl, err := config.ParsePlatform(s); err == nil {
			s = pl.Suffix()
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

// why is the first reason, and how many more there are.
func why(reasons []Reason) string {
	if len(reasons) == 0 {
		return ""
	}
	const widest = 100 // explain and the JSON have the whole
	detail := []rune(quote.Text(reasons[0].Detail))
	if len(detail) > widest {
		detail = append(detail[:widest-1], '…')
	}
	s := string(reasons[0].Kind) + ": " + string(detail)
	if more := len(reasons) - 1; more > 0 {
		s += fmt.Sprintf(" (+%d)", more)
	}
	return s
}

// copiedGroup are the images that go to one registry beside the plan's own.
type copiedGroup struct {
	registry string
	names    []string
}

func (p *Plan) copied() []copiedGroup {
	var groups []copiedGroup
	at := map[string]int{}
	for i := range p.Images {
		img := &p.Images[i]
		for _, to := range p.Copies(img) {
			registry := strings.TrimSuffix(to.Repository, "/"+img.Name)
			if p.Layout == "tag" {
				registry = to.Repository
			}
			if _, ok := at[registry]; !ok {
				at[registry] = len(groups)
				groups = append(groups, copiedGroup{registry: registry})
			}
			groups[at[registry]].names = append(groups[at[registry]].names, img.Name)
		}
	}
	return groups
}

type skippedGroup struct{ reason, names string }

// groupSkipped puts names with the same reason on one line.
func groupSkipped(skipped []Skipped) []skippedGroup {
	var order []string
	names := map[string][]string{}
	for _, s := range skipped {
		if names[s.Reason] == nil {
			order = append(order, s.Reason)
		}
		names[s.Reason] = append(names[s.Reason], s.Name)
	}
	groups := make([]skippedGroup, 0, len(order))
	for _, r := range order {
		groups = append(groups, skippedGroup{r, quote.Text(abridged(names[r]))})
	}
	return groups
}

// abridged lists at most so many names that the line stays readable.
func abridged(names []string) string {
	const most = 12
	text := strings.Join(names[:min(len(names), most)], " ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
