package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/runner"
	"github.com/pipegen/pipegen/pkg/runner/ecs"
)

// reachTime is how long an answer is waited for.
const reachTime = 15 * time.Second

// agentCheckCommand is what pipegen doctor has a pod run.
func (a *app) agentCheckCommand() *cobra.Command {
	var controller, report string
	var registries []string
	var exit bool
	cmd := &cobra.Command{
		Use:    "check",
		Short:  "Say what can be reached from where agents run",
		Args:   noArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := reach(cmd.Context(), controller, registries)
			if exit {
				return checked(checks)
			}
			text, err := json.Marshal(checks)
			if err != nil {
				return err
			}
			if report == "" {
				_, err = fmt.Fprintf(a.stdout, "%s\n", text)
				return err
			}
			// A file that is mounted by itself can be written, not replaced.
			return os.WriteFile(report, text, 0o600)
		},
	}
	cmd.Flags().StringVar(&controller, "url", "", "`URL` of the controller")
	cmd.Flags().StringSliceVar(&registries, "registry", nil, "`HOST` of a registry; repeats")
	cmd.Flags().BoolVar(&exit, "exit-code", false, "say it by the exit code, and in the log")
	cmd.Flags().StringVar(&report, "report", "", "`FILE` for the result (default: stdout)")
	return cmd
}

// unreachedError says what agents do not reach, by an exit code of its own.
type unreachedError struct {
	code int
	what string
}

func (e *unreachedError) Error() string { return e.what }

// checked says by an exit code what was not reached, where nothing else comes
// back.
func checked(checks []runner.Check) error {
	controller, registries := true, true
	var missing []string
	for _, c := range checks {
		if c.OK {
			continue
		}
		missing = append(missing, c.Name+": "+c.Detail)
		controller = controller && c.Name != "controller"
		registries = registries && !strings.HasPrefix(c.Name, "registry ")
	}
	if code := ecs.CheckExit(controller, registries); code != 0 {
		return &unreachedError{code, strings.Join(missing, "; ")}
	}
	return nil
}

// reach tries the controller and registries from here.
func reach(ctx context.Context, controller string, registries []string) []runner.Check {
	checks := []runner.Check{{Name: "architecture", OK: true, Detail: runtime.GOOS + "/" + runtime.GOARCH}}
	client := &http.Client{Timeout: reachTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if controller != "" {
		c := runner.Check{Name: "controller", Needed: true}
		status, err := answers(ctx, client, strings.TrimRight(controller, "/")+"/health/live")
		switch {
		case err != nil:
			c.Detail, c.Fix = controller+" is not reached: "+err.Error(), "server.kubernetes.url names how pods reach the controller; see NetworkPolicies, and LOCAL_CA_CERTIFICATE for an authority of your own"
		case status != http.StatusOK:
			c.Detail, c.Fix = fmt.Sprintf("%s answers with status %d", controller, status), "see that this is the address of pipegen server, with its path"
		default:
			c.OK, c.Detail = true, controller
		}
		checks = append(checks, c)
	}
	for _, host := range registries {
		checks = append(checks, checkRegistry(ctx, client, host))
	}
	return checks
}

// checkRegistry says whether a registry answers, whatever it says.
func checkRegistry(ctx context.Context, client *http.Client, host string) runner.Check {
	c := runner.Check{Name: "registry " + host, Needed: true}
	scheme := "https"
	if registry.IsLoopback(host) {
		scheme = "http"
	}
	api := host
	if host == "index.docker.io" || host == "docker.io" {
		api = "registry-1.docker.io"
	}
	status, err := answers(ctx, client, scheme+"://"+api+"/v2/")
	switch {
	case err != nil:
		c.Detail, c.Fix = "it is not reached: "+err.Error(), "see egress of NetworkPolicies, proxies (HTTPS_PROXY in server.kubernetes.pod), and LOCAL_CA_CERTIFICATE for an authority of your own"
	case status != http.StatusOK && status != http.StatusUnauthorized && status != http.StatusForbidden:
		c.Detail, c.Fix = fmt.Sprintf("it answers with status %d", status), "see that this is the host of a registry"
	default:
		c.OK, c.Detail = true, "it answers"
	}
	return c
}

func answers(ctx context.Context, client *http.Client, address string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	answer, err := client.Do(request)
	if err != nil {
		if e, ok := err.(*url.Error); ok { //nolint:errorlint // its wrapping is what is taken away
			err = e.Err
		}
		return 0, fmt.Errorf("%s", quote.Text(cmp.Or(err.Error(), "no answer")))
	}
	return answer.StatusCode, answer.Body.Close()
}
