package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pipegen/pipegen/internal/postgrestest"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/failure"
)

// writes is set in processes that [TestTwoProcesses] starts: the database.
const writes = "PIPEGEN_STORE_TEST_WRITES"

func TestMain(m *testing.M) {
	if path := os.Getenv(writes); path != "" {
		if err := writeSome(path, fmt.Sprint(os.Getpid())); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func opened(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newRun(id string) *Run {
	return &Run{ID: id, State: api.Queued, Runner: "local", Submitter: "ci", Labels: map[string]string{"a": "b"}, Created: time.UnixMicro(1), Images: 1, Unended: 1, Log: LogRows}
}

func (s *Store) add(ctx context.Context, id string) error {
	return s.Write(ctx, nil, func(tx *Tx) error { return tx.AddRun(newRun(id), []byte("plan"), nil) })
}

func (s *Store) count(t *testing.T) (n int) {
	t.Helper()
	if err := s.Read(t.Context(), func(tx *Tx) error { return tx.row("SELECT count(*) FROM runs", nil, &n) }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c#.db")
	for i := range 3 { // made, and opened again
		s, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.add(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if got := s.count(t); got != i+1 {
			t.Errorf("%d runs, want %d", got, i+1)
		}
		for _, c := range []struct{ pragma, want string }{{"journal_mode", "wal"}, {"synchronous", "2"}} {
			var got string
			if err := s.Write(t.Context(), nil, func(tx *Tx) error { return tx.row("PRAGMA "+c.pragma, nil, &got) }); err != nil || got != c.want {
				t.Errorf("%s is %s, want %s: %v", c.pragma, got, c.want, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("closing again: %v", err)
		}
		if err := s.add(t.Context(), "x"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("writing after the end: %v", err)
		}
		if err := s.Read(t.Context(), func(*Tx) error { return nil }); !errors.Is(err, ErrUnavailable) {
			t.Errorf("reading after the end: %v", err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	// Connections are closed, and what they wrote is in the one file.
	if left, err := filepath.Glob(strings.ReplaceAll(path, "?", "[?]") + "-*"); err != nil || len(left) != 0 {
		t.Errorf("left %q, %v", left, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	later := filepath.Join(dir, "later.db")
	opened(t, later)
	exec := func(path, query string) {
		t.Helper()
		db, err := open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	exec(later, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)")
	if _, err := Open(t.Context(), later); !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "9999") || failure.Hint(err) == "" {
		t.Errorf("a later version's: %v", err)
	}
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("this is no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), text); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("no database: %v", err)
	}
	if _, err := Open(t.Context(), filepath.Join(dir, "none", "x.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// Calls that come while others are made durable share a transaction; the error
// of one does not touch the others, and nothing of it stays.
func TestWritesTogether(t *testing.T) {
	s := opened(t, postgrestest.Database(t))
	wrong := errors.New("wrong")
	var wg sync.WaitGroup
	var mu sync.Mutex
	after := map[string]bool{}
	busy, begin := make(chan struct{}), make(chan struct{})
	wg.Go(func() { // the rest comes meanwhile
		if err := s.Write(t.Context(), nil, func(*Tx) error { close(busy); <-begin; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-busy
	cancelled, cancel := context.WithCancel(t.Context())
	const n = 200
	for i := range n {
		wg.Go(func() {
			ctx := t.Context()
			if i%5 == 2 {
				ctx = cancelled
			}
			id := fmt.Sprint(i)
			err := s.Write(ctx, nil, func(tx *Tx) error {
				if err := tx.AddRun(newRun(id), []byte("plan"), nil); err != nil {
					return err
				}
				tx.After(func() { mu.Lock(); after[id] = true; mu.Unlock() })
				if i%5 == 0 {
					return wrong
				}
				return nil
			})
			switch {
			case i%5 == 0 && !errors.Is(err, wrong), i%5 == 2 && !errors.Is(err, context.Canceled), i%5 != 0 && i%5 != 2 && err != nil:
				t.Errorf("%d: %v", i, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if after[id] != (err == nil) {
				t.Errorf("%d: told %t, %v", i, after[id], err)
			}
		})
	}
	for len(s.writers[0].queue) < n { // those with a context that ends are there too
		time.Sleep(time.Millisecond)
	}
	cancel()
	close(begin)
	wg.Wait()
	// One alone, whose whole transaction is undone.
	if err := s.Write(t.Context(), nil, func(tx *Tx) error { return errors.Join(tx.AddRun(newRun("alone"), []byte("plan"), nil), wrong) }); !errors.Is(err, wrong) {
		t.Error(err)
	}
	if err := s.add(t.Context(), "last"); err != nil {
		t.Error(err)
	}
	if got := s.count(t); got != n*3/5+1 {
		t.Errorf("%d runs, want %d", got, n*3/5+1)
	}
}

// What another process locks is waited for, but not for longer than who asks.
func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := opened(t, path)
	other, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	conn, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	locked := func(query string) {
		t.Helper()
		if _, err := conn.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	locked("BEGIN IMMEDIATE")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.add(ctx, "1"); !errors.Is(err, ErrUnavailable) || failure.Hint(err) == "" {
		t.Errorf("locked: %v", err)
	}
	if got := s.count(t); got != 0 { // reading goes on
		t.Errorf("%d runs", got)
	}
	done := make(chan error)
	go func() { done <- s.add(t.Context(), "2") }()
	time.Sleep(busy + 200*time.Millisecond) // longer than SQLite itself waits
	locked("COMMIT")
	if err := <-done; err != nil {
		t.Errorf("after the lock: %v", err)
	}
	if got := s.count(t); got != 1 {
		t.Errorf("%d runs, want 1", got)
	}
}

// A full disk undoes all of a transaction, says so, and is no harm afterwards.
func TestFull(t *testing.T) {
	s := opened(t, filepath.Join(t.TempDir(), "x.db"))
	pages := func(limit string) {
		t.Helper()
		var n int
		if err := s.Write(t.Context(), nil, func(tx *Tx) error { return tx.row("PRAGMA max_page_count = "+limit, nil, &n) }); err != nil {
			t.Fatal(err)
		}
		s.writers[0].s.forget("PRAGMA max_page_count = " + limit)
	}
	if err := s.add(t.Context(), "0"); err != nil {
		t.Fatal(err)
	}
	pages("1") // as small as it is
	big := make([]byte, 1<<20)
	// Alone, and together with others.
	for _, calls := range []int{1, 5} {
		var wg sync.WaitGroup
		busy, begin := make(chan struct{}), make(chan struct{})
		wg.Go(func() { _ = s.Write(t.Context(), nil, func(*Tx) error { close(busy); <-begin; return nil }) })
		<-busy
		for i := range calls {
			wg.Go(func() {
				err := s.Write(t.Context(), nil, func(tx *Tx) error {
					tx.After(func() { t.Error("told of what is not there") })
					return tx.AddRun(newRun(fmt.Sprint("full", i)), big, nil)
				})
				if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "full") || failure.Hint(err) == "" {
					t.Errorf("full: %v", err)
				}
			})
		}
		for len(s.writers[0].queue) < calls {
			time.Sleep(time.Millisecond)
		}
		close(begin)
		wg.Wait()
	}
	if got := s.count(t); got != 1 {
		t.Errorf("%d runs, want 1", got)
	}
	pages("1000000")
	if err := s.Write(t.Context(), nil, func(tx *Tx) error { return tx.AddRun(newRun("1"), big, nil) }); err != nil {
		t.Errorf("when there is room again: %v", err)
	}
}

// forget closes a statement, so that it is not run from an earlier preparation.
func (s *session) forget(query string) {
	_ = s.stmts[query].Close()
	delete(s.stmts, query)
}

const runsOfProcess = 150

// writeSome adds runs and takes numbers of lines, as several controllers on one
// database do.
func writeSome(path, name string) error {
	ctx := context.Background()
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	for i := range runsOfProcess {
		if err := s.Write(ctx, []Key{OnRun("shared")}, func(tx *Tx) error {
			if err := tx.AddRun(newRun(fmt.Sprintf("%s-%d", name, i)), []byte("plan"), nil); err != nil {
				return err
			}
			r, err := tx.Run("shared")
			if err != nil {
				return err
			}
			return errors.Join(tx.AddChunk(&Chunk{Run: "shared", First: r.Lines, Count: 3, Data: []byte(name)}), tx.SetLines("shared", r.Lines+3))
		}); err != nil {
			return err
		}
	}
	return s.Close()
}

// Processes that share a database, and make its schema at once, lose nothing.
func TestTwoProcesses(t *testing.T) {
	path := postgrestest.Database(t)
	s := opened(t, path)
	if err := s.add(t.Context(), "shared"); err != nil {
		t.Fatal(err)
	}
	const processes = 3
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), writes+"="+path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	if got := s.count(t); got != processes*runsOfProcess+1 {
		t.Errorf("%d runs, want %d", got, processes*runsOfProcess+1)
	}
	var chunks []Chunk
	if err := s.Read(t.Context(), func(tx *Tx) (err error) { chunks, err = tx.Chunks("shared", 0, 1<<30); return err }); err != nil {
		t.Fatal(err)
	}
	next := int64(0)
	for _, c := range chunks {
		if c.First != next {
			t.Fatalf("line %d comes after line %d", c.First, next-1)
		}
		next += int64(c.Count)
	}
	if next != processes*runsOfProcess*3 {
		t.Errorf("%d lines", next)
	}
}

func TestSchemaMadeAtOnce(t *testing.T) {
	path := postgrestest.Database(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			s, err := Open(t.Context(), path)
			if err != nil {
				t.Error(err)
				return
			}
			if err := errors.Join(s.add(t.Context(), fmt.Sprint(i)), s.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := opened(t, path).count(t); got != 4 {
		t.Errorf("%d runs", got)
	}
}

// The queue gives tasks by priority, then age, of those alone that could start.
func TestQueue(t *testing.T) {
	s := opened(t, postgrestest.Database(t))
	now := time.UnixMicro(1_000_000_000)
	add := func(id, submitter, runner string, priority int, change ...func(*Task)) {
		t.Helper()
		task := Task{ID: id, Run: id, Attempt: 1, Submitter: submitter, Runner: runner, Build: "b", Priority: priority, Ready: true}
		task.Move(api.Queued, now, "")
		for _, c := range change {
			c(&task)
		}
		if err := s.Write(t.Context(), nil, func(tx *Tx) error { return tx.AddTask(&task) }); err != nil {
			t.Fatal(err)
		}
	}
	add("3", "ann", "local", 0)
	add("2", "ann", "local", 0)
	add("5", "ann", "local", 7)
	add("1", "bob", "local", -1)
	add("0", "cid", "local", 0, func(t *Task) { t.Ready = false })
	add("4", "dan", "local", 0, func(t *Task) { t.NotBefore = now.Add(time.Minute) })
	add("6", "dan", "local", 0, func(t *Task) { t.NotBefore = now.Add(time.Hour) }) // the clock was put back
	add("7", "eve", "ecs", 0)
	add("8", "ann", "local", 0, func(t *Task) { t.State = api.Running })
	add("9", "bob", "", 0, func(t *Task) { t.State = api.Publishing })
	err := s.Write(t.Context(), nil, func(tx *Tx) error {
		if err := errors.Join(tx.SetQuota("bob", 3), tx.SetQuota("zoe", 4)); err != nil {
			return err
		}
		shares, submitters, err := tx.Look([]string{"local", "ecs", "", "no"})
		if err != nil {
			return err
		}
		for _, some := range submitters {
			slices.SortFunc(some, func(a, b Submitter) int { return strings.Compare(a.Name, b.Name) })
		}
		if want := [][]Submitter{{{"ann", 0}, {"bob", 3}, {"dan", 0}}, {{"eve", 0}}, nil, nil}; !slices.EqualFunc(submitters, want, slices.Equal) {
			t.Errorf("submitters %v", submitters)
		}
		wants := map[string]string{"ann": "5 2 3", "bob": "1", "dan": "6", "cid": "", "eve": ""}
		var heads []Head
		for submitter := range wants {
			heads = append(heads, Head{"local", submitter, 10})
		}
		all, err := tx.Heads(append(heads, Head{"local", "ann", 2}), now, 5*time.Minute)
		if err != nil {
			return err
		}
		wants[""] = "5 2"
		for i, h := range append(heads, Head{}) {
			var got []string
			for _, task := range all[i] {
				got = append(got, task.ID)
			}
			if want := wants[h.Submitter]; strings.Join(got, " ") != want {
				t.Errorf("%s: %q, want %q", h.Submitter, got, want)
			}
		}
		if all[len(heads)][0].Priority != 7 {
			t.Errorf("%+v", all[len(heads)])
		}
		for want, runners := range map[bool][]string{true: {"x", "ecs"}, false: {"x", ""}} {
			if waits, err := tx.Waits(runners); err != nil || waits != want {
				t.Errorf("%q: %t, %v", runners, waits, err)
			}
		}
		if !slices.Equal(shares, []Share{{"", "bob", "", 1}, {"local", "ann", "", 1}}) {
			t.Errorf("%+v", shares)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What is asked often, or while others wait, finds its rows by an index and
// sorts nothing.
func TestPlans(t *testing.T) {
	s := opened(t, filepath.Join(t.TempDir(), "x.db"))
	if err := s.Write(t.Context(), nil, func(tx *Tx) error {
		for name, ask := range map[string]func() error{
			"look": func() error { _, _, err := tx.Look([]string{"local"}); return err },
			"heads": func() error {
				_, err := tx.Heads([]Head{{"local", "ann", 1}}, time.Now(), time.Minute)
				return err
			},
			"waits":        func() error { _, err := tx.Waits([]string{"local", ""}); return err },
			"work":         func() error { _, err := tx.Work("x"); return err },
			"works":        func() error { _, err := tx.Works([]string{"x"}); return err },
			"owned":        func() error { _, err := tx.Owned("one"); return err },
			"chunks":       func() error { _, err := tx.Chunks("r", 5, 1); return err },
			"logs to move": func() error { _, err := tx.LogsAt(LogRows, 16); return err },
			"list":         func() error { _, err := tx.Runs(Filter{Limit: 50}); return err },
			"list queued": func() error {
				_, err := tx.Runs(Filter{Limit: 50, States: []api.State{api.Queued}, After: "x"})
				return err
			},
			"list of one":    func() error { _, err := tx.Runs(Filter{Limit: 50, Submitter: "ann"}); return err },
			"list by image":  func() error { _, err := tx.Runs(Filter{Limit: 50, Image: "app"}); return err },
			"list by labels": func() error { _, err := tx.Runs(Filter{Limit: 50, Labels: map[string]string{"a": "b"}}); return err },
			"run":            func() error { _, err := tx.Run("x"); return err },
			"tasks":          func() error { _, err := tx.Tasks("x"); return err },
		} {
			clear(tx.stmts)
			if err := ask(); err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			for query := range tx.stmts {
				if err := explained(tx, query, func(step string) {
					// The names are those that it has found itself.
					if strings.HasPrefix(step, "SCAN") && step != "SCAN names" && !strings.Contains(step, "USING") || strings.Contains(step, "TEMP B-TREE FOR ORDER") {
						t.Errorf("%s: %s: %s", name, step, query)
					}
				}); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// explained gives the steps of SQLite's plan for a query.
func explained(tx *Tx, query string, step func(string)) error {
	args := make([]any, strings.Count(query, "?"))
	rows, err := tx.conn.QueryContext(context.Background(), "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			return err
		}
		step(detail)
	}
	return rows.Err()
}
