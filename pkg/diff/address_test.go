package diff

import (
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestAddress(t *testing.T) {
	basic := func(userAndPassword string) http.Header {
		return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(userAndPassword))}}
	}
	job := "CI_JOB_TOKEN=t CI_SERVER_URL=https://git.example.org:8443/sub"
	for _, test := range []struct {
		name, url string
		settings  string // KEY=VALUE words
		env       string
		want      address
		err       error
	}{
		{"https", "https://git.example.org/x.git", "", "", address{url: "https://git.example.org/x.git"}, nil},
		{"user and password", "https://u:p%40w@git.example.org/x.git", "", "", address{url: "https://git.example.org/x.git", header: basic("u:p@w")}, nil},
		{"user alone", "https://u@git.example.org/x.git", "", "", address{url: "https://git.example.org/x.git"}, nil},
		{"job token", "https://git.example.org:8443/sub/g/x.git", "", job, address{url: "https://git.example.org:8443/sub/g/x.git", header: basic("gitlab-ci-token:t")}, nil},
		{"job token, user in the URL", "https://gitlab-ci-token@git.example.org:8443/sub/g/x.git", "", job, address{url: "https://git.example.org:8443/sub/g/x.git", header: basic("gitlab-ci-token:t")}, nil},
		{"job token, another user", "https://u@git.example.org:8443/sub/g/x.git", "", job, address{url: "https://git.example.org:8443/sub/g/x.git"}, nil},
		{"job token, another path", "https://git.example.org:8443/subx/g/x.git", "", job, address{url: "https://git.example.org:8443/subx/g/x.git"}, nil},
		{"job token, another port", "https://git.example.org/sub/g/x.git", "", job, address{url: "https://git.example.org/sub/g/x.git"}, nil},
		{"job token, without encryption", "http://git.example.org:8443/sub/g/x.git", "", job, address{url: "http://git.example.org:8443/sub/g/x.git"}, nil},
		{"job token, another host", "https://git.example.org.evil.example:8443/sub/x.git", "", job, address{url: "https://git.example.org.evil.example:8443/sub/x.git"}, nil},
		{"no job token", "https://git.example.org:8443/sub/g/x.git", "", "CI_SERVER_URL=https://git.example.org:8443", address{url: "https://git.example.org:8443/sub/g/x.git"}, nil},
		{"header", "https://git.example.org/x.git", "http.https://git.example.org/.extraheader=AUTHORIZATION:b", "", address{url: "https://git.example.org/x.git", header: http.Header{"Authorization": {"b"}}}, nil},
		{"header before the URL's password", "https://u:p@git.example.org/x.git", "http.https://git.example.org/.extraheader=AUTHORIZATION:b", "", address{url: "https://git.example.org/x.git", header: http.Header{"Authorization": {"b"}}}, nil},
		{"header, standard port", "https://git.example.org:443/x.git", "http.https://git.example.org/.extraheader=X:b", "", address{url: "https://git.example.org:443/x.git", header: http.Header{"X": {"b"}}}, nil},
		{"header for all, taken back", "https://git.example.org/a/x.git", "http.extraheader=X:1 http.https://git.example.org/a.extraheader= http.https://git.example.org.extraheader=X:2", "", address{url: "https://git.example.org/a/x.git"}, nil},
		{"header for another path", "https://git.example.org/ab/x.git", "http.https://git.example.org/a.extraheader=X:1", "", address{url: "https://git.example.org/ab/x.git"}, nil},
		{"certificates", "https://git.example.org/x.git", "http.sslcainfo=/a http.https://git.example.org.sslcainfo=/b", "", address{url: "https://git.example.org/x.git", ca: "/b"}, nil},
		{"certificates in the environment", "https://git.example.org/x.git", "http.sslcainfo=/a", "GIT_SSL_CAINFO=/c", address{url: "https://git.example.org/x.git", ca: "/c"}, nil},
		{"rewritten", "ssh://git@git.example.org/g/x.git", "url.https://u:p@git.example.org/.insteadof=ssh://git@git.example.org/ url.https://other/.insteadof=ssh://", "", address{url: "https://git.example.org/g/x.git", header: basic("u:p")}, nil},
		{"ssh", "ssh://git@git.example.org/x.git", "", "", address{}, errNoGit},
		{"scp", "git@git.example.org:x.git", "", "", address{}, errNoGit},
		{"a program", "ext::sh -c id", "", "", address{}, errNoGit},
		{"malformed", "https://git.example.org:x/%zz", "", "", address{}, errNoGit},
		{"file", "file:///a%20b/x.git", "", "", address{dir: "/a b/x.git"}, nil},
		{"path", "/a:b/x.git", "", "", address{dir: "/a:b/x.git"}, nil},
		{"relative path", "../up", "", "", address{dir: filepath.FromSlash("/home/me/up")}, nil},
		{"none", "", "", "", address{}, errNoRemote},
	} {
		t.Run(test.name, func(t *testing.T) {
			settings := map[string][]string{}
			if test.url != "" {
				settings["remote.origin.url"] = []string{test.url}
			}
			for word := range strings.FieldsSeq(test.settings) {
				at := strings.LastIndexByte(word, '=')
				settings[word[:at]] = append(settings[word[:at]], word[at+1:])
			}
			if test.want.url != "" && test.want.header == nil {
				test.want.header = http.Header{}
			}
			got, err := addressOf(settings, "/home/me/clone", environment(test.env))
			if err != test.err || !reflect.DeepEqual(got, test.want) { //nolint:errorlint // as they are
				t.Errorf("got %+v, %v\nwant %+v", got, err, test.want)
			}
		})
	}
}

