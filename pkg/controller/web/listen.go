package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/failure"
)

const (
	// maxHeader bounds the header of a request, in bytes.
	maxHeader = 32 << 10
	// headerTime is how long a header may take, idleTime how long a connection
	// may wait for the next request.
	headerTime, idleTime = 10 * time.Second, 2 * time.Minute
	// drainTime is how long requests may take to end when the process does.
	drainTime = 20 * time.Second
)

// Serve answers what comes on a listener until ctx ends; certificate is nil for
// plain HTTP. Then it is not ready any more, but answers for as long as
// Options.Linger says; after that it takes no more connections, ends streams at
// the end of a line, and lets other requests end.
func (s *Server) Serve(ctx context.Context, l net.Listener, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) error {
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelDebug),
	}
	serve := server.Serve
	if certificate != nil {
		server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate}
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	ended := make(chan error, 1)
	go func() { ended <- serve(l) }()
	var others sync.WaitGroup
	defer others.Wait()
	if s.o.Compile != nil && s.o.Blobs != nil {
		forgetting, stop := context.WithCancel(ctx)
		defer stop()
		others.Go(func() { s.forget(forgetting) })
	}
	select {
	case err := <-ended:
		return fmt.Errorf("listening on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.draining.Store(true)
	if s.o.Linger > 0 {
		s.o.Logger.Info("about to end", "in", s.o.Linger)
		select {
		case err := <-ended:
			return fmt.Errorf("listening on %s: %w", l.Addr(), err)
		case <-time.After(s.o.Linger):
		}
	}
	s.Drain()
	until, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	err := server.Shutdown(until)
	if errors.Is(err, context.DeadlineExceeded) {
		s.o.Logger.Warn("some requests did not end in time")
		err = server.Close()
	}
	if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// Certificate gives a certificate out of two files in PEM, and reads them again
// when they have changed. A pair that cannot be used is a failure.ErrInput at
// first; later the one before it is kept.
func Certificate(certFile, keyFile string, log *slog.Logger) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, failure.Input("the certificate of the controller: %w", err)
		}
		return &pair, nil
	}
	current, err := load()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	checked, version := time.Now(), versionOf(certFile, keyFile)
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(checked) < time.Second {
			return current, nil
		}
		checked = time.Now()
		if v := versionOf(certFile, keyFile); v != version {
			next, err := load()
			if err != nil {
				log.Warn("keeping the certificate that is in use", "error", err)
				return current, nil
			}
			current, version = next, v
		}
		return current, nil
	}, nil
}

// versionOf tells whether files are the ones that were read.
func versionOf(files ...string) string {
	var v strings.Builder
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			fmt.Fprint(&v, info.ModTime().UnixNano(), info.Size(), ";")
		}
	}
	return v.String()
}
