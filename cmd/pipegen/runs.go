package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/client"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

func (a *app) runsCommand() *cobra.Command {
	var w access
	var form string
	var states, labels []string
	var q api.RunQuery
	cmd := &cobra.Command{
		Use:     "runs",
		Short:   "List the runs of a controller, newest first",
		Args:    noArgs,
		Example: "  pipegen runs --state running\n  pipegen runs --image app -f json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := format(form, "table", "json"); err != nil {
				return err
			}
			var err error
			if q.States, err = runStates(states); err != nil {
				return err
			}
			if q.Labels, err = labelled(labels); err != nil {
				return err
			}
			if q.Limit < 0 {
				return failure.Input("--limit %d: want a number, or 0 for all", q.Limit)
			}
			return a.speak(cmd, w, func(ctx context.Context, c *api.Client) error {
				list, err := listRuns(ctx, c, q)
				if err != nil {
					return err
				}
				if form == "json" {
					return a.writeJSON(list)
				}
				return a.writeWith("-", func(out io.Writer) error { return client.WriteRuns(out, list.Runs, time.Now()) })
			})
		},
	}
	w.flags(cmd.Flags())
	cmd.Flags().StringVarP(&form, "format", "f", "table", "`FORMAT`: table or json")
	cmd.Flags().StringSliceVar(&states, "state", nil, "only runs in this `STATE`: queued, running, succeeded, failed or cancelled; repeats")
	cmd.Flags().StringVar(&q.Submitter, "submitter", "", "only runs of the token of this `NAME`")
	cmd.Flags().StringVar(&q.Image, "image", "", "only runs with the image of this `NAME`")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "only runs with this `NAME=VALUE`; repeats")
	cmd.Flags().IntVar(&q.Limit, "limit", 20, "at most `N` runs; 0: all")
	return cmd
}

// labelled reads NAME=VALUE of --label.
func labelled(labels []string) (map[string]string, error) {
	var out map[string]string
	for _, l := range labels {
		name, value, ok := strings.Cut(l, "=")
		if !ok || name == "" {
			return nil, failure.Input("--label %q: want NAME=VALUE", l)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = value
	}
	return out, nil
}

var runStatesKnown = []api.State{api.Queued, api.Running, api.Succeeded, api.Failed, api.Cancelled}

func runStates(names []string) ([]api.State, error) {
	var known []string
	for _, s := range runStatesKnown {
		known = append(known, string(s))
	}
	var out []api.State
	for _, n := range names {
		if err := oneOf("--state", n, known); err != nil {
			return nil, err
		}
		out = append(out, api.State(n))
	}
	return out, nil
}

// oneOf refuses a value of a flag that is none of those known.
func oneOf(flag, value string, known []string) error {
	if slices.Contains(known, value) {
		return nil
	}
	err := failure.Input("%s %q: want %s", flag, value, strings.Join(known, ", "))
	if near := config.Nearest(value, known); near != "" {
		return failure.WithHint(err, "did you mean %q?", near)
	}
	return err
}

// page is how many runs are asked for at once.
const page = 200

// listRuns gives as many runs as asked for, from as many pages as it takes.
func listRuns(ctx context.Context, c *api.Client, q api.RunQuery) (api.RunList, error) {
	all := api.RunList{Runs: []api.Run{}}
	limit := q.Limit
	for {
		q.Limit = page
		if limit > 0 {
			q.Limit = min(page, limit-len(all.Runs))
		}
		list, err := c.Runs(ctx, q)
		if err != nil {
			return all, err
		}
		all.Runs, all.Next = append(all.Runs, list.Runs...), list.Next
		if list.Next == "" || limit > 0 && len(all.Runs) >= limit {
			return all, nil
		}
		q.After = list.Next
	}
}

func (a *app) logsCommand() *cobra.Command {
	var w access
	var follow bool
	var q api.LogQuery
	var onInterrupt string
	cmd := &cobra.Command{
		Use:   "logs RUN",
		Short: "Show the log of a run, from its first line",
		Long: `Shows the log of a run, from its first line. With --follow it goes on until the
run has ended, and the exit code says how. Logs go to stderr as they do in a run
on this machine; without --follow they are data, and go to stdout.`,
		Example: "  pipegen logs 0b6m2xq9k4v7t1ha --follow\n  pipegen logs 0b6m2xq9k4v7t1ha --build app@arm64 > app.log",
		Args:    exactArgs(1, "the id of a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if follow {
				if cmd.Flags().Changed("from") || q.Build != "" {
					return failure.Input("--follow shows the whole run: --from and --build are for logs without it")
				}
				onInterrupt = orElse(onInterrupt, detach)
				if err := a.checkInterrupt(&onInterrupt); err != nil {
					return err
				}
			}
			return a.speak(cmd, w, func(ctx context.Context, c *api.Client) error {
				if follow {
					_, err := a.watch(ctx, w, c, args[0], onInterrupt)
					return err
				}
				return a.writeWith("-", func(out io.Writer) error { return a.writeLog(ctx, c, args[0], q, out) })
			})
		},
	}
	w.flags(cmd.Flags())
	cmd.Flags().BoolVar(&follow, "follow", false, "go on until the run has ended")
	cmd.Flags().Int64Var(&q.From, "from", 0, "`NUMBER` of the first line; the first of all is 0")
	cmd.Flags().StringVar(&q.Build, "build", "", "only lines of the build with this `ID`")
	interruptible(cmd.Flags(), &onInterrupt)
	return cmd
}

