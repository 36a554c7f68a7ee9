package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/store"
	"github.com/pipegen/pipegen/pkg/failure"
)

// sharing holds the flags of controllers that share a database.
type sharing struct {
	instance, blobs, keyFile string
	drain                    time.Duration
	drainText                string
}

func (s *sharing) flags(a *app, flags *pflag.FlagSet) {
	flags.StringVar(&s.instance, "instance", a.getenv("PIPEGEN_INSTANCE"), "`NAME` of this controller among those that share the database (default: the host's)")
	flags.StringVar(&s.blobs, "blobs", a.getenv("PIPEGEN_BLOBS"), "`DIR` for contexts and logs where $S3_BUCKET is not set (default: blobs in the data directory)")
	flags.StringVar(&s.keyFile, "key-file", a.getenv("PIPEGEN_KEY_FILE"), "`FILE` with the 32 bytes that secrets are sealed with (default: secrets.key in the data directory)")
	flags.StringVar(&s.drainText, "drain", a.getenv("PIPEGEN_DRAIN"), "`DURATION` to go on answering when told to end, while /health/ready says no (default: 0s)")
}

// checkSharing fills in the defaults of what controllers share.
func (s *serving) checkSharing(a *app) error {
	s.blobs = cmp.Or(s.blobs, filepath.Join(s.dataDir, "blobs"))
	s.keyFile = cmp.Or(s.keyFile, filepath.Join(s.dataDir, "secrets.key"))
	if s.instance == "" {
		var err error
		if s.instance, err = os.Hostname(); err != nil {
			return failure.WithHint(failure.Input("naming this controller: %w", err), "give it a name with --instance")
		}
	}
	if len(s.instance) > 253 || strings.ContainsFunc(s.instance, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return failure.Input("--instance %q: names are of at most 253 letters, digits and signs", s.instance)
	}
	if s.drainText != "" {
		var err error
		if s.drain, err = time.ParseDuration(s.drainText); err != nil || s.drain < 0 {
			return failure.WithHint(failure.Input("--drain %q is no duration", s.drainText), "for example 5s")
		}
	}
	return s.checkDatabase(a)
}

// keyVariable holds what the key for secrets is made from, for where containers
// are given no files.
const keyVariable = "PIPEGEN_KEY"

// keyring gives the key for secrets: of the file, or of the environment.
func (a *app) keyring(s *serving) (controller.Sealer, error) {
	secret := a.getenv(keyVariable)
	if secret == "" || s.keyFile != filepath.Join(s.dataDir, "secrets.key") {
		return controller.KeyFile(s.keyFile)
	}
	key, err := controller.Key(secret)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyVariable, err)
	}
	return key, nil
}

// checkDatabase says what is not safe about the database that is named.
func (s *serving) checkDatabase(a *app) error {
	inArguments := s.database != ""
	// Not a flag's default, which its help would show with the password.
	s.database = cmp.Or(s.database, a.getenv("PIPEGEN_DATABASE"), filepath.Join(s.dataDir, "pipegen.db"))
	if !store.IsURL(s.database) {
		s.databaseShown = s.database
		return nil
	}
	shown, password, clear, err := store.Postgres(s.database)
	if err != nil {
		return err
	}
	s.databaseShown = shown
	if password && inArguments {
		a.warn("everybody on this machine can see the password in --database; use $PIPEGEN_DATABASE, $PGPASSWORD or a file that $PGPASSFILE names")
	}
	if clear {
		a.warn("the connection to " + shown + " may be unencrypted; sslmode=verify-full makes sure that it is not, and who answers")
	}
	if a.getenv("S3_BUCKET") == "" {
		a.note("contexts and logs are kept in %s; controllers that share the database must share that too, or use S3_BUCKET", s.blobs)
	}
	return nil
}
