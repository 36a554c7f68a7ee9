package config

import (
	"encoding/hex"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Server is what pipegen.yaml, or a file of its own, says of the controller.
type Server struct {
	// Where clients and agents reach it: https://HOST[:PORT][/PATH].
	URL string `yaml:"url,omitempty"`
	// What tasks and requests may take.
	Limits ServerLimits `yaml:"limits,omitempty"`
	// How long things are kept.
	Retention Retention `yaml:"retention,omitempty"`
	// Who may use it, beside the tokens of pipegen server token.
	Tokens []ServerToken `yaml:"tokens,omitempty"`
	// How agents are started on Kubernetes.
	Kubernetes *ServerKubernetes `yaml:"kubernetes,omitempty"`
	// The same as configs/config.yaml of the original has it.
	K8s *ServerK8s `yaml:"k8s,omitempty"`
	// How agents are started on ECS.
	ECS *ServerECS `yaml:"ecs,omitempty"`
	// Who reads values of secrets that builds name by ARN, and which these may be.
	Secrets *ServerSecrets `yaml:"secrets,omitempty"`
	// Where copies of the logs of builds go; default: nowhere.
	LogCopy *ServerLogCopy `yaml:"log_copy,omitempty"`
	// CI systems whose jobs may use it by the identity tokens that they give them.
	OIDC []ServerIssuer `yaml:"oidc,omitempty"`
	// Has rendered jobs use it by the identity that the CI system gives them, without a token of its own.
	IDToken *ServerIdentity `yaml:"id_token,omitempty"`
}

// ServerLimits are the limits of a controller. Sizes are quantities such as
// 512Mi, durations such as 90s.
type ServerLimits struct {
	// Tasks at once by runner; default for local: as many as there are cores.
	Tasks map[string]int `yaml:"tasks,omitempty"`
	// Tasks at once of one submitter on all runners; default: no limit.
	TasksPerSubmitter int `yaml:"tasks_per_submitter,omitempty"`
	// Images that are published at once; default: 8.
	Publishing int `yaml:"publishing,omitempty"`
	// Attempts at a task that the machinery lost; default: 3.
	Attempts int `yaml:"attempts,omitempty"`
	// From asking for an agent to its first word; default: 10m.
	StartTimeout string `yaml:"start_timeout,omitempty"`
	// Since the last word of an agent; default: 2m.
	SilenceTimeout string `yaml:"silence_timeout,omitempty"`
	// Of runs and builds that name none; default: 24h.
	TotalTimeout string `yaml:"total_timeout,omitempty"`
	// Most bytes of a task's log; default: 1Gi.
	TaskLog string `yaml:"task_log,omitempty"`
	// Most bytes of a context; default: 16Gi.
	Context string `yaml:"context,omitempty"`
	// Most bytes of the request for a run; default: 32Mi.
	Plan string `yaml:"plan,omitempty"`
	// Requests a second of one token, in bursts of ten times as many; default: 200.
	RequestsPerSecond int `yaml:"requests_per_second,omitempty"`
}

// Retention says how long a controller keeps things, as durations such as 720h.
type Retention struct {
	// Contexts since their last use, and credentials of ended runs; default: 168h.
	Contexts string `yaml:"contexts,omitempty"`
	// Logs since the end of the run; default: 720h.
	Logs string `yaml:"logs,omitempty"`
	// Runs since their end; default: 2160h.
	Runs string `yaml:"runs,omitempty"`
}

// ServerToken is a token by its hash.
type ServerToken struct {
	// Who it is: shown as the submitter of runs.
	Name string `yaml:"name"`
	// SHA-256 of the token in hex.
	SHA256 string `yaml:"sha256"`
	// submit, read, admin.
	Roles []string `yaml:"roles"`
	// Patterns of repositories that its runs may write to: host/path, where a part may be a glob and what is below matches too; default: all.
	Registries []string `yaml:"registries,omitempty"`
	// Runners that its runs may use; default: all.
	Runners []string `yaml:"runners,omitempty"`
	// Highest priority that its runs may have; default: 0.
	Priority int `yaml:"priority,omitempty"`
	// When it expires, as 2027-01-31T00:00:00Z or 2027-01-31; default: never.
	Expires string `yaml:"expires,omitempty"`
}

// The runners of a controller, and the roles of its tokens.
var (
	serverRunners = []string{"local", "kubernetes", "ecs"}
	serverRoles   = []string{"submit", "read", "admin"}
)

// server judges what is said of the controller.
func (c checker) server(s *Server) {
	if s == nil {
		return
	}
	c.address(s.URL)
	c.below("kubernetes").kubernetes(s.Kubernetes)
	c.below("k8s").k8s(s.K8s)
	c.below("secrets").serverSecrets(s.Secrets)
	c.below("log_copy").logCopy(s.LogCopy)
	c.below("ecs").ecs(s.ECS)
	l := &s.Limits
	limits := c.below("limits")
	for _, e := range limits.entries("tasks") {
		c.key(e.key, serverRunners)
		limits.positive(l.Tasks[e.key.Value], at("tasks", e.key.Value))
	}
	limits.positive(l.TasksPerSubmitter, at("tasks_per_submitter"))
	limits.positive(l.Publishing, at("publishing"))
	limits.positive(l.Attempts, at("attempts"))
	limits.positive(l.RequestsPerSecond, at("requests_per_second"))
	limits.duration(l.StartTimeout, at("start_timeout"))
	limits.duration(l.SilenceTimeout, at("silence_timeout"))
	limits.duration(l.TotalTimeout, at("total_timeout"))
	limits.size(l.TaskLog, at("task_log"))
	limits.size(l.Context, at("context"))
	limits.size(l.Plan, at("plan"))
	c.duration(s.Retention.Contexts, at("retention", "contexts"))
	c.duration(s.Retention.Logs, at("retention", "logs"))
	c.duration(s.Retention.Runs, at("retention", "runs"))
	seen := map[string]bool{}
	for i, t := range s.Tokens {
		c.below("tokens", i).token(t, seen)
	}
	c.issuers(s)
	c.identity(s)
}

// address judges the URL of a controller.
func (c checker) address(text string) {
	if text == "" {
		return
	}
	if u, err := url.Parse(text); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		c.fault("bad-url", "https://pipegen.example.com", at("url"), "url is no address of a controller")
	}
}

