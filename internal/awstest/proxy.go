// Package awstest stands between pipegen and an emulator of AWS in tests and
// measurements. It refuses what the policies in deploy/terraform do not grant
// the role that signed a request, and what ECS would refuse and the emulator
// does not; it records what was asked, has tasks live as on Fargate, and lets
// things go wrong.
//
//	p := awstest.Start(t, awstest.Options{
//		API:     moto,                    // URL of moto_server
//		S3:      versity.url(),           // if objects are somewhere else
//		Started: func(task awstest.Task) { go launch(task) },
//		Stopping: func(task, reason string) { … },
//	})
//	cmd.Env = append(cmd.Env, p.Env(awstest.Controller)...)
//	p.Report(task.ARN, map[string]any{"lastStatus": "RUNNING"})
//	p.Inject(awstest.Throttle("ecs:RunTask", 3))
//	p.Inject(awstest.Deny("iam:PassRole"))
//	p.Inject(awstest.NoCapacity("FARGATE_SPOT", 1))
//	p.Skew(20 * time.Minute)
//	if n := p.Requests("ecs:RunTask"); n > 2 { … }
//
// Requests are made by who signed them: each role has keys of its own
// ([Proxy.Credentials], [Proxy.Env]), and a role that was assumed through the
// proxy is known by the keys that it got. What the test itself asks the
// emulator for, to set things up, goes past the proxy.
package awstest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options say what a proxy stands before, and who uses it.
type Options struct {
	// URL of the emulator, and of the server of S3 if that is another.
	API, S3 string
	// Directory of the policies; empty: no permission is asked for.
	Policies string
	// What they are rendered with, over [Values].
	Values map[string]string
	// Roles by access key, beside the keys that the proxy gives itself: those
	// that a server of S3 checks.
	Keys map[string]string
	// Names of roles that may do all, such as those of a test's own.
	Unlimited []string
	// What the test has refused on purpose: ROLE ACTION, where both may have *.
	// All else that is refused for want of a permission fails the test.
	Refused []string
	// Is called with each task that RunTask started. Nil: it stays PROVISIONING.
	Started func(Task)
	// Is called when StopTask asks for a task to end, which the test then
	// reports. Nil: it is STOPPED at once.
	Stopping func(task, reason string)
	// Quotas of Fargate by code, in vCPUs; those that are not here are 6.
	Quotas map[string]float64
	// File that distinct calls are appended to; empty: none.
	Record string
}

// CallsVariable names the environment variable with the file that proxies of
// tests record calls in.
const CallsVariable = "PIPEGEN_AWS_CALLS"

// Proxy is an http.Handler before an emulator of AWS.
type Proxy struct {
	// URL that it is served at, if Start did it.
	URL string

	api                *url.URL
	client             *http.Client
	toAPI, toS3        *httputil.ReverseProxy
	policies           map[string][]Policy
	unlimited, refused []string
	quotas             map[string]float64
	started            func(Task)
	stopping           func(task, reason string)
	record             *recorder
	tasks              *tasks

	mu      sync.Mutex
	keys    map[string]identity
	faults  []*Fault
	skew    time.Duration
	rules   map[string]map[string]any // of pulling through, by prefix
	counts  map[string]int
	unknown []string
}

// New gives a proxy. The error is of its options.
func New(o Options) (*Proxy, error) {
	p := &Proxy{
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, unlimited: o.Unlimited, refused: o.Refused, quotas: o.Quotas, started: o.Started, stopping: o.Stopping,
		tasks: newTasks(), keys: map[string]identity{}, counts: map[string]int{}, rules: map[string]map[string]any{}, record: &recorder{path: o.Record, seen: map[string]bool{}},
	}
	var err error
	if p.api, err = url.Parse(o.API); err != nil {
		return nil, err
	}
	p.toAPI, p.toS3 = p.forward(p.api), p.forward(p.api)
	if o.S3 != "" {
		s3, err := url.Parse(o.S3)
		if err != nil {
			return nil, err
		}
		p.toS3 = p.forward(s3)
	}
	if o.Policies != "" {
		if p.policies, err = ReadPolicies(o.Policies, Values(o.Values)); err != nil {
			return nil, err
		}
	}
	if p.policies != nil {
		p.policies[Doctor] = append(p.policies[Doctor], p.policies[Controller]...)
	}
	for _, role := range append([]string{Controller, Agent, Execution, Service, Publisher, Doctor}, o.Unlimited...) {
		p.keys[keyOf(role)] = identity{role, "test", secretOf(role)}
	}
	for key, role := range o.Keys {
		p.keys[key] = identity{role: role, session: "test"}
	}
	return p, nil
}

// Skew has the clock of AWS be ahead of this machine's by d.
func (p *Proxy) Skew(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.skew = d
}

