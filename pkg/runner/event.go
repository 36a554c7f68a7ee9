package runner

import (
	"time"

	"github.com/pipegen/pipegen/pkg/plan"
)

// EventKind says what happened.
type EventKind string

// The kinds of event, with the fields that each sets beside Time and Kind.
const (
	RunStarted      EventKind = "run-started"      // Plan
	BuildQueued     EventKind = "build-queued"     // Image, Build: all is there that it needs
	BuildStarted    EventKind = "build-started"    // Image, Build
	LogLine         EventKind = "log"              // Image, Build, Line
	BuildFinished   EventKind = "build-finished"   // Image, Build, State, Elapsed; Result or Err
	ImagePublishing EventKind = "image-publishing" // Image
	ImagePublished  EventKind = "image-published"  // Image, Published, Elapsed
	ImageFailed     EventKind = "image-failed"     // Image, Err, Elapsed
	ImageSkipped    EventKind = "image-skipped"    // Image, Reason
	RunFinished     EventKind = "run-finished"     // Summary, Elapsed
	Note            EventKind = "note"             // Line, Warning: something about the run as a whole
)

// Event is one thing that happens while a plan runs.
type Event struct {
	Time  time.Time
	Kind  EventKind
	Plan  *plan.Plan
	Image *plan.Image
	Build *plan.Build
	// Line of a build's log without its end, as the builder wrote it.
	Line string
	// Whether a note is one.
	Warning bool
	// State of the build: Succeeded, Failed or Interrupted.
	State     State
	Result    *plan.Result
	Published *plan.Published
	Err       error
	Reason    string
	Elapsed   time.Duration
	Summary   *Summary
}

// Observer is told what happens, one event at a time. The run waits for it.
type Observer interface{ Observe(Event) }
