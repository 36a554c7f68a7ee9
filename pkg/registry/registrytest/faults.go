package registrytest

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
)

// Fault is a wrong answer of a registry.
type Fault func(w http.ResponseWriter, r *http.Request)

// Faulty gives the fault in the place of the first times requests whose method
// is among methods ("GET HEAD") and whose path contains part; 0: of all of
// them. The rest goes to the registry.
func Faulty(methods, part string, times int, fault Fault) func(http.Handler) http.Handler {
	var n atomic.Int64
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(methods, r.Method) || !strings.Contains(r.URL.Path, part) || times > 0 && n.Add(1) > int64(times) {
				next.ServeHTTP(w, r)
				return
			}
			fault(w, r)
		})
	}
}

// Says answers with a status, headers (name, value, …) and a body.
func Says(status int, body string, header ...string) Fault {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Add(header[i], header[i+1])
		}
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			_, _ = io.WriteString(w, body)
		}
	}
}

// HangsUp closes the connection instead of answering.
func HangsUp(w http.ResponseWriter, _ *http.Request) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = conn.Close()
	}
}

// Truncates promises more bytes of a manifest than it sends.
func Truncates(w http.ResponseWriter, _ *http.Request) {
	begin(w, 100)
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

// Hangs stops in the middle of a body, for as long as the client waits.
func Hangs(w http.ResponseWriter, r *http.Request) {
	begin(w, 100)
	<-r.Context().Done()
}

func begin(w http.ResponseWriter, promised int) {
	w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	w.Header().Set("Content-Length", strconv.Itoa(promised))
	_, _ = io.WriteString(w, "{")
	w.(http.Flusher).Flush()
}

// Endless answers with this status and a body that has no end.
func Endless(status int) Fault {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.WriteHeader(status)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, `{"padding":"`+strings.Repeat("x", 32<<10)+`"},`); err != nil {
				return
			}
		}
	}
}
