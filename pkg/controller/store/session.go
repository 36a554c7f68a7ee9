package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"slices"
	"strings"
)

// session is a connection. One that broke is connected anew by who uses it next.
// Statements whose answer nobody waits for are run with the next one, in their
// order: a server that is far away is asked as seldom as may be.
type session struct {
	db     *sql.DB
	d      dialect
	conn   *sql.Conn
	stmts  map[string]*sql.Stmt // that were prepared
	texts  map[string]string    // of queries as the database has them
	broken bool
	name   string // among those of all processes
	made   int64  // transactions that write

	// Of the transaction that is made.
	waiting []statement
	open    bool  // it is one, and not a statement by itself
	begun   bool  // the database has begun it
	fault   error // of a statement: it cannot go on
	own     int   // what waits before it is of earlier calls
	wrote   bool  // the database has writes of that call
}

// statement is a statement of a transaction.
type statement struct {
	query string
	args  []any
	each  func(scan func(dest ...any) error) error // is called for every row; may be nil
	rows  *int64                                   // how many it changed; may be nil
	write bool
}

func newSession(db *sql.DB, d dialect) *session {
	return &session{db: db, d: d, broken: true, name: rand.Text(), texts: map[string]string{}}
}

// connect makes a session usable that is not.
func (s *session) connect(ctx context.Context) error {
	if !s.broken {
		return nil
	}
	if s.conn != nil {
		// The pool is not to give it to anybody.
		_ = s.conn.Raw(func(any) error { return driver.ErrBadConn })
		_ = s.close()
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return s.d.explain(err)
	}
	s.conn, s.stmts, s.broken = conn, map[string]*sql.Stmt{}, false
	return nil
}

// close ends the session. A connection with statements would stay open.
func (s *session) close() error {
	if s.conn == nil {
		return nil
	}
	var faults []error
	for _, st := range s.stmts {
		faults = append(faults, st.Close())
	}
	faults = append(faults, s.conn.Close())
	s.conn, s.stmts, s.broken = nil, nil, true
	if err := errors.Join(faults...); err != nil && !s.d.breaks(err) {
		return err
	}
	return nil // what is broken is closed
}

// begin makes statements the first ones of a transaction; without any there is
// none.
func (s *session) begin(first ...statement) error {
	s.waiting, s.begun, s.fault, s.own, s.wrote = append(s.waiting[:0], first...), false, nil, 0, false
	s.open = len(first) > 0
	return s.settled()
}

// end makes a transaction durable, or undoes it.
func (s *session) end(how string) error {
	if how == "ROLLBACK" {
		s.waiting, s.own = s.waiting[:0], 0
		if s.broken || !s.open || !s.begun && s.fault == nil {
			return nil
		}
	}
	s.waiting = append(s.waiting, statement{query: how})
	return s.flush()
}

// next begins what another call does that shares the transaction.
func (s *session) next() { s.own, s.wrote = len(s.waiting), false }

// retract takes back what the call has written; false: the database has it.
func (s *session) retract() bool {
	if !s.wrote {
		s.waiting = s.waiting[:s.own]
	}
	return !s.wrote
}

// settled runs what waits, unless it may wait longer.
func (s *session) settled() error {
	if s.d.far() {
		return nil
	}
	return s.flush()
}

// flush runs what waits.
func (s *session) flush() error {
	if len(s.waiting) == 0 {
		return nil
	}
	ctx, cancel := s.d.statement()
	defer cancel()
	s.wrote = s.wrote || slices.ContainsFunc(s.waiting[s.own:], func(st statement) bool { return st.write })
	err := s.failed(s.d.run(ctx, s, s.waiting))
	clear(s.waiting)
	s.waiting, s.own = s.waiting[:0], 0
	if err == nil {
		s.begun = true
	} else if s.fault == nil {
		s.fault = err
	}
	return err
}

// rowError is an error of who reads a row, and not of the database.
type rowError struct{ error }

func (e *rowError) Unwrap() error { return e.error }

// failed notes what an error of the database means for the session, and gives it
// in plain words.
func (s *session) failed(err error) error {
	var row *rowError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &row):
		return row.error
	}
	s.broken = s.broken || s.d.breaks(err)
	return s.d.explain(err)
}

// text is a query as the database has it.
func (s *session) text(query string) string {
	text, ok := s.texts[query]
	if !ok {
		text = s.d.rebind(query)
		s.texts[query] = text
	}
	return text
}

// exec has a statement write. What is wrong with it may only be said later, but
// before the transaction is durable.
func (s *session) exec(query string, args ...any) error {
	s.waiting = append(s.waiting, statement{query: query, args: args, write: true})
	return s.settled()
}

// changed is exec that gives how many rows it changed.
func (s *session) changed(query string, args ...any) (n int64, err error) {
	s.waiting = append(s.waiting, statement{query: query, args: args, write: true, rows: &n})
	err = s.flush()
	return n, err
}

// ask has each be called for every row of a query, no later than any other
// answer comes.
func (s *session) ask(query string, args []any, each func(scan func(dest ...any) error) error) error {
	s.waiting = append(s.waiting, statement{query: query, args: args, each: each})
	return s.settled()
}

// rows calls each for every row of a query.
func (s *session) rows(query string, args []any, each func(scan func(dest ...any) error) error) error {
	s.waiting = append(s.waiting, statement{query: query, args: args, each: each})
	return s.flush()
}

// row reads the only row of a query into dest; ErrNotFound if there is none.
func (s *session) row(query string, args []any, dest ...any) error {
	return one(s, query, args, func(scan func(dest ...any) error, _ *struct{}) error { return scan(dest...) }, nil)
}

// list reads every row of a query as a T.
func list[T any](s *session, query string, args []any, scan func(scan func(dest ...any) error, to *T) error) ([]T, error) {
	var all []T
	err := s.rows(query, args, appending(&all, scan))
	return all, err
}

// appending adds a row to a list.
func appending[T any](to *[]T, scan func(scan func(dest ...any) error, to *T) error) func(func(dest ...any) error) error {
	return func(from func(dest ...any) error) error {
		var one T
		if err := scan(from, &one); err != nil {
			return err
		}
		*to = append(*to, one)
		return nil
	}
}

// one reads the only row of a query as a T; ErrNotFound if there is none.
func one[T any](s *session, query string, args []any, scan func(scan func(dest ...any) error, to *T) error, to *T) error {
	found := false
	err := s.rows(query, args, func(from func(dest ...any) error) error {
		found = true
		return scan(from, to)
	})
	if err == nil && !found {
		return ErrNotFound
	}
	return err
}

// marks is a list of n placeholders.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }
