package store

import (
	"context"
	"crypto/tls"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/pipegen/pipegen/pkg/failure"
)

const (
	// How many transactions write, and how many read, at the same time: most of
	// their time they wait for the server.
	postgresWriters, postgresReaders = 4, 6
	// The oldest server, as server_version_num says it.
	oldest = 140000
	// How long a server that is away is waited for when a controller starts.
	startPatience = 15 * time.Second
	// How long a statement may take: a server that does not answer is away.
	longest = 45 * time.Second
)

// parameters are those of a session that the URL does not set. The server
// itself ends what hangs: who waits for a key of a controller that stands still
// goes on.
var parameters = map[string]string{
	"application_name":                    "pipegen",
	"statement_timeout":                   "30s",
	"idle_in_transaction_session_timeout": "15s",
}

// server is PostgreSQL. Transactions that write are READ COMMITTED and lock
// keys: each statement sees what those have written who had them before.
type server struct{ pool *sql.DB }

// Postgres says of the URL of a database what may be shown of it, whether a
// password is in it, and whether the connection is in the clear: unencrypted,
// or with a server that may be anybody, and not on this machine. A URL that
// cannot be used is a failure.ErrInput.
func Postgres(dsn string) (shown string, password, clear bool, err error) {
	u, cfg, err := parse(dsn)
	if err != nil {
		return "", false, false, err
	}
	_, inUser := u.User.Password()
	password = inUser || u.Query().Has("password")
	hosts := []string{cfg.Host}
	clear = cfg.TLSConfig == nil
	for _, f := range cfg.Fallbacks {
		hosts = append(hosts, f.Host)
		clear = clear || f.TLSConfig == nil
	}
	near := true
	for _, h := range hosts {
		ip := net.ParseIP(h)
		near = near && (strings.HasPrefix(h, "/") || strings.HasPrefix(h, "@") || h == "localhost" || ip != nil && ip.IsLoopback())
	}
	return shownURL(u), password, clear && !near, nil
}

// shownURL is a URL without what nobody is to see.
func shownURL(u *url.URL) string {
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	return shown.String()
}

const urlHint = "postgres://HOST/DATABASE?user=USER&sslmode=verify-full; the password in PGPASSWORD, or in a file that PGPASSFILE names"

func parse(dsn string) (*url.URL, *pgx.ConnConfig, error) {
	u, err := url.Parse(dsn)
	switch {
	case err != nil: // which would show all of it
		return nil, nil, failure.WithHint(failure.Input("the database: it is no URL"), "write it as %s; percent-encode special characters", urlHint)
	case u.Scheme != "postgres" && u.Scheme != "postgresql":
		return nil, nil, failure.WithHint(failure.Input("the database: %q is no kind of database", u.Scheme), "name a file, or write %s", urlHint)
	}
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		why := err.Error() // cannot parse `URL`: WHY
		why = why[strings.LastIndex(why, "`: ")+1:]
		return nil, nil, failure.WithHint(failure.Input("the database %s%s", shownURL(u), why), "write it as %s", urlHint)
	}
	for name, value := range parameters {
		if _, ok := cfg.RuntimeParams[name]; !ok {
			cfg.RuntimeParams[name] = value
		}
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	return u, cfg, nil
}

func openPostgres(ctx context.Context, dsn string) (*Store, error) {
	u, cfg, err := parse(dsn)
	if err != nil {
		return nil, err
	}
	wrap := func(err error) error { return fmt.Errorf("opening the database %s: %w", shownURL(u), err) }
	if err := prepareServer(ctx, *cfg); err != nil {
		return nil, wrap(refused(err, cfg))
	}
	pool := stdlib.OpenDB(*cfg)
	pool.SetMaxIdleConns(2)
	s := &Store{d: server{pool}, shared: true}
	if err := s.start(ctx, pool, pool, postgresWriters, postgresReaders); err != nil {
		return nil, errors.Join(wrap(err), pool.Close())
	}
	return s, nil
}

