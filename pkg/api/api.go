// Package api holds what the controller's HTTP interface says: the documents
// of /v1, which the controller writes and clients and agents read, and the
// other way round. openapi.yaml describes the same for everybody else.
package api

import (
	"time"

	"github.com/pipegen/pipegen/pkg/plan"
)

// State is how far a run, an image of it or a task has come.
type State string

// The states of tasks. Runs and images have Queued, Running, Succeeded, Failed
// and Cancelled of them.
const (
	Queued     State = "queued"     // waits for what it needs, or for a place
	Starting   State = "starting"   // the runner was asked for an agent
	Running    State = "running"    // its agent has it
	Publishing State = "publishing" // the controller joins and tags the image
	Succeeded  State = "succeeded"
	Failed     State = "failed"    // the build's or the registry's own verdict
	Cancelled  State = "cancelled" // asked for, or what it needs did not succeed
	Lost       State = "lost"      // the machinery failed: agent, node, runner, time to start
)

// Ended says whether nothing changes after this state.
func (s State) Ended() bool {
	return s == Succeeded || s == Failed || s == Cancelled || s == Lost
}

// RunRequest asks for a run: POST /v1/runs, with an Idempotency-Key header, by
// which the same request sent twice gives one run.
type RunRequest struct {
	// What is to be done.
	Plan *plan.Plan `json:"plan"`
	// Digest of the archive with the context of builds that have no upstream:
	// sha256:HEX. Empty if no build needs one.
	Context string `json:"context,omitempty"`
	// local, kubernetes or ecs; empty: the controller's first.
	Runner string `json:"runner,omitempty"`
	// Higher goes first among the submitter's own and others' runs; 0 is usual.
	Priority int `json:"priority,omitempty"`
	// Credentials of registries, used for this run alone.
	Credentials []Credential `json:"credentials,omitempty"`
	// Values of the environment variables that the plan takes secrets from, by
	// name; what is not here the controller's own configuration must have.
	Secrets map[string]string `json:"secrets,omitempty"`
	// Free words about the run, shown and filtered by.
	Labels map[string]string `json:"labels,omitempty"`
	// Limit of the whole run as Go writes a duration; empty: the controller's.
	Timeout string `json:"timeout,omitempty"`
	// Whether images are built one after another, in the order of the plan.
	Serial bool `json:"serial,omitempty"`
	// What was published of images of the plan already: others need them, and
	// they are not built.
	Published []plan.Published `json:"published,omitempty"`
}

