// Package access says who calls the controller and what they may do there:
// principals with roles and limits, and the tokens that prove who they are.
package access

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// Role is one thing that a principal may do.
type Role string

// The roles.
const (
	Submit Role = "submit" // bring contexts, start runs, see and cancel its own
	Read   Role = "read"   // see everybody's runs, and metrics
	Admin  Role = "admin"  // all of that, and cancel and retry everybody's runs
)

// Roles are all of them, in words for people.
var Roles = []Role{Submit, Read, Admin}

// Principal is somebody who may call the controller.
type Principal struct {
	Name  string
	Roles []Role
	// Registries are patterns of the repositories that its runs may write to
	// and keep layers in: host/path, where each part may be a glob (*), and
	// what is below matches too. Empty: all.
	Registries []string
	// Runners that its runs may use; empty: all.
	Runners []string
	// Priority is the highest that its runs may have; an admin's may have any.
	Priority int
	// Tasks at once of its runs; 0: what the controller allows everybody.
	Tasks int
	// Expires is when it ceases to be known; zero: never.
	Expires time.Time
	// Who it is by an identity token, and who says so; empty: it has another one.
	Issuer, Subject string
	// Token identifies a token that is good for Runs runs alone, without being
	// it; empty: it is good for any number.
	Token string
	Runs  int
}

// Authenticator says whose a bearer token is. Static tokens are one; whoever
// checks signed tokens of a CI system is another. The error is ErrUnknown or
// ErrExpired, or that of a source that could not be asked.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (Principal, error)
}

// The reasons for which a token is refused.
var (
	ErrUnknown   = errors.New("the token is not known")
	ErrExpired   = errors.New("the token has expired")
	ErrForbidden = errors.New("not allowed")
)

// Any asks several authenticators in turn; the first that knows a token wins.
type Any []Authenticator

// Authenticate implements Authenticator. A source that cannot be asked fails
// the whole only if no other knows the token.
func (all Any) Authenticate(ctx context.Context, token string) (Principal, error) {
	verdict := ErrUnknown
	for _, a := range all {
		p, err := a.Authenticate(ctx, token)
		if err == nil {
			return p, nil
		}
		// The one that says most.
		if _, told := errors.AsType[*Refusal](err); told || !errors.Is(err, ErrUnknown) {
			verdict = err
		}
	}
	return Principal{}, verdict
}

// Anonymous is who calls a controller that was started with --dev.
func Anonymous() Principal { return Principal{Name: "anonymous", Roles: []Role{Admin}} }

// Has says whether the principal has a role. An admin has all.
func (p Principal) Has(role Role) bool {
	return slices.Contains(p.Roles, role) || slices.Contains(p.Roles, Admin)
}

// Sees says whether the principal may know of a submitter's runs.
func (p Principal) Sees(submitter string) bool {
	return p.Has(Read) || p.Has(Submit) && p.Name == submitter
}

// Changes says whether the principal may cancel or retry a submitter's runs.
func (p Principal) Changes(submitter string) bool {
	return p.Has(Admin) || p.Has(Submit) && p.Name == submitter
}

