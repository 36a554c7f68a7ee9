package main

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/controller"
	keys "github.com/pipegen/pipegen/pkg/controller/access"
	"github.com/pipegen/pipegen/pkg/controller/web"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/submission"
)

// settings are what flags, the file of --config and the environment say, in
// this order of precedence.
type settings struct {
	core   controller.Limits
	web    web.Limits
	access keys.Authenticator
	// Of CI systems; nil: none are taken.
	identities *keys.OIDC
	resources  *config.Resources
	compile    func(data []byte, service string) (*web.Compiled, error)
	// Of agents on Kubernetes.
	kubernetes config.ServerKubernetes
	// Of agents on ECS, if there are any.
	ecs config.ServerECS
	// Of values that AWS keeps; may be nil.
	secrets *config.ServerSecrets
	// May be nil.
	logCopy *config.ServerLogCopy
}

func (a *app) settings(s *serving) (*settings, error) {
	if err := s.check(a); err != nil {
		return nil, err
	}
	file := new(config.Server)
	name, data, err := a.serverFile(s.config)
	if err != nil {
		return nil, err
	}
	if name != "" {
		judge := func(file *config.Server, report func(rule, hint string, path []any, message string)) {
			judgeTokens(file, report)
			judgeIssuers(file, s.url, report)
		}
		if file, err = config.ReadServer(name, data, judge); err != nil {
			return nil, err
		}
	}
	s.url = orElse(s.url, file.URL)
	if err := s.prepare(); err != nil {
		return nil, err
	}
	var out settings
	if out.identities, err = identityTokens(file, s.url, a.serverLog()); err != nil {
		return nil, err
	}
	if out.access, err = a.tokenSources(*s, file, out.identities); err != nil {
		return nil, err
	}
	if out.core, out.web, err = limits(file); err != nil {
		return nil, err
	}
	out.kubernetes, out.secrets = file.OnKubernetes(), file.Secrets
	out.logCopy = file.LogCopy
	if slices.Contains(s.runners, "ecs") {
		if out.ecs, err = file.OnECS(a.getenv); err != nil {
			return nil, err
		}
	}
	taskTime, err := a.durationVariable("BUILD_TASK_TIMEOUT")
	if err != nil {
		return nil, err
	}
	if silence, err := a.durationVariable("BUILD_RESULT_TIMEOUT"); err != nil {
		return nil, err
	} else if file.Limits.SilenceTimeout == "" {
		out.core.Silence = silence
	}
	given, err := config.ReadResources(a.getenv("DEFAULT_BUILD_CPU"), a.getenv("DEFAULT_BUILD_MEMORY"))
	if err != nil {
		return nil, fmt.Errorf("DEFAULT_BUILD_CPU, DEFAULT_BUILD_MEMORY: %w", err)
	}
	if given.CPU+given.Memory != "" {
		out.resources = &given
	}
	out.compile = func(data []byte, service string) (*web.Compiled, error) {
		return compileConfig(data, service, taskTime)
	}
	return &out, nil
}

// settingsVariable holds what is otherwise in the file of --config, for where
// containers are given no files.
const settingsVariable = "PIPEGEN_SERVER_SETTINGS"

// serverFile gives what is said of the controller, and under what name; without
// a name nothing is.
func (a *app) serverFile(path string) (name string, data []byte, err error) {
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", nil, failure.Input("--config: %w", err)
		}
		return path, data, nil
	}
	if text := a.getenv(settingsVariable); text != "" {
		return settingsVariable, []byte(text), nil
	}
	return "", nil, nil
}

