// Package amazon is what the parts of pipegen that call AWS share: who is
// signed in, what was refused to whom in plain words, and values that Secrets
// Manager and SSM's Parameter Store keep.
package amazon

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// Caller is who signs calls of AWS, as its errors name it. It is safe for
// concurrent use.
type Caller struct {
	identity func(context.Context) (string, error)

	mu  sync.Mutex
	arn string
}

// NewCaller gives the caller that a configuration signs in.
func NewCaller(cfg aws.Config) *Caller {
	return &Caller{identity: func(ctx context.Context) (string, error) {
		out, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}, func(o *sts.Options) { o.RetryMaxAttempts = 1 })
		if err != nil {
			return "", err
		}
		return aws.ToString(out.Arn), nil
	}}
}

// naming is how long STS may take to say who is signed in: that is for a
// message alone.
const naming = 3 * time.Second

// ARN gives who is signed in, such as arn:aws:sts::123456789012:assumed-role/ROLE/NAME;
// empty: nobody could tell.
func (c *Caller) ARN(ctx context.Context) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.arn == "" && c.identity != nil {
		ctx, cancel := context.WithTimeout(ctx, naming)
		defer cancel()
		c.arn, _ = c.identity(ctx)
	}
	return c.arn
}

// Refused says of an error of AWS's library what was attempted (doing, such as
// "reading the secret"), on what, why it did not work, and as a hint what to do
// about it: of a lacking permission the action and who lacks it. What trying
// again does not help wraps failure.ErrInput. Nil stays nil; if ctx has ended, its
// cause is the error.
func (c *Caller) Refused(ctx context.Context, doing, resource string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, failure.ErrInput):
		return fmt.Errorf("%s %s: %w", doing, quote.Text(resource), err)
	}
	reason, hint, input := c.explain(ctx, resource, err)
	out := error(&refusal{text: doing + " " + quote.Text(resource) + ": " + reason, err: err})
	if input {
		out = failure.Input("%w", out)
	}
	if hint == "" {
		return out
	}
	return failure.WithHint(out, "%s", hint)
}

// refusal keeps the library's error for those who decide on its code, and shows
// none of it: addresses in it may be signed.
type refusal struct {
	text string
	err  error
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.err }

// The codes of what AWS refuses, by what helps. Its services do not agree on them.
var (
	deniedCodes = []string{"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized", "AuthorizationError", "AuthorizationErrorException"}
	keyCodes    = []string{"InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidToken", "IncompleteSignature", "MissingAuthenticationToken", "InvalidSignatureException", "AuthFailure"}
	expired     = []string{"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
	skewed      = []string{"RequestTimeTooSkewed", "RequestInTheFuture"}
	throttling  = []string{
		"Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException", "RequestLimitExceeded", "RequestThrottled",
		"RequestThrottledException", "SlowDown", "BandwidthLimitExceeded", "LimitExceededException", "PriorRequestNotComplete", "EC2ThrottledException",
	}
	missingCodes = []string{"ResourceNotFoundException", "ParameterNotFound", "RepositoryNotFoundException"}
)

// Code is that of AWS's answer; empty: there is none.
func Code(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return ""
}

// Denied says whether AWS knows the caller and does not allow the call.
func Denied(err error) bool { return slices.Contains(deniedCodes, Code(err)) }

// Throttled says whether AWS was asked too often.
func Throttled(err error) bool { return slices.Contains(throttling, Code(err)) }

// Expired says whether the caller's session is over.
func Expired(err error) bool { return slices.Contains(expired, Code(err)) }

// Skewed says whether AWS does not take the caller's time for the right one.
func Skewed(err error) bool {
	return slices.Contains(skewed, Code(err)) || Code(err) == "InvalidSignatureException" && strings.Contains(message(err), "Signature")
}

func (c *Caller) explain(ctx context.Context, resource string, err error) (reason, hint string, input bool) {
	reason = Plain(err)
	switch code := Code(err); {
	case Denied(err):
		hint = c.Permission(ctx, resource, err)
		input = true
	case Skewed(err):
		hint, input = "set this machine's clock: AWS takes requests that are at most a few minutes old", true
	case Expired(err):
		hint, input = "the session of the credentials is over: get new ones, or let AWS's tools refresh them (profile, web identity, role of the machine or task)", true
	case slices.Contains(keyCodes, code):
		hint, input = "the credentials are wrong: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile", true
	case slices.Contains(missingCodes, code):
		hint, input = "check its name, region and account", true
	case Throttled(err):
		hint = "AWS is asked too often: have the quota raised if that stays so"
	case noCredentials(err):
		reason, input = "there are no credentials of AWS", true
		hint = "AWS needs credentials: environment, profile, web identity, or the role of the machine or task"
	case code == "":
		hint = "check whether AWS can be reached from here, and AWS_ENDPOINT_URL if it is set"
	}
	return reason, hint, input
}

// Permission is what to do about an error for which Denied is true: which
// action has to be allowed, on what, and to whom.
func (c *Caller) Permission(ctx context.Context, resource string, err error) string {
	action, who := Action(err), c.who(ctx, err)
	text := message(err)
	if m := notAuthorized.FindStringSubmatch(text); m != nil {
		action = m[2]
	}
	switch {
	case strings.HasPrefix(action, "sts:"):
		return fmt.Sprintf("the trust policy of the role has to allow %s to %s", action, quote.Text(who))
	case strings.Contains(text, "KMS") || strings.HasPrefix(action, "kms:"):
		if !strings.HasPrefix(action, "kms:") {
			action = "kms:Decrypt"
		}
		return fmt.Sprintf("a policy of %s, and that of the key, has to allow %s on the key of %s", quote.Text(who), action, quote.Text(resource))
	case strings.Contains(text, "explicit deny"):
		return fmt.Sprintf("a policy denies %s on %s to %s: take that out", action, quote.Text(resource), quote.Text(who))
	}
	return fmt.Sprintf("a policy of %s has to allow %s on %s", quote.Text(who), action, quote.Text(resource))
}

// notAuthorized finds who and what in AWS's own words.
var notAuthorized = lazyregexp.New(`(?:User: )?(arn:aws[a-z-]*:(?:iam|sts)::\S+) is not authorized to perform: ([a-zA-Z0-9-]+:[A-Za-z0-9]+)`)

func (c *Caller) who(ctx context.Context, err error) string {
	if m := notAuthorized.FindStringSubmatch(message(err)); m != nil {
		return m[1]
	}
	if arn := c.ARN(ctx); arn != "" {
		return arn
	}
	return "this identity"
}

// Plain gives the heart of an error of AWS's library in one line: code and
// words of the answer, or what happened to the connection, without addresses.
func Plain(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		if m := e.ErrorMessage(); m != "" && m != e.ErrorCode() {
			return quote.Text(e.ErrorCode() + ": " + m)
		}
		return quote.Text(e.ErrorCode())
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return quote.Text(quote.URL(ue.Err.Error()))
	}
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return quote.Text(quote.URL(err.Error()))
}

func message(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorMessage()
	}
	return ""
}

func noCredentials(err error) bool {
	text := err.Error()
	return strings.Contains(text, "get credentials") || strings.Contains(text, "get identity")
}
