//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/failure"
)

// What is wrong with the configuration is said soon, with what to do about it,
// and without keys.
func TestS3Misconfigured(t *testing.T) {
	v := startVersity(t)
	for _, c := range []struct {
		name       string
		change     func(*blob.S3Options)
		want, hint string
		input      bool
	}{
		{"bucket", func(o *blob.S3Options) { o.Bucket = "none" }, "there is no such bucket", "S3_BUCKET", true},
		{"access key", func(o *blob.S3Options) { o.AccessKey = "nobody" }, "", "S3_", true},
		{"secret key", func(o *blob.S3Options) { o.SecretKey = "wrong-secret" }, "", "S3_", true},
		{"endpoint", func(o *blob.S3Options) { o.Endpoint = "127.0.0.1:" + freePort(t) }, "connection refused", "S3_ENDPOINT", false},
		{"TLS", func(o *blob.S3Options) { o.Plain = false }, "HTTP response to HTTPS client", "S3_SSL", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := v.options()
			c.change(&o)
			s, err := blob.S3(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			err = s.Check(t.Context())
			t.Logf("%s: %v; %s", time.Since(start).Round(time.Millisecond), err, failure.Hint(err))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(failure.Hint(err), c.hint) || errors.Is(err, failure.ErrInput) != c.input {
				t.Errorf("got %v (input: %v), want %q", err, errors.Is(err, failure.ErrInput), c.want)
			}
			if strings.Contains(fmt.Sprint(err), o.SecretKey) || strings.Contains(fmt.Sprint(err), "Signature=") {
				t.Errorf("the error has secrets: %v", err)
			}
			if c.input {
				err := s.Put(t.Context(), "logs/a", strings.NewReader("1"), 1)
				t.Logf("Put: %v; %s", err, failure.Hint(err))
				if err == nil || failure.Hint(err) == "" || errors.Is(err, failure.ErrInput) {
					t.Errorf("Put gave %v, hint %q", err, failure.Hint(err))
				}
			}
		})
	}
}

// S3 is away for a while: what goes on waits for it, and no byte is lost.
func TestS3Away(t *testing.T) {
	v := startVersity(t)
	s := openS3(t, v.options())
	data := noise(30 << 20)
	if err := s.Put(t.Context(), "contexts/there", bytes.NewReader(data), -1); err != nil {
		t.Fatal(err)
	}
	r, _, err := s.Get(t.Context(), "contexts/there", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make([]byte, 1<<20)
	if _, err := io.ReadFull(r, got); err != nil {
		t.Fatal(err)
	}
	v.stop(t)
	results := make(chan error, 3)
	sum := sha256.New()
	sum.Write(got)
	go func() { _, err := io.Copy(sum, r); results <- err }()
	go func() { results <- s.Put(t.Context(), "contexts/new", bytes.NewReader(data), int64(len(data))) }()
	go func() { _, err := s.Stat(t.Context(), "contexts/there"); results <- err }()
	time.Sleep(4 * time.Second)
	v.start(t)
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if want := sha256.Sum256(data); hex.EncodeToString(sum.Sum(nil)) != hex.EncodeToString(want[:]) {
		t.Error("what was being read has other bytes")
	}
	if got := readBlob(t, s, "contexts/new", 0); !bytes.Equal(got, data) {
		t.Error("what was being written has other bytes")
	}
	// Whoever does not want to wait does not have to.
	v.stop(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := s.Stat(ctx, "contexts/there"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after a second: %v", err)
	}
	o := v.options()
	o.Patience = -1
	impatient, err := blob.S3(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := impatient.Stat(t.Context(), "contexts/there"); err == nil || !strings.Contains(err.Error(), "connection refused") || failure.Hint(err) == "" {
		t.Errorf("without patience: %v", err)
	}
}

// The connections of a client are cut in the middle of its parts.
func TestS3Cut(t *testing.T) {
	v := startVersity(t)
	cutter := cutting(t, v.address)
	o := v.options()
	o.Endpoint = cutter.address
	s := openS3(t, o)
	archive, p := packLarge(t)
	cutter.left.Store(3)
	sent, err := contexts(t, s).UploadContext(t.Context(), api.ContextRequest{Digest: p.Digest, Size: p.Size}, archive, nil)
	if err != nil || !sent {
		t.Fatalf("sent %v, %v", sent, err)
	}
	if cutter.left.Load() > 0 {
		t.Error("nothing was cut")
	}
	key := strings.Replace("contexts/"+p.Digest, ":", "/", 1)
	cutter.left.Store(3)
	sum := sha256.Sum256(readBlob(t, s, key, 0))
	if got := "sha256:" + hex.EncodeToString(sum[:]); got != p.Digest {
		t.Errorf("the blob has the digest %s instead of %s", got, p.Digest)
	}
	cutter.left.Store(3)
	if err := s.Put(t.Context(), "contexts/put", bytes.NewReader(noise(20<<20)), -1); err != nil {
		t.Error(err)
	}
	if got := readBlob(t, s, "contexts/put", 0); !bytes.Equal(got, noise(20<<20)) {
		t.Error("what was put through cut connections has other bytes")
	}
	// A client that is killed leaves nothing that counts as a blob, and Sweep gets the rest.
	ctx, cancel := context.WithCancel(t.Context())
	err = s.Put(ctx, "contexts/killed", io.MultiReader(bytes.NewReader(noise(20<<20)), readerOf(func([]byte) (int, error) { cancel(); return 0, io.ErrUnexpectedEOF })), 40<<20)
	if err == nil {
		t.Error("a put that was given up succeeded")
	}
	if _, err := s.Stat(t.Context(), "contexts/killed"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("after a put that was given up: %v", err)
	}
}

// cutter passes connections on, and cuts the next ones after a megabyte.
type cutter struct {
	address string
	left    atomic.Int64
}

func cutting(t *testing.T, to string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c := &cutter{address: l.Addr().String()}
	pass := func(from, to net.Conn) {
		buf := make([]byte, 32<<10)
		for n := 0; ; {
			m, err := from.Read(buf)
			if _, werr := to.Write(buf[:m]); err != nil || werr != nil {
				break
			}
			if n += m; n > 1<<20 && c.left.Add(-1) >= 0 {
				break
			}
		}
		_, _ = from.Close(), to.Close()
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			go pass(in, out)
			go pass(out, in)
		}
	}()
	return c
}
