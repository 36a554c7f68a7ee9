// Package postgrestest runs PostgreSQL servers of Debian for tests and
// measurements, each in a directory of its own.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Server is a PostgreSQL server at a loopback port and a socket in its
// directory. Its superuser pipegen has a password.
type Server struct {
	// Directory that it is in, where its socket is.
	Dir      string
	Port     int
	Password string

	bin     string
	options []string
	user    *syscall.Credential
}

// Start makes a server in a directory, which is not there yet, and starts it.
// Options are settings, NAME=VALUE. Root runs it as the user postgres.
func Start(ctx context.Context, dir, password string, options ...string) (*Server, error) {
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(bins) == 0 {
		return nil, errors.New("there is no PostgreSQL: test/e2e/install installs it")
	}
	slices.SortFunc(bins, func(a, b string) int { return release(a) - release(b) })
	s := &Server{Dir: dir, Password: password, bin: bins[len(bins)-1]}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if os.Getuid() == 0 {
		if err := s.unprivileged(); err != nil {
			return nil, err
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.Port = l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return nil, err
	}
	// The password travels in a file, as everywhere.
	secret := filepath.Join(dir, "password")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		return nil, err
	}
	if s.user != nil {
		if err := os.Chown(secret, int(s.user.Uid), int(s.user.Gid)); err != nil {
			return nil, err
		}
	}
	if err := s.run(ctx, "initdb", "--pgdata", s.data(), "--username", "pipegen", "--pwfile", secret, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"); err != nil {
		return nil, err
	}
	s.options = append([]string{
		"port=" + strconv.Itoa(s.Port), "listen_addresses=127.0.0.1", "unix_socket_directories=" + dir, "max_connections=200", "shared_buffers=64MB",
	}, options...)
	return s, s.Up(ctx)
}

// release is that of a directory of programs, such as 15.
func release(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin))) // 0: none
	return n
}

// unprivileged has the server run as a user who may do nothing else: it
// refuses root.
func (s *Server) unprivileged() error {
	u, err := user.Lookup("postgres")
	if err != nil {
		return err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return err
	}
	s.user = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(s.Dir, int(uid), int(gid))
}

func (s *Server) data() string { return filepath.Join(s.Dir, "data") }

// run runs a program of PostgreSQL to its end.
func (s *Server) run(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, program), args...)
	cmd.Dir, cmd.Env = s.Dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.Dir, "LC_ALL=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user}
	// A file, which the server that pg_ctl leaves behind may keep.
	out, err := os.CreateTemp("", "pipegen-postgres-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w\n%s", program, err, said)
	}
	return nil
}

// Configure puts files, which only the server reads, beside its data, and starts
// it again with further options.
func (s *Server) Configure(ctx context.Context, files map[string][]byte, options ...string) error {
	for name, text := range files {
		path := filepath.Join(s.data(), name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return err
		}
		if s.user != nil {
			if err := os.Chown(path, int(s.user.Uid), int(s.user.Gid)); err != nil {
				return err
			}
		}
	}
	s.options = append(s.options, options...)
	if err := s.Down(ctx, "fast"); err != nil {
		return err
	}
	return s.Up(ctx)
}

// Up starts the server, which answers then.
func (s *Server) Up(ctx context.Context) error {
	options := make([]string, len(s.options))
	for i, o := range s.options {
		options[i] = "-c '" + o + "'"
	}
	return s.run(ctx, "pg_ctl", "--pgdata", s.data(), "--wait", "--silent", "--log", filepath.Join(s.Dir, "log"), "--options", strings.Join(options, " "), "start")
}

// Down stops the server: fast ends what its clients do, immediate is as good as
// a power cut.
func (s *Server) Down(ctx context.Context, mode string) error {
	return s.run(ctx, "pg_ctl", "--pgdata", s.data(), "--wait", "--silent", "--mode", mode, "stop")
}

// URL names a database of the server.
func (s *Server) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("pipegen", s.Password), Host: "127.0.0.1:" + strconv.Itoa(s.Port), Path: "/" + database}
	return u.String()
}
