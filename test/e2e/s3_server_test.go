//go:build e2e

package e2e

import (
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/test/toolcache"
)

// versity is a server of S3 on loopback that can go away and come back.
type versity struct {
	program, dir, address string
	process               *exec.Cmd
}

func startVersity(t *testing.T) *versity {
	t.Helper()
	v := &versity{program: tool(t, toolcache.VersityGW), dir: scratch(t), address: "127.0.0.1:" + freePort(t)}
	// Buckets are directories.
	if err := os.Mkdir(filepath.Join(v.dir, v.options().Bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	v.start(t)
	t.Cleanup(func() { v.stop(t) })
	return v
}

func (v *versity) url() string { return (&url.URL{Scheme: "http", Host: v.address}).String() }

func (v *versity) options() blob.S3Options {
	return blob.S3Options{
		Endpoint: v.address, Plain: true, Bucket: "pipegen", Region: "us-east-1",
		AccessKey: "access-of-the-test", SecretKey: "secret-of-the-test",
	}
}

func (v *versity) start(t *testing.T) {
	t.Helper()
	o := v.options()
	v.process = exec.Command(v.program, "--quiet", "--port", v.address, "--region", o.Region, "posix", v.dir)
	v.process.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+o.AccessKey, "ROOT_SECRET_KEY="+o.SecretKey)
	v.process.Stderr = t.Output()
	v.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := v.process.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		c, err := net.Dial("tcp", v.address)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("versitygw does not answer: %v", err)
		}
	}
}

func (v *versity) stop(t *testing.T) {
	t.Helper()
	if v.process == nil {
		return
	}
	_ = v.process.Process.Kill()
	_ = v.process.Wait()
	v.process = nil
}
