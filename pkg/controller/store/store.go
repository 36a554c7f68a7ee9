// Package store keeps runs, their tasks and logs in a database: SQLite in a
// file, or PostgreSQL, which several controllers may share. All SQL is here, and
// kept to what both understand; what the rows mean is the controller's affair.
package store

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/pipegen/pipegen/pkg/failure"
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("not found")
	// Nothing was done, and the same may work later: the database is locked by
	// another process, its disk is full or fails, its server is away, or the store
	// was closed.
	ErrUnavailable = errors.New("the database is not available")
)

//go:embed migrations/*/*.sql
var migrations embed.FS

// readPatience is how long who reads waits for a server that is away.
const readPatience = 5 * time.Second

// dialect is what databases differ in.
type dialect interface {
	// rebind writes a query, whose placeholders are question marks, as the
	// database has it.
	rebind(query string) string
	// far says whether statements had better wait for each other.
	far() bool
	// run runs statements, one after the other.
	run(ctx context.Context, s *session, all []statement) error
	// statement gives the context of statements, which does not end with their
	// caller's.
	statement() (context.Context, context.CancelFunc)
	// begin starts a transaction that writes and has the keys. mark is what kept
	// knows it by.
	begin(s *session, keys []Key) (mark int64, err error)
	// beginRead starts one that reads one state of the database.
	beginRead(s *session) error
	// lock takes further keys.
	lock(s *session, keys []Key) error
	// kept says whether a transaction is durable whose commit was not answered.
	kept(s *session, mark int64) (bool, error)
	// explain says in plain words why the database could not do something.
	explain(err error) error
	// breaks says whether the connection is of no use after an error.
	breaks(err error) bool
	// lead runs fn unless another process is doing so.
	lead(ctx context.Context, name string, fn func(context.Context) error) (bool, error)
}

// Store is an open database. It is safe for concurrent use: transactions that
// write about one matter run one after the other, those that come while one is
// being made durable all together in the next; transactions that read run beside
// them.
type Store struct {
	d       dialect
	writers []*writer // of calls that share transactions
	alone   *writer   // of those that do not; may be one of them
	all     []*writer
	idle    chan *session
	shared  bool
	close   func() error
}

// Open opens a database and brings its schema up to date: the PostgreSQL that a
// URL (postgres://) names, else SQLite in a file, which is made if it is not
// there (mode 0600). What cannot be used as it is, such as a database that a
// later version wrote, is a failure.ErrInput. A server that is away is waited
// for some seconds; then the error is ErrUnavailable.
func Open(ctx context.Context, where string) (*Store, error) {
	if IsURL(where) {
		return openPostgres(ctx, where)
	}
	return openSQLite(ctx, where)
}

// IsURL says whether a database is named by a URL, not by a file.
func IsURL(where string) bool { return strings.Contains(where, "://") }

// Shared says whether controllers on other machines may have the same database.
func (s *Store) Shared() bool { return s.shared }

// start makes the sessions of a store: as many that write as are told, and one
// more for transactions that nobody shares if there are several.
func (s *Store) start(ctx context.Context, writes, reads *sql.DB, writers, readers int) error {
	var sessions []*session
	connected := func(db *sql.DB) (*session, error) {
		one := newSession(db, s.d)
		sessions = append(sessions, one)
		return one, one.connect(ctx)
	}
	s.idle = make(chan *session, readers)
	for range readers {
		r, err := connected(reads)
		if err != nil {
			return err
		}
		s.idle <- r
	}
	var lanes []*session
	for range writers + min(writers-1, 1) {
		w, err := connected(writes)
		if err != nil {
			return err
		}
		lanes = append(lanes, w)
	}
	for _, w := range lanes[:writers] {
		s.writers = append(s.writers, newWriter(w, together))
	}
	s.all, s.alone = s.writers, s.writers[0]
	if len(lanes) > writers {
		s.alone = newWriter(lanes[writers], 1)
		s.all = append(slices.Clone(s.writers), s.alone)
	}
	s.close = sync.OnceValue(func() error {
		for _, w := range s.all {
			w.close()
		}
		for range readers {
			<-s.idle // and nobody gets one again
		}
		var faults []error
		for _, one := range sessions {
			faults = append(faults, one.close())
		}
		faults = append(faults, reads.Close())
		if writes != reads {
			faults = append(faults, writes.Close())
		}
		return errors.Join(faults...)
	})
	return nil
}

// migrate brings the schema up to date.
func migrate(ctx context.Context, db *sql.DB, d goose.Dialect, dir string) error {
	files, err := fs.Sub(migrations, "migrations/"+dir)
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(d, db, files)
	if err != nil {
		return err
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return err
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
	return err
}

// Close waits for transactions that run and closes the database.
func (s *Store) Close() error { return s.close() }

// Read runs fn in a transaction that sees one state of the database. fn must
// not wait for anything else: there are few such transactions at a time. It may
// be run again if it could read nothing.
func (s *Store) Read(ctx context.Context, fn func(*Tx) error) error {
	return s.reading(ctx, fn, s.d.beginRead)
}

// Ask is Read of what a single statement gives, which needs no transaction.
func (s *Store) Ask(ctx context.Context, fn func(*Tx) error) error {
	return s.reading(ctx, fn, func(r *session) error { return r.begin() })
}

func (s *Store) reading(ctx context.Context, fn func(*Tx) error, begin func(*session) error) error {
	var r *session
	select {
	case r = <-s.idle:
	case <-s.alone.closed:
		return fmt.Errorf("%w: it was closed", ErrUnavailable)
	case <-ctx.Done():
		return ctx.Err()
	}
	err := s.read(ctx, r, fn, begin)
	over := func() {
		_ = r.end("ROLLBACK") // there is nothing to keep
		s.idle <- r
	}
	if s.d.far() && r.open {
		go over() // who reads has what he wants
	} else {
		over()
	}
	return err
}

// read reads in a session. A server that went away and is back costs nobody a
// request.
func (s *Store) read(ctx context.Context, r *session, fn func(*Tx) error, begin func(*session) error) error {
	until := time.Now().Add(readPatience)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		r.begun = false
		err := r.connect(ctx)
		if err == nil {
			err = begin(r)
		}
		if err == nil {
			err = cmp.Or(fn(&Tx{session: r}), r.fault)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !r.broken || r.begun || time.Now().Add(wait).After(until):
			return err
		}
		select {
		case <-time.After(wait):
		case <-s.alone.closed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Write runs fn in a transaction about what keys name, which is durable when
// Write returns nil and undone when it returns an error. It may share the
// transaction with other calls, whose errors do not touch it. fn must not wait
// for anything. It may be run again, after what it did was undone: what it sets
// outside itself it sets each time.
func (s *Store) Write(ctx context.Context, keys []Key, fn func(*Tx) error) error {
	// What is about the same goes the same way.
	way := 0
	if len(keys) > 0 {
		way = int(uint64(keys[0].number()) % uint64(len(s.writers))) //nolint:gosec // all of its bits
	}
	return s.writers[way].do(ctx, keys, fn)
}

// Lead runs fn, unless another process that shares the database is doing so
// under the same name, and says whether it did.
func (s *Store) Lead(ctx context.Context, name string, fn func(context.Context) error) (bool, error) {
	return s.d.lead(ctx, name, fn)
}

// Tx is a transaction.
type Tx struct {
	*session
	keys  []Key
	after []func()
}

// After has fn called once the transaction is durable, before Write returns.
func (tx *Tx) After(fn func()) { tx.after = append(tx.after, fn) }

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
