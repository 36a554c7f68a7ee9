package lazyregexp_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/internal/lazyregexp"
)

func TestRegexp(t *testing.T) {
	r := lazyregexp.New(`(\w)=(\d)`)
	if !r.MatchString("a=1") || r.MatchString("a") {
		t.Error("MatchString")
	}
	if got := r.FindString("x a=1 b=2"); got != "a=1" {
		t.Errorf("FindString gives %q", got)
	}
	if got := r.FindStringSubmatch("x a=1 b=2"); strings.Join(got, " ") != "a=1 a 1" {
		t.Errorf("FindStringSubmatch gives %q", got)
	}
	if got := r.FindAllStringSubmatch("x a=1 b=2", -1); len(got) != 2 || got[1][2] != "2" {
		t.Errorf("FindAllStringSubmatch gives %q", got)
	}
	if got := r.FindAllStringSubmatchIndex("x a=1 b=2", 1); len(got) != 1 || got[0][0] != 2 {
		t.Errorf("FindAllStringSubmatchIndex gives %v", got)
	}
	if got := r.ReplaceAll([]byte("x a=1"), []byte("$2")); string(got) != "x 1" {
		t.Errorf("ReplaceAll gives %q", got)
	}
	if got := r.ReplaceAllString("x a=1", "$2"); got != "x 1" {
		t.Errorf("ReplaceAllString gives %q", got)
	}
	if got := r.ReplaceAllStringFunc("x a=1", strings.ToUpper); got != "x A=1" {
		t.Errorf("ReplaceAllStringFunc gives %q", got)
	}
}

// Expressions that are wrong would only be found when they are used, and those
// that package regexp compiles are paid for by each command that starts.
func TestAllOfPipegen(t *testing.T) {
	root := filepath.Join("..", "..")
	n := 0
	for _, dir := range []string{"cmd", "pkg", "internal", "templates"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == "testdata" || strings.HasSuffix(d.Name(), "test")):
				return fs.SkipDir
			case filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			found, err := inspect(t, path, text)
			n += found
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n < 50 {
		t.Errorf("%d expressions found: too few to be all", n)
	}
}

// inspect compiles the expressions of a file, and gives how many it has.
func inspect(t *testing.T, path string, text []byte) (n int, err error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution)
	if err != nil {
		return 0, err
	}
	for _, decl := range file.Decls {
		ast.Inspect(decl, func(node ast.Node) bool {
			switch node.(type) {
			case *ast.FuncDecl, *ast.FuncLit:
				return false // nothing of it runs at the start, as a rule
			}
			if called(node, "regexp", "MustCompile") != nil {
				t.Errorf("%s: an expression is compiled when pipegen starts: take lazyregexp.New", path)
			}
			return true
		})
	}
	ast.Inspect(file, func(node ast.Node) bool {
		args := called(node, "lazyregexp", "New")
		if args == nil {
			return true
		}
		n++
		if literal, ok := args[0].(*ast.BasicLit); !ok {
			t.Errorf("%s: an expression that is no literal cannot be checked", path)
		} else if expr, err := strconv.Unquote(literal.Value); err != nil {
			t.Errorf("%s: %s: %v", path, literal.Value, err)
		} else if _, err := regexp.Compile(expr); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		return true
	})
	return n, nil
}

// called gives the arguments of a call of a package's function; nil: it is none.
func called(node ast.Node, pkg, name string) []ast.Expr {
	call, ok := node.(*ast.CallExpr)
	if !ok {
		return nil
	}
	fun, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || fun.Sel.Name != name {
		return nil
	}
	if x, ok := fun.X.(*ast.Ident); !ok || x.Name != pkg {
		return nil
	}
	return call.Args
}
