package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const goodIssuers = `url: https://pipegen.example.org
id_token: {}
oidc:
- issuer: https://gitlab.example.com
  name: gitlab
  audience: [https://pipegen.example.org, pipegen]
  leeway: 1m
  revoked: [3f1c]
  rules:
  - claims: {project_path: [team/**], ref: [main, "release/*"], ref_protected: ["true"], environment: [production]}
    name: "{project_path}"
    roles: [submit, read]
    registries: ["registry.example.org/{project_path}"]
    runners: [kubernetes]
    priority: 5
    tasks: 20
    runs: 2
- issuer: https://token.actions.githubusercontent.com
  rules:
  - claims: {repository: [octo-org/*]}
  - claims: {repository_owner_id: ["65"], ref: ["**"]}
  - claims: {sub: ["repo:octo-org/app:*"]}
`

func TestReadIssuers(t *testing.T) {
	s, err := ReadServer("server.yaml", []byte(goodIssuers), nil)
	if err != nil {
		t.Fatal(err)
	}
	first := s.OIDC[0].Rules[0]
	if len(s.OIDC) != 2 || first.Claims["ref"][1] != "release/*" || first.Tasks != 20 || first.Runs != 2 || s.OIDC[0].Audience[1] != "pipegen" || s.TokenAudience() != s.URL {
		t.Errorf("%+v", s)
	}
	indented := "server:\n  " + strings.ReplaceAll(strings.TrimSpace(goodIssuers), "\n", "\n  ") + "\n"
	if err := validate(t, "pipegen", indented); err != nil {
		t.Errorf("schema: %v", err)
	}
	named := &Server{URL: "https://a", IDToken: &ServerIdentity{Audience: "b"}}
	if named.TokenAudience() != "b" || (&Server{URL: "https://a"}).TokenAudience() != "" || (*Server)(nil).TokenAudience() != "" {
		t.Error("the audience is another one")
	}
}

func TestIssuerFaults(t *testing.T) {
	const gitlab, github = "https://gitlab.example.com", "https://token.actions.githubusercontent.com"
	issuer := func(url, rest, claims, rule string) string {
		return fmt.Sprintf("url: https://p.example.org\noidc:\n- issuer: %s\n  leeway: 30s%s\n  rules:\n  - claims: %s%s\n", url, rest, claims, rule)
	}
	const mine = "{project_path: [team/**]}"
	for _, tt := range []struct{ text, want string }{
		{"oidc: [{rules: [{claims: " + mine + "}]}]", "1:8 missing-key"},
		{issuer("gitlab.example.com", "", mine, ""), "3:11 bad-url"},
		{issuer("http://gitlab.example.com", "", mine, ""), "3:11 bad-url"},
		{issuer("https://u:secret@gitlab.example.com", "", mine, ""), "3:11 bad-url"},
		{issuer(gitlab, "\n  audience: [a, '']", mine, ""), "5:17 bad-audience"},
		{issuer(gitlab, "\n  audience: a", mine, ""), "5:13 wrong-type"},
		{strings.Replace(issuer(gitlab, "", mine, ""), "30s", "30", 1), "4:11 bad-duration"},
		{strings.Replace(issuer(gitlab, "", mine, ""), "30s", "1h", 1), "4:11 bad-duration"},
		{issuer(gitlab, "", mine, "") + "- issuer: " + gitlab + "\n  rules: [{claims: {sub: [a]}}]\n", "7:11 duplicate-value"},
		{issuer(gitlab, "\n  name: a", mine, "") + "- issuer: https://b.example\n  name: a\n  rules: [{claims: {sub: [a]}}]\n", "9:9 duplicate-value"},
		{"url: https://p.example.org\noidc:\n- issuer: " + gitlab + "\n", "3:3 missing-key"}, // no rules
		{issuer(gitlab, "", "{}", ""), "6:5 missing-key"},
		{issuer(gitlab, "", "{ref: []}", ""), "6:14 empty"},
		{issuer(gitlab, "", "{ref: ['[']}", ""), "6:20 bad-glob"},
		{issuer(gitlab, "", "{ref_protected: [true]}", ""), "6:30 wrong-type"},
		{issuer(gitlab, "", mine, "\n    role: [submit]"), "7:5 unknown-key"},
		{issuer(gitlab, "", mine, "\n    roles: [sumbit]"), "7:13 unknown-value"},
		{issuer(gitlab, "", mine, "\n    runners: [k8s]"), "7:15 unknown-value"},
		{issuer(gitlab, "", mine, "\n    tasks: 0"), "7:12 bad-number"},
		{issuer(gitlab, "", mine, "\n    runs: -1"), "7:11 bad-number"},
		{issuer(gitlab, "", mine, "\n    priority: high"), "7:15 wrong-type"},
		{issuer(gitlab, "", mine, "\n    priority: -1"), "7:15 bad-number"},
		{issuer(github, "", "{ref: [refs/heads/main]}", ""), "6:5 open-rule"},
		{issuer(github, "", "{repository: ['*/app']}", ""), "6:5 open-rule"},
		{issuer(github, "", "{repository: [octo-org/*, 'octo*/app']}", ""), "6:5 open-rule"},
		{issuer("https://gitlab.com", "", "{project_path: ['**']}", ""), "6:5 open-rule"},
		{"id_token: {}", "1:1 missing-key"},
		{"id_token: {audience: $HOST}", "1:22 bad-audience"},
		{"url: https://p.example.org\nid_token: {aud: a}", "2:12 unknown-key"},
	} {
		_, err := ReadServer("server.yaml", []byte(strings.TrimSuffix(tt.text, "\n")+"\n"), nil)
		var faults Faults
		if !errors.As(err, &faults) {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if got := fmt.Sprintf("%d:%d %s", faults[0].Line, faults[0].Column, faults[0].Rule); got != tt.want {
			t.Errorf("%s: %s, want %s (%v)", tt.text, got, tt.want, err)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("shows a password: %v", err)
		}
	}
}
