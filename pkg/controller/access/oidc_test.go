package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/pipegen/pipegen/internal/issuertest"
	"github.com/pipegen/pipegen/pkg/failure"
)

const audience = "https://pipegen.example.com"

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)} }

func (c *clock) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// trusting checks tokens of an issuer that is called gitlab.
func trusting(t *testing.T, i *issuertest.Issuer, c *clock, change ...func(*Issuer)) *OIDC {
	t.Helper()
	known := Issuer{URL: i.URL, Name: "gitlab", Audience: []string{audience}, Rules: []Rule{
		{
			Claims: map[string][]string{"project_path": {"team/**"}, "ref_type": {"branch"}, "ref": {"main", "release/*"}, "ref_protected": {"true"}},
			Roles:  []Role{Submit}, Registries: []string{"registry.example.com/{project_path}", "cache.example.com"}, Runners: []string{"kubernetes"}, Priority: 10, Tasks: 20, Runs: 2,
		},
		{Claims: map[string][]string{"project_path": {"team/*"}}, Roles: []Role{Submit}, Registries: []string{"registry.example.com/try/{project_path}"}, Name: "try:{project_path}"},
		{Claims: map[string][]string{"environment": {"production"}, "user_login": {"ann"}, "groups_direct": {"operators"}}, Name: "{user_login}", Roles: []Role{Admin}},
	}}
	for _, f := range change {
		f(&known)
	}
	o, err := NewOIDC(OIDCOptions{Issuers: []Issuer{known}, Transport: i.Transport, Now: c.time})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestIdentityTokens(t *testing.T) {
	gitlab, github, c := issuertest.New(t), issuertest.New(t), newClock()
	github.RotateEC()
	o, err := NewOIDC(OIDCOptions{Now: c.time, Transport: both{gitlab, github}, Issuers: []Issuer{
		{URL: gitlab.URL, Name: "gitlab", Audience: []string{"other", audience}, Rules: []Rule{
			{Claims: map[string][]string{"groups_direct": {"other/*"}, "runner_id": {"1"}}, Roles: []Role{Submit}, Registries: []string{"registry.example.com/{project_path}"}, Tasks: 20},
		}},
		{URL: github.URL, Audience: []string{audience}, Rules: []Rule{
			{Claims: map[string][]string{"repository": {"octo-org/*"}, "ref": {"refs/heads/main"}}, Roles: []Role{Submit, Read}, Runners: []string{"local"}, Runs: 3},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.Authenticate(t.Context(), gitlab.Token(gitlab.GitLab(audience, "Team/App", "main", c.time())))
	if err != nil || p.Name != "Team/App@gitlab" || !p.Writes("registry.example.com/team/app/x:1") || p.Writes("registry.example.com/team/other") || p.Tasks != 20 || p.Runs != 1 ||
		p.Issuer != gitlab.URL || p.Subject != "project_path:Team/App:ref_type:branch:ref:main" || len(p.Token) != 64 || !p.Expires.After(c.time()) {
		t.Errorf("%+v %v", p, err)
	}
	claims := github.GitHub(audience, "octo-org/app", "refs/heads/main", c.time())
	p, err = o.Authenticate(t.Context(), github.Token(claims))
	host := strings.TrimPrefix(github.URL, "https://")
	if err != nil || p.Name != "octo-org/app@"+host || !p.Has(Read) || p.Has(Admin) || p.Runs != 3 {
		t.Errorf("%+v %v", p, err)
	}
	// What is signed anew is the same token; another one of the job is not.
	again, err := o.Authenticate(t.Context(), github.Token(claims))
	if err != nil || again.Token != p.Token {
		t.Errorf("%+v %v", again, err)
	}
	other, err := o.Authenticate(t.Context(), github.Token(github.GitHub(audience, "octo-org/app", "refs/heads/main", c.time())))
	if err != nil || other.Token == p.Token {
		t.Errorf("%+v %v", other, err)
	}
	// Those without an id are told apart by what was signed.
	claims["jti"] = nil
	one, err := o.Authenticate(t.Context(), github.Token(claims))
	two, err2 := o.Authenticate(t.Context(), github.Token(claims))
	if err != nil || err2 != nil || one.Token != two.Token || one.Token == p.Token {
		t.Errorf("%+v %+v %v %v", one, two, err, err2)
	}
	if n := gitlab.Asked() + github.Asked(); n != 2 {
		t.Errorf("the issuers were asked for their keys %d times", n)
	}
}

// both sends to one of several issuers.
type both []*issuertest.Issuer

func (b both) RoundTrip(r *http.Request) (*http.Response, error) {
	for _, i := range b {
		if "https://"+r.URL.Host == i.URL {
			return i.Transport.RoundTrip(r)
		}
	}
	return nil, errors.New("who is that?")
}

func TestIdentityTokensRefused(t *testing.T) {
	i, evil, c := issuertest.New(t), issuertest.New(t), newClock()
	now := c.time()
	good := i.GitLab(audience, "team/app", "main", now)
	with := func(name string, value any) map[string]any {
		changed := maps.Clone(good)
		changed[name] = value
		return changed
	}
	strange, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	i.Add(jose.JSONWebKey{Key: short.Public(), KeyID: "short", Algorithm: "RS256", Use: "sig"})
	i.Add(jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "secret", Algorithm: "HS256"})
	i.Add(jose.JSONWebKey{Key: strange.Public(), KeyID: "for encryption", Use: "enc"})
	modulus, err := json.Marshal(i.Key())
	if err != nil {
		t.Fatal(err)
	}
	signed := func(alg jose.SignatureAlgorithm, key any, id string) string {
		return issuertest.Sign(t, jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: id}}, good)
	}
	token := i.Token(good)
	parts := strings.Split(token, ".")
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + "."
	forged := maps.Clone(good)
	forged["project_path"] = "team/other"
	text, _ := json.Marshal(forged)
	o := trusting(t, i, c, func(i *Issuer) { i.Revoked = []string{"taken back"} })
	for name, tt := range map[string]struct {
		token string
		want  error
		says  string
	}{
		"no token":                      {"", ErrUnknown, "not known"},
		"another kind":                  {"0123456789abcdef", ErrUnknown, "not known"},
		"dots":                          {"a.b.c", ErrUnknown, "not known"},
		"huge":                          {parts[0] + "." + strings.Repeat("a", maxIdentity) + "." + parts[2], ErrUnknown, "not known"},
		"audience":                      {i.Token(with("aud", "https://elsewhere.example.com")), ErrUnknown, "is for https://elsewhere.example.com"},
		"none of several audiences":     {i.Token(with("aud", []string{"a", audience + "/"})), ErrUnknown, "is for a, "},
		"no audience":                   {i.Token(with("aud", nil)), ErrUnknown, "no audience"},
		"issuer that is not trusted":    {evil.Token(evil.GitLab(audience, "team/app", "main", now)), ErrUnknown, "takes no tokens of " + evil.URL},
		"another's key":                 {evil.Token(good), ErrUnknown, "not signed by a key of " + i.URL},
		"a key of nobody":               {signed(jose.ES256, strange, "unheard of"), ErrUnknown, "not signed by a key"},
		"a key of nobody, without name": {signed(jose.ES256, strange, ""), ErrUnknown, "not signed by a key"},
		"another key by that name":      {signed(jose.ES256, strange, i.Key().KeyID), ErrUnknown, "not signed by a key"},
		"short key":                     {signed(jose.RS256, short, "short"), ErrUnknown, "not signed by a key"},
		"key for something else":        {signed(jose.ES256, strange, "for encryption"), ErrUnknown, "not signed by a key"},
		"none":                          {unsigned, ErrUnknown, "signed by none"},
		"none, with a signature":        {unsigned + parts[2], ErrUnknown, "signed by none"},
		"a secret that all know":        {signed(jose.HS256, modulus, i.Key().KeyID), ErrUnknown, "signed by HS256"},
		"a secret among the keys":       {signed(jose.HS256, []byte("0123456789abcdef0123456789abcdef"), "secret"), ErrUnknown, "signed by HS256"},
		"claims of another":             {parts[0] + "." + base64.RawURLEncoding.EncodeToString(text) + "." + parts[2], ErrUnknown, "not signed by a key"},
		"signature cut off":             {parts[0] + "." + parts[1] + ".", ErrUnknown, "not signed by a key"},
		"expired":                       {i.Token(with("exp", now.Add(-time.Minute).Unix())), ErrExpired, "expired at 2026-11-21T11:59:00Z"},
		"never expires":                 {i.Token(with("exp", nil)), ErrUnknown, "when it expires"},
		"not yet valid":                 {i.Token(with("nbf", now.Add(time.Minute).Unix())), ErrUnknown, "before 2026-11-21T12:01:00Z"},
		"issued later":                  {i.Token(with("iat", now.Add(time.Minute).Unix())), ErrUnknown, "issued at 2026-11-21T12:01:00Z"},
		"nobody's":                      {i.Token(with("sub", nil)), ErrUnknown, "no subject"},
		"times that are none":           {i.Token(with("exp", "soon")), ErrUnknown, "not known"},
		"revoked":                       {i.Token(with("jti", "taken back")), ErrUnknown, "revoked"},
		"no rule": {i.Token(with("project_path", "other/app")), ErrForbidden,
			"no rule for tokens of gitlab fits this one, which says groups_direct=team,other/group, project_path=other/app, ref=main, ref_protected=true, ref_type=branch, " +
				"sub=project_path:team/app:ref_type:branch:ref:main, user_login=sample: rule 1 wants another project_path; rule 2 wants another project_path; " +
				"rule 3 wants environment (the token has none), another groups_direct, another user_login"},
		"no part of a name":     {i.Token(with("project_path", "team/app..")), ErrForbidden, "project_path=team/app.. cannot be a part"},
		"blank in the name":     {i.Token(with("project_path", "team/a b")), ErrForbidden, "cannot be"},
		"no claim for the name": {i.Token(map[string]any{"iss": i.URL, "aud": audience, "sub": "x", "exp": now.Add(time.Hour).Unix(), "project_path": []string{"team/a", "team/b"}}), ErrForbidden, "has no project_path"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := o.Authenticate(t.Context(), tt.token)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) || p.Name != "" {
				t.Errorf("%+v %v", p, err)
			}
			if len(parts) == 3 && (strings.Contains(err.Error(), parts[1]) || strings.Contains(err.Error(), parts[2])) {
				t.Errorf("the message has the token: %v", err)
			}
			// Who it is, is known of those alone that the issuer signed.
			r, told := errors.AsType[*Refusal](err)
			trusted := !errors.Is(tt.want, ErrUnknown) || strings.Contains(tt.says, "is for") || strings.Contains(tt.says, "before")
			if trusted && (!told || r.Issuer != i.URL || r.Subject == "") {
				t.Errorf("%+v", r)
			}
			if told && strings.Contains(tt.says, "not signed") && r.Subject != "" {
				t.Errorf("%+v", r)
			}
		})
	}
	// What rules want is for the operator.
	_, err = o.Authenticate(t.Context(), i.Token(with("project_path", "other/app")))
	r, _ := errors.AsType[*Refusal](err)
	if strings.Contains(err.Error(), "team/**") || !strings.Contains(r.Detail, "rule 1 wants project_path=team/**") || failure.Hint(err) == "" {
		t.Errorf("%v\n%s", err, r.Detail)
	}
	// Clocks may differ a little.
	for name, at := range map[string]time.Duration{"exp": -20 * time.Second, "nbf": 20 * time.Second, "iat": 20 * time.Second} {
		if _, err := o.Authenticate(t.Context(), i.Token(with(name, now.Add(at).Unix()))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRules(t *testing.T) {
	i, c := issuertest.New(t), newClock()
	o := trusting(t, i, c)
	for name, tt := range map[string]struct {
		change map[string]any
		want   string
		writes string
		runs   int
	}{
		"first":              {nil, "team/app@gitlab", "registry.example.com/team/app", 2},
		"below":              {map[string]any{"project_path": "team/a/b"}, "team/a/b@gitlab", "registry.example.com/team/a/b", 2},
		"release":            {map[string]any{"ref": "release/1"}, "team/app@gitlab", "cache.example.com/x", 2},
		"true itself":        {map[string]any{"ref_protected": true}, "team/app@gitlab", "cache.example.com/x", 2},
		"a tag of that name": {map[string]any{"ref_type": "tag"}, "try:team/app@gitlab", "registry.example.com/try/team/app", 1},
		"not protected":      {map[string]any{"ref_protected": "false"}, "try:team/app@gitlab", "registry.example.com/try/team/app", 1},
		"no ref":             {map[string]any{"ref": nil}, "try:team/app@gitlab", "registry.example.com/try/team/app", 1},
		"list":               {map[string]any{"project_path": "x/y", "environment": "production", "user_login": "ann", "groups_direct": []string{"a", "operators"}}, "ann@gitlab", "anywhere.example.com/x", 1},
	} {
		t.Run(name, func(t *testing.T) {
			claims := i.GitLab(audience, "team/app", "main", c.time())
			maps.Copy(claims, tt.change)
			p, err := o.Authenticate(t.Context(), i.Token(claims))
			if err != nil || p.Name != tt.want || !p.Writes(tt.writes) || p.Runs != tt.runs {
				t.Errorf("%+v %v", p, err)
			}
		})
	}
}

func TestIssuersAreChecked(t *testing.T) {
	rule := Rule{Claims: map[string][]string{"sub": {"a"}}, Roles: []Role{Submit}}
	good := Issuer{URL: "https://gitlab.example.com", Audience: []string{"a"}, Rules: []Rule{rule}}
	for name, change := range map[string]func(*Issuer, *Rule){
		"no URL":              func(i *Issuer, _ *Rule) { i.URL = "gitlab.example.com" },
		"user":                func(i *Issuer, _ *Rule) { i.URL = "https://a:b@gitlab.example.com" },
		"plain":               func(i *Issuer, _ *Rule) { i.URL = "http://gitlab.example.com" },
		"name":                func(i *Issuer, _ *Rule) { i.Name = "a@b" },
		"no audience":         func(i *Issuer, _ *Rule) { i.Audience = nil },
		"empty audience":      func(i *Issuer, _ *Rule) { i.Audience = []string{"a", ""} },
		"no claims":           func(_ *Issuer, r *Rule) { r.Claims = nil },
		"claim without value": func(_ *Issuer, r *Rule) { r.Claims = map[string][]string{"sub": {}} },
		"empty value":         func(_ *Issuer, r *Rule) { r.Claims = map[string][]string{"sub": {""}} },
		"glob":                func(_ *Issuer, r *Rule) { r.Claims = map[string][]string{"sub": {"["}} },
		"name of a rule":      func(_ *Issuer, r *Rule) { r.Name = "a b" },
		"half a place":        func(_ *Issuer, r *Rule) { r.Name = "{sub" },
		"no role":             func(_ *Issuer, r *Rule) { r.Roles = nil },
		"role":                func(_ *Issuer, r *Rule) { r.Roles = []Role{"root"} },
		"registry":            func(_ *Issuer, r *Rule) { r.Registries = []string{"{project_path}"} },
		"place in a registry": func(_ *Issuer, r *Rule) { r.Registries = []string{"a.example.com/{}"} },
		"number":              func(_ *Issuer, r *Rule) { r.Tasks = -1 },
	} {
		i, r := good, rule
		change(&i, &r)
		i.Rules = []Rule{r}
		if _, err := NewOIDC(OIDCOptions{Issuers: []Issuer{i}}); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
	local := good
	local.URL = "http://127.0.0.1:3000"
	if _, err := NewOIDC(OIDCOptions{Issuers: []Issuer{good, local}}); err != nil {
		t.Error(err)
	}
	if _, err := NewOIDC(OIDCOptions{Issuers: []Issuer{good, good}}); !errors.Is(err, failure.ErrInput) {
		t.Error(err)
	}
}

// A key that is new is fetched when a token has it; one that was taken back is
// good for a while at most.
func TestKeysRotate(t *testing.T) {
	i, c := issuertest.New(t), newClock()
	o := trusting(t, i, c)
	made := func() string { return i.Token(i.GitLab(audience, "team/app", "main", c.time())) }
	accepts := func(token string) {
		t.Helper()
		if _, err := o.Authenticate(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	old := made()
	accepts(old)
	for range strangers {
		i.Rotate()
		accepts(made())
		accepts(old)
	}
	if n := i.Asked(); n != strangers+1 {
		t.Errorf("asked %d times", n)
	}
	// One more right after: it is asked for soon, not at once.
	i.Rotate()
	fresh := made()
	_, err := o.Authenticate(t.Context(), fresh)
	u, late := errors.AsType[*Unavailable](err)
	if !late || u.After <= 0 || u.After > betweenFetches || i.Asked() != strangers+1 {
		t.Errorf("%v, asked %d times", err, i.Asked())
	}
	// Of a token that is older than the last answer it is known that nobody signed it.
	claims := i.GitLab(audience, "team/app", "main", c.time().Add(-time.Minute))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Authenticate(t.Context(), issuertest.Sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "new"}}, claims)); !errors.Is(err, ErrUnknown) || i.Asked() != strangers+1 {
		t.Errorf("%v, asked %d times", err, i.Asked())
	}
	c.pass(betweenFetches)
	accepts(fresh)
	// The issuer takes all keys back but the last.
	i.Publish(1)
	c.pass(freshKeys)
	if _, err := o.Authenticate(t.Context(), old); !errors.Is(err, ErrUnknown) {
		t.Errorf("a key that was taken back: %v", err)
	}
	accepts(fresh)
}

// However many tokens name keys that there are not, the issuer is asked once in
// a while.
func TestStrangeKeysAreNotAskedForEachTime(t *testing.T) {
	i, c := issuertest.New(t), newClock()
	o := trusting(t, i, c)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			token := issuertest.Sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: rand.Text()}}, i.GitLab(audience, "team/app", "main", c.time()))
			if p, err := o.Authenticate(t.Context(), token); err == nil {
				t.Errorf("%+v", p)
			}
		})
	}
	wg.Wait()
	if n := i.Asked(); n > strangers+1 {
		t.Errorf("asked %d times", n)
	}
}

