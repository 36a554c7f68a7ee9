package kubernetes

import (
	"errors"
	"fmt"
	"net"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// answered says that an error is an API server's answer.
func answered(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}

// transient says that the same request may be answered in a while.
func transient(err error) bool {
	if !answered(err) {
		return err != nil
	}
	return apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsInternalError(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsUnexpectedServerError(err) || apierrors.IsConflict(err)
}

// expired says that a watch was too old, which its own machinery mends.
func expired(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

func isQuota(err error) bool {
	return apierrors.IsForbidden(err) && quotaPattern.MatchString(err.Error())
}

var (
	quotaPattern  = lazyregexp.New(`exceeded quota: ([^,]+), requested: (.+), used: (.+), limited: (.+)`)
	mustSay       = lazyregexp.New(`failed quota: ([^:]+): must specify (.+?)(?: for: .*)?$`)
	mayNot        = lazyregexp.New(`User "([^"]*)" cannot (\w+) resource "([^"]*)"`)
	podSecurity   = lazyregexp.New(`violates PodSecurity "([^"]*)": (.*)`)
	terminating   = lazyregexp.New(`namespace (\S+) .*being terminated`)
	requestPrefix = lazyregexp.New(`^(?:Get|Post|Put|Delete) "[^"]*": `)
)

// explain says in plain words what an API server answered, or that it did not.
// What it refuses in any case wraps failure.ErrInput.
func explain(what, namespace string, err error) error {
	text := quote.Text(err.Error())
	say := func(hint, format string, args ...any) error {
		return failure.WithHint(fmt.Errorf(what+": "+format, args...), "%s", hint)
	}
	refuse := func(hint, format string, args ...any) error {
		return failure.WithHint(failure.Input("%s: %w", what, fmt.Errorf(format, args...)), "%s", hint)
	}
	if !answered(err) {
		if _, network := errors.AsType[net.Error](err); network {
			text = requestPrefix.ReplaceAllString(text, "")
		}
		return say("see that the cluster's control plane runs and can be reached from here", "the API server of Kubernetes does not answer: %s", text)
	}
	if q := quotaPattern.FindStringSubmatch(text); q != nil {
		reason, hint := quotaWords(namespace, q)
		return say(hint, "%s", reason)
	}
	switch {
	case apierrors.IsForbidden(err):
		if m := mayNot.FindStringSubmatch(text); m != nil {
			return refuse("give its Role what docs/kubernetes.md lists; pipegen doctor --runner kubernetes checks it", "%s may not %s %s in namespace %s", m[1], m[2], m[3], namespace)
		}
		if terminating.MatchString(text) {
			return refuse("name another: server.kubernetes.namespace", "the namespace %s is being deleted", namespace)
		}
		return refuse("ask those who run the cluster for what its admission allows", "the cluster forbids it: %s", text)
	case apierrors.IsUnauthorized(err):
		return say("renew the credentials of the kubeconfig, or the service account of the controller", "the API server of Kubernetes does not know who asks")
	case apierrors.IsNotFound(err) && strings.Contains(text, "namespaces"):
		return refuse("create it, or name another: server.kubernetes.namespace", "there is no namespace %s", namespace)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		return refuse("see server.kubernetes, and its pod above all", "the cluster refuses it: %s", text)
	case transient(err):
		return say("see that the cluster's control plane is well", "the API server of Kubernetes is in trouble: %s", text)
	}
	return say("", "%s", text)
}

// quotaWords tells of a quota that is full, by what quotaPattern found.
func quotaWords(namespace string, q []string) (reason, hint string) {
	return fmt.Sprintf("the quota %s of namespace %s is full: it asks for %s; used are %s of %s", q[1], namespace, q[2], q[3], q[4]),
		"it starts when other builds have ended; ask for less (resources), have fewer tasks at once (server.limits.tasks), or raise the ResourceQuota"
}
