package main

import (
	"cmp"
	"log/slog"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	keys "github.com/pipegen/pipegen/pkg/controller/access"
	"github.com/pipegen/pipegen/pkg/failure"
)

// judgeIssuers finds what the file's own checks of issuers leave out. url is
// that of a flag or the environment.
func judgeIssuers(s *config.Server, url string, report func(rule, hint string, path []any, message string)) {
	say := func(rule string, err error, path ...any) {
		if err != nil {
			report(rule, failure.Hint(err), append([]any{"oidc"}, path...), err.Error())
		}
	}
	for i, issuer := range s.OIDC {
		if len(issuer.Audience) == 0 && cmp.Or(url, s.URL) == "" {
			say("missing-key", failure.WithHint(failure.Input("an issuer has no audience: tokens for anybody would be good here"),
				"audience: [https://pipegen.example.com], or the controller's url"), i)
		}
		if issuer.Name != "" {
			say("bad-name", keys.CheckIssuerName(issuer.Name), i, "name")
		}
		for j, rule := range issuer.Rules {
			say("bad-name", keys.CheckName(rule.Name), i, "rules", j, "name")
			for k, pattern := range rule.Registries {
				say("bad-pattern", keys.CheckRegistry(pattern), i, "rules", j, "registries", k)
			}
		}
	}
}

// identityTokens checks the tokens of the issuers that a file names; nil: it
// names none. url is whom tokens are for where the file does not say.
func identityTokens(s *config.Server, url string, log *slog.Logger) (*keys.OIDC, error) {
	if len(s.OIDC) == 0 {
		return nil, nil
	}
	o := keys.OIDCOptions{Logger: log}
	for _, issuer := range s.OIDC {
		known := keys.Issuer{URL: issuer.Issuer, Name: issuer.Name, Audience: issuer.Audience, Revoked: issuer.Revoked}
		if len(known.Audience) == 0 {
			known.Audience = []string{url}
		}
		if issuer.Leeway != "" {
			var err error
			if known.Leeway, err = time.ParseDuration(issuer.Leeway); err != nil {
				return nil, failure.Input("%w", err)
			}
		}
		for _, r := range issuer.Rules {
			rule := keys.Rule{Name: r.Name, Claims: r.Claims, Registries: r.Registries, Runners: r.Runners, Priority: r.Priority, Tasks: r.Tasks, Runs: r.Runs}
			for _, role := range r.Roles {
				rule.Roles = append(rule.Roles, keys.Role(role))
			}
			if len(rule.Roles) == 0 {
				rule.Roles = []keys.Role{keys.Submit}
			}
			known.Rules = append(known.Rules, rule)
		}
		o.Issuers = append(o.Issuers, known)
	}
	return keys.NewOIDC(o)
}