// limits gives those of the file; what it leaves out has the packages' own
// defaults.
func limits(file *config.Server) (controller.Limits, web.Limits, error) {
	l := file.Limits
	core := controller.Limits{
		Runner: map[string]int{"local": runtime.GOMAXPROCS(0)}, Submitter: l.TasksPerSubmitter, Publishing: l.Publishing, Attempts: l.Attempts,
	}
	maps.Copy(core.Runner, l.Tasks)
	front := web.Limits{Requests: float64(l.RequestsPerSecond)}
	for _, d := range []struct {
		text string
		to   *time.Duration
	}{
		{l.StartTimeout, &core.Start},
		{l.SilenceTimeout, &core.Silence},
		{l.TotalTimeout, &core.Total},
		{file.Retention.Contexts, &core.KeepContexts},
		{file.Retention.Logs, &core.KeepLogs},
		{file.Retention.Runs, &core.KeepRuns},
	} {
		if d.text == "" {
			continue
		}
		var err error
		if *d.to, err = time.ParseDuration(d.text); err != nil {
			return core, front, failure.Input("%w", err)
		}
	}
	for _, b := range []struct {
		text string
		to   *int64
	}{{l.TaskLog, &core.LogBytes}, {l.Context, &front.ContextBytes}, {l.Plan, &front.RunBytes}} {
		var err error
		if *b.to, err = config.Bytes(b.text); err != nil {
			return core, front, err
		}
	}
	front.Contexts = core.KeepContexts
	return core, front, nil
}

// durationVariable reads a duration of the environment; 0: it is not set.
func (a *app) durationVariable(name string) (time.Duration, error) {
	text := a.getenv(name)
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, failure.WithHint(failure.Input("%s=%q is no duration", name, text), "for example 10m")
	}
	return d, nil
}

// fileToken is a token of a file as it is checked.
func fileToken(t config.ServerToken) (keys.Token, error) {
	token := keys.Token{Name: t.Name, SHA256: t.SHA256, Registries: t.Registries, Runners: t.Runners, Priority: t.Priority}
	for _, r := range t.Roles {
		token.Roles = append(token.Roles, keys.Role(r))
	}
	var err error
	if token.Expires, err = t.Expiry(); err != nil {
		return token, failure.Input("%w", err)
	}
	return token, token.Check()
}

// judgeTokens finds what the file's own checks leave out.
func judgeTokens(s *config.Server, report func(rule, hint string, path []any, message string)) {
	for i, t := range s.Tokens {
		sound := true
		for j, pattern := range t.Registries {
			if err := keys.CheckPattern(pattern); err != nil {
				sound = false
				report("bad-pattern", failure.Hint(err), []any{"tokens", i, "registries", j}, err.Error())
			}
		}
		if _, err := fileToken(config.ServerToken{Name: t.Name, SHA256: strings.Repeat("0", 64), Roles: []string{"read"}}); err != nil && sound && t.Name != "" {
			report("bad-name", failure.Hint(err), []any{"tokens", i, "name"}, err.Error())
		}
	}
}

// compileConfig makes a run of what the original's clients send.
func compileConfig(data []byte, service string, timeout time.Duration) (*web.Compiled, error) {
	s, err := submission.FromConfig(data, submission.DefaultConfig, submission.Options{Name: service, Now: time.Now()})
	if err != nil {
		return nil, err
	}
	if timeout > 0 {
		for i := range s.Plan.Images {
			for j := range s.Plan.Images[i].Builds {
				s.Plan.Images[i].Builds[j].Timeout = timeout.String()
			}
		}
	}
	out := &web.Compiled{Plan: s.Plan, Credentials: s.Credentials, Secrets: s.Secrets, Runner: s.Runner}
	for _, w := range s.Warnings {
		out.Warnings = append(out.Warnings, faultText(w))
	}
	return out, nil
}

// acceptable refuses plans that ask for what only the side that made them has.
func acceptable(p *plan.Plan) error {
	if p.Publish.Sign != nil {
		return failure.WithHint(failure.Input("the plan asks for signatures, and the controller has no keys of those who submit"),
			"publish from CI (pipegen manifest), or take publish.sign out")
	}
	return nil
}

// redacted keeps credentials and control characters out of the log.
func redacted(_ []string, attr slog.Attr) slog.Attr {
	switch strings.ToLower(attr.Key) {
	case "token", "password", "secret", "authorization", "credentials":
		return slog.String(attr.Key, "REDACTED")
	}
	switch v := attr.Value.Any().(type) {
	case string:
		return slog.String(attr.Key, quote.Text(quote.URL(v)))
	case error:
		return slog.String(attr.Key, quote.Text(quote.URL(v.Error())))
	}
	return attr
}
