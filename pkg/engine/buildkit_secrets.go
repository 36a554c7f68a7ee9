package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// maxSecret is what BuildKit takes for a secret, in bytes.
const maxSecret = 500 << 10

// checkBuildkitSecrets refuses names that buildctl would read as something
// else.
func checkBuildkitSecrets(b *plan.Build) error {
	for _, s := range b.Secrets {
		if s.ID == "" || !s.Sound() {
			return failure.Input("build %s: secret %q wants an id, and exactly one of env, file and arn", b.ID, s.ID)
		}
	}
	seen := map[string]bool{}
	for _, s := range b.SSH {
		id := sshID(s)
		switch {
		case strings.ContainsAny(id, "=,"):
			return failure.Input("build %s: ssh: %q cannot be an id", b.ID, id)
		case s.Env != "" && s.File != "":
			return failure.Input("build %s: ssh %s wants at most one of env and file", b.ID, id)
		case seen[id]:
			return failure.Input("build %s: ssh %s is there twice", b.ID, id)
		}
		seen[id] = true
	}
	return nil
}

func sshID(s config.SSH) string { return firstOf(s.ID, "default") }

func secretFile(i int) string { return fmt.Sprintf("secret-%d", i) }
func sshFile(i int) string    { return fmt.Sprintf("ssh-%d", i) }

// prepareSecrets puts the values of secrets and keys into files of the job's
// directory that nobody else may read: in buildctl's environment every process
// of the same user could read them, and in its arguments everybody.
func prepareSecrets(b *building) error {
	j := b.Job
	for i, s := range j.Build.Secrets {
		value := []byte(envOf(j.Getenv, s.Variable()))
		if s.File != "" {
			var err error
			if value, err = readSecret(j, s.File); err != nil {
				return failure.Input("secret %s: %w", s.ID, err)
			}
		} else if len(value) == 0 {
			return lacking(s)
		}
		if len(value) > maxSecret {
			return failure.Input("secret %s: longer than %d KiB", s.ID, maxSecret>>10)
		}
		b.log.hide(string(value))
		if err := os.WriteFile(filepath.Join(b.HostDir, secretFile(i)), value, 0o600); err != nil {
			return err
		}
	}
	for i, s := range j.Build.SSH {
		if err := prepareSSH(b, s, filepath.Join(b.HostDir, sshFile(i))); err != nil {
			return failure.Input("ssh %s: %w", sshID(s), err)
		}
	}
	return nil
}

// readSecret reads a file that the configuration names; a relative path is
// below the checkout.
func readSecret(j *Job, path string) ([]byte, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(j.Root, filepath.FromSlash(path))
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxSecret {
		return nil, fmt.Errorf("%s is no file of at most %d KiB", path, maxSecret>>10)
	}
	return os.ReadFile(path)
}

// prepareSSH makes path a key, or a link to the agent's socket: buildctl splits
// the paths it gets at commas.
func prepareSSH(b *building, s config.SSH, path string) error {
	j := b.Job
	if s.Env == "" && s.File == "" {
		agent := j.Getenv("SSH_AUTH_SOCK")
		if agent == "" {
			return errors.New("SSH_AUTH_SOCK is not set: there is no agent")
		}
		agent, err := filepath.Abs(agent)
		if err != nil {
			return err
		}
		if fi, err := os.Stat(agent); err != nil || fi.Mode()&os.ModeSocket == 0 {
			return fmt.Errorf("SSH_AUTH_SOCK: %s is no socket of an agent", agent)
		}
		return os.Symlink(agent, path)
	}
	key := []byte(j.Getenv(s.Env))
	if s.Env != "" && len(key) == 0 {
		return fmt.Errorf("environment variable %s is not set", s.Env)
	}
	if file := firstOf(s.File, string(key)); !strings.Contains(file, "-----BEGIN") {
		var err error
		if key, err = readSecret(j, file); err != nil {
			return err
		}
	}
	b.log.hide(string(key))
	return os.WriteFile(path, append(key, '\n'), 0o600) // of a key in a variable CI systems cut the last newline
}

// secretFlags name those files.
func secretFlags(p *Prepared) []string {
	var argv []string
	for i, s := range p.Job.Build.Secrets {
		argv = append(argv, "--secret", fields("type=file", "id="+s.ID, "src="+filepath.Join(p.Dir, secretFile(i))))
	}
	for i, s := range p.Job.Build.SSH {
		// Relative to the working directory, whose path may have a comma.
		argv = append(argv, "--ssh", sshID(s)+"="+sshFile(i))
	}
	return argv
}
