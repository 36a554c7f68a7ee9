//go:build e2e

package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pipegen/pipegen/internal/postgrestest"
	"github.com/pipegen/pipegen/pkg/failure"
)

// database gives a new database of the server that these tests need.
func database(t *testing.T) string {
	t.Helper()
	if os.Getenv(postgrestest.Variable) == "" {
		t.Fatalf("%s must name a PostgreSQL", postgrestest.Variable)
	}
	return postgrestest.Database(t)
}

// wire is the way to a server, which can be cut.
type wire struct {
	// What the next bytes of the client, and those after, meet.
	cut atomic.Int32
}

const (
	whole     = iota
	unsent    // they do not reach the server
	unheard   // they do, but its answer does not come back
	otherwise = time.Second
)

// through gives the URL of a database by way of a wire.
func through(t *testing.T, where string) (string, *wire) {
	t.Helper()
	u, err := url.Parse(where)
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	server := u.Host
	u.Host = l.Addr().String()
	w := &wire{}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go w.carry(client, server)
		}
	}()
	return u.String(), w
}

func (w *wire) carry(client net.Conn, address string) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	var deaf atomic.Bool
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil || deaf.Load() {
				_ = client.Close()
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		switch w.cut.Swap(whole) {
		case unsent:
			return
		case unheard:
			deaf.Store(true)
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, client)
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// line adds a line to a log.
func line(tx *Tx, run, text string) error {
	r, err := tx.Run(run)
	if err != nil {
		return err
	}
	return errors.Join(tx.AddChunk(&Chunk{Run: run, First: r.Lines, Count: 1, Data: []byte(text)}), tx.SetLines(run, r.Lines+1))
}

// lines gives a log, which has no gaps.
func (s *Store) lines(t *testing.T, run string) (all []string) {
	t.Helper()
	var chunks []Chunk
	if err := s.Read(t.Context(), func(tx *Tx) (err error) { chunks, err = tx.Chunks(run, 0, 1<<30); return err }); err != nil {
		t.Fatal(err)
	}
	for i, c := range chunks {
		if c.First != int64(i) {
			t.Fatalf("line %d comes in place of %d", c.First, i)
		}
		all = append(all, string(c.Data))
	}
	return all
}

// A transaction whose connection breaks, before or after the server has made it
// durable, is made once.
func TestCommitInDoubt(t *testing.T) {
	where, w := through(t, database(t))
	s := opened(t, where)
	if err := s.add(t.Context(), "run"); err != nil {
		t.Fatal(err)
	}
	about := []Key{OnRun("run")}
	for i, c := range []struct {
		name string
		cut  int32
		at   func(fn func(*Tx) error) error
	}{
		{"not sent, together", unsent, func(fn func(*Tx) error) error { return s.Write(t.Context(), about, fn) }},
		{"not heard, together", unheard, func(fn func(*Tx) error) error { return s.Write(t.Context(), about, fn) }},
		{"not sent, alone", unsent, func(fn func(*Tx) error) error { return s.Alone(t.Context(), about, fn) }},
		{"not heard, alone", unheard, func(fn func(*Tx) error) error { return s.Alone(t.Context(), about, fn) }},
	} {
		runs, told := 0, 0
		err := c.at(func(tx *Tx) error {
			if runs++; runs == 1 {
				tx.After(func() { told++ })
			} else {
				tx.After(func() { told += 10 })
			}
			err := line(tx, "run", c.name)
			if runs == 1 {
				w.cut.Store(c.cut) // the commit meets it
			}
			return err
		})
		want, tell := 2, 10
		if c.cut == unheard {
			want, tell = 1, 1
		}
		if err != nil || runs != want || told != tell {
			t.Errorf("%s: ran %d times, told %d: %v", c.name, runs, told, err)
		}
		if got := s.lines(t, "run"); len(got) != i+1 || got[i] != c.name {
			t.Errorf("%s: %q", c.name, got)
		}
	}
	// In the middle.
	runs := 0
	if err := s.Write(t.Context(), about, func(tx *Tx) error {
		err := line(tx, "run", "middle")
		if runs++; runs == 1 {
			w.cut.Store(unheard)
		}
		if _, e := tx.Run("run"); e != nil {
			return e
		}
		return err
	}); err != nil || runs != 2 {
		t.Errorf("ran %d times: %v", runs, err)
	}
	// Who reads something again, who has read before is told.
	reads := 0
	if err := s.Read(t.Context(), func(tx *Tx) error {
		if reads++; reads == 1 {
			w.cut.Store(unsent)
		}
		_, err := tx.Run("run")
		return err
	}); err != nil || reads != 2 {
		t.Errorf("read %d times: %v", reads, err)
	}
	if err := s.Read(t.Context(), func(tx *Tx) error {
		_, err := tx.Run("run")
		w.cut.Store(unsent)
		_, e := tx.Run("run")
		return errors.Join(err, e)
	}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("reading: %v", err)
	}
	if got := s.lines(t, "run"); len(got) != 5 {
		t.Errorf("%q", got)
	}
}

// Whatever connections are ended, all that two controllers write is there once,
// and nobody is told otherwise.
func TestConnectionsEnded(t *testing.T) {
	where := database(t)
	stores := []*Store{opened(t, where), opened(t, where)}
	runs := []string{"a", "b", "c"}
	for _, run := range runs {
		if err := stores[0].add(t.Context(), run); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var enders sync.WaitGroup
	ended := 0
	enders.Go(func() {
		for ctx.Err() == nil {
			n := 0
			err := postgrestest.Query(t.Context(), where, `SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 2) x`, &n)
			if err != nil {
				t.Error(err)
			}
			ended += n
			time.Sleep(15 * time.Millisecond)
		}
	})
	const writers, each = 8, 60
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			for i := range each {
				text := fmt.Sprintf("%d %d", n, i)
				one, other := runs[(n+i)%3], runs[(n+i+1)%3]
				err := stores[n%2].Write(t.Context(), []Key{OnRun(one), OnRun(other)}, func(tx *Tx) error {
					return errors.Join(line(tx, one, text), line(tx, other, text))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	cancel()
	enders.Wait()
	seen := map[string]int{}
	for _, run := range runs {
		for _, text := range stores[0].lines(t, run) {
			seen[text]++
		}
	}
	if len(seen) != writers*each {
		t.Errorf("%d of %d are there", len(seen), writers*each)
	}
	for text, n := range seen {
		if n != 2 {
			t.Errorf("%s is there %d times", text, n)
		}
	}
	if ended < 10 {
		t.Errorf("only %d connections were ended", ended)
	}
}

// Transactions with a key in common come one after the other, whichever
// controller makes them, and so do looks at what several are about.
func TestKeys(t *testing.T) {
	where := database(t)
	stores := []*Store{opened(t, where), opened(t, where)}
	add := func(tx *Tx) error {
		value, err := tx.Setting("n")
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		n, _ := strconv.Atoi(string(value)) // none: 0
		return tx.Set("n", []byte(strconv.Itoa(n+1)))
	}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			s, err := stores[i%2], error(nil)
			switch i % 4 {
			case 0, 1:
				err = s.Write(t.Context(), []Key{"n", Key(fmt.Sprint(i % 7))}, add)
			default:
				err = s.Alone(t.Context(), []Key{"queue"}, func(tx *Tx) error { return errors.Join(tx.Lock("n", Key(fmt.Sprint(i%7))), add(tx)) })
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var value []byte
	if err := stores[0].Read(t.Context(), func(tx *Tx) (err error) { value, err = tx.Setting("n"); return err }); err != nil || string(value) != "200" {
		t.Errorf("%s %v", value, err)
	}
	// Those who forget their keys, and wait for each other, get through too.
	for _, name := range []string{"x", "y"} {
		if err := stores[0].Write(t.Context(), nil, func(tx *Tx) error { return tx.Set(name, []byte("-")) }); err != nil {
			t.Fatal(err)
		}
	}
	var met sync.WaitGroup
	met.Add(2)
	for i, names := range [][]string{{"x", "y"}, {"y", "x"}} {
		wg.Go(func() {
			first := true
			if err := stores[i].Write(t.Context(), nil, func(tx *Tx) error {
				err := tx.Set(names[0], []byte(names[1]))
				if first {
					first = false
					met.Done()
					met.Wait()
				}
				return errors.Join(err, tx.Set(names[1], []byte(names[1])))
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// One at a time leads, and what it leads ends with it.
	leads, leave := make(chan struct{}), make(chan struct{})
	wg.Go(func() {
		led, err := stores[0].Lead(t.Context(), "x", func(context.Context) error { close(leads); <-leave; return nil })
		if !led || err != nil {
			t.Error(led, err)
		}
	})
	<-leads
	if led, err := stores[1].Lead(t.Context(), "x", func(context.Context) error { return nil }); led || err != nil {
		t.Error("two lead", err)
	}
	close(leave)
	wg.Wait()
	if led, err := stores[1].Lead(t.Context(), "x", func(context.Context) error { return nil }); !led || err != nil {
		t.Error("nobody leads", err)
	}
}

func TestPostgresRefuses(t *testing.T) {
	where := database(t)
	admin := func(query string) {
		t.Helper()
		if err := postgrestest.Query(t.Context(), where, query); err != nil {
			t.Fatal(err)
		}
	}
	opened(t, where)
	u, err := url.Parse(where)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(u.Path, "/")
	with := func(change func(*url.URL)) string {
		c := *u
		change(&c)
		return c.String()
	}
	latin := with(func(u *url.URL) { u.Path = "/" + name + "_latin" })
	admin("CREATE DATABASE " + name + "_latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
	t.Cleanup(func() {
		for _, query := range []string{"DROP DATABASE " + name + "_latin", "DROP ROLE " + name} {
			if err := postgrestest.Query(context.Background(), where, query); err != nil {
				t.Error(err)
			}
		}
	})
	admin("CREATE ROLE " + name + " LOGIN PASSWORD 'other-hush'")
	secret, _ := u.User.Password()
	for _, c := range []struct{ what, where, want string }{
		{"no database", with(func(u *url.URL) { u.Path = "/nosuch" }), "there is no such database"},
		{"another encoding", latin, "its encoding is LATIN1"},
		{"no right to make tables", with(func(u *url.URL) {
			u.User = url.UserPassword(name, "other-hush")
			u.Path = "/" + name
			u.RawQuery = "search_path=public"
		}), "may not do that"},
		{"no such user", with(func(u *url.URL) { u.User = url.UserPassword("nobody", "other-hush") }), "refuses the user"},
		{"no TLS", with(func(u *url.URL) { u.RawQuery = "sslmode=require" }), "does not speak TLS"},
	} {
		if c.what == "no right to make tables" {
			admin("DROP SCHEMA public CASCADE")
			admin("CREATE SCHEMA public")
			admin("GRANT USAGE ON SCHEMA public TO PUBLIC")
		}
		_, err := Open(t.Context(), c.where)
		if !errors.Is(err, failure.ErrInput) || failure.Hint(err) == "" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; hint: %s", c.what, err, failure.Hint(err))
		}
		if err != nil && (strings.Contains(err.Error(), "other-hush") || secret != "" && strings.Contains(err.Error(), secret)) {
			t.Errorf("%s: the password is said: %v", c.what, err)
		}
	}
	opened(t, where)
	admin("INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)")
	if _, err := Open(t.Context(), where); !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "9999") || failure.Hint(err) == "" {
		t.Errorf("a later version's: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), otherwise)
	defer cancel()
	if _, err := Open(ctx, with(func(u *url.URL) { u.Host = "127.0.0.1:1" })); err == nil || errors.Is(err, failure.ErrInput) {
		t.Errorf("no server: %v", err)
	}
	// Text that cannot be kept is the fault of who brought it.
	s := opened(t, func() string { admin("DELETE FROM goose_db_version WHERE version_id = 9999"); return where }())
	if err := s.add(t.Context(), "a\x00b"); !errors.Is(err, failure.ErrInput) {
		t.Errorf("NUL: %v", err)
	}
}
