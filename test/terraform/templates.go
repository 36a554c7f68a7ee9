package terraform

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Templates gives what is wrong with the templates of a module: those that are
// read nowhere, and calls of templatefile that give other variables than the
// template has. Such as are passed in a local beyond a merge may be more.
func (m *Module) Templates() []string {
	var wrong []string
	read := map[string]bool{}
	for _, body := range m.files {
		problems := hclsyntax.VisitAll(body, func(node hclsyntax.Node) hcl.Diagnostics {
			call, ok := node.(*hclsyntax.FunctionCallExpr)
			if !ok || call.Name != "templatefile" && call.Name != "file" {
				return nil
			}
			name, ok := inModule(call.Args[0])
			if !ok {
				wrong = append(wrong, fmt.Sprintf("%s: the file is not in the module", call.Range()))
				return nil
			}
			read[name] = true
			var given, may map[string]bool
			if call.Name == "templatefile" {
				given, may = m.keys(call.Args[1])
			}
			wanted, err := wants(filepath.Join(m.Dir, name))
			if err != nil {
				wrong = append(wrong, fmt.Sprintf("%s: %v", call.Range(), err))
			}
			for key := range wanted {
				if !given[key] && !may[key] {
					wrong = append(wrong, fmt.Sprintf("%s: %s wants %s", call.Range(), name, key))
				}
			}
			for key := range given {
				if !wanted[key] {
					wrong = append(wrong, fmt.Sprintf("%s: %s does not want %s", call.Range(), name, key))
				}
			}
			return nil
		})
		if problems.HasErrors() {
			wrong = append(wrong, problems.Error())
		}
	}
	files, err := filepath.Glob(filepath.Join(m.Dir, "*", "*.tftpl"))
	if err != nil {
		return append(wrong, err.Error())
	}
	for _, file := range files {
		name, err := filepath.Rel(m.Dir, file)
		if err != nil || !read[name] {
			wrong = append(wrong, name+" is read nowhere")
		}
	}
	slices.Sort(wrong)
	return wrong
}

// inModule gives the name of a file that is written "${path.module}/NAME".
func inModule(e hclsyntax.Expression) (string, bool) {
	t, ok := e.(*hclsyntax.TemplateExpr)
	if !ok || len(t.Parts) != 2 {
		return "", false
	}
	rest, ok := t.Parts[1].(*hclsyntax.LiteralValueExpr)
	if !ok {
		return "", false
	}
	return strings.TrimPrefix(rest.Val.AsString(), "/"), true
}

// keys gives those of an object: written there, and those of a local that it is
// or that is merged into it.
func (m *Module) keys(e hclsyntax.Expression) (given, may map[string]bool) {
	given, may = map[string]bool{}, map[string]bool{}
	switch e := e.(type) {
	case *hclsyntax.ObjectConsExpr:
		for _, item := range e.Items {
			given[hcl.ExprAsKeyword(item.KeyExpr)] = true
		}
	case *hclsyntax.FunctionCallExpr:
		for _, arg := range e.Args {
			g, also := m.keys(arg)
			maps.Copy(given, g)
			maps.Copy(may, also)
		}
	case *hclsyntax.ScopeTraversalExpr:
		if len(e.Traversal) != 2 || e.Traversal.RootName() != "local" {
			break
		}
		for _, body := range m.files {
			for _, b := range body.Blocks {
				if a := b.Body.Attributes[e.Traversal[1].(hcl.TraverseAttr).Name]; b.Type == "locals" && a != nil { //nolint:forcetypeassert // a local is an attribute
					g, _ := m.keys(a.Expr)
					maps.Copy(may, g)
				}
			}
		}
	}
	return given, may
}

// wants gives the variables of a template, which has nothing but ${NAME}: tests
// fill it in without Terraform.
func wants(file string) (map[string]bool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	e, problems := hclsyntax.ParseTemplate(data, file, hcl.InitialPos)
	if problems.HasErrors() {
		return nil, problems
	}
	out := map[string]bool{}
	template, ok := e.(*hclsyntax.TemplateExpr)
	if !ok {
		return nil, fmt.Errorf("%s is no template", file)
	}
	for _, part := range template.Parts {
		switch part := part.(type) {
		case *hclsyntax.LiteralValueExpr:
		case *hclsyntax.ScopeTraversalExpr:
			if len(part.Traversal) != 1 {
				return nil, fmt.Errorf("%s: more than a name", part.Range())
			}
			out[part.Traversal.RootName()] = true
		default:
			return nil, fmt.Errorf("%s: more than a name", part.Range())
		}
	}
	return out, nil
}