// prepareServer waits for a server, looks whether it is one that can be used,
// and brings the schema up to date.
func prepareServer(ctx context.Context, cfg pgx.ConnConfig) (err error) {
	params := maps.Clone(cfg.RuntimeParams)
	// Changes of a schema take as long as they take.
	params["statement_timeout"], params["idle_in_transaction_session_timeout"] = "0", "0"
	cfg.RuntimeParams = params
	db := stdlib.OpenDB(cfg)
	defer func() { err = errors.Join(err, db.Close()) }()
	var conn *sql.Conn
	for until := time.Now().Add(startPatience); ; {
		if conn, err = db.Conn(ctx); err == nil {
			break
		}
		if err = refused(err, &cfg); !errors.Is(err, ErrUnavailable) || time.Now().After(until) {
			return err
		}
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	var f facts
	if err := conn.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version'),
		current_setting('server_encoding'), pg_is_in_recovery()`).Scan(&f.version, &f.name, &f.encoding, &f.standby); err != nil {
		return err
	}
	if err := f.check(cfg.Database); err != nil {
		return err
	}
	// One controller at a time changes the schema.
	key := Key("schema").number()
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", key); err != nil {
		return err
	}
	if err = migrate(ctx, db, goose.DialectPostgres, "postgres"); err == nil {
		// Nobody asks any more for those of processes that are gone.
		_, err = conn.ExecContext(ctx, "DELETE FROM marks WHERE made < $1", time.Now().Add(-24*time.Hour).UnixMicro())
	}
	_, e := conn.ExecContext(ctx, "SELECT pg_advisory_unlock($1)", key)
	return errors.Join(err, e)
}

// facts are what a server says of itself and a database.
type facts struct {
	version        int // as server_version_num
	name, encoding string
	standby        bool
}

// check refuses what cannot be used.
func (f facts) check(database string) error {
	switch {
	case f.version < oldest:
		return failure.WithHint(failure.Input("its server is PostgreSQL %s", f.name), "pipegen needs PostgreSQL %d or later", oldest/10000)
	case f.standby:
		return failure.WithHint(failure.Input("its server is a standby, which takes no writes"), "name the primary, or all of them with target_session_attrs=read-write")
	case f.encoding != "UTF8":
		return failure.WithHint(failure.Input("its encoding is %s", f.encoding), "make one with: createdb --encoding UTF8 --template template0 %s", database)
	}
	return nil
}

// refused tells what an operator can do about from what will pass.
func refused(err error, cfg *pgx.ConnConfig) error {
	var e *pgconn.PgError
	var cert *tls.CertificateVerificationError
	answered := errors.As(err, &e)
	switch {
	case errors.Is(err, failure.ErrInput) || errors.Is(err, ErrUnavailable):
		return err
	case answered:
	case errors.As(err, &cert):
		return failure.WithHint(failure.Input("its server's certificate: %w", cert.Err), "sslrootcert=FILE names the certificates that signed it")
	case strings.Contains(err.Error(), "server refused TLS"):
		return failure.WithHint(failure.Input("its server does not speak TLS"), "switch ssl on at the server, or say sslmode=disable")
	default:
		return failure.WithHint(explainConnect(err), "is PostgreSQL running at %s, and may this machine reach it?", net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))))
	}
	switch e.Code {
	case "3D000":
		return failure.WithHint(failure.Input("there is no such database"), "make it with: createdb --encoding UTF8 --template template0 %s", cfg.Database)
	case "28P01", "28000":
		return failure.WithHint(failure.Input("its server refuses the user: %s", e.Message), "the password is taken from the URL, PGPASSWORD, or the file that PGPASSFILE names; pg_hba.conf says who may connect")
	case "42501":
		return failure.WithHint(failure.Input("the user %s may not do that: %s", cfg.User, e.Message),
			"make the user the database's owner, or: GRANT ALL ON SCHEMA public TO %s", cfg.User)
	case "42P05":
		return failure.WithHint(failure.Input("a pooler before its server gives statements that were prepared to others"),
			"let the pooler give each connection a session of its own (pool_mode=session), or connect to the server itself")
	case "08P01":
		if strings.Contains(e.Message, "startup parameter") {
			return failure.WithHint(failure.Input("a pooler before its server refuses the connection: %s", e.Message),
				"tell PgBouncer: ignore_startup_parameters=%s", strings.Join(slices.Sorted(maps.Keys(parameters)), ","))
		}
	case "3F000":
		return failure.WithHint(failure.Input("there is no schema for its tables: %s", e.Message), "CREATE SCHEMA, or another search_path")
	}
	return explainConnect(err)
}

func explainConnect(err error) error { return server{}.explain(err) }

// rebind numbers the placeholders.
func (server) rebind(query string) string {
	var b strings.Builder
	for n := 1; ; n++ {
		before, after, found := strings.Cut(query, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		fmt.Fprintf(&b, "$%d", n)
		query = after
	}
}

func (server) statement() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), longest)
}

// far: the less it is asked the better.
func (server) far() bool { return true }

// run sends all statements at once. None is run after one that fails.
func (server) run(ctx context.Context, s *session, all []statement) error {
	var batch pgx.Batch
	for i := range all {
		batch.Queue(s.text(all[i].query), all[i].args...)
	}
	return s.conn.Raw(func(c any) error {
		answers := c.(*stdlib.Conn).Conn().SendBatch(ctx, &batch)
		for i := range all {
			if err := all[i].answered(answers); err != nil {
				_ = answers.Close() // says the same
				return err
			}
		}
		return answers.Close()
	})
}

// answered reads the answer to a statement.
func (st *statement) answered(answers pgx.BatchResults) error {
	if st.each == nil {
		tag, err := answers.Exec()
		switch {
		case err != nil:
			return err
		case st.rows != nil:
			*st.rows = tag.RowsAffected()
		case st.query == "COMMIT" && tag.String() != st.query:
			return errAgain // it was undone before
		}
		return nil
	}
	rows, err := answers.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := st.each(rows.Scan); err != nil {
			return &rowError{err}
		}
	}
	return rows.Err()
}

// lockKeys waits for each key in turn.
const lockKeys = "SELECT pg_advisory_xact_lock(k) FROM unnest(?::bigint[]) k"

// begin says nothing to the server yet. The transaction leaves its mark, and its
// locks end with it. A mark is not the number that the server gives a
// transaction: after a crash another one may have that.
func (server) begin(s *session, keys []Key) (mark int64, err error) {
	s.made++
	first := []statement{{query: "BEGIN"}, {
		query: "INSERT INTO marks (writer, mark, made) VALUES (?, ?, ?) ON CONFLICT (writer) DO UPDATE SET mark = excluded.mark, made = excluded.made",
		args:  []any{s.name, s.made, time.Now().UnixMicro()},
	}}
	if len(keys) > 0 {
		first = append(first, statement{query: lockKeys, args: []any{numbers(keys)}})
	}
	return s.made, s.begin(first...)
}

func (server) beginRead(s *session) error {
	return s.begin(statement{query: "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"})
}

func (server) lock(s *session, keys []Key) error {
	if len(keys) == 0 {
		return nil
	}
	s.waiting = append(s.waiting, statement{query: lockKeys, args: []any{numbers(keys)}})
	return nil
}

// kept waits for the transaction to end, if it goes on still.
func (server) kept(s *session, mark int64) (bool, error) {
	if err := s.begin(); err != nil {
		return false, err
	}
	var last int64
	err := s.row("SELECT mark FROM marks WHERE writer = ? FOR UPDATE", []any{s.name}, &last)
	if errors.Is(err, ErrNotFound) {
		return false, nil // it was the first
	}
	return last == mark, err
}

// lead has a lock of a connection of its own, which ends with the process.
func (d server) lead(ctx context.Context, name string, fn func(context.Context) error) (bool, error) {
	conn, err := d.pool.Conn(ctx)
	if err != nil {
		return false, d.explain(err)
	}
	defer func() { _ = conn.Close() }()
	key, first := Key("lead "+name).number(), false
	if err := conn.QueryRowContext(ctx, "SELECT pg_try_advisory_lock($1)", key).Scan(&first); err != nil || !first {
		return false, d.explain(err)
	}
	defer func() {
		ctx, cancel := d.statement()
		defer cancel()
		if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_unlock($1)", key); err != nil {
			_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // the lock goes with it
		}
	}()
	return true, fn(ctx)
}

// breaks: errors of the server that leave the connection as it was are the
// exception.
func (server) breaks(err error) bool {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return !errors.Is(err, sql.ErrNoRows)
	}
	switch e.Code[:2] {
	case "08", "57":
		return e.Code != "57014"
	}
	// Statements are no longer as they were prepared: the schema has changed.
	return e.Severity == "FATAL" || e.Severity == "PANIC" || e.Code == "0A000" || e.Code == "26000"
}

func (server) explain(err error) error {
	var e *pgconn.PgError
	switch {
	case err == nil, errors.Is(err, ErrUnavailable), errors.Is(err, ErrNotFound), errors.Is(err, failure.ErrInput):
		return err
	case errors.As(err, &e):
		return explainServer(e)
	case away(err):
		return fmt.Errorf("%w: its server is away: %w", ErrUnavailable, err)
	}
	return err
}

// away says whether an error is one of the way to the server.
func away(err error) bool {
	_, network := errors.AsType[net.Error](err)
	_, connect := errors.AsType[*pgconn.ConnectError](err)
	return network || connect || pgconn.Timeout(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "conn closed")
}

func explainServer(e *pgconn.PgError) error {
	unavailable := func(why string) error { return fmt.Errorf("%w: %s: %w", ErrUnavailable, why, e) }
	switch e.Code {
	case "40001", "40P01": // serialization, deadlock
		return fmt.Errorf("%w: %w", errAgain, e)
	case "53100":
		return failure.WithHint(unavailable("its disk is full"), "make room on the disk of the database's server")
	case "53300":
		return failure.WithHint(unavailable("its server has no free connection"), "each controller takes up to %d: raise max_connections", postgresWriters+postgresReaders+5)
	case "25006":
		return failure.WithHint(unavailable("its server takes no writes"), "is it a standby by now? Name all servers, with target_session_attrs=read-write")
	case "57014", "55P03":
		return unavailable("it took too long")
	case "22021", "22P05":
		return failure.Input("text with a NUL byte, which the database cannot keep")
	case "XX001", "XX002":
		return failure.WithHint(unavailable("it is damaged"), "put back a copy of the database")
	}
	switch e.Code[:2] {
	case "08", "53", "57", "58":
		return unavailable("its server is away")
	case "28":
		return unavailable("its server refuses the user by now")
	}
	if e.Severity == "FATAL" || e.Severity == "PANIC" {
		return unavailable("its server is away")
	}
	return e
}
