package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pipegen/pipegen/internal/postgrestest"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
)

const (
	// controlCommand makes this program a controller: controlCommand NAME DIR.
	controlCommand = "control"
	// databaseVariable names its database, placesVariable says how many tasks it
	// has at once.
	databaseVariable, placesVariable = "PIPEGEN_BENCH_DATABASE", "PIPEGEN_BENCH_PLACES"

	sharedRuns = 400
)

// postgres measures how much more two controllers do than one that share a
// PostgreSQL. Their agents are calls in the same process, so that it is the
// controllers that are measured.
func postgres(ctx context.Context, b bench) (err error) {
	// Its user must be able to reach its directory.
	dir, err := os.MkdirTemp("", "pipegen-bench-postgres-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	server, err := postgrestest.Start(ctx, filepath.Join(dir, "postgres"), rand.Text())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Down(context.WithoutCancel(ctx), "fast")) }()
	far, err := distant(ctx, server.Port)
	if err != nil {
		return err
	}
	fmt.Printf("\nControllers on PostgreSQL, %s tasks that do nothing. In a network a server's answer takes some time, which a proxy adds.\n"+
		"All share the cores of this machine: with many tasks at once these are the limit, with few the turns of each task.\n\n", thousands(sharedRuns))
	for _, place := range []struct {
		name   string
		port   int
		places int // of each controller
		goal   bool
	}{{"beside them", server.Port, 32, false}, {"a millisecond away", far, 8, false}, {"a millisecond away", far, 32, true}} {
		asked, err := answer(ctx, server, place.port)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("database %s, %d tasks at once", place.name, place.places)
		fmt.Printf("%-*s%10.2f  ms for an answer\n", nameWidth, name, milliseconds(asked))
		var took [2][]time.Duration
		for round := range 3 {
			for i := range took {
				d, err := shareWork(ctx, b, server, place.port, fmt.Sprintf("bench_%d_%d_%d_%d", place.port, place.places, round, i+1), place.places, i+1)
				if err != nil {
					return err
				}
				took[i] = append(took[i], d)
			}
		}
		for i := range took {
			fmt.Printf("%-*s%10.0f  tasks a second\n", nameWidth, fmt.Sprintf("  %d at work", i+1), sharedRuns/percentile(took[i], 50).Seconds())
		}
		ratio := percentile(took[1], 50).Seconds() / percentile(took[0], 50).Seconds()
		if place.goal {
			new(table).goal("  time of two", "× that of one", 1/1.6, column{{ratio, true}})
			continue
		}
		fmt.Printf("%-*s%10.2f  × that of one\n", nameWidth, "  time of two", ratio)
	}
	return nil
}

// distance is how long an answer of a distant server is on its way.
const distance = time.Millisecond

// distant gives a port by which another one is at a distance: what it says comes
// that much later.
func distant(ctx context.Context, port int) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				_ = near.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(far, near)
				_ = far.Close()
			}()
			go carryLate(near, far)
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// carryLate passes on what a connection says, each piece at a distance from when
// it was said.
func carryLate(to, from net.Conn) {
	type piece struct {
		text []byte
		due  time.Time
	}
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			pieces <- piece{bytes.Clone(buf[:n]), time.Now().Add(distance)}
		}
	}()
	defer func() { _ = to.Close() }()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.text); err != nil {
			_ = from.Close()
			for range pieces { // so that its reader ends
			}
			return
		}
	}
}

// at gives the URL of a database of a server that is reached by a port.
func at(where string, port int) (string, error) {
	u, err := url.Parse(where)
	if err != nil {
		return "", err
	}
	u.Host = fmt.Sprintf("127.0.0.1:%d", port)
	return u.String(), nil
}

// answer says how long a server takes to answer by a port.
func answer(ctx context.Context, server *postgrestest.Server, port int) (median time.Duration, err error) {
	where, err := at(server.URL("postgres"), port)
	if err != nil {
		return 0, err
	}
	conn, err := pgx.Connect(ctx, where)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	times := make([]time.Duration, 101)
	for i := range times {
		began := time.Now()
		if err := conn.Ping(ctx); err != nil {
			return 0, err
		}
		times[i] = time.Since(began)
	}
	return percentile(times, 50), nil
}

