package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestAddingAProject follows docs/adding-a-project.md word for word: its
// console blocks run in one shell, in the order of the page, and the plan at
// the end must be what the page says.
func TestAddingAProject(t *testing.T) {
	page, err := os.ReadFile("../../docs/adding-a-project.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := console(string(page))
	if strings.Count(commands, "pipegen ") < 5 {
		t.Fatalf("the page has hardly any commands:\n%s", commands)
	}
	script := filepath.Join(t.TempDir(), "adding-a-project.txtar")
	text := `exec sh -eux page.sh
stdout '^2 builds of 1 image at [0-9a-f]{7}, local, compared with [0-9a-f]{7}$'
stdout '^hello +amd64 arm64 +hello-[0-9]{8}-[0-9a-f]{7} hello-1.0 hello-latest +changed: projects/hello/'
stdout 'build hello@arm64'
stdout '--custom-platform=linux/arm64'
cd images
exec git status --porcelain
! stdout .
-- page.sh --
` + commands
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{Files: []string{script}, RequireExplicitExec: true, Setup: setUp})
}

// console gives the commands of a page's console blocks: lines after "$ ", and
// after "> " what continues them.
func console(page string) string {
	var b strings.Builder
	inside := false
	for line := range strings.Lines(page) {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.TrimSpace(line) == "```console"
		case inside && (strings.HasPrefix(line, "$ ") || strings.HasPrefix(line, "> ")):
			b.WriteString(line[2:])
		}
	}
	return b.String()
}
