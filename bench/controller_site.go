package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/plan"
)

// serverProcess is a pipegen server of its own, with the local runner and a
// token, whose builds are commands.
type serverProcess struct {
	client  *api.Client
	url     string
	token   string
	context string // digest
	cmd     *exec.Cmd
	over    chan struct{}
}

// startServer starts a controller with so many places for tasks.
func startServer(ctx context.Context, b bench, places int) (*serverProcess, error) {
	return startServerWith(ctx, b, func(string) string {
		return fmt.Sprintf("limits:\n  tasks: {local: %d}\n  requests_per_second: 100000\n", places)
	})
}

// startServerWith starts one with a file of settings for its port, and further
// arguments.
func startServerWith(ctx context.Context, b bench, settingsFor func(port string) string, args ...string) (*serverProcess, error) {
	dir, err := os.MkdirTemp(b.work, "server-")
	if err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &serverProcess{url: "http://" + l.Addr().String(), token: rand.Text(), over: make(chan struct{})}
	if err := l.Close(); err != nil {
		return nil, err
	}
	settings := filepath.Join(dir, "server.yaml")
	text := settingsFor(strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		return nil, err
	}
	output, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		return nil, err
	}
	defer output.Close()
	args = append([]string{"server", "--listen", strings.TrimPrefix(s.url, "http://"), "--data-dir", filepath.Join(dir, "data"), "--config", settings}, args...)
	s.cmd = exec.CommandContext(ctx, b.pipegen, args...)
	s.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "BUILD_CONTROLLER_TOKEN=" + s.token}, b.env...)
	s.cmd.Stdout, s.cmd.Stderr = output, output
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = s.cmd.Wait() // it is told to end
		close(s.over)
	}()
	if err := s.prepare(ctx, dir); err != nil {
		said, _ := os.ReadFile(output.Name())
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, said), s.stop())
	}
	return s, nil
}

// prepare brings the context that all builds have.
func (s *serverProcess) prepare(ctx context.Context, dir string) (err error) {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	if s.client, err = api.NewClient(api.ClientOptions{URL: s.url, Token: s.token, Transport: transport}); err != nil {
		return err
	}
	root := filepath.Join(dir, "context")
	if err := errors.Join(os.Mkdir(root, 0o755), os.WriteFile(filepath.Join(root, "file"), []byte("x"), 0o600)); err != nil {
		return err
	}
	file, packed, err := buildcontext.PackFile(ctx, root, dir, buildcontext.PackOptions{})
	if err != nil {
		return err
	}
	archive, err := os.Open(file)
	if err != nil {
		return err
	}
	defer archive.Close()
	s.context = packed.Digest
	_, err = s.client.UploadContext(ctx, api.ContextRequest{Digest: packed.Digest, Size: packed.Size}, archive, nil)
	return err
}

// stop ends the process; agents that run end with their tasks.
func (s *serverProcess) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.over:
		return nil
	case <-time.After(time.Minute):
		return errors.Join(errors.New("the controller does not end"), s.cmd.Process.Kill())
	}
}

// peak is the most memory that the process has had, in MB.
func (s *serverProcess) peak() (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024, err
		}
	}
	return 0, errors.New("the process does not say what memory it had")
}

// cpu is what the process has had, to a hundredth of a second.
func (s *serverProcess) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, errors.New("the process does not say what CPU it had")
	}
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, err // proc(5): clock ticks, of which Linux has 100 a second
}

// platforms are those of the builds of one image.
var platforms = []string{"linux/amd64", "linux/arm64", "linux/386", "linux/s390x"}

// request asks for a run of one image with so many builds, each of which is a command.
func (s *serverProcess) request(name string, builds int, command string) api.RunRequest {
	img := plan.Image{
		Name: name, Dir: ".", Key: "k", Reasons: []plan.Reason{}, Repository: "registry.test/images", Tags: []string{}, Needs: []string{}, Index: true,
	}
	for _, p := range platforms[:builds] {
		img.Builds = append(img.Builds, plan.Build{
			ID: name + "@" + strings.TrimPrefix(p, "linux/"), Platform: p, Engine: "make", Context: ".", Dockerfile: "Dockerfile", Outputs: []string{"digest"},
			Command: command + "\nmkdir -p release; echo x >release/x",
		})
	}
	return api.RunRequest{Context: s.context, Plan: &plan.Plan{
		Version: plan.Version, Event: "local", Layout: "tag", Registry: "registry.test/images", Skipped: []plan.Skipped{}, Images: []plan.Image{img},
	}}
}

// logLine is how long a line is that sayLines says, its end included.
const logLine = 100

// say is sayLines with its numbers as arguments.
func say(rate, seconds string) error {
	r, err := strconv.Atoi(rate)
	if err != nil {
		return err
	}
	s, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	return sayLines(r, s)
}

// sayLines is what a build of the measured controller does: so many lines a
// second for so many seconds, each with the microsecond in which it was said.
func sayLines(rate, seconds int) error {
	const tick = 10 * time.Millisecond
	line := []byte(strings.Repeat(".", logLine-1) + "\n")
	var out []byte
	began := time.Now()
	for said, total := 0, rate*seconds; said < total; time.Sleep(tick) {
		now := time.Now()
		out = out[:0]
		copy(line, fmt.Sprintf("%016d ", now.UnixMicro()))
		for due := min(total, int(now.Sub(began).Seconds()*float64(rate))); said < due; said++ {
			out = append(out, line...)
		}
		if _, err := os.Stdout.Write(out); err != nil {
			return err
		}
	}
	return nil
}
