package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"
)

// session is a connection with the statements that were prepared on it.
type session struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

func newSession(ctx context.Context, db *sql.DB) (*session, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, explain(err)
	}
	return &session{conn, map[string]*sql.Stmt{}}, nil
}

// close ends the session. A connection with statements would stay open.
func (s *session) close() error {
	var faults []error
	for _, st := range s.stmts {
		faults = append(faults, st.Close())
	}
	return errors.Join(append(faults, s.conn.Close())...)
}

// prepare gives the statement for a query. Its placeholders are question marks.
func (s *session) prepare(query string) (*sql.Stmt, error) {
	if st, ok := s.stmts[query]; ok {
		return st, nil
	}
	// Statements outlive the caller's context, and are too short to be broken off.
	st, err := s.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, explain(err)
	}
	s.stmts[query] = st
	return st, nil
}

// exec runs a statement and gives how many rows it changed.
func (s *session) exec(query string, args ...any) (int64, error) {
	st, err := s.prepare(query)
	if err != nil {
		return 0, err
	}
	r, err := st.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, explain(err)
	}
	return r.RowsAffected()
}

// row reads the only row of a query into dest; ErrNotFound if there is none.
func (s *session) row(query string, args []any, dest ...any) error {
	st, err := s.prepare(query)
	if err != nil {
		return err
	}
	err = st.QueryRowContext(context.Background(), args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return explain(err)
}

// rows calls each for every row of a query.
func (s *session) rows(query string, args []any, each func(scan func(dest ...any) error) error) error {
	st, err := s.prepare(query)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(context.Background(), args...)
	if err != nil {
		return explain(err)
	}
	defer func() { _ = rows.Close() }() // rows.Err says what went wrong
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return explain(err)
		}
	}
	return explain(rows.Err())
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
