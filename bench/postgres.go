package main

import (
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
	// databaseVariable names its database.
	databaseVariable = "PIPEGEN_BENCH_DATABASE"

	sharedRuns   = 400
	sharedPlaces = 32 // of each controller
	sharedLines  = 20 // of each log, in two pieces
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
	fmt.Printf("\nControllers on PostgreSQL, %s tasks that do nothing, %d at once at each controller\n\n", thousands(sharedRuns), sharedPlaces)
	for _, place := range []struct {
		name string
		port int
		goal bool // beside it all share the cores of one machine
	}{{"database beside them", server.Port, false}, {"database a millisecond away", far, true}} {
		var took [2][]time.Duration
		for round := range 3 {
			for i := range took {
				d, err := shareWork(ctx, b, server, place.port, fmt.Sprintf("bench_%d_%d_%d", place.port, round, i+1), i+1)
				if err != nil {
					return err
				}
				took[i] = append(took[i], d)
			}
		}
		for i := range took {
			fmt.Printf("%-*s%10.0f  tasks a second\n", nameWidth, fmt.Sprintf("%s, %d at work", place.name, i+1), sharedRuns/percentile(took[i], 50).Seconds())
		}
		ratio := percentile(took[1], 50).Seconds() / percentile(took[0], 50).Seconds()
		if place.goal {
			new(table).goal(place.name+", time of two", "× that of one", 1/1.6, column{{ratio, true}})
			continue
		}
		fmt.Printf("%-*s%10.2f  × that of one\n", nameWidth, place.name+", time of two", ratio)
	}
	return nil
}

// distant gives a port by which another one is a millisecond away, there and back.
func distant(ctx context.Context, port int) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	carry := func(to, from net.Conn) {
		defer func() { _ = to.Close() }()
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			time.Sleep(500 * time.Microsecond)
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
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
			go carry(far, near)
			go carry(near, far)
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// shareWork has n controllers do all the work, which reach the server by a port,
// and says how long it took.
func shareWork(ctx context.Context, b bench, server *postgrestest.Server, port int, name string, n int) (took time.Duration, err error) {
	where, err := postgrestest.Create(ctx, server.URL("postgres"), name)
	if err != nil {
		return 0, err
	}
	at, err := url.Parse(where)
	if err != nil {
		return 0, err
	}
	at.Host = fmt.Sprintf("127.0.0.1:%d", port)
	dir := filepath.Join(b.work, name)
	o, err := controlOptions(ctx, where, dir, "submits")
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
	began := time.Now()
	for i := range n {
		c := exec.CommandContext(ctx, self, controlCommand, strconv.Itoa(i), dir)
		c.Env = append(os.Environ(), databaseVariable+"="+at.String())
		c.Stderr = os.Stderr
		in, err := c.StdinPipe()
		if err != nil {
			return 0, err
		}
		if err := c.Start(); err != nil {
			return 0, err
		}
		end = append(end, func() error { return errors.Join(in.Close(), c.Wait()) })
	}
	for ; ; time.Sleep(20 * time.Millisecond) {
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

func controlOptions(ctx context.Context, where, dir, name string) (o controller.Options, err error) {
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
		Limits: controller.Limits{Runner: map[string]int{"local": sharedPlaces}},
		Publish: func(context.Context, *plan.Plan, *plan.Image, []plan.Result, []api.Credential, func(level, msg string)) (plan.Published, error) {
			return plan.Published{}, errors.New("nothing is published")
		},
	}, nil
}

// control is a controller until its input ends.
func control(ctx context.Context, name, dir string) (err error) {
	where := os.Getenv(databaseVariable)
	if u, err := url.Parse(where); err != nil || u.Scheme != "postgres" {
		return errors.New("there is no database")
	}
	o, err := controlOptions(ctx, where, dir, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Store.Close()) }()
	c, err := controller.New(o)
	if err != nil {
		return err
	}
	o.Launchers["local"].(*instant).c = c
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
	for from := int64(0); from < sharedLines; from += sharedLines / 2 {
		said := api.TaskLog{From: from}
		for i := range int64(sharedLines / 2) {
			said.Lines = append(said.Lines, api.TaskLine{Time: time.Now(), Level: "info", Message: fmt.Sprint("line ", from+i)})
		}
		if _, err := l.c.AppendLog(ctx, r.Task, said); err != nil {
			return err
		}
	}
	return l.c.Finish(ctx, r.Task, api.TaskResult{Result: &plan.Result{ID: r.Build, Digest: "sha256:" + fmt.Sprintf("%064d", 1)}, LogLines: sharedLines})
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
