package main

import (
	"fmt"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/quote"
)

// faultsGitHub gives faults as GitHub's commands that show each at its line
// ("Workflow commands for GitHub Actions", setting an error message).
func faultsGitHub(faults config.Faults) []byte {
	var b strings.Builder
	for _, f := range faults {
		level := "error"
		if f.Severity == config.Warning {
			level = "warning"
		}
		message := quote.Text(f.Message)
		if f.Hint != "" {
			message += "\nhint: " + quote.Text(f.Hint)
		}
		fmt.Fprintf(&b, "::%s file=%s,line=%d,col=%d,title=%s::%s\n", level,
			commandProperty.Replace(quote.Text(f.File)), max(f.Line, 1), max(f.Column, 1), commandProperty.Replace(f.Rule), commandData.Replace(message))
	}
	return []byte(b.String())
}

// What the parser of commands takes for something else, as @actions/core
// escapes it.
var (
	commandData     = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	commandProperty = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
)
