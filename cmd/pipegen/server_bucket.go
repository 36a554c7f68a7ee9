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
		Long: `Creates the bucket that the S3_ variables name, closed to the public, and with
uploads that never ended gone after a day. A bucket that is there stays as it
is; that it can be used is checked.`,
		Example: "  S3_BUCKET=pipegen-builds S3_REGION=eu-central-1 pipegen server init-bucket",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := blob.S3OptionsFromEnv(a.getenv)
			if err != nil {
				return err
			}
			created, lacks, err := blob.CreateBucket(cmd.Context(), o)
			for _, lack := range lacks {
				a.warn("this server of S3 does not have " + lack)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "%s\n", map[bool]string{true: "created the bucket " + o.Bucket, false: "the bucket " + o.Bucket + " is there and can be used"}[created])
			return err
		},
	}
}
