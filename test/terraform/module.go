// Package terraform reads the modules in deploy/terraform as far as that goes
// without Terraform and its providers, which tests do not have: what is
// declared, what is referred to, and what is in the templates.
package terraform

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// Module is a directory with files of Terraform.
type Module struct {
	Dir                string
	Variables, Outputs map[string]*hclsyntax.Block
	// Names of locals; resources, data sources and ephemeral resources as
	// TYPE.NAME; calls of modules.
	Locals, Resources, Data, Ephemeral map[string]bool
	Calls                              map[string]*hclsyntax.Block
	files                              []*hclsyntax.Body
}

// Read parses a module. Problems are in the error, one a line.
func Read(dir string) (*Module, error) {
	m := &Module{
		Dir: dir, Variables: map[string]*hclsyntax.Block{}, Outputs: map[string]*hclsyntax.Block{}, Locals: map[string]bool{},
		Resources: map[string]bool{}, Data: map[string]bool{}, Ephemeral: map[string]bool{}, Calls: map[string]*hclsyntax.Block{},
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.tf"))
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("%s has no files of Terraform", dir)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(hclwrite.Format(data), data) {
			return nil, fmt.Errorf("%s is not formatted: terraform fmt", name)
		}
		file, problems := hclsyntax.ParseConfig(data, name, hcl.InitialPos)
		if problems.HasErrors() {
			return nil, problems
		}
		body := file.Body.(*hclsyntax.Body) //nolint:forcetypeassert // as hclsyntax documents
		m.files = append(m.files, body)
		for _, b := range body.Blocks {
			if err := m.declare(b); err != nil {
				return nil, fmt.Errorf("%s: %w", b.Range(), err)
			}
		}
	}
	return m, nil
}

func (m *Module) declare(b *hclsyntax.Block) error {
	var twice bool
	name := strings.Join(b.Labels, ".")
	set := func(in map[string]bool, name string) {
		twice = twice || in[name]
		in[name] = true
	}
	switch b.Type {
	case "variable":
		_, twice = m.Variables[name]
		m.Variables[name] = b
	case "output":
		_, twice = m.Outputs[name]
		m.Outputs[name] = b
	case "module":
		_, twice = m.Calls[name]
		m.Calls[name] = b
	case "resource":
		set(m.Resources, name)
	case "data":
		set(m.Data, name)
	case "ephemeral":
		set(m.Ephemeral, name)
	case "locals":
		for local := range b.Body.Attributes {
			set(m.Locals, local)
		}
	case "terraform", "provider":
	default:
		return fmt.Errorf("a block %s is not known", b.Type)
	}
	if twice {
		return fmt.Errorf("%s %s is declared twice", b.Type, name)
	}
	return nil
}

