package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/buildcontext"
	"github.com/pipegen/pipegen/pkg/controller/blob"
)

const (
	// packCommand makes this program pack a directory, so that packing is
	// measured as a process: packCommand DIRECTORY FILE.
	packCommand = "pack-context"
	contextSize = 1_000_000_000
	plainTar    = "tar czf"
	packing     = "pipegen packs"
)

// contexts measures packing a context of 1 GB: copies of the Go tree, which has
// sources and programs.
func contexts(ctx context.Context, b bench) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := contextDir(ctx)
	if err != nil {
		return err
	}
	out := func(name string) string { return filepath.Join(b.work, name) }
	t := table{title: "Packing the sources and programs of Go", of: "MB", sizes: []int{contextSize / 1_000_000}}
	all := []*process{{name: plainTar, argv: []string{"tar", "czf", out("tar"), "-C", dir, "."}, env: os.Environ(), rounds: 1}}
	for _, p := range []struct {
		name       string
		processors int
	}{{packing, runtime.NumCPU()}, {packing + ", 1 processor", 1}, {packing + ", 8 processors", 8}} {
		all = append(all, &process{
			name: p.name, argv: []string{self, packCommand, dir, out(p.name)},
			env: append(os.Environ(), fmt.Sprintf("GOMAXPROCS=%d", p.processors)), rounds: 3,
		})
	}
	if err := t.measure(ctx, all); err != nil {
		return err
	}
	t.print()
	sizes, differ := map[string]float64{}, 0.0
	for _, p := range all {
		file := p.argv[2]
		if p.name != plainTar {
			file = p.argv[3]
		}
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		sizes[p.name] = float64(info.Size())
		if p.name == plainTar {
			continue
		}
		same, err := sameFiles(ctx, out(packing), file)
		if err != nil {
			return err
		}
		if !same {
			differ++
		}
	}
	sent, err := sendTwice(ctx, out(packing), self, dir, out("again"))
	if err != nil {
		return err
	}
	one := func(v float64) column { return column{{v, true}} }
	t.goal(packing, "× tar czf", 0.2, one(t.wall(packing)[0].value/t.wall(plainTar)[0].value))
	t.goal(packing, "× its size", 1.07, one(sizes[packing]/sizes[plainTar]))
	t.goal(packing+", 8 processors", "MB of memory", 100, t.memory(packing+", 8 processors"))
	t.goal("archives that differ by processors", "", 0, one(differ))
	t.goal("sent of an unchanged context", "bytes", 0, one(sent))
	return nil
}

// packContext is what the measured process does.
func packContext(ctx context.Context, dir, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = buildcontext.Pack(ctx, dir, f, buildcontext.PackOptions{})
	return errors.Join(err, f.Close())
}

// contextDir gives the directory that is packed. It is made once and kept.
func contextDir(ctx context.Context) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "context-"+runtime.Version())
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	fmt.Fprintln(os.Stderr, "making a context of 1 GB")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	part, err := os.MkdirTemp(cache, ".part-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(part)
	for size, n := int64(0), 0; size < contextSize; n++ {
		copied, err := copyFiles(ctx, strings.TrimSpace(string(root)), filepath.Join(part, fmt.Sprint("go", n)), contextSize-size)
		if err != nil {
			return "", err
		}
		size += copied
	}
	return dir, os.Rename(part, dir)
}

// copyFiles copies a tree, up to so many bytes.
func copyFiles(ctx context.Context, from, to string, most int64) (int64, error) {
	size := int64(0)
	err := filepath.WalkDir(from, func(path string, e os.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || size >= most {
			return err
		}
		switch {
		case e.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case !e.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		size += int64(len(data))
		return os.WriteFile(filepath.Join(to, rel), data, 0o644)
	})
	return size, err
}

func sameFiles(ctx context.Context, a, b string) (bool, error) {
	err := exec.CommandContext(ctx, "cmp", "-s", a, b).Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		return false, nil
	}
	return err == nil, err
}

// sendTwice brings an archive to a directory store over HTTP, packs the same
// directory again with one processor, and gives how many bytes bringing that
// takes.
func sendTwice(ctx context.Context, first, self, dir, second string) (float64, error) {
	store := blob.Dir(filepath.Join(filepath.Dir(first), "blobs"))
	var received atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/contexts", func(w http.ResponseWriter, r *http.Request) {
		var req api.ContextRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, err := store.Stat(r.Context(), contextKey(req.Digest))
		u := api.ContextUpload{Exists: err == nil}
		if !u.Exists {
			u.PartSize, u.Parts = req.Size, []api.SignedURL{{URL: "/v1/contexts/" + req.Digest}}
		}
		_ = json.NewEncoder(w).Encode(u)
	})
	mux.HandleFunc("PUT /v1/contexts/{digest}", func(w http.ResponseWriter, r *http.Request) {
		received.Add(r.ContentLength)
		if err := store.Put(r.Context(), contextKey(r.PathValue("digest")), r.Body, r.ContentLength); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /v1/contexts/{digest}/complete", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	defer func() { _ = server.Close() }()
	client, err := api.NewClient(api.ClientOptions{URL: "http://" + l.Addr().String()})
	if err != nil {
		return 0, err
	}
	if err := send(ctx, client, first); err != nil {
		return 0, err
	}
	if received.Load() == 0 {
		return 0, errors.New("nothing was sent the first time")
	}
	received.Store(0)
	again := exec.CommandContext(ctx, self, packCommand, dir, second)
	again.Env = append(os.Environ(), "GOMAXPROCS=1")
	if err := again.Run(); err != nil {
		return 0, err
	}
	err = send(ctx, client, second)
	return float64(received.Load()), err
}

func send(ctx context.Context, c *api.Client, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	_, err = c.UploadContext(ctx, api.ContextRequest{Digest: "sha256:" + hex.EncodeToString(sum.Sum(nil)), Size: size}, f, nil)
	return err
}

func contextKey(digest string) string { return "contexts/" + strings.Replace(digest, ":", "/", 1) }
