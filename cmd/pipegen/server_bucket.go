package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pipegen/pipegen/pkg/controller/blob"
)

func (a *app) initBucketCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init-bucket",
		Short: "Create the bucket for contexts and logs",
		Long: `Creates the bucket that the S3_ variables name, closed to the public, with the
encryption of S3_SSE as its default, and with a rule by which uploads that never
ended are gone after a day. A bucket that is there gets the rule beside its
own, if none of those does the same, and keeps everything else; that it can be
used is checked.`,
		Example: "  S3_BUCKET=pipegen-builds S3_REGION=eu-central-1 pipegen server init-bucket",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := blob.S3OptionsFromEnv(a.getenv)
			if err != nil {
				return err
			}
			p, err := blob.PrepareBucket(cmd.Context(), o)
			for _, lack := range p.Lacks {
				a.warn(lack)
			}
			if err != nil {
				return err
			}
			if p.Region != o.Region && o.Region != "" {
				a.warn(fmt.Sprintf("the bucket is in %s: set S3_REGION to that", p.Region))
			}
			did := "the bucket " + o.Bucket + " is there and can be used"
			switch {
			case p.Created:
				did = "created the bucket " + o.Bucket
			case p.Ruled:
				did += "; uploads that never ended are gone after a day now"
			}
			_, err = fmt.Fprintln(a.stdout, did)
			return err
		},
	}
}
