package engine

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	gitclient "github.com/go-git/go-git/v5/plumbing/transport/client"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
)

// remote is an upstream repository as one may talk to it.
type remote struct {
	url       string
	endpoint  *transport.Endpoint
	auth      transport.AuthMethod // nil: none
	transport transport.Transport
}

// openRemote finds out how to talk to a repository, and with what credential.
// It sends nothing.
func openRemote(repo string, auth *config.UpstreamAuth, getenv func(string) string) (*remote, error) {
	ep, err := transport.NewEndpoint(repo)
	if err != nil {
		return nil, failure.Input("upstream %s: not a git URL", shown(repo))
	}
	r := &remote{url: repo, endpoint: ep}
	switch ep.Protocol {
	case "http", "https":
		// go-git's client drops the credential when a redirect leaves the host.
		t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // documented
		t.ResponseHeaderTimeout = 2 * time.Minute
		r.transport = githttp.NewClient(&http.Client{Transport: t})
	case "ssh", "git", "file":
		if r.transport, err = gitclient.NewClient(ep); err != nil {
			return nil, fmt.Errorf("upstream %s: %w", shown(repo), err)
		}
	default:
		return nil, failure.Input("upstream %s: protocol %q is not known", shown(repo), ep.Protocol)
	}
	if r.auth, err = credential(ep, auth, getenv); err != nil {
		return nil, fmt.Errorf("upstream %s: %w", shown(repo), err)
	}
	return r, nil
}

// credential finds the credential for a repository. A token goes only over
// HTTPS (or to this machine), and the CI job's only to the CI's own GitLab.
func credential(ep *transport.Endpoint, auth *config.UpstreamAuth, getenv func(string) string) (transport.AuthMethod, error) {
	private := ep.Protocol == "https" || ep.Protocol == "http" && registry.IsLoopback(ep.Host)
	switch {
	case auth != nil && auth.TokenEnv != "":
		token := strings.TrimSpace(getenv(auth.TokenEnv))
		if token == "" {
			return nil, failure.Input("upstream_auth: environment variable %s is not set", auth.TokenEnv)
		}
		if !private {
			return nil, failure.Input("upstream_auth: a token is sent over https only")
		}
		return &githttp.BasicAuth{Username: "oauth2", Password: token}, nil
	case auth != nil && auth.SSHKeyEnv != "":
		return sshKey(ep, auth.SSHKeyEnv, getenv)
	case ep.User == "" && private && isOwnGitLab(ep, getenv):
		return &githttp.BasicAuth{Username: "gitlab-ci-token", Password: getenv("CI_JOB_TOKEN")}, nil
	}
	return nil, nil
}

func sshKey(ep *transport.Endpoint, name string, getenv func(string) string) (transport.AuthMethod, error) {
	value := getenv(name)
	if value == "" {
		return nil, failure.Input("upstream_auth: environment variable %s is not set", name)
	}
	if ep.Protocol != "ssh" {
		return nil, failure.Input("upstream_auth: ssh_key_env wants an ssh URL")
	}
	pem := []byte(value)
	if !strings.Contains(value, "-----BEGIN") {
		var err error
		if pem, err = os.ReadFile(strings.TrimSpace(value)); err != nil {
			return nil, failure.Input("upstream_auth: %s holds neither a key in PEM nor the path of one", name)
		}
	}
	user := ep.User
	if user == "" {
		user = "git"
	}
	keys, err := gitssh.NewPublicKeys(user, append(pem, '\n'), "")
	if err != nil {
		return nil, failure.Input("upstream_auth: the key of %s cannot be read: %w", name, err)
	}
	return keys, nil // host keys: go-git checks known_hosts unless told otherwise
}

// isOwnGitLab says whether the CI job's token was made for this host.
func isOwnGitLab(ep *transport.Endpoint, getenv func(string) string) bool {
	if getenv("CI_JOB_TOKEN") == "" || !strings.EqualFold(ep.Host, getenv("CI_SERVER_HOST")) {
		return false
	}
	port := ep.Port
	if port == 0 {
		port = map[string]int{"http": 80, "https": 443}[ep.Protocol]
	}
	want := getenv("CI_SERVER_PORT")
	return want == "" || want == strconv.Itoa(port)
}

// session asks for the references of the repository.
func (r *remote) session(ctx context.Context) (transport.UploadPackSession, *packp.AdvRefs, error) {
	type answer struct {
		s   transport.UploadPackSession
		ar  *packp.AdvRefs
		err error
	}
	got := make(chan answer, 1)
	go func() { // dialling over ssh heeds no context
		ep := *r.endpoint
		s, err := r.transport.NewUploadPackSession(&ep, r.auth)
		if err != nil {
			got <- answer{err: err}
			return
		}
		ar, err := s.AdvertisedReferencesContext(ctx)
		if err != nil {
			_ = s.Close()
		}
		got <- answer{s, ar, err}
	}()
	select {
	case a := <-got:
		return a.s, a.ar, a.err
	case <-ctx.Done():
		go func() {
			if a := <-got; a.err == nil {
				_ = a.s.Close()
			}
		}()
		return nil, nil, context.Cause(ctx)
	}
}