func TestIssuerIsAway(t *testing.T) {
	i, c := issuertest.New(t), newClock()
	o := trusting(t, i, c)
	long := i.GitLab(audience, "team/app", "main", c.time())
	long["exp"] = c.time().Add(100 * time.Hour).Unix()
	token := i.Token(long)
	down := func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	}
	i.Answer(down)
	check := func(want bool, asked int) {
		t.Helper()
		p, err := o.Authenticate(t.Context(), token)
		u, away := errors.AsType[*Unavailable](err)
		if want != (err == nil) || err != nil && (!away || u.Issuer != i.URL || u.After <= 0 || errors.Is(err, ErrUnknown) || errors.Is(err, ErrForbidden)) {
			t.Fatalf("%+v %v", p, err)
		}
		if n := i.Asked(); asked >= 0 && n != asked {
			t.Fatalf("asked %d times for keys", n)
		}
	}
	check(false, 0) // it does not even say where they are
	if err := o.Warm(t.Context()); err == nil || !strings.Contains(err.Error(), "502") {
		t.Error(err)
	}
	i.Answer(nil)
	check(false, 0) // not asked again at once
	c.pass(betweenFetches)
	check(true, 1)
	if err := o.Warm(t.Context()); err != nil {
		t.Error(err)
	}
	// What is known stays good for a day.
	i.Answer(down)
	for range 5 {
		c.pass(4 * time.Hour)
		check(true, -1)
	}
	c.pass(4 * time.Hour)
	check(false, -1)
	// And good again once the issuer is there.
	i.Answer(nil)
	c.pass(betweenFetches)
	check(true, -1)
}

