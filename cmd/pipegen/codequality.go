package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/quote"
)

// codeQuality is one finding in a Code Quality report of GitLab
// (https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format).
type codeQuality struct {
	Description string `json:"description"`
	CheckName   string `json:"check_name"`
	Fingerprint string `json:"fingerprint"`
	Severity    string `json:"severity"`
	Location    struct {
		Path  string `json:"path"`
		Lines struct {
			Begin int `json:"begin"`
		} `json:"lines"`
	} `json:"location"`
}

// faultsCodeQuality writes faults as GitLab's merge requests show them.
func faultsCodeQuality(faults config.Faults) ([]byte, error) {
	report := make([]codeQuality, len(faults))
	seen := map[string]int{}
	for i, f := range faults {
		q := &report[i]
		q.Description, q.CheckName, q.Severity = quote.Text(f.Message), "pipegen/"+f.Rule, "minor"
		if f.Hint != "" {
			q.Description += " (" + quote.Text(f.Hint) + ")"
		}
		if f.Severity == config.Error {
			q.Severity = "critical"
		}
		q.Location.Path, q.Location.Lines.Begin = f.File, max(1, f.Line)
		// A fault is the same wherever it has moved to in its file. The reports
		// of two branches are compared by this, and it must occur once.
		same := f.File + "\x00" + f.Rule + "\x00" + f.Message
		seen[same]++
		sum := sha256.Sum256([]byte(same + "\x00" + strconv.Itoa(seen[same])))
		q.Fingerprint = hex.EncodeToString(sum[:16])
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(report)
	return b.Bytes(), err
}
