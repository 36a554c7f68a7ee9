//go:build !linux

package runner

import (
	"context"

	"github.com/pipegen/pipegen/pkg/failure"
)

// NewAgents refuses: builds on this machine need Linux.
func NewAgents(AgentsOptions) (*Agents, error) {
	return nil, failure.WithHint(failure.Input("builds run on machines with Linux alone"), "run the controller there, or with another runner")
}

// Start does nothing: there are no Agents here.
func (*Agents) Start(context.Context, Launch) error { return ErrNoAgent }

// Watch does nothing: there are no Agents here.
func (*Agents) Watch(context.Context, func(AgentStatus)) error { return ErrNoAgent }

// Find does nothing: there are no Agents here.
func (*Agents) Find(context.Context, string) (AgentStatus, error) { return AgentStatus{}, ErrNoAgent }

// Stop does nothing: there are no Agents here.
func (*Agents) Stop(context.Context, string) error { return ErrNoAgent }
