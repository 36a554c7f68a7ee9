package main

import (
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

var logFormats = []string{"simple", "plain", "json"}

func (a *app) root() *cobra.Command {
	// Cobra's own flag prints by a template, for which the linker keeps every
	// method of every type: half as much again as pipegen is without it.
	var asked bool
	root := &cobra.Command{
		Use:   "pipegen",
		Short: "Build what changed in a monorepo of container images, for every architecture",
		Long: `pipegen works out from git which container images of a repository must be
built and why, renders that plan as a CI pipeline with native jobs per
architecture or runs it on this machine, and joins the results into one
multi-arch index per tag.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		CompletionOptions: cobra.CompletionOptions{
			HiddenDefaultCmd: false,
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if asked {
				return nil
			}
			return a.prepare(cmd)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if asked {
				return a.printVersion()
			}
			if len(args) == 0 {
				return cmd.Help()
			}
			names := []string{}
			for _, c := range cmd.Commands() {
				names = append(names, c.Name())
			}
			err := failure.Input("there is no command %q", args[0])
			if near := config.Nearest(args[0], names); near != "" {
				return failure.WithHint(err, "did you mean %q?", near)
			}
			return failure.WithHint(err, "pipegen --help lists the commands")
		},
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return failure.WithHint(failure.Input("%w", err), "%s --help", cmd.CommandPath())
	})
	root.Flags().BoolVar(&asked, "version", false, "version for pipegen")
	flags := root.PersistentFlags()
	flags.StringVarP(&a.dir, "directory", "C", "", "run in `DIR`")
	flags.StringVar(&a.logFormat, "log-format", "", "`FORMAT` of messages and logs: simple, plain or json (default: $LOG_FORMAT, else simple)")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "only errors and warnings beside the data")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "say more")
	a.network.flags(flags)
	root.AddCommand(
		a.initCommand(), a.newCommand(), a.validateCommand(), a.diffCommand(), a.planCommand(), a.explainCommand(), a.renderCommand(),
		a.dryRunCommand(), a.buildCommand(), a.agentCommand(), a.manifestCommand(), a.publishedCommand(), a.tagsCommand(), a.pruneCommand(), a.runCommand(),
		a.submitCommand(), a.runsCommand(), a.logsCommand(), a.cancelCommand(), a.retryCommand(), a.doctorCommand(), a.serverCommand(), a.schemaCommand(), a.versionCommand(),
	)
	return root
}

// prepare does what is common to all commands before they run.
func (a *app) prepare(cmd *cobra.Command) error {
	if a.logFormat == "" {
		a.logFormat = a.getenv("LOG_FORMAT")
	}
	if a.logFormat == "" {
		a.logFormat = "simple"
	}
	if !slices.Contains(logFormats, a.logFormat) {
		wrong := a.logFormat
		a.logFormat = "simple"
		return failure.Input("--log-format %q: want simple, plain or json", wrong)
	}
	if err := a.network.check(cmd.Flags(), a.getenv); err != nil {
		return err
	}
	if err := a.isolate(cmd); err != nil {
		return err
	}
	if err := a.trustLocalCA(); err != nil {
		return err
	}
	if a.dir != "" {
		if err := os.Chdir(a.dir); err != nil {
			return failure.Input("-C: %w", err)
		}
	}
	return nil
}
