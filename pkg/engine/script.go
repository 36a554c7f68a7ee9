package engine

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/pkg/archive"
)

// script runs a script with sh -e in the context directory, on this machine.
func (b *building) script(ctx context.Context, name, text string, extra map[string]string) error {
	if text == "" {
		return nil
	}
	b.log.say("running " + name)
	if err := b.shell(ctx, name, text, extra); err != nil {
		return ending(name, err)
	}
	return nil
}

// shell runs a text as scripts are run. It is in a file, so that it is in no
// argument and standard input is empty.
func (b *building) shell(ctx context.Context, name, text string, extra map[string]string) error {
	dir, err := os.MkdirTemp(b.work, "script-")
	if err != nil {
		return err
	}
	defer func() { _ = archive.RemoveAll(dir) }()
	home, tmp, file := filepath.Join(dir, "home"), filepath.Join(dir, "tmp"), filepath.Join(dir, name)
	for _, d := range []string{home, tmp} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	env, err := scriptEnv(b.Job, home, tmp)
	if err != nil {
		return err
	}
	maps.Copy(env, extra)
	sh, err := shell()
	if err != nil {
		return err
	}
	path := filepath.SplitList(firstOf(env["PATH"], "/usr/bin:/bin"))
	if dir := filepath.Dir(sh); !slices.Contains(path, dir) {
		path = append(path, dir)
	}
	env["PATH"] = strings.Join(path, ":")
	return command(ctx, Command{
		Argv: []string{sh, "-e", file}, Env: list(env), Dir: b.contextDir(), Stdout: b.log, mark: "TMPDIR=" + tmp,
	})
}

// shell finds sh. Kaniko's clean-up deletes /bin/sh, and leaves the builder
// image's own below /kaniko.
func shell() (string, error) {
	if own := filepath.Join(kanikoDir, "bin", "sh"); isProgram(own) {
		return own, nil
	}
	sh, err := exec.LookPath("sh")
	if err != nil {
		return "", fmt.Errorf("scripts need a shell: %w", err)
	}
	return sh, nil
}
