package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

const goodServer = `url: https://pipegen.example.org/at
limits:
  tasks: {local: 4}
  tasks_per_submitter: 2
  publishing: 3
  attempts: 5
  start_timeout: 90s
  silence_timeout: 30s
  total_timeout: 2h
  task_log: 64Mi
  context: 1G
  plan: 2Mi
  requests_per_second: 10
retention: {contexts: 24h, logs: 48h, runs: 72h}
tokens:
- name: ci
  sha256: 9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08
  roles: [submit, read]
  registries: [registry.example.org/team]
  runners: [local]
  priority: 3
  expires: 2027-01-31
`

func TestReadServer(t *testing.T) {
	indented := "server:\n  " + strings.ReplaceAll(strings.TrimSpace(goodServer), "\n", "\n  ") + "\n"
	for name, text := range map[string]string{"server.yaml": goodServer, "pipegen.yaml": "layout: tag\n" + indented} {
		s, err := ReadServer(name, []byte(text), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		expires, _ := s.Tokens[0].Expiry()
		if s.URL != "https://pipegen.example.org/at" || s.Limits.Tasks["local"] != 4 || s.Limits.RequestsPerSecond != 10 || s.Retention.Runs != "72h" ||
			s.Tokens[0].Priority != 3 || !expires.Equal(time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%s: %+v", name, s)
		}
		if err := validate(t, "pipegen", indented); err != nil {
			t.Errorf("schema: %v", err)
		}
	}
	if s, err := ReadServer("empty.yaml", nil, nil); err != nil || s.URL != "" {
		t.Errorf("%+v %v", s, err)
	}
	if n, err := Bytes("64Mi"); n != 64<<20 || err != nil {
		t.Error(n, err)
	}
}

func TestServerFaults(t *testing.T) {
	token := func(change string) string {
		return "tokens: [{name: ci, sha256: " + strings.Repeat("0", 64) + ", roles: [submit], " + change + "}]"
	}
	for _, tt := range []struct{ text, want string }{
		{"url: pipegen.example.org", "1:6 bad-url"},
		{"url: https://u:p@h", "1:6 bad-url"},
		{"limit: {}", "1:1 unknown-key"},
		{"limits: {tasks: {locl: 1}}", "1:18 unknown-key"},
		{"limits: {tasks: {local: 0}}", "1:25 bad-number"},
		{"limits: {tasks: {local: many}}", "1:25 wrong-type"},
		{"limits: {attempts: -1}", "1:20 bad-number"},
		{"limits: {attempts: 1.5}", "1:20 wrong-type"},
		{"limits: {attempts: 99999999999999999999}", "1:20 wrong-type"},
		{"limits: {start_timeout: 10}", "1:25 bad-duration"},
		{"limits: {task_log: 512}", "1:20 bad-quantity"},
		{"retention: {runs: never}", "1:19 bad-duration"},
		{"tokens: [{name: ci, roles: [submit]}]", "1:10 bad-token"},
		{"tokens: [{sha256: " + strings.Repeat("0", 64) + ", roles: [submit]}]", "1:10 missing-key"},
		{"tokens: [{name: ci, sha256: " + strings.Repeat("0", 64) + "}]", "1:10 missing-key"},
		{"tokens: [{name: ci, sha256: my-secret-token, roles: [submit]}]", "1:29 bad-token"},
		{token("token: x"), "1:112 unknown-key"},
		{token("expires: tomorrow"), "1:121 bad-date"},
		{token("runners: [ec2]"), "1:122 unknown-value"},
		{strings.Replace(token(""), "[submit]", "[sumbit]", 1), "1:103 unknown-value"},
		{strings.Replace(token(""), "[submit]", "[]", 1), "1:95 missing-key"},
		{"url: [", "1:1 syntax"},
	} {
		_, err := ReadServer("server.yaml", []byte(tt.text+"\n"), nil)
		var faults Faults
		if !errors.As(err, &faults) {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		got := fmt.Sprintf("%d:%d %s", faults[0].Line, faults[0].Column, faults[0].Rule)
		if got != tt.want {
			t.Errorf("%s: %s, want %s (%v)", tt.text, got, tt.want, err)
		}
		if strings.Contains(err.Error(), "my-secret-token") {
			t.Errorf("shows what may be a token: %v", err)
		}
	}
	twice := "tokens:\n- &a {name: ci, sha256: " + strings.Repeat("0", 64) + ", roles: [submit]}\n- *a\n"
	if _, err := ReadServer("s", []byte(twice), nil); err == nil {
		t.Error("two tokens of one name")
	}
	_, err := ReadServer("pipegen.yaml", []byte("server:\n  tokens:\n  - {name: ci, sha256: "+strings.Repeat("0", 64)+", roles: [submit], registries: [x]}\n"),
		func(s *Server, report func(rule, hint string, path []any, message string)) {
			report("bad-pattern", "", []any{"tokens", 0, "registries", 0}, s.Tokens[0].Registries[0]+" is bad")
		})
	if faults, _ := errors.AsType[Faults](err); len(faults) != 1 || faults[0].Line != 3 || faults[0].Column != 120 {
		t.Errorf("%v", err)
	}
}
