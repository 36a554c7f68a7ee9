package ecs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// codeOf gives AWS's word for an error, with its message; empty: AWS did not
// answer.
func codeOf(err error) (code, message string) {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode(), e.ErrorMessage()
	}
	return "", ""
}

// statusOf gives the status of an answer that is not understood; 0: there was
// none.
func statusOf(err error) int {
	if e, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		return e.HTTPStatusCode()
	}
	return 0
}

// transient says that the same request may be answered in a while.
func transient(err error) bool {
	code, message := codeOf(err)
	if code == "" {
		return !errors.Is(err, failure.ErrInput) && !noCredentials(err) && !errors.Is(err, context.Canceled)
	}
	if isThrottle(code) || limitReached(message) {
		return true
	}
	e, _ := errors.AsType[smithy.APIError](err)
	return e.ErrorFault() == smithy.FaultServer || slices.Contains([]string{
		"ServerException", "InternalFailure", "InternalServerError", "InternalError", "ServiceUnavailable", "ServiceUnavailableException", "UpdateInProgressException", "RequestTimeout",
	}, code)
}

// isThrottle says that AWS is asked too often. A limit of the account, which
// ECS has this code for, is another thing.
func isThrottle(code string) bool {
	_, throttled := retry.DefaultThrottleErrorCodes[code]
	return throttled && code != "LimitExceededException"
}

// limitReached says that the account runs as much as it may, which passes.
func limitReached(message string) bool {
	return strings.Contains(message, "reached the limit on the number of") && strings.Contains(message, "concurrently")
}

// noCredentials says that nothing was sent for want of credentials.
func noCredentials(err error) bool {
	text := err.Error()
	return strings.Contains(text, "get identity: get credentials") || strings.Contains(text, "failed to refresh cached credentials") || strings.Contains(text, "no EC2 IMDS role found")
}

var (
	mayNot  = lazyregexp.New(`(?:User: )?(arn:[^ ]+) is not authorized to perform: ([\w-]+:\w+)(?: on resource: ([^ ]+))?`)
	assumed = lazyregexp.New(`^arn:(aws[a-z-]*):sts::(\d{12}):assumed-role/([^/]+)/`)
)

// explain says what went wrong with a request, in plain words. What would go
// wrong again wraps failure.ErrInput.
func explain(what string, err error) error {
	if errors.Is(err, failure.ErrInput) {
		return err
	}
	code, message := codeOf(err)
	text := quote.Text(strings.TrimSpace(message))
	say := func(final bool, hint, format string, args ...any) error {
		reason := fmt.Sprintf(format, args...)
		said := fmt.Errorf("%s: %s", what, reason)
		if final {
			said = failure.Input("%s: %s", what, reason)
		}
		if hint != "" {
			said = failure.WithHint(said, "%s", hint)
		}
		return said
	}
	switch {
	case code == "" && noCredentials(err):
		return say(true, "give the controller a role (task role, service account, instance profile), AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "there are no credentials of AWS: %s", quote.Text(root(err)))
	case code == "" && errors.Is(err, context.DeadlineExceeded):
		return say(false, "see that the controller reaches AWS: its routes, a proxy (HTTPS_PROXY), an endpoint of the VPC", "AWS does not answer")
	case code == "" && statusOf(err) != 0:
		return say(false, "", "AWS, or a proxy before it, answers with status %d", statusOf(err))
	case code == "":
		return say(false, "see that the controller reaches AWS: its routes, a proxy (HTTPS_PROXY), an endpoint of the VPC", "AWS is not reached: %s", quote.Text(root(err)))
	case slices.Contains([]string{"AccessDeniedException", "AccessDenied", "UnauthorizedOperation", "NotAuthorized"}, code) || mayNot.MatchString(message):
		who, action, on := "the controller's identity", actionOf(err), ""
		if m := mayNot.FindStringSubmatch(message); m != nil {
			who, action = roleOf(m[1]), m[2]
			if m[3] != "" {
				on = " on " + m[3]
			}
		}
		return say(true, "allow it in the policy of that role; pipegen doctor --runner ecs checks all that are needed", "%s may not %s%s", quote.Text(who), action, quote.Text(on))
	case slices.Contains([]string{"ExpiredToken", "ExpiredTokenException", "RequestExpired"}, code) && !strings.Contains(message, "Signature"):
		return say(false, "renew the credentials of the controller; a role's are renewed by themselves", "the session token of the controller's credentials has expired")
	case slices.Contains([]string{"InvalidSignatureException", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}, code) && (strings.Contains(message, "expired") || strings.Contains(message, "not yet current") || strings.Contains(message, "skew")):
		return say(false, "set the clock of the controller's machine: it must not be off by 5 minutes", "AWS refuses the time of the request: %s", text)
	case slices.Contains([]string{"UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature", "MissingAuthenticationToken"}, code):
		return say(true, "see the controller's credentials, and that they are of this partition and account", "AWS does not take the controller's credentials (%s)", code)
	case code == "ClusterNotFoundException":
		return say(true, "see server.ecs.cluster or ECS_CLUSTER, and the region", "there is no such cluster")
	case code == "LimitExceededException" || strings.Contains(message, "maximum number of") || strings.Contains(message, "limit exceeded"):
		return say(true, "have old task definitions removed (CLEANUP_ECS_TASK_DEFINITIONS=true), or ask AWS for a higher quota", "a limit of the account is reached: %s", text)
	case limitReached(message):
		return say(false, "it starts when others have ended; have fewer at once (server.limits.tasks.ecs), or ask AWS for a higher quota", "the account's limit is reached: %s", text)
	case code == "ClientException" && strings.Contains(message, "ole"):
		return say(true, "see server.ecs.execution_role and task_role: they must exist, and trust ecs-tasks.amazonaws.com", "%s", text)
	case code == "InvalidParameterException" || code == "ClientException" || code == "PlatformUnknownException" || code == "PlatformTaskDefinitionIncompatibilityException" || code == "UnsupportedFeatureException" || code == "BlockedException":
		return say(true, "see server.ecs", "AWS refuses it: %s", text)
	case transient(err):
		if isThrottle(code) {
			return say(false, "", "AWS is asked more often than it answers (%s)", code)
		}
		return say(false, "", "AWS is in trouble (%s): %s", code, text)
	}
	return say(false, "", "%s: %s", code, text)
}

// actionOf gives the action of IAM that a request is.
func actionOf(err error) string {
	e, ok := errors.AsType[*smithy.OperationError](err)
	if !ok {
		return "do that"
	}
	return strings.ToLower(e.Service()) + ":" + e.Operation()
}

// roleOf gives the role behind an identity, or the identity.
func roleOf(arn string) string {
	if m := assumed.FindStringSubmatch(arn); m != nil {
		return fmt.Sprintf("the role arn:%s:iam::%s:role/%s", m[1], m[2], m[3])
	}
	return arn
}

// root gives the end of a chain of errors, which says what happened.
func root(err error) string {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Error()
	}
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}
