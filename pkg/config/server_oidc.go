package config

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/glob"
)

// ServerIssuer is a CI system whose identity tokens (OpenID Connect) let its
// jobs use the controller.
type ServerIssuer struct {
	// As its tokens name it: https://gitlab.example.com, https://token.actions.githubusercontent.com.
	Issuer string `yaml:"issuer"`
	// What names of submitters end with, after an @; default: the issuer's host.
	Name string `yaml:"name,omitempty"`
	// Whom tokens are for; default: the controller's url.
	Audience []string `yaml:"audience,omitempty"`
	// How far its clock and the controller's may be apart, at most 5m; default: 30s.
	Leeway string `yaml:"leeway,omitempty"`
	// Ids (jti) of tokens that are refused before they expire.
	Revoked []string `yaml:"revoked,omitempty"`
	// Who may do what; the first rule whose claims all fit decides.
	Rules []ServerRule `yaml:"rules"`
}

// ServerRule says what the jobs may do whose tokens fit.
type ServerRule struct {
	// Globs of what a claim may be, by its name; all claims must fit.
	Claims map[string][]string `yaml:"claims"`
	// Who they are: shown as the submitter of runs; {NAME} stands for a claim. Default: {project_path}, {repository} or {sub}.
	Name string `yaml:"name,omitempty"`
	// submit, read, admin; default: submit.
	Roles []string `yaml:"roles,omitempty"`
	// Patterns of repositories that their runs may write to, as of tokens; {NAME} stands for a claim, in small letters. Default: all.
	Registries []string `yaml:"registries,omitempty"`
	// Runners that their runs may use; default: all.
	Runners []string `yaml:"runners,omitempty"`
	// Highest priority that their runs may have; default: 0.
	Priority int `yaml:"priority,omitempty"`
	// Tasks at once of one submitter on all runners; default: limits.tasks_per_submitter.
	Tasks int `yaml:"tasks,omitempty"`
	// Runs that one token may start; default: 1.
	Runs int `yaml:"runs,omitempty"`
}

// ServerIdentity has jobs use the controller by the identity that the CI system
// gives them.
type ServerIdentity struct {
	// Whom the identity is shown to; default: the url.
	Audience string `yaml:"audience,omitempty"`
}

// maxLeeway is beyond what clocks differ that are set at all.
const maxLeeway = 5 * time.Minute

// everybodys are issuers that give tokens to whoever asks.
var everybodys = []string{"gitlab.com", "token.actions.githubusercontent.com", "agent.buildkite.com", "oidc.circleci.com"}

// whose are the claims that say whose job it is.
var whose = []string{
	"actor", "actor_id", "enterprise", "enterprise_id", "groups_direct", "job_workflow_ref", "namespace_id", "namespace_path", "oidc.circleci.com/project-id",
	"organization_id", "organization_slug", "project_id", "project_path", "repository", "repository_id", "repository_owner", "repository_owner_id", "sub", "user_email",
	"user_id", "user_login", "workflow_ref",
}

// issuers judges whose identity tokens are taken.
func (c checker) issuers(s *Server) {
	seen, names := map[string]bool{}, map[string]bool{}
	for i, issuer := range s.OIDC {
		c := c.below("oidc", i)
		u, err := url.Parse(issuer.Issuer)
		switch {
		case issuer.Issuer == "":
			c.fault("missing-key", "issuer: https://gitlab.example.com", at(), "an issuer has no URL")
			continue
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
			c.fault("bad-url", "as its tokens name it: https://gitlab.example.com", at("issuer"), "issuer is no URL of an issuer")
			continue
		case u.Scheme == "http" && !slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, u.Hostname()):
			c.fault("bad-url", "whoever changes the keys on their way can make tokens: use https", at("issuer"), "issuer is asked for its keys over plain HTTP")
		}
		name := cmp.Or(issuer.Name, u.Host)
		switch {
		case seen[issuer.Issuer]:
			c.fault("duplicate-value", "put its rules into one list", at("issuer"), "there are two issuers %s", show(issuer.Issuer))
		case names[name]:
			c.fault("duplicate-value", "give one of them another name", at("name"), "there are two issuers named %s", show(name))
		}
		seen[issuer.Issuer], names[name] = true, true
		for n, audience := range issuer.Audience {
			if audience == "" || strings.ContainsAny(audience, " \t$") {
				c.fault("bad-audience", "such as https://pipegen.example.com", at("audience", n), "%s is no audience", show(audience))
			}
		}
		c.duration(issuer.Leeway, at("leeway"))
		if d, err := time.ParseDuration(issuer.Leeway); err == nil && d > maxLeeway {
			c.fault("bad-duration", "at most 5m", at("leeway"), "leeway %s lets tokens live too long", show(issuer.Leeway))
		}
		if len(issuer.Rules) == 0 {
			c.fault("missing-key", "rules: [{claims: {project_path: [team/**]}}]", at(), "an issuer has no rules: no token of it is of use")
		}
		for n, rule := range issuer.Rules {
			c.below("rules", n).rule(rule, slices.Contains(everybodys, u.Host))
		}
	}
}