// A request that ends does not take the answer from those that wait with it.
func TestFetchOutlivesItsRequest(t *testing.T) {
	i, c := issuertest.New(t), newClock()
	o := trusting(t, i, c)
	token := i.Token(i.GitLab(audience, "team/app", "main", c.time()))
	ctx, cancel := context.WithCancel(t.Context())
	arrived, goOn := make(chan struct{}), make(chan struct{})
	i.Answer(func(http.ResponseWriter, *http.Request) bool {
		select {
		case arrived <- struct{}{}:
			<-goOn
		default:
		}
		return false
	})
	first := make(chan error)
	go func() {
		_, err := o.Authenticate(ctx, token)
		first <- err
	}()
	<-arrived
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	second := make(chan error)
	go func() {
		_, err := o.Authenticate(t.Context(), token)
		second <- err
	}()
	close(goOn)
	if err := <-second; err != nil || i.Asked() != 1 {
		t.Errorf("%v, asked %d times", err, i.Asked())
	}
}

// Whatever an issuer answers, nobody is let in by it.
func TestIssuerAnswersNonsense(t *testing.T) {
	say := func(path, text string) func(*issuertest.Issuer) {
		return func(i *issuertest.Issuer) {
			i.Answer(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == path {
					_, _ = w.Write([]byte(strings.ReplaceAll(text, "SELF", i.URL)))
				}
				return r.URL.Path == path
			})
		}
	}
	const about, keys = "/.well-known/openid-configuration", "/oauth/discovery/keys"
	for name, tt := range map[string]struct {
		change func(*issuertest.Issuer)
		says   string
	}{
		"no JSON":              {say(about, "<html>"), "not what an issuer answers"},
		"another issuer":       {say(about, `{"issuer":"https://evil.example.com","jwks_uri":"SELF/keys"}`), "is the issuer https://evil.example.com"},
		"keys over plain HTTP": {say(about, `{"issuer":"SELF","jwks_uri":"http://keys.example.com/"}`), "no address that can be trusted"},
		"keys nowhere":         {say(about, `{"issuer":"SELF"}`), "no address that can be trusted"},
		"keys missing":         {say(about, `{"issuer":"SELF","jwks_uri":"SELF/none"}`), "404"},
		"keys that are none":   {say(keys, `[]`), "not what an issuer answers"},
		"no keys":              {say(keys, `{"keys":[]}`), "no key"},
		"keys of other kinds":  {say(keys, `{"keys":[{"kty":"oct","k":"c2VjcmV0"},{"kty":"quantum"},7]}`), "no key"},
		"endless":              {say(keys, `{"keys":[`+strings.Repeat(" ", maxDocument)+`]}`), "more than 1048576 bytes"},
		"to plain HTTP": {func(i *issuertest.Issuer) {
			i.Answer(func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, "http://keys.example.com/", http.StatusFound)
				return true
			})
		}, "leads elsewhere"},
	} {
		t.Run(name, func(t *testing.T) {
			i, c := issuertest.New(t), newClock()
			tt.change(i)
			_, err := trusting(t, i, c).Authenticate(t.Context(), i.Token(i.GitLab(audience, "team/app", "main", c.time())))
			u, away := errors.AsType[*Unavailable](err)
			if !away || !strings.Contains(u.Err.Error(), tt.says) {
				t.Error(err)
			}
		})
	}
}

