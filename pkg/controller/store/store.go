// Package store keeps runs, their tasks and logs in a database: SQLite in a
// file. All SQL is here, and kept to what other databases understand too; what
// the rows mean is the controller's affair.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/pipegen/pipegen/pkg/failure"
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("not found")
	// Nothing was done, and the same may work later: the database is locked by
	// another process, its disk is full or fails, or the store was closed.
	ErrUnavailable = errors.New("the database is not available")
)

//go:embed migrations/*.sql
var migrations embed.FS

// readers is how many transactions read at the same time.
const readers = 4

// Store is an open database. It is safe for concurrent use: transactions that
// write run one after the other, those that come while one is being made
// durable all together in the next; transactions that read run beside them.
type Store struct {
	writes *sql.DB
	reads  *sql.DB
	writer *writer
	idle   chan *session
	close  func() error
}

// Open opens the SQLite database in the file path, which is made if it is not
// there (mode 0600), and brings its schema up to date. A database that a later
// version wrote is a failure.ErrInput.
func Open(ctx context.Context, path string) (*Store, error) {
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
	s := &Store{idle: make(chan *session, readers)}
	if s.writes, err = open(abs, "cache_size(-8000)"); err == nil {
		s.reads, err = open(abs, "cache_size(-2000)", "query_only(1)")
	}
	if err != nil {
		return nil, fmt.Errorf("opening the database %s: %w", path, err)
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the database %s: %w", path, err), s.reads.Close(), s.writes.Close())
	}
	s.close = sync.OnceValue(func() error {
		s.writer.close()
		faults := []error{s.writer.s.close()}
		for range readers {
			faults = append(faults, (<-s.idle).close()) // and nobody gets one again
		}
		return errors.Join(append(faults, s.reads.Close(), s.writes.Close())...)
	})
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

func (s *Store) start(ctx context.Context) error {
	if err := migrate(ctx, s.writes); err != nil {
		return err
	}
	w, err := newSession(ctx, s.writes)
	if err != nil {
		return err
	}
	for range readers {
		r, err := newSession(ctx, s.reads)
		if err != nil {
			return err
		}
		s.idle <- r
	}
	s.writer = newWriter(w)
	go s.writer.run()
	return nil
}

// migrate brings the schema up to date.
func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return err
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return explain(err)
	}
	if current > target {
		return failure.WithHint(failure.Input("its schema has version %d, this pipegen knows %d", current, target),
			"use the pipegen that wrote it, or a later one")
	}
	for range 5 {
		if _, err = p.Up(ctx); err == nil {
			return nil
		}
		// Another process may have been doing the same.
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return explain(err)
}

// Close waits for transactions that run and closes the database.
func (s *Store) Close() error { return s.close() }

// Read runs fn in a transaction that sees one state of the database. fn must
// not wait for anything else: there are few such transactions at a time.
func (s *Store) Read(ctx context.Context, fn func(*Tx) error) error {
	var r *session
	select {
	case r = <-s.idle:
	case <-s.writer.closed:
		return fmt.Errorf("%w: it was closed", ErrUnavailable)
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.idle <- r }()
	if _, err := r.exec("BEGIN"); err != nil {
		return err
	}
	err := fn(&Tx{session: r})
	if _, e := r.exec("COMMIT"); e != nil {
		_, _ = r.exec("ROLLBACK")
		err = errors.Join(err, e)
	}
	return err
}

// Write runs fn in a transaction, which is durable when Write returns nil and
// undone when it returns an error. It may share the transaction with other
// calls, whose errors do not touch it. fn must not wait for anything, and is
// run again by nobody.
func (s *Store) Write(ctx context.Context, fn func(*Tx) error) error {
	return s.writer.do(ctx, fn)
}

// Tx is a transaction.
type Tx struct {
	*session
	after []func()
}

// After has fn called once the transaction is durable, before Write returns;
// those of several transactions in the order in which they were made durable.
func (tx *Tx) After(fn func()) { tx.after = append(tx.after, fn) }

// explain says in plain words why the database could not do something.
func explain(err error) error {
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

// micros and its like are how times are kept.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func moment(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}