// shareWork has n controllers do all the work, which reach the server by a port,
// and says how long it took.
func shareWork(ctx context.Context, b bench, server *postgrestest.Server, port int, name string, places, n int) (took time.Duration, err error) {
	where, err := postgrestest.Create(ctx, server.URL("postgres"), name)
	if err != nil {
		return 0, err
	}
	reached, err := at(where, port)
	if err != nil {
		return 0, err
	}
	dir := filepath.Join(b.work, name)
	o, err := controlOptions(ctx, where, dir, "submits", places)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, o.Store.Close()) }()
	asks, err := controller.New(o)
	if err != nil {
		return 0, err
	}
	if err := submitShared(ctx, asks); err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	var end []func() error
	defer func() {
		for _, one := range end {
			err = errors.Join(err, one())
		}
	}()
	var begin []func() error
	for i := range n {
		c := exec.CommandContext(ctx, self, controlCommand, strconv.Itoa(i), dir)
		c.Env = append(os.Environ(), databaseVariable+"="+reached, placesVariable+"="+strconv.Itoa(places))
		c.Stderr = os.Stderr
		in, err := c.StdinPipe()
		if err != nil {
			return 0, err
		}
		out, err := c.StdoutPipe()
		if err != nil {
			return 0, err
		}
		if err := c.Start(); err != nil {
			return 0, err
		}
		end = append(end, func() error { return errors.Join(in.Close(), c.Wait()) })
		if _, err := out.Read(make([]byte, 1)); err != nil {
			return 0, fmt.Errorf("a controller that is to begin: %w", err)
		}
		begin = append(begin, func() error { _, err := in.Write([]byte{'\n'}); return err })
	}
	began := time.Now()
	for _, one := range begin {
		if err := one(); err != nil {
			return 0, err
		}
	}
	for ; ; time.Sleep(50 * time.Millisecond) {
		list, err := asks.List(ctx, controller.Filter{States: []api.State{api.Queued, api.Running}, Limit: 1})
		if err != nil {
			return 0, err
		}
		if len(list.Runs) == 0 {
			break
		}
	}
	took = time.Since(began)
	list, err := asks.List(ctx, controller.Filter{States: []api.State{api.Failed, api.Cancelled}, Limit: 1})
	if err == nil && len(list.Runs) > 0 {
		err = fmt.Errorf("run %s: %s", list.Runs[0].ID, list.Runs[0].Reason)
	}
	return took, err
}

// submitShared submits the runs.
func submitShared(ctx context.Context, c *controller.Controller) error {
	var wg sync.WaitGroup
	faults := make([]error, submitters)
	for i := range submitters {
		wg.Go(func() {
			for n := i; n < sharedRuns && faults[i] == nil; n += submitters {
				r := (&serverProcess{}).request(fmt.Sprint("app", n%100), 1, "true")
				r.Plan.Images[0].Source = &plan.Source{Repo: "https://git.test/x", Ref: "v1", Commit: "0123456789012345678901234567890123456789"}
				r.Plan.Images[0].Index = false
				_, _, faults[i] = c.Submit(ctx, controller.Submission{Request: r, Submitter: fmt.Sprint("team", n%5)})
			}
		})
	}
	wg.Wait()
	return errors.Join(faults...)
}

func controlOptions(ctx context.Context, where, dir, name string, places int) (o controller.Options, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return o, err
	}
	keys, err := controller.KeyFile(filepath.Join(dir, "key"))
	if err != nil {
		return o, err
	}
	st, err := store.Open(ctx, where)
	if err != nil {
		return o, err
	}
	return controller.Options{
		Store: st, Blobs: blob.Dir(filepath.Join(dir, "blobs")), Keys: keys, Instance: name, URL: "http://127.0.0.1",
		Launchers: map[string]runner.Launcher{"local": &instant{}}, Local: []string{"local"},
		Limits: controller.Limits{Runner: map[string]int{"local": places}},
		Publish: func(context.Context, *plan.Plan, *plan.Image, []plan.Result, []api.Credential, func(level, msg string)) (plan.Published, error) {
			return plan.Published{}, errors.New("nothing is published")
		},
	}, nil
}

// control is a controller from when it is told to begin until its input ends.
func control(ctx context.Context, name, dir string) (err error) {
	where := os.Getenv(databaseVariable)
	if u, err := url.Parse(where); err != nil || u.Scheme != "postgres" {
		return errors.New("there is no database")
	}
	places, err := strconv.Atoi(os.Getenv(placesVariable))
	if err != nil {
		return fmt.Errorf("the number of tasks at once: %w", err)
	}
	o, err := controlOptions(ctx, where, dir, name, places)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Store.Close()) }()
	c, err := controller.New(o)
	if err != nil {
		return err
	}
	o.Launchers["local"].(*instant).c = c
	fmt.Println("ready")
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return c.Run(ctx)
}

// instant is a launcher whose agents do nothing, in no time: they claim, say
// some lines, and report.
type instant struct {
	c *controller.Controller
}

// Start implements runner.Launcher.
func (l *instant) Start(_ context.Context, r runner.Launch) error {
	go func() {
		if err := l.work(r); err != nil {
			fmt.Fprintf(os.Stderr, "task %s: %v\n", r.Task, err)
		}
	}()
	return nil
}

func (l *instant) work(r runner.Launch) error {
	ctx := context.Background()
	if _, err := l.c.Claim(ctx, r.Task, api.Claim{Agent: r.Task}); err != nil {
		return err
	}
	if err := speak(ctx, l.c, r.Task); err != nil {
		return err
	}
	return succeed(ctx, l.c, r.Task, r.Build)
}

// Watch implements runner.Launcher.
func (l *instant) Watch(ctx context.Context, _ func(runner.AgentStatus)) error {
	<-ctx.Done()
	return ctx.Err()
}

// Find implements runner.Launcher.
func (l *instant) Find(context.Context, string) (runner.AgentStatus, error) {
	return runner.AgentStatus{}, runner.ErrNoAgent
}

// Stop implements runner.Launcher.
func (l *instant) Stop(context.Context, string) error { return nil }
