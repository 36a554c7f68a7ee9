package runner

import (
	"context"
	"errors"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/plan"
)

// ErrNoAgent says that a task has no agent.
var ErrNoAgent = errors.New("the task has no agent")

// Launcher starts agents for tasks somewhere, watches and stops them. It keeps
// nothing in memory that it could not find again: what one process started,
// another finds, watches and stops. It is safe for concurrent use.
type Launcher interface {
	// Start starts an agent for a task; for one that has an agent already,
	// ended or not, it does nothing.
	Start(ctx context.Context, l Launch) error
	// Watch tells what becomes of agents, those that earlier processes started
	// included, until ctx ends: each change of an agent's state once, the last
	// one again if the launcher cannot know that it was told. report is not
	// called concurrently.
	Watch(ctx context.Context, report func(AgentStatus)) error
	// Find says how the task's agent is; the error is ErrNoAgent if there is none.
	Find(ctx context.Context, task string) (AgentStatus, error)
	// Stop ends the task's agent with all it started and forgets it, and returns
	// when nothing of it runs any more; nil if there is none. An agent that
	// ended by itself is forgotten in the same way.
	Stop(ctx context.Context, task string) error
}

// ErrUnidentified says that a proof is not of the agent that it should be of.
var ErrUnidentified = errors.New("this is not the agent of the task")

// Identifier is a launcher whose agents bring no token: they get one from the
// controller for a proof of who they are.
type Identifier interface {
	// Identify says whether a proof is of the agent that was started for a task.
	// The error wraps ErrUnidentified if it is not; any other says that it could
	// not be found out for now.
	Identify(ctx context.Context, task string, proof map[string]string) error
}

// Judge is a launcher that knows beforehand of builds that it cannot do.
type Judge interface {
	// Judge says why a build of a plan cannot be done; nil: it may be. Errors
	// wrap failure.ErrInput.
	Judge(p *plan.Plan, img *plan.Image, b *plan.Build) error
}

// Launch says what an agent is started for, and with.
type Launch struct {
	// Id of the task, a DNS label, and of its run.
	Task, Run string
	// Id of the build, its platform and its engine.
	Build, Platform, Engine string
	// Which attempt at the build it is, from 1.
	Attempt int
	// Container image to run the agent in; empty, or where the launcher needs
	// none: without meaning.
	Image string
	// Where the controller is, and the token that the task is claimed with: a
	// secret.
	URL, Token string
	// Variables of the build's secrets that its run did not bring.
	Secrets []string
	// What the build needs; nil: as the runner has it.
	Resources *config.Resources
	// When the agent must have ended; zero: never.
	Deadline time.Time
	// What the launcher may note at what it starts.
	Labels map[string]string
}

// AgentState is how far an agent has come.
type AgentState string

// The states of agents.
const (
	AgentPending AgentState = "pending" // asked for; does not run yet
	AgentRunning AgentState = "running"
	AgentExited  AgentState = "exited" // ended, or gone
)

// AgentStatus says how an agent is. What became of its build it tells the
// controller itself; this is for agents that cannot.
type AgentStatus struct {
	Task  string
	State AgentState
	// Of an agent that exited; nil: nobody knows it.
	ExitCode *int
	// Why it is so, in plain words, where there is something to say.
	Reason string
	// What to do about it; one line, or empty.
	Hint string
	// Whether an agent that exited did so through no fault of its build, so
	// that another attempt may help.
	Infrastructure bool
	// Whether an agent that exited never began and another attempt would not
	// either.
	Hopeless bool
}

// Equal says whether both tell the same.
func (s AgentStatus) Equal(other AgentStatus) bool {
	a, b := s.ExitCode, other.ExitCode
	s.ExitCode, other.ExitCode = nil, nil
	return s == other && (a == nil) == (b == nil) && (a == nil || *a == *b)
}