// Credential opens a registry.
type Credential struct {
	// Host, with a port if it has one.
	Registry string `json:"registry"`
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// Run is one execution of a plan.
type Run struct {
	ID    string `json:"id"`
	State State  `json:"state"`
	// Why it is in this state, where there is something to say.
	Reason string `json:"reason,omitempty"`
	Runner string `json:"runner"`
	// Name of the token that asked for it.
	Submitter string            `json:"submitter"`
	Priority  int               `json:"priority,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Context   string            `json:"context,omitempty"`
	// Commit of its plan.
	Head string `json:"head,omitempty"`
	// The run whose failed images this one does again.
	RetryOf  string     `json:"retry_of,omitempty"`
	Created  time.Time  `json:"created"`
	Started  *time.Time `json:"started,omitempty"`
	Finished *time.Time `json:"finished,omitempty"`
	// In the order of the plan. Lists of runs have them without tasks.
	Images []RunImage `json:"images"`
}

// RunImage is one image of a run.
type RunImage struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Reason string `json:"reason,omitempty"`
	// What was published, once it was.
	Published *plan.Published `json:"published,omitempty"`
	// Latest attempts of its builds in the order of the plan, earlier ones before them, publication last.
	Tasks []Task `json:"tasks,omitempty"`
}

// Task is one attempt at a build, or at publishing an image.
type Task struct {
	// RUN-NUMBER-ATTEMPT; letters, digits and dashes.
	ID string `json:"id"`
	// Id of the build; empty: this publishes the image.
	Build    string `json:"build,omitempty"`
	Platform string `json:"platform,omitempty"`
	Attempt  int    `json:"attempt"`
	State    State  `json:"state"`
	Reason   string `json:"reason,omitempty"`
	// Of what kind a failure is, where callers do something about it:
	// ImmutableTag, or empty.
	Failure string `json:"failure,omitempty"`
	// What was built.
	Digest string `json:"digest,omitempty"`
	Usage  *Usage `json:"usage,omitempty"`
	// All states it has had, in order.
	History []Transition `json:"history,omitempty"`
}

// ImmutableTag is the failure of a publication whose tag may not be moved and
// holds another image.
const ImmutableTag = "immutable-tag"

// Transition is one change of a task's state.
type Transition struct {
	State  State     `json:"state"`
	Time   time.Time `json:"time"`
	Reason string    `json:"reason,omitempty"`
}

// Usage is what a build took.
type Usage struct {
	// Seconds of processor time, user and system.
	CPUSeconds float64 `json:"cpu_seconds"`
	// Bytes of memory at the peak.
	PeakMemory int64 `json:"peak_memory"`
}

// CancelRequest asks a run to end: POST /v1/runs/ID/cancel.
type CancelRequest struct {
	// Why, in the asker's words; may be empty.
	Reason string `json:"reason,omitempty"`
}

// RunList is a page of runs, newest first: GET /v1/runs with the parameters
// state, submitter, image, label (NAME=VALUE), limit (at most 200) and after.
type RunList struct {
	Runs []Run `json:"runs"`
	// Value of after for the next page; empty: this was the last.
	Next string `json:"next,omitempty"`
}

// LogLine is a line of a run's log: GET /v1/runs/ID/logs with the parameters
// from (a Seq; default 0), follow (1: until the run has ended) and build, as
// application/x-ndjson or text/event-stream (whose ids are the Seqs).
type LogLine struct {
	// Position in the run's log, from 0, without gaps.
	Seq  int64     `json:"seq"`
	Time time.Time `json:"ts"`
	// Id of the build; empty: what the controller says of the run, or of Image.
	Build string `json:"build,omitempty"`
	// Name of the image, on lines about its publication.
	Image string `json:"image,omitempty"`
	// New state of the build's task, or of the image's publication, on lines in
	// which the controller tells of it.
	State State `json:"state,omitempty"`
	// info, warning or error.
	Level   string `json:"level"`
	Message string `json:"message"`
	// Whether the next line of the same build goes on with this one, which was too long.
	More bool `json:"more,omitempty"`
	// State of the ended run; only on the last object of a complete log, which
	// is no line: its Seq is the number of lines.
	End State `json:"end,omitempty"`
}

// ContextRequest announces a context: POST /v1/contexts.
type ContextRequest struct {
	// sha256:HEX of the archive.
	Digest string `json:"digest"`
	// Its bytes.
	Size int64 `json:"size"`
}

// ContextUpload says how to bring a context that was announced.
type ContextUpload struct {
	// Whether it is there already; then there is nothing to do.
	Exists bool `json:"exists"`
	// Name of the upload for completing it: POST /v1/contexts/DIGEST/complete.
	Upload string `json:"upload,omitempty"`
	// Bytes of each part but the last.
	PartSize int64 `json:"part_size,omitempty"`
	// Where to PUT the parts, in order.
	Parts []SignedURL `json:"parts,omitempty"`
	// ETags of the parts that an upload which was cut off has left there, at their
	// places among Parts; empty: to be sent. None: all are to be sent.
	Have []string `json:"have,omitempty"`
}

// SignedURL is where something may be fetched from or put to for a while.
type SignedURL struct {
	// Absolute, or a path of the controller, which wants the caller's token.
	URL string `json:"url"`
	// Headers to send.
	Header  map[string]string `json:"header,omitempty"`
	Expires time.Time         `json:"expires,omitzero"`
}

// ContextComplete ends an upload: POST /v1/contexts/DIGEST/complete. The
// controller checks that the bytes have the digest.
type ContextComplete struct {
	Upload string `json:"upload"`
	// ETag header of each part's answer, in order.
	ETags []string `json:"etags"`
}

// Identity shows who an agent is that was started without a token, as on ECS:
// POST /v1/tasks/ID/token. It needs no authentication of its own.
type Identity struct {
	// What the launcher of the task asks for: on ECS headers of a request to STS,
	// signed with the role of the agent.
	Proof map[string]string `json:"proof"`
}

// TaskToken is what an agent gets for it.
type TaskToken struct {
	// Good for this task until it ends; a secret.
	Token string `json:"token"`
}

// Claim is what an agent starts with: POST /v1/tasks/ID/claim. A task is
// claimed once; the same Agent may ask again.
type Claim struct {
	// Random name of this agent's process.
	Agent   string `json:"agent"`
	Version string `json:"version"`
}

// Assignment is all that an agent needs to do its task.
type Assignment struct {
	Task    string `json:"task"`
	Run     string `json:"run"`
	Build   string `json:"build"`
	Attempt int    `json:"attempt"`
	// The plan, with the build's image and those it needs alone.
	Plan *plan.Plan `json:"plan"`
	// Where the context's archive is; nil if the build needs none.
	Context *ContextSource `json:"context,omitempty"`
	// What the image needs, published.
	Published   []plan.Published  `json:"published,omitempty"`
	Credentials []Credential      `json:"credentials,omitempty"`
	Secrets     map[string]string `json:"secrets,omitempty"`
	// Whether the agent is to read what AWS keeps of the build's secrets, by its own
	// role, as far as Secrets does not have it.
	ReadStored bool `json:"read_stored,omitempty"`
	// When the build must have ended.
	Deadline time.Time `json:"deadline"`
	// How often to send a heartbeat, in seconds.
	HeartbeatSeconds int `json:"heartbeat_seconds"`
	// Number of the first log line that the controller does not have.
	LogFrom int64 `json:"log_from"`
	// Most bytes of log; what comes after is counted and left out.
	LogBytes int64 `json:"log_bytes"`
	// Trace that the run belongs to (W3C Trace Context), for the agent's own requests.
	Trace string `json:"traceparent,omitempty"`
}

// ContextSource is where an agent finds its context.
type ContextSource struct {
	SignedURL
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// TaskLog is a piece of a task's log: POST /v1/tasks/ID/logs. Lines that the
// controller has already are taken as read; a gap is an error (409).
type TaskLog struct {
	// Number of the first line in the task's log.
	From  int64      `json:"from"`
	Lines []TaskLine `json:"lines"`
}

// TaskLine is one line of a task's log.
type TaskLine struct {
	Time    time.Time `json:"ts"`
	Level   string    `json:"level,omitempty"` // default: info
	Message string    `json:"message"`
	More    bool      `json:"more,omitempty"`
}

// LogAck answers a TaskLog once it is durable.
type LogAck struct {
	// Number of the next line that the controller wants.
	Next int64 `json:"next"`
}

// Heartbeat says that an agent lives: POST /v1/tasks/ID/heartbeat.
type Heartbeat struct {
	Usage *Usage `json:"usage,omitempty"`
}

// HeartbeatAck answers a heartbeat.
type HeartbeatAck struct {
	// The task was cancelled, or timed out: stop, and report.
	Cancel bool   `json:"cancel"`
	Reason string `json:"reason,omitempty"`
}

// ToldToStop is the error of an agent that somebody else than its controller has
// told to stop, and not said why.
const ToldToStop = "the agent was told to stop"

// TaskResult ends a task: POST /v1/tasks/ID/result, after its whole log.
type TaskResult struct {
	// What was built; nil if it failed.
	Result *plan.Result `json:"result,omitempty"`
	// Why it failed.
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	// Whether that was not the build's doing, so that another attempt may help.
	Infrastructure bool `json:"infrastructure,omitempty"`
	// Whether it stopped because it was told to.
	Cancelled bool   `json:"cancelled,omitempty"`
	Usage     *Usage `json:"usage,omitempty"`
	// Lines of the log in all, so that the controller knows it has them.
	LogLines int64 `json:"log_lines"`
}

// Problem is the body of every answer with status 400 and above, as
// application/problem+json (RFC 9457).
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Hint   string `json:"hint,omitempty"`
	// Id of the request, for the operator's logs.
	Request string `json:"request,omitempty"`
}
