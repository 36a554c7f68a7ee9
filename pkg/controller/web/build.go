package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/controller"
	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// The interface that clients of the original speak: a configuration comes in,
// and becomes a run like any other.

// maxConfig is what a config.yaml may have, in bytes.
const maxConfig = 1 << 20

// contextKey is where the original's client puts contexts. Nothing else of the
// bucket may be named.
var contextKey = lazyregexp.New(`^repos/[0-9A-Za-z_-]{1,128}/repo\.tar\.gz$`)

// build takes POST /build?context_key=&service_name=.
func (s *Server) build(w http.ResponseWriter, r *http.Request, c *call) error {
	q, err := query(r, "context_key", "service_name")
	if err != nil {
		return err
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(s.o.Limits.Body))
	data, err := body(w, r, maxConfig)
	if err != nil {
		return err
	}
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Now().Add(time.Hour))
	compiled, err := s.o.Compile(data, q.Get("service_name"))
	if err != nil {
		return err
	}
	req := api.RunRequest{
		Plan: compiled.Plan, Runner: compiled.Runner, Credentials: compiled.Credentials, Secrets: compiled.Secrets,
	}
	if name := q.Get("service_name"); name != "" {
		req.Labels = map[string]string{"service": name}
	}
	key := q.Get("context_key")
	if key == "" {
		return failure.WithHint(failure.Input("the request names no context"), "context_key=repos/NAME/repo.tar.gz, which is in the controller's bucket")
	}
	if req.Context, err = s.adopt(r, key); err != nil {
		return err
	}
	run, _, err := s.submit(r, c, req, "")
	if err != nil {
		return err
	}
	for _, warning := range compiled.Warnings {
		c.log.Info("config.yaml", "run", run.ID, "warning", warning)
	}
	return answer(w, http.StatusOK, map[string]string{"buildID": run.ID, "status": "started"})
}

// adopt makes a context of what the original's client put into the bucket, and
// gives its digest.
func (s *Server) adopt(r *http.Request, key string) (string, error) {
	if !contextKey.MatchString(key) {
		return "", failure.Input("context_key %q is none that a client gives: repos/NAME/repo.tar.gz", key)
	}
	if s.o.Blobs == nil {
		return "", failure.Input("this controller has no bucket that clients could put contexts into")
	}
	archive, info, err := s.o.Blobs.Get(r.Context(), key, 0)
	if errors.Is(err, blob.ErrNotFound) {
		return "", failure.WithHint(failure.Input("there is no context %q in the controller's bucket", key), "client and controller need the same S3_BUCKET")
	}
	if err != nil {
		return "", fmt.Errorf("reading the context: %w", err)
	}
	defer archive.Close()
	if info.Size > s.o.Limits.ContextBytes {
		return "", s.largeContext()
	}
	copied, err := os.CreateTemp(s.o.TempDir, "context-*")
	if err != nil {
		return "", fmt.Errorf("keeping the context: %w", err)
	}
	defer os.Remove(copied.Name())
	defer copied.Close()
	hash := sha256.New()
	size, err := io.Copy(io.MultiWriter(copied, hash), io.LimitReader(archive, s.o.Limits.ContextBytes+1))
	if err != nil {
		return "", fmt.Errorf("reading the context: %w", err)
	}
	if size > s.o.Limits.ContextBytes {
		return "", s.largeContext()
	}
	if _, err := copied.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("keeping the context: %w", err)
	}
	digest := "sha256:" + hex.EncodeToString(hash.Sum(nil))
	return digest, s.o.Core.ReceiveContext(r.Context(), digest, size, copied)
}

// forget deletes contexts that clients of the original left in the bucket and
// that nobody has named for long, until ctx ends: one of a run is kept under its
// digest as well.
func (s *Server) forget(ctx context.Context) {
	for {
		if err := s.forgetOnce(ctx, time.Now().Add(-s.o.Limits.Contexts)); err != nil && ctx.Err() == nil {
			s.o.Logger.Warn("deleting old contexts of clients", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Hour):
		}
	}
}

func (s *Server) forgetOnce(ctx context.Context, before time.Time) error {
	var old []string
	err := s.o.Blobs.List(ctx, "repos/", func(b blob.Info) error {
		if contextKey.MatchString(b.Key) && b.Modified.Before(before) {
			old = append(old, b.Key)
		}
		return nil
	})
	for _, key := range old {
		err = errors.Join(err, s.o.Blobs.Delete(ctx, key))
	}
	return err
}

// buildLine is a line of a log as the original writes it.
type buildLine struct {
	Time    time.Time `json:"ts"`
	Level   string    `json:"level"`
	Message string    `json:"message"`
}

// buildLog follows the log of a run to its verdict.
func (s *Server) buildLog(w http.ResponseWriter, r *http.Request, c *call) error {
	run, err := s.run(r, c)
	if err != nil {
		return err
	}
	// Its clients take every line for an object: nothing is sent in between.
	form := format{mediaType: ndjson, encode: asBuildLines}
	ended, err := s.follow(w, r, run, 0, "", true, form, func(controller.LogChunk) {})
	if err != nil || ended.State == "" {
		return err
	}
	return s.stream(w, form).send(verdict(ended))
}

func asBuildLines(chunk controller.LogChunk) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for text := range bytes.Lines(chunk.NDJSON) {
		var l api.LogLine
		if json.Unmarshal(text, &l) != nil {
			continue
		}
		if l.Build != "" {
			l.Message = "[" + l.Build + "] " + l.Message
		}
		_ = enc.Encode(buildLine{l.Time, l.Level, l.Message})
	}
	return b.Bytes()
}

// verdict is how the original ends a log: a line for each task, and one that
// its client waits for.
func verdict(run api.Run) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	say := func(level, format string, args ...any) {
		_ = enc.Encode(buildLine{finished(run), level, fmt.Sprintf(format, args...)})
	}
	for _, img := range run.Images {
		for _, task := range img.Tasks {
			what := task.Build
			if what == "" {
				what = "publishing " + img.Name
			}
			level := "info"
			if task.State != api.Succeeded {
				level = "error"
			}
			words := []string{quote.Text(what) + ": " + string(task.State), task.Digest, quote.Text(task.Reason)}
			say(level, "%s", strings.Join(slices.DeleteFunc(words, func(word string) bool { return word == "" }), ", "))
		}
		if p := img.Published; p != nil && p.Digest != "" {
			say("info", "%s: %s@%s", quote.Text(img.Name), quote.Text(p.Repository), p.Digest)
		}
	}
	if run.State == api.Succeeded {
		say("info", "BUILD SUCCEEDED")
	} else {
		say("error", "BUILD FAILED")
	}
	return b.Bytes()
}