// Requests says how many requests there were for an operation (ecs:RunTask);
// the name may have *. Those that were refused count.
func (p *Proxy) Requests(operation string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for name, count := range p.counts {
		if like(operation, name) {
			n += count
		}
	}
	return n
}

// Calls gives what was asked for so far, each distinct call once.
func (p *Proxy) Calls() []Call { return p.record.all() }

// ServeHTTP answers a request to AWS.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, in *http.Request) {
	if who, ok := strings.CutPrefix(in.URL.Path, credentialsPath); ok {
		role, session, _ := strings.Cut(who, "/")
		_, secret, token := p.Credentials(role)
		key := "ASIA" + rand.Text()[:16]
		p.mu.Lock()
		p.keys[key] = identity{role, session, secret}
		p.mu.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]string{
			"AccessKeyId": key, "SecretAccessKey": secret, "Token": token, "RoleArn": RoleARN(role), "Expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
		})
		return
	}
	r, err := read(in)
	var checks []check
	if err == nil {
		checks, err = p.checks(r)
	}
	if err != nil {
		p.mu.Lock()
		p.unknown = append(p.unknown, err.Error())
		p.mu.Unlock()
		http.Error(w, err.Error(), http.StatusNotImplemented)
		return
	}
	p.mu.Lock()
	p.counts[r.service+":"+r.operation]++
	who, known := p.keys[r.key]
	p.mu.Unlock()
	if no := p.before(r, who, known); no != nil {
		refuse(w, r, *no)
		return
	}
	if f := p.fault(r, who.role, checks); f != nil && f.fail(w, r, who, checks) {
		return
	}
	if no := p.judge(r, who, checks); no != nil {
		refuse(w, r, *no)
		return
	}
	switch {
	case r.service+":"+r.operation == "servicequotas:GetServiceQuota":
		p.quota(w, r)
	case r.isPullThrough():
		p.pullThrough(w, r)
	case r.service == "ssm" && r.operation == "GetParameters":
		if err := r.byName(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		p.toAPI.ServeHTTP(w, r.Request)
	case r.service == "s3":
		p.s3(w, r, who)
	case r.service == "ecs":
		p.ecs(w, r)
	case r.service == "sts":
		p.sts(w, r, who)
	default:
		p.toAPI.ServeHTTP(w, r.Request)
	}
}

// before refuses who is not known, whose signature is not right, and whose
// clock.
func (p *Proxy) before(r *request, who identity, known bool) *refusal {
	switch {
	case known || r.operation == "AssumeRoleWithWebIdentity":
	case r.service == "s3":
		return &refusal{"InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.", http.StatusForbidden}
	case r.form != nil:
		return &refusal{"InvalidClientTokenId", "The security token included in the request is invalid.", http.StatusForbidden}
	default:
		return &refusal{"UnrecognizedClientException", "The security token included in the request is invalid.", http.StatusBadRequest}
	}
	if who.secret != "" && r.service != "s3" {
		if no := r.misSigned(who.secret); no != nil {
			return no
		}
	}
	p.mu.Lock()
	skew := p.skew
	p.mu.Unlock()
	signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if skew == 0 || err != nil {
		return nil
	}
	now := time.Now().Add(skew)
	if off := now.Sub(signed).Abs(); off < 5*time.Minute || r.service == "s3" && off < 15*time.Minute {
		return nil
	}
	if r.service == "s3" {
		return &refusal{"RequestTimeTooSkewed", "The difference between the request time and the current time is too large.", http.StatusForbidden}
	}
	const layout = "20060102T150405Z"
	message := fmt.Sprintf("Signature expired: %s is now earlier than %s (%s - 5 min.)", signed.Format(layout), now.Add(-5*time.Minute).UTC().Format(layout), now.UTC().Format(layout))
	if skew < 0 {
		message = fmt.Sprintf("Signature not yet current: %s is still later than %s (%s + 5 min.)", signed.Format(layout), now.Add(5*time.Minute).UTC().Format(layout), now.UTC().Format(layout))
	}
	return &refusal{"InvalidSignatureException", message, 0}
}

// judge records what a role asks for, and refuses what no policy grants it, and
// then what ECS would.
func (p *Proxy) judge(r *request, who identity, checks []check) *refusal {
	role := who.role
	limited := p.policies != nil && !slices.Contains(p.unlimited, role)
	for _, c := range checks {
		for _, resource := range c.resources {
			by, ok := allowed(p.policies[role], c.action, resource, c.context)
			ok = ok || !limited
			onPurpose := slices.ContainsFunc(p.refused, func(pattern string) bool { return like(pattern, role+" "+c.action) })
			if ok || !onPurpose {
				p.record.add(Call{Role: role, Action: c.action, Resource: resource, Context: c.context, Grants: by, Refused: !ok})
			}
			if !ok {
				no := r.denied(who, c.action, resource)
				return &no
			}
		}
	}
	if r.service == "ecs" {
		return fargate(r)
	}
	return nil
}
