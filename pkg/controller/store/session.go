package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
)

// session is a connection with the statements that were prepared on it. One
// that broke is connected anew by who uses it next.
type session struct {
	db     *sql.DB
	d      dialect
	conn   *sql.Conn
	stmts  map[string]*sql.Stmt
	broken bool
	name   string // among those of all processes
	made   int64  // transactions that write
}

func newSession(db *sql.DB, d dialect) *session {
	return &session{db: db, d: d, broken: true, name: rand.Text()}
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

// failed notes what an error of the database means for the session, and gives it
// in plain words.
func (s *session) failed(err error) error {
	if err == nil {
		return nil
	}
	s.broken = s.broken || s.d.breaks(err)
	return s.d.explain(err)
}

// prepare gives the statement for a query. Its placeholders are question marks.
func (s *session) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if st, ok := s.stmts[query]; ok {
		return st, nil
	}
	st, err := s.conn.PrepareContext(ctx, s.d.rebind(query))
	if err != nil {
		return nil, s.failed(err)
	}
	s.stmts[query] = st
	return st, nil
}

// exec runs a statement and gives how many rows it changed.
func (s *session) exec(query string, args ...any) (int64, error) {
	ctx, cancel := s.d.statement()
	defer cancel()
	st, err := s.prepare(ctx, query)
	if err != nil {
		return 0, err
	}
	r, err := st.ExecContext(ctx, args...)
	if err != nil {
		return 0, s.failed(err)
	}
	return r.RowsAffected()
}

// row reads the only row of a query into dest; ErrNotFound if there is none.
func (s *session) row(query string, args []any, dest ...any) error {
	ctx, cancel := s.d.statement()
	defer cancel()
	st, err := s.prepare(ctx, query)
	if err != nil {
		return err
	}
	err = st.QueryRowContext(ctx, args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return s.failed(err)
}

// rows calls each for every row of a query.
func (s *session) rows(query string, args []any, each func(scan func(dest ...any) error) error) error {
	ctx, cancel := s.d.statement()
	defer cancel()
	st, err := s.prepare(ctx, query)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(ctx, args...)
	if err != nil {
		return s.failed(err)
	}
	defer func() { _ = rows.Close() }() // rows.Err says what went wrong
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return s.d.explain(err)
		}
	}
	return s.failed(rows.Err())
}

// list reads every row of a query as a T.
func list[T any](s *session, query string, args []any, scan func(scan func(dest ...any) error, to *T) error) ([]T, error) {
	var all []T
	err := s.rows(query, args, func(from func(dest ...any) error) error {
		var one T
		if err := scan(from, &one); err != nil {
			return err
		}
		all = append(all, one)
		return nil
	})
	return all, err
}

// marks is a list of n placeholders.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }

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
