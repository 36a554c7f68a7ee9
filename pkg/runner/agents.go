package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/engine"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// AgentsOptions say how agents run on this machine.
type AgentsOptions struct {
	// Directory of the controller's data; what is known of agents is below
	// its agents directory, which nobody else can enter.
	DataDir string
	// The pipegen binary, which must call [Main] first. Default: this process's
	// own.
	Self string
	// Arguments of an agent; the path of its launch file is added. Default:
	// agent --launch-file.
	Args []string
	// Environment to take what agents are given from. Default: os.Environ().
	Environ []string
	// Whether agents may send their token over plain HTTP to other machines.
	Insecure bool
	// How often the state of agents is looked at; 0: four times a second.
	Interval time.Duration

	// How long an agent that is told to stop may take before it is killed.
	grace time.Duration
}

// Agents runs agents as processes of this machine and this user. It implements
// [Launcher].
//
// Each is in a session of its own, so that it outlives the controller; a
// controller that is a service needs KillMode=process for that, and one that is
// the first process of a container cannot have it. Above each stands a process
// that ends what the agent leaves behind however it ended, and writes down how.
// The token is handed over in a file that the agent removes.
//
// Agents see no variable of the controller's environment but those that tell how to
// find programs, the network and whom to trust. The resources that a build asks
// for are not enforced here: limit the controller's own control group, or how
// many builds run at once.
type Agents struct {
	o    AgentsOptions
	dir  string
	wake chan struct{}

	mu   sync.Mutex
	busy map[string]*holding // by task
}

// holding is a task whose agent is being started or stopped.
type holding struct {
	sync.Mutex
	users int // who hold it or wait for it
}

// The files of an agent in its directory.
const (
	launchName = "launch" // what it is started with; gone once it has read that
	pidName    = "pid"    // who it is: started
	exitName   = "exit"   // how it ended: exited
	outputName = "output" // what it said that is no build's log
	workName   = "work"   // its own directory
)

// started is the process that stands above an agent, and the session that it leads.
type started struct {
	engine.Process
	// Of the kernel, new with each start of the machine.
	Boot string `json:"boot"`
}

// exited says how an agent ended.
type exited struct {
	// -1 if a signal ended it.
	Code   int    `json:"code"`
	Signal string `json:"signal,omitempty"`
	// Why it could not be started; then the rest says nothing.
	Failed string `json:"failed,omitempty"`
}

// LaunchFile is what an agent on this machine is started with, as JSON in a
// file of mode 0600.
type LaunchFile struct {
	Task     string `json:"task"`
	URL      string `json:"url"`
	Token    string `json:"token"`
	Insecure bool   `json:"insecure,omitempty"`
	// Directory that it may use.
	Work string `json:"work,omitempty"`
}

// TakeLaunchFile reads a launch file and removes it.
func TakeLaunchFile(path string) (LaunchFile, error) {
	var l LaunchFile
	text, err := os.ReadFile(path) //nolint:gosec // whoever starts an agent says where its file is
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return l, failure.Input("%s: not what an agent is started with", path) // the token stays unsaid
	}
	return l, os.Remove(path) //nolint:gosec // the same
}

// taskName is a DNS label: it becomes the name of a directory here, and of
// other things elsewhere.
var taskName = lazyregexp.New(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// dirOf gives the directory of a task's agent.
func (a *Agents) dirOf(task string) (string, error) {
	if !taskName.MatchString(task) {
		return "", failure.Input("%q is no id of a task", task)
	}
	return filepath.Join(a.dir, task), nil
}

// hold keeps others from starting and stopping the same task's agent.
func (a *Agents) hold(task string) (release func()) {
	a.mu.Lock()
	h := a.busy[task]
	if h == nil {
		h = &holding{}
		a.busy[task] = h
	}
	h.users++
	a.mu.Unlock()
	h.Lock()
	return func() {
		h.Unlock()
		a.mu.Lock()
		defer a.mu.Unlock()
		if h.users--; h.users == 0 {
			delete(a.busy, task)
		}
	}
}

// status says how the agent in a directory is; ErrNoAgent if there is none.
func status(dir string, boot string) (AgentStatus, error) {
	s := AgentStatus{Task: filepath.Base(dir), State: AgentRunning}
	var p started
	err := readJSON(filepath.Join(dir, pidName), &p)
	if errors.Is(err, fs.ErrNotExist) {
		return AgentStatus{}, ErrNoAgent
	}
	if err != nil {
		return s, fmt.Errorf("reading who the agent of %s is: %w", s.Task, err)
	}
	alive := p.Boot == boot && p.LeadsSession() // before the exit is read, which is written before the end
	var e exited
	switch err := readJSON(filepath.Join(dir, exitName), &e); {
	case err == nil && !alive:
		return ended(s, e, dir), nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return s, fmt.Errorf("reading how the agent of %s ended: %w", s.Task, err)
	case alive:
		return s, nil
	}
	s.State, s.Infrastructure, s.Reason = AgentExited, true, "the agent was killed"
	if p.Boot != boot {
		s.Reason = "the machine was started anew"
	}
	return s, nil
}

// ended says how an agent ended by itself.
func ended(s AgentStatus, e exited, dir string) AgentStatus {
	s.State = AgentExited
	switch {
	case e.Failed != "":
		s.Reason, s.Infrastructure = "the agent could not be started: "+e.Failed, true
		return s
	case e.Signal == "killed":
		s.Reason, s.Infrastructure = "the agent was killed", true
		s.Hint = "if nobody did it: most likely for want of memory; run fewer builds at once, or give the machine more"
	case e.Signal != "":
		s.Reason, s.Infrastructure = "the agent ended by signal: "+e.Signal, true
	case e.Code != 0:
		s.Reason, s.Infrastructure = fmt.Sprintf("the agent ended with exit status %d", e.Code), true
		if said := lastLine(filepath.Join(dir, outputName)); said != "" {
			s.Reason += ": " + said
		}
	}
	s.ExitCode = &e.Code
	return s
}

// lastLine gives the last line of a file that says something, safe to show.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 4 << 10
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	text, _ := io.ReadAll(io.LimitReader(f, most))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, line := range slices.Backward(lines) {
		if !strings.HasPrefix(line, "hint: ") {
			return quote.Text(strings.TrimPrefix(line, "pipegen: "))
		}
	}
	return ""
}

func readJSON(path string, v any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

// writeJSON writes a file whole, for this user alone.
func writeJSON(path string, v any) error {
	tmp, err := newJSON(path, v)
	if err != nil {
		return err
	}
	return errors.Join(os.Rename(tmp, path), removed(tmp)) //nolint:gosec // in an agent's directory
}

func newJSON(path string, v any) (tmp string, err error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-") // with mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name())) //nolint:gosec // made here
	}
	return f.Name(), nil
}

func removed(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { //nolint:gosec // in an agent's directory
		return err
	}
	return nil
}
