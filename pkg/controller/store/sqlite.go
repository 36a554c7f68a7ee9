package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/pipegen/pipegen/pkg/failure"
)

const (
	// How long SQLite itself waits for a lock of another process.
	busy = 500 * time.Millisecond
	// How many transactions read at the same time.
	sqliteReaders = 4
)

// inFile is SQLite. Keys mean nothing to it: one transaction at a time writes.
type inFile struct{}

func openSQLite(ctx context.Context, path string) (*Store, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(abs, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // where the operator wants it
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	s := &Store{d: inFile{}}
	var reads *sql.DB
	writes, err := open(abs, "cache_size(-8000)")
	if err == nil {
		reads, err = open(abs, "cache_size(-2000)", "query_only(1)")
	}
	if err != nil {
		return nil, fmt.Errorf("opening the database %s: %w", path, err)
	}
	if err = s.d.explain(migrate(ctx, writes, goose.DialectSQLite3, "sqlite")); err == nil {
		err = s.start(ctx, writes, reads, 1, sqliteReaders)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the database %s: %w", path, err), reads.Close(), writes.Close())
	}
	return s, nil
}

// open prepares connections to the database in a file.
func open(path string, pragmas ...string) (*sql.DB, error) {
	q := url.Values{"_pragma": append([]string{
		// First, so that the others wait too.
		fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds()),
		"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(0)", "journal_size_limit(67108864)", "temp_store(2)",
	}, pragmas...)}
	return sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String())
}

func (inFile) rebind(query string) string { return query }

func (inFile) statement() (context.Context, context.CancelFunc) {
	return context.Background(), func() {}
}

// far: asking it costs nothing.
func (inFile) far() bool { return false }

func (inFile) run(ctx context.Context, s *session, all []statement) error {
	for i := range all {
		st := &all[i]
		prepared, ok := s.stmts[st.query]
		if !ok {
			var err error
			if prepared, err = s.conn.PrepareContext(ctx, s.text(st.query)); err != nil {
				return err
			}
			s.stmts[st.query] = prepared
		}
		if st.each == nil {
			result, err := prepared.ExecContext(ctx, st.args...)
			if err != nil {
				return err
			}
			if st.rows != nil {
				if *st.rows, err = result.RowsAffected(); err != nil {
					return err
				}
			}
			continue
		}
		if err := eachRow(ctx, prepared, st); err != nil {
			return err
		}
	}
	return nil
}

func eachRow(ctx context.Context, prepared *sql.Stmt, st *statement) error {
	rows, err := prepared.QueryContext(ctx, st.args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err says what went wrong
	for rows.Next() {
		if err := st.each(rows.Scan); err != nil {
			return &rowError{err}
		}
	}
	return rows.Err()
}

func (inFile) begin(s *session, _ []Key) (int64, error) {
	return 0, s.begin(statement{query: "BEGIN IMMEDIATE"})
}

func (inFile) beginRead(s *session) error { return s.begin(statement{query: "BEGIN"}) }

func (inFile) lock(*session, []Key) error { return nil }

func (inFile) kept(*session, int64) (bool, error) { return false, nil }

func (inFile) breaks(error) bool { return false }

func (inFile) lead(ctx context.Context, _ string, fn func(context.Context) error) (bool, error) {
	return true, fn(ctx)
}

func (inFile) explain(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return failure.WithHint(fmt.Errorf("%w: another process has locked it", ErrUnavailable),
			"end the program that keeps the database open for writing")
	case sqlite3.SQLITE_FULL:
		return failure.WithHint(fmt.Errorf("%w: its disk is full", ErrUnavailable), "make room on the disk of the data directory")
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return failure.WithHint(fmt.Errorf("%w: its file is damaged: %w", ErrUnavailable, err), "put back a copy of the database")
	}
	return err
}
