package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller/blob"
)

// These make this program bring a file to S3, as a client does by signed
// addresses and as a controller does that was given the bytes: COMMAND URL FILE.
const (
	uploadCommand = "upload-context"
	putCommand    = "put-context"
	// What contexts that are uploaded are called; nobody looks at the bytes.
	uploaded = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
)

// uploads measures what it takes to bring a context of 1 GB to S3, and what is sent
// again of an upload that was cut off.
func uploads(ctx context.Context, b bench) error {
	file := filepath.Join(b.work, "archive")
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(contextSize), f.Close()); err != nil {
		return err
	}
	sink, err := serveSink(ctx)
	if err != nil {
		return err
	}
	defer sink.close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	t := table{title: "Bringing a context to S3", of: "MB", sizes: []int{contextSize / 1_000_000}}
	const client, controller = "client, by signed addresses", "controller, from a request"
	var all []*process
	for name, command := range map[string]string{client: uploadCommand, controller: putCommand} {
		all = append(all, &process{name: name, argv: []string{self, command, sink.url, file}, env: os.Environ(), rounds: 3})
	}
	if err := t.measure(ctx, all); err != nil {
		return err
	}
	t.print()
	t.goal(client, "MB of memory", 64, t.memory(client))
	t.goal(controller, "MB of memory", 64, t.memory(controller))
	whole := sink.received.Load()
	if want := int64(6 * contextSize); whole < want {
		return fmt.Errorf("of %d bytes %d came", want, whole)
	}
	sink.received.Store(0)
	sink.have.Store(9) // of ten
	if err := uploadContext(ctx, sink.url, file); err != nil {
		return err
	}
	t.goal("sent again after a cut at 90 %", "× its size", 0.11, column{{float64(sink.received.Load()) / contextSize, true}})
	return nil
}

// uploadContext is what a measured client does.
func uploadContext(ctx context.Context, url, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := api.NewClient(api.ClientOptions{URL: url})
	if err != nil {
		return err
	}
	_, err = c.UploadContext(ctx, api.ContextRequest{Digest: uploaded, Size: contextSize}, f, nil)
	return err
}

// putContext is what a measured controller does.
func putContext(ctx context.Context, url, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := sinkStore(ctx, url)
	if err != nil {
		return err
	}
	return s.Put(ctx, contextKey(uploaded), struct{ io.Reader }{f}, -1)
}

func sinkStore(ctx context.Context, url string) (blob.Store, error) {
	return blob.S3(ctx, blob.S3Options{Endpoint: url, Bucket: "builds", Region: "us-east-1", AccessKey: "a", SecretKey: "b"})
}

// sink stands in for S3 and for a controller with that, and keeps nothing.
type sink struct {
	url      string
	server   *http.Server
	received atomic.Int64
	have     atomic.Int64 // tenths of the parts of an upload that are there
}

func serveSink(ctx context.Context) (*sink, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sink{url: "http://" + l.Addr().String()}
	store, err := sinkStore(ctx, s.url)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/contexts", func(w http.ResponseWriter, r *http.Request) {
		u, err := store.Upload(r.Context(), contextKey(uploaded), contextSize)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(api.ContextUpload{Upload: u.ID, PartSize: u.PartSize, Parts: u.Parts, Have: u.Have})
	})
	mux.HandleFunc("POST /v1/contexts/{digest}/complete", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })
	mux.HandleFunc("/builds/", s.s3)
	mux.HandleFunc("/builds", s.s3)
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.server.Serve(l) }()
	return s, nil
}

func (s *sink) close() { _ = s.server.Close() }

// s3 answers the requests of an upload in parts.
func (s *sink) s3(w http.ResponseWriter, r *http.Request) {
	n, _ := io.Copy(io.Discard, r.Body)
	q := r.URL.Query()
	const part = 8 << 20
	switch parts := int64((contextSize + part - 1) / part); {
	case r.Method == http.MethodPut:
		s.received.Add(n)
		w.Header().Set("ETag", `"e"`)
	case r.Method == http.MethodGet && q.Has("uploads"):
		fmt.Fprint(w, "<R>")
		if s.have.Load() > 0 {
			fmt.Fprintf(w, "<Upload><Key>%s</Key><UploadId>u</UploadId></Upload>", contextKey(uploaded))
		}
		fmt.Fprint(w, "</R>")
	case r.Method == http.MethodGet:
		var list strings.Builder
		for i := range parts * s.have.Load() / 10 {
			list.WriteString("<Part><PartNumber>" + strconv.FormatInt(i+1, 10) + `</PartNumber><ETag>"e"</ETag><Size>` + strconv.Itoa(part) + "</Size></Part>")
		}
		fmt.Fprintf(w, "<R>%s</R>", list.String())
	default:
		fmt.Fprint(w, "<R><UploadId>u</UploadId></R>")
	}
}
