package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/quote"
)

// AuditFile is the file of a data directory that says who did what.
const AuditFile = "audit.jsonl"

// Audit appends to a file, one JSON object a line. It is safe for concurrent
// use, and for a file that others cut or move away: each line is one write.
type Audit struct {
	mu   sync.Mutex
	path string
}

// Record is one line of the audit log.
type Record struct {
	Time time.Time `json:"time"`
	// Id of the request.
	Request string `json:"request"`
	// Name of the token, "agent TASK", or empty if nobody knows.
	Who string `json:"who"`
	// Of an identity token: who gave it, and whom it is about.
	Issuer  string `json:"issuer,omitempty"`
	Subject string `json:"subject,omitempty"`
	Remote  string `json:"remote"`
	// The operation as the interface names it, and the path that was asked for.
	Action string `json:"action"`
	Path   string `json:"path"`
	Status int    `json:"status"`
	// What was done, or why it was not.
	Detail string `json:"detail,omitempty"`
}

// NewAudit writes to audit.jsonl (mode 0600) in a data directory.
func NewAudit(dataDir string) (*Audit, error) {
	a := &Audit{path: filepath.Join(dataDir, AuditFile)}
	if err := a.write(nil); err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	return a, nil
}

// Add appends a record.
func (a *Audit) Add(r Record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return a.write(append(line, '\n'))
}

// write opens the file each time, so that one that was moved away is left.
func (a *Audit) write(line []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	f, err := os.OpenFile(a.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	return errors.Join(err, f.Close())
}

// audits says whether the audit log tells of a request: what changes something,
// and what was refused to somebody.
func (s *Server) audits(rt route, status int, err error) bool {
	if s.o.Audit == nil {
		return false
	}
	if err != nil {
		if e := describe(err); e.refused {
			return !e.quiet
		}
	}
	return rt.audited || rt.kind != anybody && (status == http.StatusUnauthorized || status == http.StatusForbidden)
}

func (s *Server) audit(r *http.Request, c *call, rt route, status int) {
	err := s.o.Audit.Add(Record{
		Time: time.Now().UTC(), Request: c.id, Who: c.principal.Name, Issuer: c.principal.Issuer, Subject: quote.Text(c.principal.Subject), Remote: c.remote,
		Action: rt.pattern, Path: quote.Text(r.URL.Path), Status: status, Detail: c.detail,
	})
	if err != nil {
		c.log.Error("writing the audit log", "error", err)
	}
}
