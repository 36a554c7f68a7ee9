package diff

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/quote"
)

var (
	errNoGit    = errors.New("fetching it from there needs git, which is not installed")
	errNoRemote = errors.New("there is no remote to fetch it from")
)

// address says where a clone fetches from, and with what credentials.
type address struct {
	dir    string // a repository on this machine; empty if it is on a server
	url    string // without credentials
	header http.Header
	ca     string // file with certificates to trust; empty: the system's
}

// addressOf reads the address of the remote from git's configuration, as git
// would. Credentials are, in this order, those of http.extraHeader, of the
// URL, and GitLab's job token if the URL leads to the server that runs the job.
// Programs that git would ask for credentials are not run.
func addressOf(settings map[string][]string, root string, getenv func(string) string) (address, error) {
	remote := remoteOf(settings)
	if remote == "" {
		return address{}, errNoRemote
	}
	raw := insteadOf(settings, settings["remote."+remote+".url"][0])
	if dir, ok := localDir(raw, root); ok {
		return address{dir: dir}, nil
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return address{}, errNoGit
	}
	user := u.User
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	a := address{url: u.String(), header: http.Header{}, ca: getenv("GIT_SSL_CAINFO")}
	for _, line := range forURL(settings, "extraheader", u) {
		name, value, ok := strings.Cut(line, ":")
		switch {
		case line == "":
			a.header = http.Header{} // an empty value takes back those before it
		case ok:
			a.header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		}
	}
	if files := forURL(settings, "sslcainfo", u); a.ca == "" && len(files) > 0 {
		a.ca = files[len(files)-1]
	}
	if a.header.Get("Authorization") == "" {
		if name, password := credentials(u, user, getenv); password != "" {
			a.header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(name+":"+password)))
		}
	}
	return a, nil
}

func credentials(u *url.URL, user *url.Userinfo, getenv func(string) string) (name, password string) {
	if password, ok := user.Password(); ok {
		return user.Username(), password
	}
	server, err := url.Parse(getenv("CI_SERVER_URL"))
	if err == nil && server.Host != "" && matchURL(server, u) > 0 && (user == nil || user.Username() == jobUser) {
		return jobUser, getenv("CI_JOB_TOKEN")
	}
	return "", ""
}

// jobUser goes with CI_JOB_TOKEN; see GitLab's "CI/CD job token".
const jobUser = "gitlab-ci-token"

// insteadOf replaces the beginning of a URL as url.<base>.insteadOf says; the
// longest one counts.
func insteadOf(settings map[string][]string, raw string) string {
	best, replacement := "", ""
	for key, prefixes := range settings {
		base, ok := strings.CutPrefix(key, "url.")
		base, is := strings.CutSuffix(base, ".insteadof")
		for _, p := range prefixes {
			if ok && is && strings.HasPrefix(raw, p) && len(p) > len(best) {
				best, replacement = p, base
			}
		}
	}
	return replacement + raw[len(best):]
}

// localDir gives the directory that a URL stands for, if it is one.
func localDir(raw, root string) (string, bool) {
	if dir, ok := strings.CutPrefix(raw, "file://"); ok {
		if p, err := url.PathUnescape(dir); err == nil {
			dir = p
		}
		return dir, filepath.IsAbs(dir)
	}
	if before, _, colon := strings.Cut(raw, ":"); colon && !strings.Contains(before, "/") && !filepath.IsAbs(raw) {
		return "", false // scheme://… or host:path
	}
	if !filepath.IsAbs(raw) {
		raw = filepath.Join(root, raw)
	}
	return raw, true
}

// forURL gives the values of http.<variable> and http.<url>.<variable> that
// apply to u, those of the closest URL last; see http.<url>.* in git-config(1).
func forURL(settings map[string][]string, variable string, u *url.URL) []string {
	type match struct {
		length int
		key    string
	}
	matches := []match{{0, "http." + variable}}
	for key := range settings {
		pattern, ok := strings.CutPrefix(key, "http.")
		pattern, is := strings.CutSuffix(pattern, "."+variable)
		if !ok || !is {
			continue
		}
		if p, err := url.Parse(pattern); err == nil {
			if n := matchURL(p, u); n > 0 {
				matches = append(matches, match{n, key})
			}
		}
	}
	slices.SortFunc(matches, func(a, b match) int { return cmp.Or(a.length-b.length, strings.Compare(a.key, b.key)) })
	var values []string
	for _, m := range matches {
		values = append(values, settings[m.key]...)
	}
	return values
}

// matchURL says how closely a pattern matches: 0 not at all.
func matchURL(pattern, u *url.URL) int {
	if pattern.Scheme != u.Scheme || !strings.EqualFold(pattern.Hostname(), u.Hostname()) || port(pattern) != port(u) {
		return 0
	}
	prefix := strings.TrimSuffix(pattern.Path, "/")
	if prefix != "" && u.Path != prefix && !strings.HasPrefix(u.Path, prefix+"/") {
		return 0
	}
	return 1 + len(prefix)
}

func port(u *url.URL) string {
	if u.Scheme == "http" {
		return cmp.Or(u.Port(), "80")
	}
	return cmp.Or(u.Port(), "443")
}

// transport is a way to the server.
func (a address) transport() (http.RoundTripper, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if a.ca == "" {
		return t, nil
	}
	text, err := os.ReadFile(a.ca)
	if err != nil {
		return nil, fmt.Errorf("reading the certificates for the remote: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", quote.Text(a.ca))
	}
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t, nil
}
