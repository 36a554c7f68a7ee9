package render

import (
	"fmt"
	"strings"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// GitHubSummary gives a plan as Markdown for the summary of a run: a table of
// its images, cut off below GitHub's limit.
func GitHubSummary(p *plan.Plan) []byte {
	var b strings.Builder
	builds := 0
	for i := range p.Images {
		builds += len(p.Images[i].Builds)
	}
	fmt.Fprintf(&b, "### %s of %s at `%.7s`\n\n", counted(builds, "build"), counted(len(p.Images), "image"), p.Head)
	if len(p.Images) > 0 {
		b.WriteString("| image | platforms | tags | why |\n|---|---|---|---|\n")
	}
	for i := range p.Images {
		img := &p.Images[i]
		why := ""
		if len(img.Reasons) > 0 {
			why = string(img.Reasons[0].Kind) + ": " + img.Reasons[0].Detail
			if more := len(img.Reasons) - 1; more > 0 {
				why += fmt.Sprintf(" (+%d)", more)
			}
		}
		platforms := strings.Join(suffixes(img), " ")
		if img.Retag != "" {
			platforms = "built before, gets tags"
		}
		if runner := ControllerRunner(img); runner != "" {
			platforms += " on " + runner
		}
		line := fmt.Sprintf("| %s | %s | %s | %s |\n", markdown(img.Name), markdown(platforms), markdown(strings.Join(img.Tags, " ")), markdown(why))
		if b.Len()+len(line) > maxSummary-1024 {
			fmt.Fprintf(&b, "\nand %d more\n", len(p.Images)-i)
			break
		}
		b.WriteString(line)
	}
	if n := len(p.Skipped); n > 0 {
		fmt.Fprintf(&b, "\n%s left out.\n", counted(n, "image"))
	}
	return []byte(b.String() + "\n")
}

// PublishedMarkdown gives what was published as Markdown: for each image its
// digest and tags.
func PublishedMarkdown(published []plan.Published) []byte {
	var b strings.Builder
	for i := range published {
		pub := &published[i]
		if pub.Digest == "" {
			fmt.Fprintf(&b, "**%s** pushes no image.\n\n", markdown(pub.Name))
			continue
		}
		fmt.Fprintf(&b, "**%s** %s\n\n", markdown(pub.Name), markdown(pub.Repository+"@"+pub.Digest))
		for _, tag := range pub.Tags {
			fmt.Fprintf(&b, "- %s\n", markdown(tag))
		}
		for _, kept := range pub.Kept {
			fmt.Fprintf(&b, "- left %s: %s\n", markdown(kept.Tag), markdown(kept.Reason))
		}
		for _, to := range pub.Also {
			fmt.Fprintf(&b, "- also %s: %s\n", markdown(to.Repository), markdown(strings.Join(to.Tags, " ")))
			for _, kept := range to.Kept {
				fmt.Fprintf(&b, "  - left %s: %s\n", markdown(kept.Tag), markdown(kept.Reason))
			}
		}
		b.WriteString("\n")
		b.Write(PublishedMarkdown(pub.Parts))
	}
	return []byte(b.String())
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// markdown gives text for a line of Markdown or a cell of its tables: every
// character that could mean something is escaped (CommonMark 0.31.2, section
// 2.4).
func markdown(s string) string {
	var b strings.Builder
	for _, r := range quote.Text(s) {
		if strings.ContainsRune("\\`*_{}[]<>()#!|~&$@", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
