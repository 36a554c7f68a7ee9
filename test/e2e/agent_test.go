//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/runner"
	"github.com/pipegen/pipegen/test/monorepo"
)

const (
	agentToken       = "t0ken-of-the-task"
	registryPassword = "registry-passw0rd"
	buildSecret      = "s3cret-of-the-build"
)

// oneTask is a controller with one task, as its interface has it, for agents
// that run on this machine.
type oneTask struct {
	t          *testing.T
	server     *httptest.Server
	agents     *runner.Agents
	data       string
	assignment api.Assignment
	archive    string

	mu     sync.Mutex
	away   bool
	lines  []api.TaskLine
	result *api.TaskResult
}

// newAgentTask makes a task of a build of one project of a site whose registry wants
// a password.
func newAgentTask(t *testing.T, files map[string]string) *oneTask {
	t.Helper()
	open := monorepo.NewRegistry()
	guarded := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "builder" || password != registryPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="images"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		open.ServeHTTP(w, r)
	}))
	t.Cleanup(guarded.Close)
	host := strings.TrimPrefix(guarded.URL, "http://")
	s := newSite(t, &hub{host: host})
	ref, err := name.ParseReference(s.registry+":busybox", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, busybox(t), remote.WithAuth(&authn.Basic{Username: "builder", Password: registryPassword})); err != nil {
		t.Fatal(err)
	}
	s.project(t, "app", files)
	s.commit(t)
	p := s.plan(t, "app")
	if err := os.Remove(filepath.Join(s.dir, "plan.json")); err != nil {
		t.Fatal(err)
	}
	slice, err := p.Slice("app@amd64")
	if err != nil {
		t.Fatal(err)
	}
	file, packed, err := buildcontext.PackFile(t.Context(), s.dir, s.place, buildcontext.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := &oneTask{t: t, archive: file, data: filepath.Join(s.place, "data")}
	c.server = httptest.NewServer(c)
	t.Cleanup(c.server.Close)
	c.assignment = api.Assignment{
		Task: "run-0-1", Run: "run", Build: "app@amd64", Attempt: 1, Plan: slice, HeartbeatSeconds: 1, LogBytes: 1 << 30,
		Context:     &api.ContextSource{SignedURL: api.SignedURL{URL: "/v1/tasks/run-0-1/context"}, Digest: packed.Digest, Size: packed.Size},
		Credentials: []api.Credential{{Registry: host, Username: "builder", Password: registryPassword}},
		Secrets:     map[string]string{"NPM_TOKEN": buildSecret}, Deadline: time.Now().Add(10 * time.Minute),
	}
	c.agents, err = runner.NewAgents(runner.AgentsOptions{DataDir: c.data, Self: binary(t), Environ: append(monorepo.Env(os.Environ(), s.env...), "CONTROLLERS_KEY=keep-this")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.agents.Stop(context.Background(), "run-0-1"); err != nil {
			t.Error(err)
		}
		s.nothingLeft(t)
	})
	return c
}

