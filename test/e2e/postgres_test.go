//go:build e2e

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pipegen/pipegen/internal/postgrestest"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/test/toolcache"
)

// newPostgres starts a PostgreSQL until the test ends.
func newPostgres(t *testing.T) *postgrestest.Server {
	t.Helper()
	s, err := postgrestest.Start(t.Context(), filepath.Join(scratch(t), "postgres"), rand.Text())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(s.Dir, "log"))
			t.Logf("PostgreSQL said:\n%s", text[max(0, len(text)-2000):])
		}
		if err := s.Down(context.Background(), "fast"); err != nil {
			t.Error(err)
		}
	})
	return s
}

// newPair starts two controllers that share a database, contexts, logs and a
// key. The URL of the database is in their environment.
func newPair(t *testing.T, where, limits string, args ...string) [2]*daemonized {
	t.Helper()
	common := scratch(t)
	args = append([]string{"--blobs", filepath.Join(common, "blobs"), "--key-file", filepath.Join(common, "key")}, args...)
	var both [2]*daemonized
	for i, name := range []string{"one", "two"} {
		both[i] = newServerWith(t, limits, []string{"PIPEGEN_DATABASE=" + where}, slices.Concat(args, []string{"--instance", name})...)
	}
	return both
}

// The tests of the database and of the controller pass on PostgreSQL too.
func TestPackagesOnPostgres(t *testing.T) {
	root, err := toolcache.Root()
	if err != nil {
		t.Fatal(err)
	}
	db := newPostgres(t)
	cmd := exec.CommandContext(t.Context(), "go", "test", "-tags", "e2e", "-count=1", "./pkg/controller/store", "./pkg/controller", "./pkg/controller/web")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), postgrestest.Variable+"="+db.URL("postgres"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Two controllers that are killed again and again, either of them and at any
// moment, and whose database is restarted, lose no task and no line, and run
// and say nothing twice, wherever it is asked for.
func TestTwoControllersKilled(t *testing.T) {
	const kills, lines = 50, 200
	db := newPostgres(t)
	ca := newAuthority(t)
	cert, certErr := os.ReadFile(ca.cert)
	key, keyErr := os.ReadFile(ca.key)
	if err := errors.Join(certErr, keyErr); err != nil {
		t.Fatal(err)
	}
	if err := db.Configure(t.Context(), map[string][]byte{"server.crt": cert, "server.key": key}, "ssl=on"); err != nil {
		t.Fatal(err)
	}
	where, err := postgrestest.Create(t.Context(), db.URL("postgres"), "pipegen")
	if err != nil {
		t.Fatal(err)
	}
	both := newPair(t, where+"?sslmode=verify-full&sslrootcert="+url.QueryEscape(ca.file), "  tasks: {local: 3}\n  requests_per_second: 10000\n")
	ran := scratch(t)
	var done atomic.Bool
	var wg sync.WaitGroup
	var mu sync.Mutex
	logs := map[string][]api.LogLine{}
	submit := func(n int) {
		name := fmt.Sprintf("app%d", n)
		command := fmt.Sprintf("echo begun >>%s/%s; i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); [ $((i %% 40)) -ne 0 ] || sleep 0.1; done; mkdir release; echo x >release/x", ran, name, lines)
		asked, other := both[n%2], both[(n+n/2)%2]
		run, err := asked.client.CreateRun(t.Context(), asked.request(name, command), name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		log, end, err := other.follow(run.ID)
		if err != nil || end != api.Succeeded {
			t.Errorf("%s: %s, %v; %+v", name, end, err, log[max(0, len(log)-3):])
			return
		}
		mu.Lock()
		logs[run.ID] = log
		mu.Unlock()
	}
	wg.Go(func() {
		for n := 0; !done.Load() && !t.Failed(); n++ {
			wg.Go(func() { submit(n) })
			time.Sleep(200 * time.Millisecond)
		}
	})
	killed := map[string]int{}
	for n := range kills {
		time.Sleep(time.Duration(50+mathrand.IntN(700)) * time.Millisecond)
		switch n {
		case kills / 3:
			restarted(t, db, "fast")
		case 2 * kills / 3:
			restarted(t, db, "immediate")
		}
		i := mathrand.IntN(2)
		both[i].kill()
		time.Sleep(time.Duration(mathrand.IntN(300)) * time.Millisecond)
		both[i].start()
		killed[[]string{"one", "two"}[i]]++
	}
	done.Store(true)
	wg.Wait()
	for _, s := range both {
		s.kill()
		s.start()
		s.ready()
	}
	owners := map[string]int{}
	var succeeded, again, lost, doubled, otherwise int
	for id, log := range logs {
		run, err := both[0].client.Run(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		name, tasks := run.Images[0].Name, run.Images[0].Tasks
		if run.State != api.Succeeded || len(tasks) != 1 || tasks[0].Attempt != 1 {
			t.Errorf("%+v", run)
		} else {
			succeeded++
		}
		begun, err := os.ReadFile(filepath.Join(ran, name))
		if err != nil || string(begun) != "begun\n" {
			again++
			t.Errorf("%s ran: %q, %v", name, begun, err)
		}
		said := map[string]int{}
		for _, line := range linesOf(log) {
			said[line]++
		}
		for i := range lines {
			n := said[fmt.Sprint("line ", i)]
			lost += max(1-n, 0)
			doubled += max(n-1, 0)
		}
		if !slices.IsSortedFunc(linesOf(log), func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) }) || len(said) != lines {
			t.Errorf("%s: its lines are not those that it said", name)
		}
		for _, s := range both {
			second, _, err := s.follow(id)
			if err != nil || !slices.Equal(second, log) {
				otherwise++
				t.Errorf("%s: the log reads otherwise the second time: %d lines, then %d, %v", name, len(log), len(second), err)
			}
		}
		owners[ownerOf(t, db.URL("pipegen"), tasks[0].ID)]++
	}
	if lost+doubled > 0 {
		t.Errorf("%d lines are lost, %d doubled", lost, doubled)
	}
	// Nobody is forgotten that this test did not hear of.
	list, err := both[1].client.Runs(t.Context(), api.RunQuery{Limit: 200, States: []api.State{api.Queued, api.Running, api.Failed, api.Cancelled}})
	if err != nil || len(list.Runs) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	for _, row := range []struct{ what, value string }{
		{"kill -9 of one, of two", fmt.Sprintf("%d, %d", killed["one"], killed["two"])},
		{"restarts of the database: fast, immediate", "1, 1"},
		{"runs, each asked for at one and followed at either", fmt.Sprint(len(logs))},
		{"ended once and succeeded, at the first attempt", fmt.Sprint(succeeded)},
		{"builds that ran at one, at two", fmt.Sprintf("%d, %d", owners["one"], owners["two"])},
		{"builds that ran again", fmt.Sprint(again)},
		{"lines said", fmt.Sprint(lines * len(logs))},
		{"lines lost, doubled", fmt.Sprintf("%d, %d", lost, doubled)},
		{"logs that read otherwise later, at either", fmt.Sprint(otherwise)},
	} {
		t.Logf("%-52s %8s", row.what, row.value)
	}
	for _, s := range both {
		text, err := os.ReadFile(filepath.Join(s.dir, "server.log"))
		if err != nil || bytes.Contains(text, []byte(db.Password)) {
			t.Errorf("the password is in the log, or %v", err)
		}
	}
	if len(owners) != 2 {
		t.Error("one did all the work")
	}
}

func restarted(t *testing.T, db *postgrestest.Server, mode string) {
	t.Helper()
	if err := errors.Join(db.Down(t.Context(), mode), db.Up(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func ownerOf(t *testing.T, where, task string) (owner string) {
	t.Helper()
	if err := postgrestest.Query(t.Context(), where, "SELECT owner FROM tasks WHERE id = '"+task+"'", &owner); err != nil {
		t.Fatal(err)
	}
	return owner
}

// What a controller had that does not come back the other one takes over, once;
// its agent is refused when it comes back after all.
func TestControllerGone(t *testing.T) {
	db := newPostgres(t)
	both := newPair(t, db.URL("postgres"), "  tasks: {local: 2}\n  silence_timeout: 10s\n  requests_per_second: 10000\n")
	for _, s := range both {
		s.ready()
	}
	ran := filepath.Join(scratch(t), "ran")
	// The first attempt goes on until the test says so.
	run, err := both[0].client.CreateRun(t.Context(), both[0].request("app", fmt.Sprintf(
		`n=$(wc -l <%[1]s 2>/dev/null || echo 0); echo begun >>%[1]s; echo line $n; while [ $n = 0 ] && [ ! -e %[1]s.go ]; do sleep 0.1; done; mkdir release; echo x >release/x`, ran)), "")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool { text, _ := os.ReadFile(ran); return len(text) > 0 })
	had := 0
	if ownerOf(t, db.URL("postgres"), run.ID+"-0-1") == "two" {
		had = 1
	}
	gone, other := both[had], both[1-had]
	gone.kill()
	log, end, err := other.follow(run.ID)
	if err != nil || end != api.Succeeded {
		t.Errorf("%s, %v, %+v", end, err, log)
	}
	if said := linesOf(log); !slices.Equal(said, []string{"line 0", "line 1"}) && !slices.Equal(said, []string{"line 1"}) {
		t.Errorf("%q", said)
	}
	ended, err := other.client.Run(t.Context(), run.ID)
	if err != nil {
		t.Fatal(err)
	}
	if tasks := ended.Images[0].Tasks; len(tasks) != 2 || tasks[0].State != api.Lost || tasks[1].State != api.Succeeded {
		t.Errorf("%+v", tasks)
	}
	gone.start()
	gone.ready()
	if err := os.WriteFile(ran+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first agent gives up", func() bool { return len(gone.processes()) == 0 })
	after, err := gone.client.Run(t.Context(), run.ID)
	if err != nil || fmt.Sprint(after.Images[0].Tasks) != fmt.Sprint(ended.Images[0].Tasks) && len(after.Images[0].Tasks) != 2 {
		t.Errorf("%+v, %v", after, err)
	}
	if text, err := os.ReadFile(ran); err != nil || string(text) != "begun\nbegun\n" {
		t.Errorf("%q, %v", text, err)
	}
}

// balancer passes requests on to controllers that say that they are ready, as
// often as it looks.
func balancer(t *testing.T, both [2]*daemonized) string {
	t.Helper()
	var ready [2]atomic.Bool
	var turn atomic.Int64
	for i, s := range both {
		go func() {
			for t.Context().Err() == nil {
				res, err := http.Get("http://" + s.address + "/health/ready")
				ready[i].Store(err == nil && res.Body.Close() == nil && res.StatusCode == http.StatusOK)
				time.Sleep(50 * time.Millisecond)
			}
		}()
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			i := int(turn.Add(1) % 2)
			if !ready[i].Load() {
				i = 1 - i
			}
			r.SetURL(&url.URL{Scheme: "http", Host: both[i].address})
		},
		Transport:     &http.Transport{MaxIdleConnsPerHost: 50},
		FlushInterval: -1,
	}
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	eventually(t, "both are ready", func() bool { return ready[0].Load() && ready[1].Load() })
	return front.URL
}

// Controllers behind a balancer are replaced one after the other, and no request
// fails meanwhile; none is sent again.
func TestRollingRestart(t *testing.T) {
	db := newPostgres(t)
	both := newPair(t, db.URL("postgres"), "  tasks: {local: 1}\n  requests_per_second: 10000\n", "--drain", "1s")
	for _, s := range both {
		s.ready()
		s.token = both[0].token // of the first; the second takes it once it is started again
	}
	front := balancer(t, both)
	replace := func(s *daemonized) {
		t.Helper()
		if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.over:
		case <-time.After(40 * time.Second):
			t.Fatal("the controller does not end")
		}
		if code := s.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		s.start()
		s.ready()
		time.Sleep(300 * time.Millisecond) // the balancer sees it
	}
	replace(both[1])
	var sent, failed atomic.Int64
	var ids sync.Map
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 50}}
	var body bytes.Buffer
	if err := writeJSON(&body, both[0].request("app", "mkdir release; echo x >release/x")); err != nil {
		t.Fatal(err)
	}
	call := func(method, path string, body []byte) []byte {
		req, err := http.NewRequest(method, front+path, bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return nil
		}
		req.GetBody = nil // so that nobody sends it again
		req.Header.Set("Authorization", "Bearer "+both[0].token)
		req.Header.Set("Content-Type", "application/json")
		sent.Add(1)
		res, err := client.Do(req)
		if err != nil {
			failed.Add(1)
			t.Errorf("%s %s: %v", method, path, err)
			return nil
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode >= 300 {
			failed.Add(1)
			t.Errorf("%s %s: %s %s %v", method, path, res.Status, text, err)
		}
		return text
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				call(http.MethodGet, "/v1/runs?limit=10", nil)
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	wg.Go(func() {
		for !stop.Load() {
			text := call(http.MethodPost, "/v1/runs", body.Bytes())
			if run, err := runOf(text); err == nil {
				ids.Store(run.ID, true)
			}
			time.Sleep(150 * time.Millisecond)
		}
	})
	for range 2 {
		replace(both[0])
		replace(both[1])
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d requests, %d failed, during four restarts", sent.Load(), failed.Load())
	all := map[string]bool{}
	ids.Range(func(id, _ any) bool { all[id.(string)] = true; return true })
	for id := range maps.Keys(all) {
		if _, end, err := both[0].follow(id); err != nil || end != api.Succeeded {
			t.Errorf("%s: %s, %v", id, end, err)
		}
	}
}

// What an agent says to one controller is read at the other while it goes on
// saying it, and nothing of it is missing. How long it took is said, not judged.
func TestLinesOfAnotherController(t *testing.T) {
	const lines = 100
	db := newPostgres(t)
	both := newPair(t, db.URL("postgres"), "  requests_per_second: 10000\n")
	for _, s := range both {
		s.ready()
	}
	run, err := both[0].client.CreateRun(t.Context(), both[0].request("app",
		fmt.Sprintf("for i in $(seq %d); do echo line $i $(date +%%s%%N); sleep 0.05; done; mkdir release; echo x >release/x", lines)), "")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var lags [2][]time.Duration
	var first, last [2]time.Time // when the first line came, and when the last was said
	for i, s := range both {
		wg.Go(func() {
			end, err := s.client.Logs(t.Context(), run.ID, api.LogQuery{Follow: true}, func(l api.LogLine) error {
				var n, said int64
				if _, err := fmt.Sscanf(l.Message, "line %d %d", &n, &said); err != nil {
					return nil // not the build's
				}
				if int(n) != len(lags[i])+1 {
					return fmt.Errorf("line %d comes after line %d", n, len(lags[i]))
				}
				lags[i] = append(lags[i], time.Since(time.Unix(0, said)))
				if n == 1 {
					first[i] = time.Now()
				}
				last[i] = time.Unix(0, said)
				return nil
			})
			if err != nil || end != api.Succeeded || len(lags[i]) != lines {
				t.Errorf("%s, %v, %d lines", end, err, len(lags[i]))
			}
			if !first[i].Before(last[i]) {
				t.Error("nothing was read until all was said")
			}
		})
	}
	wg.Wait()
	owner := ownerOf(t, db.URL("postgres"), run.ID+"-0-1")
	for i, name := range []string{"one", "two"} {
		if len(lags[i]) == 0 {
			continue
		}
		slices.Sort(lags[i])
		t.Logf("%-14s from the build's line to its reader: median %4d ms, longest %4d ms", map[bool]string{true: "the agent's", false: "the other"}[name == owner],
			lags[i][len(lags[i])/2].Milliseconds(), lags[i][len(lags[i])-1].Milliseconds())
	}
}

// The password of the database is in no file of a controller, in no arguments,
// and not with the agents and builds that it starts, whatever goes wrong.
func TestDatabasePasswordUnseen(t *testing.T) {
	db := newPostgres(t)
	both := newPair(t, db.URL("postgres"), "  requests_per_second: 10000\n")
	for _, s := range both {
		s.ready()
	}
	out := filepath.Join(scratch(t), "environment")
	run, err := both[0].client.CreateRun(t.Context(), both[0].request("app",
		fmt.Sprintf("env >%[1]s; cat /proc/$PPID/environ >>%[1]s; touch %[1]s.there; while [ ! -e %[1]s.go ]; do sleep 0.1; done; mkdir release; echo x >release/x", out)), "")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool { _, err := os.Stat(out + ".there"); return err == nil })
	if err := db.Down(t.Context(), "immediate"); err != nil {
		t.Fatal(err)
	}
	// It is away until both have said so.
	for _, s := range both {
		eventually(t, "it is missed", func() bool {
			text, _ := os.ReadFile(filepath.Join(s.dir, "server.log"))
			return bytes.Contains(text, []byte("its server is away"))
		})
	}
	seen := 0
	for i, s := range both {
		for _, pid := range s.processes() {
			text, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
			if err != nil {
				continue // it has ended
			}
			seen++
			if bytes.Contains(text, []byte(db.Password)) {
				t.Errorf("%d: it is in the arguments %q", i, text)
			}
			if text, err := os.ReadFile(filepath.Join("/proc", pid, "environ")); err == nil && pid != fmt.Sprint(s.cmd.Process.Pid) && bytes.Contains(text, []byte(db.Password)) {
				t.Errorf("%d: process %s that it started has it", i, pid)
			}
		}
	}
	if seen < 3 {
		t.Errorf("only %d processes were looked at", seen)
	}
	if err := errors.Join(db.Up(t.Context()), os.WriteFile(out+".go", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if log, end, err := both[1].follow(run.ID); err != nil || end != api.Succeeded {
		t.Errorf("%s, %v, %+v", end, err, log)
	}
	looked := 0
	look := func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if looked++; bytes.Contains(text, []byte(db.Password)) {
			t.Errorf("%s has it", path)
		}
		return err
	}
	for _, dir := range []string{both[0].dir, both[1].dir, filepath.Dir(out)} {
		if err := filepath.WalkDir(dir, look); err != nil {
			t.Error(err)
		}
	}
	if looked < 5 {
		t.Errorf("only %d files were looked at", looked)
	}
}

// A controller that cannot share what it must ends with code 2, and says what
// to do, without the password.
func TestPostgresRefused(t *testing.T) {
	db := newPostgres(t)
	both := newPair(t, db.URL("postgres"), "  requests_per_second: 10000\n")
	for _, s := range both {
		s.ready()
	}
	ca := newAuthority(t)
	blobs, key := both[0].args[1], both[0].args[3]
	for _, c := range []struct {
		name, where string
		args        []string
		want        string
	}{
		{"another key", db.URL("postgres"), []string{"--blobs", blobs}, "the key for secrets is not the one"},
		{"other blobs", db.URL("postgres"), []string{"--key-file", key}, "contexts and logs are kept elsewhere"},
		{"no database", db.URL("nosuch"), nil, "there is no such database"},
		{"no URL", "postgres://pipegen:" + db.Password + "%zz@127.0.0.1/x", nil, "it is no URL"},
		{"no TLS", db.URL("postgres") + "?sslmode=verify-full&sslrootcert=" + url.QueryEscape(ca.file), nil, "does not speak TLS"},
	} {
		dir := scratch(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, binary(t), append([]string{"server", "--dev", "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "data"), "--instance", "three"}, c.args...)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "PIPEGEN_DATABASE=" + c.where}
		out, err := cmd.CombinedOutput()
		cancel()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), c.want) || !strings.Contains(string(out), "hint: ") || strings.Contains(string(out), db.Password) {
			t.Errorf("%s: %v\n%s", c.name, err, out)
		}
	}
}

func writeJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

func runOf(text []byte) (run api.Run, err error) {
	err = json.Unmarshal(text, &run)
	return run, err
}
