package plan

import (
	"fmt"
	"io"
	"strings"
)

// WriteDOT writes the plan's images and what they are built on as a graph in
// the DOT language of Graphviz: an arrow leads from an image to one that is
// built on it.
func (p *Plan) WriteDOT(w io.Writer) error {
	var b strings.Builder
	b.WriteString("digraph plan {\n\trankdir=LR;\n\tnode [shape=box];\n")
	for i := range p.Images {
		img := &p.Images[i]
		style := ""
		if img.Retag != "" {
			style = ", style=dashed"
		}
		fmt.Fprintf(&b, "\t%s [label=%s%s];\n", dotString(img.Name), dotString(strings.Join(p.nodeLines(img), "\n")), style)
	}
	for i := range p.Images {
		for _, need := range p.Images[i].Needs {
			fmt.Fprintf(&b, "\t%s -> %s;\n", dotString(need), dotString(p.Images[i].Name))
		}
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// dotString quotes a string as the DOT language's grammar has it: within
// quotes only a quote needs a backslash, and backslashes begin escapes of labels.
func dotString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

// WriteMermaid writes the same graph as a flowchart of Mermaid, which GitLab
// and GitHub show in Markdown.
func (p *Plan) WriteMermaid(w io.Writer) error {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	number := make(map[string]int, len(p.Images))
	for i := range p.Images {
		img := &p.Images[i]
		number[img.Name] = i
		lines := p.nodeLines(img)
		for j := range lines {
			lines[j] = mermaidText(lines[j])
		}
		fmt.Fprintf(&b, "    i%d[\"%s\"]\n", i, strings.Join(lines, "<br>"))
	}
	for i := range p.Images {
		for _, need := range p.Images[i].Needs {
			fmt.Fprintf(&b, "    i%d --> i%d\n", number[need], i)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// mermaidText writes everything that could mean something to Mermaid or HTML
// as a character reference in Mermaid's spelling.
func mermaidText(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(" ./:_-@,()+=", r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "#%d;", r)
		}
	}
	return b.String()
}

// nodeLines are what a drawn image shows: its name, its builds, and why.
func (p *Plan) nodeLines(img *Image) []string {
	return []string{img.Name, platforms(img), why(img.Reasons)}
}