var (
	fullSHA = lazyregexp.New(`^[0-9a-f]{40}$`)
	partSHA = lazyregexp.New(`^[0-9a-f]{7,39}$`)
)

// ResolveRef gives the commit that a tag, a branch, or a full name (refs/…) of
// an upstream repository stands for now; annotated tags are followed. A commit
// of 40 hex digits is returned as it is, and nothing is sent. A name that is
// both tag and branch, that is not there, and a repository that is not there
// or refuses the credential are failure.ErrInput. Network errors are tried
// again twice.
func ResolveRef(ctx context.Context, repo, ref string, auth *config.UpstreamAuth, getenv func(string) string) (commit string, err error) {
	if fullSHA.MatchString(ref) {
		return ref, nil
	}
	r, err := openRemote(repo, auth, getenv)
	if err != nil {
		return "", err
	}
	var ar *packp.AdvRefs
	err = r.retry(ctx, func() error {
		s, refs, err := r.session(ctx)
		if err == nil {
			ar, err = refs, s.Close()
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return r.resolve(ar, ref)
}

func (r *remote) resolve(ar *packp.AdvRefs, ref string) (string, error) {
	find := func(name string) (plumbing.Hash, bool) {
		if h, ok := ar.Peeled[name]; ok {
			return h, true
		}
		h, ok := ar.References[name]
		return h, ok
	}
	if strings.HasPrefix(ref, "refs/") {
		if h, ok := find(ref); ok {
			return h.String(), nil
		}
	} else {
		tag, isTag := find("refs/tags/" + ref)
		branch, isBranch := find("refs/heads/" + ref)
		switch {
		case isTag && isBranch:
			return "", failure.WithHint(failure.Input("upstream %s: %q is both a tag and a branch", shown(r.url), ref),
				"write refs/tags/%s or refs/heads/%s", ref, ref)
		case isTag:
			return tag.String(), nil
		case isBranch:
			return branch.String(), nil
		case ref == "HEAD" && ar.Head != nil:
			return ar.Head.String(), nil
		}
	}
	err := failure.Input("upstream %s has no tag or branch %q", shown(r.url), ref)
	if partSHA.MatchString(ref) {
		return "", failure.WithHint(err, "a commit needs all 40 digits")
	}
	return "", err
}

// attempts is how often an upstream repository is asked.
const attempts = 3

// retry calls f again after errors of the network, and makes one line of what
// remains.
func (r *remote) retry(ctx context.Context, f func() error) error {
	wait := 500 * time.Millisecond
	for i := 1; ; i++ {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if i == attempts || !transient(err) {
			return r.explain(err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
			wait *= 3
		}
	}
}

// cause looks through go-git's wrappers that have no Unwrap.
func cause(err error) error {
	for {
		var unexpected *plumbing.UnexpectedError
		var permanent *plumbing.PermanentError
		switch {
		case errors.As(err, &unexpected):
			err = unexpected.Err
		case errors.As(err, &permanent):
			err = permanent.Err
		default:
			return err
		}
	}
}

// transient says whether trying again may help.
func transient(err error) bool {
	err = cause(err)
	var status *githttp.Err
	var certificate *tls.CertificateVerificationError
	var network net.Error
	switch {
	case errors.As(err, &status):
		return status.StatusCode() == http.StatusTooManyRequests || status.StatusCode() >= 500
	case errors.As(err, &certificate):
		return false
	case errors.As(err, &network), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return true
	}
	return false
}

// explain makes one line of an error, without credentials.
func (r *remote) explain(err error) error {
	const hint = "check upstream_repo, and upstream_auth if the repository is private"
	err = cause(err)
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.Is(err, failure.ErrInput):
		return err
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return failure.WithHint(failure.Input("upstream %s: not found", shown(r.url)), hint)
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		what := "it asks for a credential"
		if r.auth != nil {
			what = "the credential is refused"
		}
		return failure.WithHint(failure.Input("upstream %s: %s", shown(r.url), what), hint)
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return failure.Input("upstream %s: the repository is empty", shown(r.url))
	case errors.As(err, &unknown):
		return failure.WithHint(reading{r.url, errors.New("TLS: the certificate is signed by an unknown authority")},
			"set LOCAL_CA_CERTIFICATE to the authority's certificate or its path, or add it to the system's")
	}
	return reading{r.url, err}
}

// reading is a failed access to an upstream repository.
type reading struct {
	url string
	err error
}

func (e reading) Error() string {
	return fmt.Sprintf("reading upstream %s: %s", shown(e.url), shown(e.err.Error()))
}

func (e reading) Unwrap() error { return e.err }

// shown gives a URL, or a text with some, for a message.
func shown(s string) string { return quote.Text(quote.URL(s)) }