// Check gives what is referred to and is not there, and what is declared and
// used nowhere.
func (m *Module) Check() []string {
	var wrong []string
	used := map[string]bool{}
	for _, body := range m.files {
		for _, b := range body.Blocks {
			for _, t := range references(b.Body) {
				if problem := m.resolve(b, t, used); problem != "" {
					wrong = append(wrong, fmt.Sprintf("%s: %s", t.SourceRange(), problem))
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Variables)) {
		if !used["var."+name] {
			wrong = append(wrong, "var."+name+" is used nowhere")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Locals)) {
		if !used["local."+name] {
			wrong = append(wrong, "local."+name+" is used nowhere")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Data)) {
		if !used["data."+name] {
			wrong = append(wrong, "data."+name+" is used nowhere")
		}
	}
	return append(wrong, m.described()...)
}

// references are those in all expressions of a body.
func references(body *hclsyntax.Body) []hcl.Traversal {
	var out []hcl.Traversal
	for _, name := range slices.Sorted(maps.Keys(body.Attributes)) {
		out = append(out, body.Attributes[name].Expr.Variables()...)
	}
	for _, b := range body.Blocks {
		out = append(out, references(b.Body)...)
	}
	return out
}

// resolve says what is wrong with a reference, and notes what it uses.
func (m *Module) resolve(in *hclsyntax.Block, t hcl.Traversal, used map[string]bool) string {
	step := func(i int) string {
		if i < len(t) {
			if a, ok := t[i].(hcl.TraverseAttr); ok {
				return a.Name
			}
		}
		return ""
	}
	switch root := t.RootName(); root {
	case "var":
		if in.Type != "variable" { // its own validation is no use of it
			used["var."+step(1)] = true
		}
		if m.Variables[step(1)] == nil {
			return "there is no variable " + step(1)
		}
	case "local":
		used["local."+step(1)] = true
		if !m.Locals[step(1)] {
			return "there is no local " + step(1)
		}
	case "data":
		used["data."+step(1)+"."+step(2)] = true
		if !m.Data[step(1)+"."+step(2)] {
			return "there is no data " + step(1) + "." + step(2)
		}
	case "ephemeral":
		if !m.Ephemeral[step(1)+"."+step(2)] {
			return "there is no ephemeral " + step(1) + "." + step(2)
		}
	case "module":
		call := m.Calls[step(1)]
		if call == nil {
			return "there is no module " + step(1)
		}
		called, err := m.called(call)
		if err != nil {
			return err.Error()
		}
		if called.Outputs[step(2)] == nil {
			return fmt.Sprintf("the module %s has no output %s", step(1), step(2))
		}
	case "each":
		if in.Body.Attributes["for_each"] == nil {
			return "there is no for_each"
		}
	case "count":
		if in.Body.Attributes["count"] == nil {
			return "there is no count"
		}
	case "path", "self", "terraform":
	default:
		if bareWords[root] && len(t) == 1 {
			return ""
		}
		if !m.Resources[root+"."+step(1)] {
			return "there is no resource " + root + "." + step(1)
		}
	}
	return ""
}

// bareWords are those of types of variables.
var bareWords = map[string]bool{"string": true, "number": true, "bool": true, "any": true}

// described says what of variables and outputs lacks its documentation.
func (m *Module) described() []string {
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(m.Variables)) {
		for _, key := range []string{"description", "type"} {
			if m.Variables[name].Body.Attributes[key] == nil {
				wrong = append(wrong, "the variable "+name+" has no "+key)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Outputs)) {
		if m.Outputs[name].Body.Attributes["description"] == nil {
			wrong = append(wrong, "the output "+name+" has no description")
		}
	}
	return wrong
}

// called reads the module that a call is of, in another directory.
func (m *Module) called(call *hclsyntax.Block) (*Module, error) {
	source, err := text(call.Body.Attributes["source"])
	if err != nil {
		return nil, err
	}
	return Read(filepath.Join(m.Dir, source))
}

// Arguments gives what is wrong with the arguments of calls of modules in other
// directories.
func (m *Module) Arguments() []string {
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(m.Calls)) {
		call := m.Calls[name]
		called, err := m.called(call)
		if err != nil {
			return []string{err.Error()}
		}
		for arg := range call.Body.Attributes {
			if !slices.Contains([]string{"source", "version", "providers", "count", "for_each", "depends_on"}, arg) && called.Variables[arg] == nil {
				wrong = append(wrong, fmt.Sprintf("module %s: there is no variable %s", name, arg))
			}
		}
		for variable, b := range called.Variables {
			if b.Body.Attributes["default"] == nil && call.Body.Attributes[variable] == nil {
				wrong = append(wrong, fmt.Sprintf("module %s: %s is not given", name, variable))
			}
		}
	}
	slices.Sort(wrong)
	return wrong
}

// text gives the value of an attribute that is a plain text.
func text(a *hclsyntax.Attribute) (string, error) {
	if a == nil {
		return "", fmt.Errorf("an attribute is missing")
	}
	value, problems := a.Expr.Value(nil)
	if problems.HasErrors() {
		return "", problems
	}
	return value.AsString(), nil
}

// Documentation gives tables of the variables and outputs in Markdown, in the
// order in which they are declared.
func (m *Module) Documentation() (string, error) {
	var out strings.Builder
	out.WriteString("| input | default | |\n|---|---|---|\n")
	for _, b := range byPlace(m.Variables) {
		about, err := text(b.Body.Attributes["description"])
		if err != nil {
			return "", err
		}
		value := "**needed**"
		if d := b.Body.Attributes["default"]; d != nil {
			if value, err = m.source(d.Expr.Range()); err != nil {
				return "", err
			}
			value = "`" + value + "`"
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s |\n", b.Labels[0], value, cell(about))
	}
	out.WriteString("\n| output | |\n|---|---|\n")
	for _, b := range byPlace(m.Outputs) {
		about, err := text(b.Body.Attributes["description"])
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&out, "| `%s` | %s |\n", b.Labels[0], cell(about))
	}
	return out.String(), nil
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// source gives the text of an expression in one line.
func (m *Module) source(r hcl.Range) (string, error) {
	data, err := os.ReadFile(r.Filename)
	if err != nil {
		return "", err
	}
	return strings.Join(strings.Fields(string(data[r.Start.Byte:r.End.Byte])), " "), nil
}

func byPlace(blocks map[string]*hclsyntax.Block) []*hclsyntax.Block {
	return slices.SortedFunc(maps.Values(blocks), func(a, b *hclsyntax.Block) int {
		return cmp.Or(strings.Compare(a.Range().Filename, b.Range().Filename), a.Range().Start.Byte-b.Range().Start.Byte)
	})
}