func TestAnySaysMost(t *testing.T) {
	i, c := issuertest.New(t), newClock()
	static, err := Given("ci", "0123456789.abcde.f", Submit)
	if err != nil {
		t.Fatal(err)
	}
	all := Any{trusting(t, i, c), Static{Source: Fixed(static)}}
	if p, err := all.Authenticate(t.Context(), "0123456789.abcde.f"); err != nil || p.Name != "ci" || p.Issuer != "" {
		t.Errorf("%+v %v", p, err)
	}
	wrong := i.GitLab("elsewhere", "team/app", "main", c.time())
	if _, err := all.Authenticate(t.Context(), i.Token(wrong)); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "elsewhere") {
		t.Error(err)
	}
	if p, err := all.Authenticate(t.Context(), i.Token(i.GitLab(audience, "team/app", "main", c.time()))); err != nil || p.Name != "team/app@gitlab" {
		t.Errorf("%+v %v", p, err)
	}
}

// FuzzIdentity looks at what anybody may send.
func FuzzIdentity(f *testing.F) {
	u, _ := url.Parse("https://gitlab.example.com")
	o, err := NewOIDC(OIDCOptions{Issuers: []Issuer{{URL: u.String(), Audience: []string{audience}}}, Transport: both{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2dpdGxhYi5leGFtcGxlLmNvbSJ9.AA")
	f.Fuzz(func(t *testing.T, token string) {
		if p, err := o.Authenticate(t.Context(), token); err == nil || p.Name != "" {
			t.Errorf("%q lets in %+v", token, p)
		}
	})
}

// FuzzPlaces puts claims into patterns of repositories: they match below the
// place that they are put at, and nothing else.
func FuzzPlaces(f *testing.F) {
	f.Add("team/app", "team/app/x")
	f.Add("*", "other")
	f.Add("team/../other", "other")
	f.Fuzz(func(t *testing.T, value, path string) {
		c := claims{"p": {value}}
		pattern, err := c.expand("r.example.com/{p}", repositoryPart)
		if err != nil {
			return
		}
		p := Principal{Registries: []string{pattern}}
		repository := "r.example.com/" + path
		if below := "r.example.com/" + strings.ToLower(value); p.Writes(repository) && path != "" && !strings.HasPrefix(repository, below) {
			t.Errorf("%q lets through %q", value, repository)
		}
	})
}
