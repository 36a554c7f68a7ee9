package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/config"
	keys "github.com/pipegen/pipegen/pkg/controller/access"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

func (a *app) serverTokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Say who may use the controller",
		Long: `Tokens are random and shown once; only their hashes are kept, in tokens.json of
the data directory. A controller that runs sees a change within a second.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			names := []string{"add", "list", "remove"}
			err := failure.Input("pipegen server token has no command %q", args[0])
			if near := config.Nearest(args[0], names); near != "" {
				return failure.WithHint(err, "did you mean %q?", near)
			}
			return failure.WithHint(err, "one of: %s", strings.Join(names, ", "))
		},
		Args: cobra.ArbitraryArgs,
	}
	cmd.AddCommand(a.tokenAddCommand(), a.tokenListCommand(), a.tokenRemoveCommand())
	return cmd
}

// tokenFile opens the tokens of a data directory.
func (a *app) tokenFile(dir string) (*keys.File, error) {
	if dir == "" {
		var err error
		if dir, err = a.stateDir(); err != nil {
			return nil, err
		}
	}
	return keys.OpenFile(dir), nil
}

func (a *app) tokenAddCommand() *cobra.Command {
	var dir, expires string
	var roles, registries, runners []string
	var priority int
	cmd := &cobra.Command{
		Use:     "add NAME",
		Short:   "Make a token and print it",
		Example: "  pipegen server token add team-a --registry registry.example.com/team-a --expires 720h\n  pipegen server token add dashboard --role read",
		Args:    exactArgs(1, "a name for the token"),
		RunE: func(_ *cobra.Command, args []string) error {
			t := keys.Token{Name: args[0], Registries: registries, Runners: runners, Priority: priority}
			for _, r := range roles {
				role, err := keys.ParseRole(r)
				if err != nil {
					return err
				}
				t.Roles = append(t.Roles, role)
			}
			for _, name := range runners {
				if !slices.Contains([]string{"local", "kubernetes", "ecs"}, name) {
					return failure.WithHint(failure.Input("--runner %q: there is no such runner", name), "one of: local, kubernetes, ecs")
				}
			}
			if priority < 0 {
				return failure.Input("--priority %d is below 0", priority)
			}
			var err error
			if t.Expires, err = expiry(expires, time.Now()); err != nil {
				return err
			}
			file, err := a.tokenFile(dir)
			if err != nil {
				return err
			}
			secret, err := file.Add(t)
			if err != nil {
				return err
			}
			if len(registries) == 0 && t.Roles[0] != keys.Read {
				a.note("the runs of %s may write to any registry that they have credentials for; --registry limits that", t.Name)
			}
			a.note("this is the token of %s; it is not shown again:", t.Name)
			return a.write("-", []byte(secret+"\n"))
		},
	}
	dataDirFlag(a, cmd.Flags(), &dir)
	cmd.Flags().StringSliceVar(&roles, "role", []string{"submit"}, "`ROLE`: submit, read (everybody's runs) or admin; repeats")
	cmd.Flags().StringSliceVar(&registries, "registry", nil, "`PATTERN` of repositories that its runs may write to, such as registry.example.com/team; repeats (default: all)")
	cmd.Flags().StringSliceVar(&runners, "runner", nil, "`RUNNER` that its runs may use; repeats (default: all)")
	cmd.Flags().IntVar(&priority, "priority", 0, "highest `PRIORITY` that its runs may have")
	cmd.Flags().StringVar(&expires, "expires", "", "`WHEN` it expires: a duration, or a time such as 2027-01-31T00:00:00Z (default: never)")
	return cmd
}

// expiry reads a duration from now on, a date or a time.
func expiry(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(d).UTC().Truncate(time.Second), nil
	}
	t, err := config.ServerToken{Expires: text}.Expiry()
	switch {
	case err != nil:
		return t, failure.WithHint(failure.Input("--expires %q is no time", text), "720h, 2027-01-31 or 2027-01-31T12:00:00Z")
	case !t.After(now):
		return t, failure.Input("--expires %s is over", text)
	}
	return t, nil
}

func (a *app) tokenListCommand() *cobra.Command {
	var dir, form string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List tokens, without what they are",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := format(form, "text", "json"); err != nil {
				return err
			}
			file, err := a.tokenFile(dir)
			if err != nil {
				return err
			}
			tokens, err := file.Tokens()
			if err != nil {
				return err
			}
			if form == "json" {
				if tokens == nil {
					tokens = []keys.Token{}
				}
				data, err := json.MarshalIndent(tokens, "", "  ")
				if err != nil {
					return err
				}
				return a.write("-", append(data, '\n'))
			}
			return a.tokenTable(tokens)
		},
	}
	dataDirFlag(a, cmd.Flags(), &dir)
	cmd.Flags().StringVarP(&form, "format", "f", "text", "`FORMAT`: text or json")
	return cmd
}

func (a *app) tokenTable(tokens []keys.Token) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, t := range tokens {
		roles := make([]string, len(t.Roles))
		for i, r := range t.Roles {
			roles[i] = string(r)
		}
		expires := "never expires"
		switch {
		case t.Expires.IsZero():
		case t.Expires.After(time.Now()):
			expires = "expires " + t.Expires.Format(time.RFC3339)
		default:
			expires = "expired " + t.Expires.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", quote.Text(t.Name), strings.Join(roles, ","),
			quote.Text(orElse(strings.Join(t.Registries, ","), "all registries")), quote.Text(orElse(strings.Join(t.Runners, ","), "all runners")), expires)
	}
	return w.Flush()
}

func (a *app) tokenRemoveCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a token; its runs go on",
		Args:  exactArgs(1, "the name of a token"),
		RunE: func(_ *cobra.Command, args []string) error {
			file, err := a.tokenFile(dir)
			if err != nil {
				return err
			}
			return file.Remove(args[0])
		},
	}
	dataDirFlag(a, cmd.Flags(), &dir)
	return cmd
}