func TestTransport(t *testing.T) {
	name := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(name, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ca := range []string{name, name + "x"} {
		if _, err := (address{ca: ca}).transport(); err == nil {
			t.Errorf("%s was taken", ca)
		}
	}
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for ca, want := range map[string]bool{name: true, "": false} {
		transport, err := (address{ca: ca}).transport()
		if err != nil {
			t.Fatal(err)
		}
		res, err := (&http.Client{Transport: transport}).Get(server.URL)
		if (err == nil) != want {
			t.Errorf("with %q: %v", ca, err)
		}
		if err == nil {
			res.Body.Close()
		}
	}
}

func TestConfigurationOfTheEnvironment(t *testing.T) {
	for env, want := range map[string]map[string][]string{
		"": {},
		"GIT_CONFIG_COUNT=2 GIT_CONFIG_KEY_0=HTTP.https://A.b/C.ExtraHeader GIT_CONFIG_VALUE_0=X GIT_CONFIG_KEY_1=core.Bare": {
			"http.https://A.b/C.extraheader": {"X"}, "core.bare": {""},
		},
		"GIT_CONFIG_COUNT=x":                      nil,
		"GIT_CONFIG_COUNT=-1":                     nil,
		"GIT_CONFIG_COUNT=1":                      nil,
		"GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=abc": nil,
	} {
		got := map[string][]string{}
		if err := readConfigEnvironment(environment(env), got); (err == nil) != (want != nil) || err == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, %v", env, got, err)
		}
	}
}

// What git includes is included here too.
func TestIncludes(t *testing.T) {
	c := newRepo(t)
	c.write("yes", "[a]\nx = yes\n")
	file := filepath.Join(c.dir, ".git", "config")
	l := layout{root: c.dir, gitDir: filepath.Join(c.dir, ".git"), commonDir: filepath.Join(c.dir, ".git")}
	var included int
	for _, condition := range []string{
		`[include]`, `[includeIf "gitdir:DIR/.git"]`, `[includeIf "gitdir:DIR/"]`, `[includeIf "gitdir:./"]`, `[includeIf "gitdir:.git"]`, `[includeIf "gitdir:.git/"]`,
		`[includeIf "gitdir/i:DIR/.GIT"]`, `[IncludeIf "gitdir:DIR/**"]`, `[includeIf "gitdir:DIR/.g?t"]`, `[includeIf "gitdir:DIR"]`, `[includeIf "gitdir:/elsewhere/"]`,
		`[includeIf "gitdir:DIR/.GIT"]`, `[includeIf "gitdir:LINK/.git"]`, `[includeIf "onbranch:other"]`, `[includeIf "gitdir:/github/workspace/.git"]`,
	} {
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(c.dir, link); err != nil {
			t.Fatal(err)
		}
		c.write(".git/config", strings.NewReplacer("DIR", c.dir, "LINK", link).Replace(condition)+"\npath = ../yes\npath = /nonexistent\n")
		settings := map[string][]string{}
		if err := readIncluding(l, file, settings, 0); err != nil {
			t.Errorf("%s: %v", condition, err)
		}
		want := parseConfigList(c.git("config", "-z", "--list"))["a.x"]
		if !slices.Equal(settings["a.x"], want) {
			t.Errorf("%s: got %q, want %q", condition, settings["a.x"], want)
		}
		included += len(want)
	}
	if included < 5 {
		t.Errorf("git includes %d files", included)
	}
	c.write(".git/config", "[include]\npath = config\n")
	if err := readIncluding(l, file, map[string][]string{}, 0); err == nil {
		t.Error("a file that includes itself was read")
	}
}
