package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	projects    = 10_000
	manyChanged = 2_000
)

// repository gives a repository of 10,000 projects of six files each, with the
// branches base, few (10 files changed in as many projects) and many (2,000).
// It is made by git fast-import, once for what is imported.
func repository(ctx context.Context, git string) (string, error) {
	stream := history()
	sum := sha256.Sum256(stream)
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, hex.EncodeToString(sum[:])[:12])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	fmt.Fprintln(os.Stderr, "making the repository")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	part, err := os.MkdirTemp(cache, ".part-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(part)
	for _, args := range [][]string{
		{"init", "-q", "-b", "base"}, {"fast-import", "--quiet"}, {"repack", "-adq"}, {"reset", "-q", "--hard", "base"},
	} {
		cmd := exec.CommandContext(ctx, git, args...)
		cmd.Dir, cmd.Env = part, environment(os.Getenv("PATH"))
		cmd.Stdin = bytes.NewReader(stream)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("git %s: %w\n%s", args[0], err, out)
		}
	}
	return dir, os.Rename(part, dir)
}

// history is the repository as git-fast-import(1) reads it.
func history() []byte {
	var b bytes.Buffer
	commit(&b, 1, "base", 0)
	for i := range projects {
		dir := project(i)
		file(&b, dir+"/build-config.yaml", "additional_tags: [latest]\n")
		file(&b, dir+"/Dockerfile", fmt.Sprintf("FROM scratch\nCOPY . /%d/\n", i))
		file(&b, dir+"/README.md", fmt.Sprintf("# project %d\n", i))
		for _, name := range []string{"main.txt", "data.txt", "more.txt"} {
			file(&b, dir+"/"+name, fmt.Sprintf("%s of project %d\n", name, i))
		}
	}
	changed(&b, 2, "few", 10)
	changed(&b, 3, "many", manyChanged)
	b.WriteString("done\n")
	return b.Bytes()
}

func project(i int) string { return fmt.Sprintf("projects/app-%05d", i) }

// changed changes one file in each of n projects, spread evenly.
func changed(b *bytes.Buffer, mark int, branch string, n int) {
	commit(b, mark, branch, 1)
	for i := range n {
		file(b, project(i*(projects/n))+"/main.txt", fmt.Sprintf("changed %d\n", i))
	}
}

func commit(b *bytes.Buffer, mark int, branch string, from int) {
	fmt.Fprintf(b, "commit refs/heads/%s\nmark :%d\ncommitter Bench <bench@example.com> 1700000000 +0000\ndata %d\n%s\n", branch, mark, len(branch), branch)
	if from > 0 {
		fmt.Fprintf(b, "from :%d\n", from)
	}
}

func file(b *bytes.Buffer, path, text string) {
	fmt.Fprintf(b, "M 100644 inline %s\ndata %d\n%s\n", path, len(text), text)
}
