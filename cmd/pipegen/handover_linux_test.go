package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// family gives a process and all below it.
func family(t *testing.T, pid int) []int {
	t.Helper()
	pids := []int{pid}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for grown := true; grown; {
		grown = false
		for _, file := range stats {
			raw, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
			parent, _ := strconv.Atoi(fields[1])
			p, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if slices.Contains(pids, parent) && !slices.Contains(pids, p) {
				pids = append(pids, p)
				grown = true
			}
		}
	}
	return pids
}

// While a build runs in a container, no process of it shows what pipegen knows:
// not to a step, and not to this test.
func TestBuildShowsNoCredential(t *testing.T) {
	const secret = "s3cr3t-of-the-ci-system"
	repo := t.TempDir()
	files(t, repo, map[string]string{
		"projects/app/build-config.yaml": "engine: make\ncommand: ./step.sh\nplatforms: [linux/amd64]\noutputs: [digest]\n",
		"projects/app/step.sh": `#!/bin/sh
env
tr '\0' '\n' </proc/$PPID/environ # pipegen's, for all who may
echo >ready
while [ ! -e go ]; do sleep 0.01; done
mkdir -p release && echo done >release/notes
`,
	})
	p := &private{dir: repo, file: "/dev/null"}
	p.git(t, "init", "-q")
	p.git(t, "add", "-A")
	p.git(t, "commit", "-qm", "x")
	env := []string{
		"container=docker", "CI_JOB_TOKEN=" + secret, "AWS_SECRET_ACCESS_KEY=/" + secret, "DOCKER_AUTH_CONFIG={\"auths\":{\"r\":{\"password\":\"" + secret + "\"}}}",
		"HTTPS_PROXY=http://me:proxy-s-own@127.0.0.1:9", "NOT_NAMED_LIKE_ONE=x" + base64.StdEncoding.EncodeToString([]byte(secret)), "LINES=a\nb=" + secret, "EMPTY=", "GOGC=150",
	}
	if out, complaint, code := output(t, pipegen(t, repo, env, "plan", "app", "--registry", "127.0.0.1:9/images", "-f", "json", "-o", "plan.json", "-q")); code != 0 {
		t.Fatalf("plan: %s%s", out, complaint)
	}
	text, err := os.ReadFile(filepath.Join(repo, "plan.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"ends", "is cancelled"} {
		t.Run(how, func(t *testing.T) {
			context := filepath.Join(repo, "projects/app")
			ready, proceed := filepath.Join(context, "ready"), filepath.Join(context, "go")
			defer func() { _, _ = os.Remove(ready), os.Remove(proceed) }()
			cmd := pipegen(t, repo, env, "-C", "projects", "build", "app@amd64", "--plan", "-")
			cmd.Stdin = bytes.NewReader(text) // both of them are given it
			var log bytes.Buffer
			cmd.Stdout, cmd.Stderr = &log, &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			for !there(ready) {
				select {
				case err := <-ended:
					t.Fatalf("ended early: %v\n%s", err, log.String())
				case <-time.After(10 * time.Millisecond):
				}
			}
			pids := family(t, cmd.Process.Pid)
			if len(pids) < 3 {
				t.Errorf("there are only the processes %v", pids)
			}
			for _, pid := range pids {
				for _, file := range []string{"environ", "cmdline"} {
					shown, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file))
					if err != nil && !errors.Is(err, os.ErrPermission) && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
						t.Error(err)
					}
					if bytes.Contains(shown, []byte("s3cr3t")) || bytes.Contains(shown, []byte("NOT_NAMED")) {
						t.Errorf("process %d shows %s: %q", pid, file, shown)
					}
				}
				fds, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd/*"))
				for _, fd := range fds {
					if link, _ := os.Readlink(fd); strings.Contains(link, unnamed) {
						t.Errorf("process %d holds the environment open", pid)
					}
				}
			}
			if how == "ends" {
				if err := os.WriteFile(proceed, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			} else if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			err := <-ended
			if code := cmd.ProcessState.ExitCode(); how == "ends" && code != 0 || how != "ends" && code != 130 {
				t.Errorf("%v\n%s", err, log.String())
			}
			// Whoever needs the network gets the proxy's password.
			if strings.Contains(log.String(), "s3cr3t") || !strings.Contains(log.String(), "HTTPS_PROXY=http://me:***@127.0.0.1:9") {
				t.Errorf("the log shows it:\n%s", log.String())
			}
			for _, pid := range pids[1:] {
				if left := family(t, pid); there(filepath.Join("/proc", strconv.Itoa(pid), "exe")) {
					t.Errorf("left running: %v", left)
				}
			}
		})
	}
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// What is handed over is what was there, to the byte; nobody else's file is taken for it.
func TestTakeOver(t *testing.T) {
	t.Setenv("KEPT", "no")
	memory := func(name, text string) int {
		fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Pwrite(fd, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	other, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for name, tt := range map[string]struct {
		given string
		want  string
	}{
		"none":           {"", ""},
		"no number":      {"x", "names no descriptor"},
		"negative":       {"-1", "names no descriptor"},
		"not open":       {"999", "bad file descriptor"},
		"another file":   {strconv.Itoa(int(other.Fd())), "another file"},
		"another memory": {strconv.Itoa(memory("x", "A=b")), "another file"},
		"environment":    {strconv.Itoa(memory(unnamed, "A=b=c\x00B=\x00C=x\ny\x00noname\x00=x\x00D=\xff")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := os.Environ()
			defer func() {
				os.Clearenv()
				for _, kv := range before {
					k, v, _ := strings.Cut(kv, "=")
					if err := os.Setenv(k, v); err != nil {
						t.Error(err)
					}
				}
			}()
			t.Setenv(handedOver, tt.given)
			handed, err := takeOver()
			if handed != (tt.given != "") || tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %t, %v", handed, err)
			}
			if name != "environment" {
				return
			}
			got := os.Environ()
			slices.Sort(got)
			if want := []string{"A=b=c", "B=", "C=x\ny", "D=\xff"}; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			fd, _ := strconv.Atoi(tt.given)
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
				t.Error("the file is still open")
			}
			if on, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || on != 0 {
				t.Errorf("others can read this process: %d, %v", on, err)
			}
			if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// Commands that run nothing of others, and builds elsewhere, are not started
// again.
func TestRunsOthers(t *testing.T) {
	for line, want := range map[string]bool{
		"build app@amd64": true, "build app@amd64 --print": false, "build app@amd64 --container": false, "plan": false, "explain build": false, "agent": true,
	} {
		cmd, rest, err := newApp(io.Discard, io.Discard).root().Find(strings.Fields(line))
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.ParseFlags(rest); err != nil {
			t.Fatal(err)
		}
		if got := runsOthers(cmd); got != want {
			t.Errorf("%q: got %t", line, got)
		}
	}
}
