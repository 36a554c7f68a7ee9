package main

import (
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
)

// Nothing in a fault can end its command or begin another.
func TestFaultsGitHub(t *testing.T) {
	got := string(faultsGitHub(config.Faults{
		{File: "a,b:c\n::error::x", Line: 3, Column: 2, Severity: config.Error, Rule: "r", Message: "100%\n::warning::m", Hint: "h\r"},
		{File: "x", Severity: config.Warning, Rule: "w", Message: "m"},
	}))
	want := "::error file=a%2Cb%3Ac\\n%3A%3Aerror%3A%3Ax,line=3,col=2,title=r::100%25\\n::warning::m%0Ahint: h\\r\n" +
		"::warning file=x,line=1,col=1,title=w::m\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
