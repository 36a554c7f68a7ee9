package monorepo

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// UpstreamTag is the tag of the upstream repository that the monorepo builds.
const UpstreamTag = "v1.0.0"

// makeUpstream makes a bare repository at dir, whose Dockerfile copies one
// file, with the tag [UpstreamTag].
func makeUpstream(ctx context.Context, dir string) error {
	work := dir + ".work"
	defer os.RemoveAll(work)
	for name, text := range map[string]string{
		"Dockerfile": "FROM scratch\nCOPY hello.txt /\n",
		"hello.txt":  "Hello from upstream.\n",
	} {
		if err := write(filepath.Join(work, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"}, {"add", "."}, {"commit", "-q", "-m", "A greeting"}, {"tag", UpstreamTag},
		{"clone", "-q", "--bare", ".", dir},
	} {
		if err := git(ctx, work, args...); err != nil {
			return err
		}
	}
	return nil
}

// serveGit serves the repositories below dir over HTTP on loopback until ctx
// ends, and gives the URL of dir.
func serveGit(ctx context.Context, dir string) (string, error) {
	libexec, err := exec.CommandContext(ctx, "git", "--exec-path").Output()
	if err != nil {
		return "", fmt.Errorf("finding git's programs: %w", err)
	}
	handler := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(libexec)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null"},
	}
	return Serve(ctx, handler)
}

// Serve serves handler on a free port of loopback until ctx ends, and gives
// its URL.
func Serve(ctx context.Context, handler http.Handler) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	return "http://" + listener.Addr().String(), nil
}
