package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

func (a *app) explainCommand() *cobra.Command {
	var p planning
	var key bool
	var form string
	cmd := &cobra.Command{
		Use:   "explain NAME",
		Short: "Say why an image is built, or why not",
		Long: `Says whether an image is built and every reason for it, how its dependencies led
to that, the tags that it gets, and the commands of its jobs. With --key it shows
what went into its content key, and asks the registry, if there is one, for what
is published: which of these inputs differ, and in which files.`,
		Example: "  pipegen explain app\n  pipegen explain app --select weekly\n  pipegen explain app --key --registry registry.example.com/images",
		Args:    exactArgs(1, "the name of an image or of its project"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := format(form, "text", "json"); err != nil {
				return err
			}
			c, err := a.checkout(cmd.Context(), p)
			if err != nil {
				return err
			}
			explained, warnings, err := c.Explain(cmd.Context(), plan.ParseSelection(p.selects, nil), args[0], key)
			a.warnings(warnings)
			if err != nil {
				return err
			}
			var b bytes.Buffer
			if form == "json" {
				enc := json.NewEncoder(&b)
				enc.SetEscapeHTML(false)
				enc.SetIndent("", "  ")
				if err := enc.Encode(explained); err != nil {
					return err
				}
				return a.write("-", b.Bytes())
			}
			for i := range explained {
				if i > 0 {
					b.WriteString("\n")
				}
				explainText(&b, &explained[i])
			}
			return a.write("-", b.Bytes())
		},
	}
	p.flags(cmd.Flags())
	p.insecureFlag(cmd.Flags())
	cmd.Flags().BoolVar(&key, "key", false, "show what went into the content key, and what of it is published")
	cmd.Flags().StringVarP(&form, "format", "f", "text", "`FORMAT`: text or json")
	return cmd
}

// explainText writes an explanation for people.
func explainText(w io.Writer, e *plan.Explanation) {
	switch e.Decision {
	case plan.DecisionBuild:
		fmt.Fprintf(w, "%s is built\n", e.Name)
	case plan.DecisionRetag:
		fmt.Fprintf(w, "%s gets new tags: its content is published already\n", e.Name)
	default:
		fmt.Fprintf(w, "%s is left out: %s\n", e.Name, quote.Text(e.Left))
	}
	var lines []string
	for _, r := range e.Reasons {
		lines = append(lines, fmt.Sprintf("%-12s %s", r.Kind, quote.Text(r.Detail)))
	}
	section(w, "why", lines)
	lines = nil
	for _, chain := range e.Chains {
		lines = append(lines, chainText(chain))
	}
	section(w, "because it is built on", lines)
	if len(e.Chains) == 0 {
		lines = nil
		for _, edge := range e.Needs {
			lines = append(lines, fmt.Sprintf("%s (%s)", edge.Name, quote.Text(edge.Detail)))
		}
		section(w, "built on", lines)
	}
	section(w, "dependents", e.Dependents)
	lines = nil
	for _, tag := range e.Tags {
		lines = append(lines, quote.Text(tag))
	}
	section(w, "tags", lines)
	lines = nil
	for _, tag := range e.Also {
		lines = append(lines, quote.Text(tag))
	}
	section(w, "also published as", lines)
	lines = nil
	for _, argv := range e.Commands {
		lines = append(lines, quote.Command(argv))
	}
	section(w, "jobs", lines)
	if e.Key != nil {
		keyText(w, e.Key)
	}
}

func section(w io.Writer, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s:\n", title)
	for _, line := range lines {
		fmt.Fprintf(w, "  %s\n", line)
	}
}

func chainText(c plan.Chain) string {
	words := make([]string, 0, len(c.Edges))
	for _, edge := range c.Edges {
		words = append(words, fmt.Sprintf("%s (%s)", edge.Name, quote.Text(edge.Detail)))
	}
	return fmt.Sprintf("%s, which is %s: %s", strings.Join(words, ", which is built on "), c.Reason.Kind, quote.Text(c.Reason.Detail))
}

// keyText shows a content key: an input a line, those that differ marked.
func keyText(w io.Writer, k *plan.KeyExplanation) {
	fmt.Fprintf(w, "\nkey %s, made from:\n", k.Key)
	differs := map[string]bool{}
	for _, name := range k.Differs {
		differs[name] = true
	}
	for _, in := range k.Inputs {
		mark := " "
		if differs[in.Name] {
			mark = "*"
		}
		fmt.Fprintf(w, "%s %-20s %s\n", mark, in.Name, quote.Text(in.Value))
		delete(differs, in.Name)
	}
	for _, name := range k.Differs {
		if differs[name] {
			fmt.Fprintf(w, "* %-20s only in what is published\n", quote.Text(name))
		}
	}
	switch {
	case k.Published == "":
		return
	case k.PublishedKey == k.Key:
		fmt.Fprintf(w, "\npublished with this key: %s\n", quote.Text(k.Published))
		return
	case k.Unrecorded:
		fmt.Fprintf(w, "\n%s was made from something else, and does not say what differs\n", quote.Text(k.Published))
	default:
		fmt.Fprintf(w, "\n%s differs in what is marked *\n", quote.Text(k.Published))
	}
	if k.PublishedCommit != "" {
		fmt.Fprintf(w, "  it is of commit %s\n", quote.Text(k.PublishedCommit))
	}
	for _, path := range k.Paths {
		fmt.Fprintf(w, "  changed since: %s\n", quote.Text(path))
	}
}