func (a *app) writeLog(ctx context.Context, c *api.Client, id string, q api.LogQuery, out io.Writer) error {
	b := bufio.NewWriter(out)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	_, err := c.Logs(ctx, id, q, func(l api.LogLine) error {
		if a.logFormat == "json" {
			return enc.Encode(l)
		}
		_, err := fmt.Fprintln(b, lineFormat(l))
		return err
	})
	return errors.Join(err, b.Flush())
}

func (a *app) cancelCommand() *cobra.Command {
	var w access
	var reason string
	cmd := &cobra.Command{
		Use:   "cancel RUN...",
		Short: "Cancel runs, and wait until nothing of them is at work any more",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exactArgs(1, "the id of a run, or of several")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.speak(cmd, w, func(ctx context.Context, c *api.Client) error {
				var errs []error
				for _, id := range args {
					errs = append(errs, a.cancel(ctx, c, id, reason))
				}
				return errors.Join(errs...)
			})
		},
	}
	w.flags(cmd.Flags())
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` that is kept with the run")
	return cmd
}

func (a *app) retryCommand() *cobra.Command {
	var w access
	var leave bool
	var onInterrupt string
	cmd := &cobra.Command{
		Use:   "retry RUN",
		Short: "Do again what of an ended run was not published, as a run of its own",
		Args:  exactArgs(1, "the id of a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkInterrupt(&onInterrupt); err != nil {
				return err
			}
			return a.speak(cmd, w, func(ctx context.Context, c *api.Client) error {
				run, err := c.RetryRun(ctx, args[0], api.NewKey())
				if err != nil {
					return err
				}
				_, err = a.afterSubmitting(ctx, w, c, run, leave, onInterrupt)
				return err
			})
		},
	}
	w.flags(cmd.Flags())
	cmd.Flags().BoolVar(&leave, "detach", false, "print the id of the new run and leave")
	interruptible(cmd.Flags(), &onInterrupt)
	return cmd
}

// afterSubmitting follows a run, or says which it is and leaves.
func (a *app) afterSubmitting(ctx context.Context, w access, c *api.Client, run api.Run, leave bool, onInterrupt string) (api.Run, error) {
	if leave {
		return run, a.write("-", []byte(run.ID+"\n"))
	}
	a.note("run %s", run.ID)
	return a.watch(ctx, w, c, run.ID, onInterrupt)
}