// Run says whether the principal may start a run of this plan on this runner
// with this priority; the error wraps ErrForbidden and says what is too much.
// The runner must be the one that will be used, never empty.
func (p Principal) Run(pl *plan.Plan, runner string, priority int) error {
	if !p.Has(Submit) {
		return p.forbid("start runs", "ask for a token with the role submit")
	}
	if len(p.Runners) > 0 && !slices.Contains(p.Runners, runner) {
		return p.forbid("use the runner "+quote.Text(runner), "it may use: %s", strings.Join(p.Runners, ", "))
	}
	if priority > p.Priority && !p.Has(Admin) {
		return p.forbid(fmt.Sprintf("ask for priority %d", priority), "its highest is %d", p.Priority)
	}
	if len(p.Registries) == 0 {
		return nil
	}
	for i := range pl.Images {
		img := &pl.Images[i]
		written := []string{img.Repository}
		for _, copied := range pl.Copies(img) {
			written = append(written, copied.Repository)
		}
		for j := range img.Builds {
			b := &img.Builds[j]
			if b.Engine == "make" && pl.Layout != "tag" {
				// It may make further images, whose names begin with this one's.
				for _, repository := range slices.Clone(written) {
					written = append(written, strings.TrimSuffix(repository, img.Name)+img.Name+"-part")
				}
			}
			written = append(written, b.Destination, pl.CacheRepository(b))
			if flag := writes(b); flag != "" {
				return p.forbid(fmt.Sprintf("pass %s to the engine of %s", quote.Text(flag), quote.Text(b.ID)), "its token is limited to some repositories, and the flag could name others")
			}
		}
		for _, repository := range written {
			if repository != "" && !p.Writes(repository) {
				return p.forbid(fmt.Sprintf("write to %s, where %s goes", quote.Text(quote.URL(repository)), quote.Text(img.Name)), "it may write to: %s", strings.Join(p.Registries, ", "))
			}
		}
	}
	return nil
}

func (p Principal) forbid(what, hint string, args ...any) error {
	return failure.WithHint(forbidden(quote.Text(p.Name)+" may not "+what), hint, args...)
}

// forbidden is an ErrForbidden in words of its own.
type forbidden string

func (f forbidden) Error() string        { return string(f) }
func (f forbidden) Is(target error) bool { return target == ErrForbidden }

// writing are the flags of engines that name a place to write to, beside what
// the plan says.
var writing = []string{
	"-d", "--destination", "--cache-repo", "-o", "--output", "--export-cache", "--addr",
}

// writes gives the flag of a build by which its engine could write elsewhere.
func writes(b *plan.Build) string {
	for _, arg := range b.EngineArgs {
		flag, _, _ := strings.Cut(arg, "=")
		short := len(arg) > 2 && arg[0] == '-' && arg[1] != '-' && (arg[1] == 'd' || arg[1] == 'o')
		if short || slices.Contains(writing, flag) {
			return flag
		}
	}
	if _, named := b.OutputOpts["name"]; named {
		return "output_opts name"
	}
	return ""
}

// Writes says whether the principal's runs may write to a repository, given
// with or without tag. What is no reference matches nothing.
func (p Principal) Writes(repository string) bool {
	if len(p.Registries) == 0 {
		return true
	}
	ref, err := registry.ParseReference(repository)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(p.Registries, func(pattern string) bool { return matches(pattern, ref.Repository()) })
}

// matches compares part by part: a pattern also matches what is below it.
func matches(pattern, repository string) bool {
	pattern = strings.TrimSuffix(pattern, "/")
	if rest, hub := strings.CutPrefix(pattern, "docker.io/"); hub {
		pattern = "index.docker.io/" + rest
	}
	wanted, parts := strings.Split(pattern, "/"), strings.Split(repository, "/")
	if len(wanted) > len(parts) {
		return false
	}
	for i, want := range wanted {
		if ok, err := path.Match(want, parts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// CheckPattern says what is wrong with a pattern of repositories; nil: nothing.
func CheckPattern(pattern string) error {
	host, _, _ := strings.Cut(pattern, "/")
	switch _, err := path.Match(pattern, ""); {
	case err != nil:
		return failure.Input("%q is no valid pattern", pattern)
	case strings.Contains(pattern, "://"):
		return failure.WithHint(failure.Input("the pattern %q has a scheme", quote.URL(pattern)), "write host/repository")
	case pattern == "" || strings.ContainsAny(pattern, " \t@"):
		return failure.Input("%q is no pattern of repositories", pattern)
	case strings.Contains(pattern, "**"):
		return failure.WithHint(failure.Input("the pattern %q has **", pattern), "what is below a pattern matches anyhow")
	case host != "*" && host != "localhost" && !strings.ContainsAny(host, ".:*"):
		return failure.WithHint(failure.Input("the pattern %q names no registry", pattern), "begin with a host, such as docker.io/%s", pattern)
	}
	return nil
}