func (c checker) token(t ServerToken, seen map[string]bool) {
	switch {
	case t.Name == "":
		c.fault("missing-key", "", at(), "a token has no name")
	case seen[t.Name]:
		c.fault("duplicate-value", "", at("name"), "there are two tokens named %s", show(t.Name))
	}
	seen[t.Name] = true
	// It may be the token itself, which is not for messages.
	if sum, err := hex.DecodeString(t.SHA256); err != nil || len(sum) != 32 {
		c.fault("bad-token", "64 hex digits, as printf %s TOKEN | sha256sum gives", at("sha256"), "sha256 is no SHA-256 of a token")
	}
	if len(t.Roles) == 0 {
		c.fault("missing-key", "roles: [submit]", at("roles"), "a token has no role")
	}
	for i, role := range t.Roles {
		if !slices.Contains(serverRoles, role) {
			c.fault("unknown-value", oneOf(role, serverRoles), at("roles", i), "there is no role %s", show(role))
		}
	}
	for i, runner := range t.Runners {
		if !slices.Contains(serverRunners, runner) {
			c.fault("unknown-value", oneOf(runner, serverRunners), at("runners", i), "there is no runner %s", show(runner))
		}
	}
	if _, err := t.Expiry(); err != nil {
		c.fault("bad-date", "for example 2027-01-31T00:00:00Z", at("expires"), "expires %s is no time", show(t.Expires))
	}
}

// Expiry gives the time after which the token is not valid; zero: none. A date
// is its first moment in UTC.
func (t ServerToken) Expiry() (time.Time, error) {
	if t.Expires == "" {
		return time.Time{}, nil
	}
	if day, err := time.Parse(time.DateOnly, t.Expires); err == nil {
		return day, nil
	}
	return time.Parse(time.RFC3339, t.Expires)
}

// positive judges a number that is written; one that could not be read was
// reported already.
func (c checker) positive(n int, where []any) {
	value, written := locate(c.doc.tree(), append(slices.Clip(c.prefix), where...))
	if written && n <= 0 && target(value).Value == strconv.Itoa(n) {
		c.fault("bad-number", "", where, "%s %d is not above 0", keyIn(where), n)
	}
}

func (c checker) size(value string, where []any) {
	if value == "" {
		return
	}
	if problem := badSize(value); problem != "" {
		c.fault("bad-quantity", `a number with a unit: "512Mi"`, where, "%s %s %s", keyIn(where), show(value), problem)
	}
}

// Bytes gives the number behind a size; 0 for an empty text. Errors wrap
// failure.ErrInput.
func Bytes(size string) (int64, error) {
	a, err := (&Resources{Memory: size}).Amounts()
	return a.Memory, err
}

// ReadServer reads what a file says of the controller: a pipegen.yaml under
// server, or a file that holds the same keys and nothing else. report adds a
// fault at a key path below them. The error is Faults.
func ReadServer(name string, data []byte, judge func(s *Server, report func(rule, hint string, path []any, message string))) (*Server, error) {
	if faults := unfit(name, int64(len(data)), data); faults != nil {
		return nil, faults
	}
	doc := parse(name, data, true)
	out, c := new(Server), checker{doc: doc}
	if doc.root != nil {
		if _, nested := child(doc.root, "server"); nested != nil {
			var all Pipegen
			decode(doc, doc.root, &all)
			if all.Server != nil {
				out = all.Server
			}
			c = c.below("server")
		} else {
			decode(doc, doc.root, out)
		}
		c.server(out)
		if judge != nil {
			judge(out, func(rule, hint string, path []any, message string) { c.fault(rule, hint, path, "%s", message) })
		}
	}
	errs, _ := doc.faults.split()
	return out, errs.Err()
}
