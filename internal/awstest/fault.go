package awstest

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// Fault is what goes wrong with requests.
type Fault struct {
	// IAM's action (s3:PutObject, iam:PassRole) or the API's operation
	// (s3:UploadPart, ecs:RunTask) of the requests; may have *.
	Action string
	// Name of the role whose requests they are; empty: everybody's.
	Role string
	// Further requests that it is for; nil: all.
	When func(input map[string]any) bool
	// How many of them pass before, and how many then fail; 0: all.
	Skip, Times int
	// The error. Without a code the request passes.
	Code, Message string
	// Of HTTP; 0: 400.
	Status int
	// What is answered with 200 in the place of an error.
	Answer string
	// How long the request waits before.
	Delay time.Duration

	denies bool
}

// Inject has requests fail from now on, until remove is called. Of several
// faults for a request the one that was there first counts.
func (p *Proxy) Inject(f Fault) (remove func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := &f
	p.faults = append(p.faults, own)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.faults = slices.DeleteFunc(p.faults, func(f *Fault) bool { return f == own })
	}
}

// Throttle is the next requests for an action being too many; times 0: all.
func Throttle(action string, times int) Fault {
	f := Fault{Action: action, Times: times, Code: "ThrottlingException", Message: "Rate exceeded"}
	if strings.HasPrefix(action, "s3:") {
		f.Code, f.Message, f.Status = "SlowDown", "Please reduce your request rate.", http.StatusServiceUnavailable
	}
	return f
}

// Deny is an action that nobody is allowed.
func Deny(action string) Fault { return Fault{Action: action, denies: true} }

// Expired is the session of a role having ended.
func Expired(role string) Fault {
	return Fault{Action: "*", Role: role, Code: "ExpiredTokenException", Message: "The security token included in the request is expired"}
}

// NoCapacity is a capacity provider (FARGATE, FARGATE_SPOT; empty: any) that
// has no room for the next tasks; times 0: for none.
func NoCapacity(provider string, times int) Fault {
	return Fault{
		Action: "ecs:RunTask", Times: times,
		When: func(input map[string]any) bool {
			strategy := objects(input["capacityProviderStrategy"])
			return provider == "" || slices.ContainsFunc(strategy, func(item map[string]any) bool { return field(item, "capacityProvider") == provider }) ||
				len(strategy) == 0 && provider == field(input, "launchType")
		},
		Answer: `{"tasks":[],"failures":[{"reason":"Capacity is unavailable at this time. Please try again later or in a different availability zone"}]}`,
	}
}

// fault finds what is to go wrong with a request.
func (p *Proxy) fault(r *request, role string, checks []check) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		match := like(f.Action, r.service+":"+r.operation) || slices.ContainsFunc(checks, func(c check) bool { return like(f.Action, c.action) })
		if !match || f.Role != "" && f.Role != role || f.When != nil && !f.When(r.input) || f.Times < 0 {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				f.Times = -1 // spent
			}
		}
		return f
	}
	return nil
}

// fail answers a request as a fault has it; false: the request is to pass.
func (f *Fault) fail(w http.ResponseWriter, r *request, who identity, checks []check) bool {
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
		}
	}
	switch {
	case f.denies:
		action, resource := r.service+":"+r.operation, "*"
		for _, c := range checks {
			if like(f.Action, c.action) && len(c.resources) > 0 {
				action, resource = c.action, c.resources[0]
			}
		}
		refuse(w, r, r.denied(who, action, resource))
	case f.Answer != "":
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		_, _ = w.Write([]byte(f.Answer))
	case f.Code != "":
		e := refusal{f.Code, f.Message, f.Status}
		if f.Code == "ExpiredTokenException" && (r.service == "s3" || r.form != nil) {
			e.code = "ExpiredToken"
		}
		refuse(w, r, e)
	default:
		return false
	}
	return true
}