// rule judges one; public: its issuer gives tokens to everybody.
func (c checker) rule(r ServerRule, public bool) {
	if len(r.Claims) == 0 {
		c.fault("missing-key", "claims: {project_path: [team/**]} for GitLab, {repository: [team/*]} for GitHub", at(), "a rule has no claims: whoever the issuer gives tokens to would be let in")
	}
	narrow := false
	for _, e := range c.entries("claims") {
		name := e.key.Value
		if len(r.Claims[name]) == 0 {
			c.fault("empty", "name what it may be", at("claims", name), "no %s fits", show(name))
		}
		for i, pattern := range r.Claims[name] {
			written, _ := locate(c.doc.tree(), append(slices.Clip(c.prefix), "claims", name, i))
			if pattern == "" && kindOf(target(written)) == "text" || !glob.Valid(pattern) {
				c.fault("bad-glob", "check its brackets and braces", at("claims", name, i), "%s is no glob", show(pattern))
			}
		}
		narrow = narrow || slices.Contains(whose, name) && !slices.ContainsFunc(r.Claims[name], func(pattern string) bool {
			first, _, _ := strings.Cut(pattern, "/")
			return glob.HasMeta(first)
		})
	}
	if public && !narrow && len(r.Claims) > 0 {
		c.fault("open-rule", "add project_path: [GROUP/**] or repository: [OWNER/*]", at("claims"), "this rule fits projects of everybody: no claim of it says whose they are")
	}
	for i, role := range r.Roles {
		if !slices.Contains(serverRoles, role) {
			c.fault("unknown-value", oneOf(role, serverRoles), at("roles", i), "there is no role %s", show(role))
		}
	}
	for i, runner := range r.Runners {
		if !slices.Contains(serverRunners, runner) {
			c.fault("unknown-value", oneOf(runner, serverRunners), at("runners", i), "there is no runner %s", show(runner))
		}
	}
	if r.Priority < 0 {
		c.fault("bad-number", "", at("priority"), "priority %d is below 0", r.Priority)
	}
	c.positive(r.Tasks, at("tasks"))
	c.positive(r.Runs, at("runs"))
}

// identity judges the identity that jobs show.
func (c checker) identity(s *Server) {
	switch {
	case s.IDToken == nil:
	case s.IDToken.Audience == "" && s.URL == "":
		c.fault("missing-key", "id_token: {audience: https://pipegen.example.com}, or url", at("id_token"), "id_token has no audience")
	case strings.ContainsAny(s.IDToken.Audience, " \t$"):
		c.fault("bad-audience", "such as https://pipegen.example.com", at("id_token", "audience"), "%s is no audience", show(s.IDToken.Audience))
	}
}

// TokenAudience gives whom the identity of jobs is shown to; empty: they have a
// token of the controller's own.
func (s *Server) TokenAudience() string {
	switch {
	case s == nil || s.IDToken == nil:
		return ""
	case s.IDToken.Audience != "":
		return s.IDToken.Audience
	}
	return s.URL
}