func (c *oneTask) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		panic(http.ErrAbortHandler)
	}
	if r.Header.Get("Authorization") != "Bearer "+agentToken {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var answer any
	switch strings.TrimPrefix(r.URL.Path, "/v1/tasks/run-0-1/") {
	case "claim":
		answer = c.assignment
	case "context":
		http.ServeFile(w, r, c.archive)
		return
	case "logs":
		var l api.TaskLog
		_ = json.NewDecoder(r.Body).Decode(&l)
		if seen := int64(len(c.lines)) - l.From; seen >= 0 && seen < int64(len(l.Lines)) {
			c.lines = append(c.lines, l.Lines[seen:]...)
		}
		answer = api.LogAck{Next: int64(len(c.lines))}
	case "heartbeat":
		answer = api.HeartbeatAck{}
	case "result":
		c.result = &api.TaskResult{}
		_ = json.NewDecoder(r.Body).Decode(c.result)
	default:
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// start has an agent do the task.
func (c *oneTask) start() {
	c.t.Helper()
	err := c.agents.Start(c.t.Context(), runner.Launch{Task: "run-0-1", Run: "run", Build: "app@amd64", Platform: "linux/amd64", URL: c.server.URL, Token: agentToken})
	if err != nil {
		c.t.Fatal(err)
	}
}

// log is what came of the log.
func (c *oneTask) log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, l := range c.lines {
		b.WriteString(l.Message + "\n")
	}
	return b.String()
}

// until waits for words in the log.
func (c *oneTask) until(words string) {
	c.t.Helper()
	for giveUp := time.After(2 * time.Minute); !strings.Contains(c.log(), words); {
		select {
		case <-giveUp:
			c.t.Fatalf("the log never says %q:\n%s", words, c.log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ended waits until the agent has.
func (c *oneTask) ended() runner.AgentStatus {
	c.t.Helper()
	for giveUp := time.After(2 * time.Minute); ; {
		s, err := c.agents.Find(c.t.Context(), "run-0-1")
		if err != nil {
			c.t.Fatal(err)
		}
		if s.State == runner.AgentExited {
			return s
		}
		select {
		case <-giveUp:
			c.t.Fatalf("the agent does not end:\n%s", c.log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *oneTask) family() []int {
	c.t.Helper()
	return familyOf(c.t, c.data, "run-0-1")
}

// familyOf gives the processes of a task's agent: who stands above it, itself,
// and what it started.
func familyOf(t *testing.T, data, task string) (pids []int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, "agents", task, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	var above struct{ PID int }
	if err := json.Unmarshal(text, &above); err != nil {
		t.Fatal(err)
	}
	pids = []int{above.PID}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for grown := true; grown; {
		grown = false
		for _, file := range stats {
			stat, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
			parent, _ := strconv.Atoi(fields[1])
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if slices.Contains(pids, parent) && !slices.Contains(pids, pid) {
				pids, grown = append(pids, pid), true
			}
		}
	}
	return pids
}

var taskProject = map[string]string{
	"build-config.yaml": "secrets: [{id: npm, env: NPM_TOKEN}]\npre_script: |\n  test \"$NPM_TOKEN\" = " + buildSecret + "\n  echo \"token $NPM_TOKEN\"; echo made >made; chmod 600 made\n  test -z \"$CONTROLLERS_KEY\"\n",
	"Dockerfile":        "FROM @REGISTRY@:busybox\nCOPY made data /app/\nRUN echo step begins && sleep @SECONDS@ && cat /app/made\n",
	"data":              "of the context\n",
}

func project(seconds int) map[string]string {
	files := map[string]string{}
	for name, text := range taskProject {
		files[name] = strings.ReplaceAll(text, "@SECONDS@", strconv.Itoa(seconds))
	}
	return files
}

// An agent builds with Kaniko from an archive, in a root of its own, and pushes
// with the task's password, while the controller is away for a while; nothing that is
// secret shows.
func TestAgentBuilds(t *testing.T) {
	c := newAgentTask(t, project(3))
	c.start()
	c.until("step begins")
	c.mu.Lock()
	c.away = true
	c.mu.Unlock()
	for _, pid := range c.family() {
		for _, name := range []string{"environ", "cmdline"} {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
			for _, secret := range []string{agentToken, registryPassword, buildSecret, "keep-this", c.server.URL} {
				if strings.Contains(string(text), secret) {
					t.Errorf("process %d shows %q in %s", pid, secret, name)
				}
			}
		}
	}
	time.Sleep(4 * time.Second) // the build has ended meanwhile
	c.mu.Lock()
	c.away = false
	c.mu.Unlock()
	if s := c.ended(); s.ExitCode == nil || *s.ExitCode != 0 {
		t.Errorf("the agent: %+v", s)
	}
	log := c.log()
	t.Log(log)
	r := c.result
	if r == nil || r.Result == nil {
		t.Fatalf("the result: %+v", r)
	}
	if r.LogLines != int64(len(c.lines)) || r.Usage == nil || r.Usage.CPUSeconds <= 0 || r.Usage.PeakMemory < 10<<20 {
		t.Errorf("%d lines, %d came; usage %+v", r.LogLines, len(c.lines), r.Usage)
	}
	for _, want := range []string{"pipegen ", "downloading the context", "token ***", "running pre_script", "built app@amd64: "} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if strings.Contains(log, buildSecret) || strings.Contains(log, registryPassword) || strings.Contains(log, agentToken) {
		t.Error("the log shows a secret")
	}
	got := filesOf(t, r.Result)
	if string(got["app/data"]) != "of the context\n" || string(got["app/made"]) != "made\n" {
		t.Errorf("the image has %q and %q", got["app/data"], got["app/made"])
	}
}

// However an agent is ended in mid-build, its engine is gone within ten seconds
// with all that it started, and the launcher knows.
func TestAgentEnds(t *testing.T) {
	for how, end := range map[string]func(t *testing.T, c *oneTask, above, agent int){
		"stop": func(t *testing.T, c *oneTask, _, _ int) {
			if err := c.agents.Stop(t.Context(), "run-0-1"); err != nil {
				t.Error(err)
			}
			if c.result == nil || !c.result.Infrastructure || c.result.Error != "the agent was told to stop" {
				t.Errorf("told: %+v", c.result)
			}
		},
		"agent killed": func(t *testing.T, c *oneTask, _, agent int) {
			if err := syscall.Kill(agent, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			if s := c.ended(); s.Reason != "the agent was killed" || !s.Infrastructure {
				t.Errorf("%+v", s)
			}
		},
		"both killed": func(t *testing.T, c *oneTask, above, agent int) {
			for _, pid := range []int{above, agent} {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			}
			if err := c.agents.Stop(t.Context(), "run-0-1"); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(how, func(t *testing.T) {
			c := newAgentTask(t, project(120))
			c.start()
			c.until("step begins")
			pids := c.family()
			if len(pids) < 4 {
				t.Errorf("only the processes %v", pids)
			}
			start := time.Now()
			end(t, c, pids[0], pids[1])
			eventually(t, "all are gone", func() bool {
				return !slices.ContainsFunc(pids, func(pid int) bool {
					stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
					return err == nil && !strings.Contains(string(stat), ") Z ")
				})
			})
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// In a container of the builder image an agent builds in place, and steps of
// the Dockerfile find none of what it knows in other processes.
func TestAgentInPlace(t *testing.T) {
	files := project(1)
	files["Dockerfile"] = "FROM @REGISTRY@:busybox\nCOPY made data /app/\nRUN cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline > /app/stolen || true\n"
	c := newAgentTask(t, files)
	g := &gitlab{}
	g.enter(t, builderImage(t))
	dir := scratch(t)
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(agentToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(g.bin, "pipegen"), "agent")
	cmd.Dir = dir
	cmd.Env = monorepo.Env([]string{"PATH=" + os.Getenv("PATH")}, "PIPEGEN_AGENT_URL="+c.server.URL, "PIPEGEN_AGENT_TASK=run-0-1", "PIPEGEN_AGENT_TOKEN_FILE="+token)
	if _, ok := run(t, cmd); !ok {
		t.Error("the agent failed")
	}
	t.Log(c.log())
	if _, err := os.Stat(token); !os.IsNotExist(err) {
		t.Errorf("the token is still there: %v", err)
	}
	if c.result == nil || c.result.Result == nil || c.result.LogLines != int64(len(c.lines)) || c.result.Usage == nil || c.result.Usage.PeakMemory < 10<<20 {
		t.Fatalf("the result: %+v", c.result)
	}
	content := filesOf(t, c.result.Result)
	if string(content["app/data"]) != "of the context\n" || len(content["app/stolen"]) == 0 {
		t.Errorf("the image has %q and %q", content["app/data"], content["app/stolen"])
	}
	secrets := []string{agentToken, registryPassword, buildSecret}
	for name, text := range content {
		lacksAll(t, name, text, secrets)
	}
	lacksAll(t, "the log", []byte(c.log()), secrets)
}

// filesOf gives the files of what was built.
func filesOf(t *testing.T, r *plan.Result) map[string][]byte {
	t.Helper()
	ref, err := name.ParseReference(r.Ref[:strings.LastIndexByte(r.Ref, ':')]+"@"+r.Digest, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(ref, remote.WithAuth(&authn.Basic{Username: "builder", Password: registryPassword}))
	if err != nil {
		t.Fatal(err)
	}
	return files(t, image)
}
