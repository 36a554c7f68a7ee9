package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/quote"
)

// maxWorkers bounds what a daemon may answer, in bytes.
const maxWorkers = 1 << 20

// listWorkers asks a daemon for its workers, and gives their platforms, each
// worker's own first. It is a call of moby.buildkit.v1.Control/ListWorkers as
// gRPC over HTTP/2 has it (grpc/doc/PROTOCOL-HTTP2.md): cheap enough to see
// whether a daemon lives before a build is given to it. The error begins with a
// verb, for what the daemon does.
func listWorkers(ctx context.Context, address string, secure *tls.Config) ([]config.Platform, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	network, at, origin := "tcp", u.Host, "http://"+u.Host
	if u.Scheme == "unix" {
		network, at, origin = "unix", u.Path, "http://localhost"
	}
	if secure != nil {
		origin = "https://" + u.Host
	}
	var protocols http.Protocols
	protocols.SetHTTP2(secure != nil)
	protocols.SetUnencryptedHTTP2(secure == nil)
	transport := &http.Transport{
		Protocols: &protocols, TLSClientConfig: secure,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, at)
		},
	}
	defer transport.CloseIdleConnections()
	// A message of no bytes, not compressed.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, origin+"/moby.buildkit.v1.Control/ListWorkers", bytes.NewReader(make([]byte, 5)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, silence(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxWorkers))
	if err != nil {
		return nil, silence(ctx, err)
	}
	status := firstOf(resp.Trailer.Get("Grpc-Status"), resp.Header.Get("Grpc-Status"))
	if resp.StatusCode != http.StatusOK || status != "0" {
		message := firstOf(resp.Trailer.Get("Grpc-Message"), resp.Header.Get("Grpc-Message"), resp.Status)
		return nil, fmt.Errorf("does not list its workers: %s", quote.Text(message))
	}
	if len(body) < 5 || body[0] != 0 || int(binary.BigEndian.Uint32(body[1:5])) != len(body)-5 {
		return nil, errors.New("does not list its workers: what it sends is no message")
	}
	platforms, err := parseWorkers(body[5:])
	if err != nil {
		return nil, fmt.Errorf("does not list its workers: %w", err)
	}
	return platforms, nil
}

// silence says why there was no answer.
func silence(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		err = op.Err
	}
	return fmt.Errorf("cannot be reached: %w", err)
}

// parseWorkers reads ListWorkersResponse of BuildKit's control.proto:
// record (1) of worker.proto with platforms (3) of ops.proto.
func parseWorkers(message []byte) ([]config.Platform, error) {
	var out []config.Platform
	err := eachField(message, func(field uint64, worker []byte) error {
		if field != 1 {
			return nil
		}
		return eachField(worker, func(field uint64, platform []byte) error {
			if field != 3 {
				return nil
			}
			var parts [4]string // Architecture, OS, Variant
			err := eachField(platform, func(field uint64, value []byte) error {
				if field < uint64(len(parts)) {
					parts[field] = string(value)
				}
				return nil
			})
			out = append(out, config.Platform{Arch: parts[1], OS: parts[2], Variant: parts[3]})
			return err
		})
	})
	return out, err
}

// errMessage says that bytes are no message of protocol buffers.
var errMessage = errors.New("what it sends cannot be read")

// eachField calls f with the number and the bytes of each field of a message
// that has a length (protobuf.dev/programming-guides/encoding); the others are
// passed over.
func eachField(message []byte, f func(field uint64, value []byte) error) error {
	next := func() (uint64, bool) {
		v, n := binary.Uvarint(message)
		if n <= 0 {
			return 0, false
		}
		message = message[n:]
		return v, true
	}
	for len(message) > 0 {
		tag, ok := next()
		if !ok {
			return errMessage
		}
		size := uint64(0)
		switch tag & 7 {
		case 0:
			_, ok = next()
		case 1:
			size = 8
		case 2:
			size, ok = next()
		case 5:
			size = 4
		default:
			ok = false
		}
		if !ok || size > uint64(len(message)) {
			return errMessage
		}
		value := message[:size]
		message = message[size:]
		if tag&7 != 2 {
			continue
		}
		if err := f(tag>>3, value); err != nil {
			return err
		}
	}
	return nil
}

// askWorkers has buildctl ask, for a daemon that it alone can reach.
func askWorkers(ctx context.Context, c Command) ([]config.Platform, error) {
	var out bytes.Buffer
	said := &tail{}
	c.Stdout, c.Stderr = io.MultiWriter(&out, said), said
	if err := command(ctx, c); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("cannot be reached: %s", quote.Text(firstOf(said.last(), err.Error())))
	}
	var workers []struct {
		Platforms []struct {
			Architecture, OS, Variant string
		}
	}
	// What docker and kubectl say of themselves may stand before it.
	text := out.String()
	if i := strings.IndexByte(text, '['); i >= 0 {
		text = text[i:]
	}
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&workers); err != nil {
		return nil, fmt.Errorf("does not list its workers: %w", err)
	}
	var platforms []config.Platform
	for _, w := range workers {
		for _, p := range w.Platforms {
			platforms = append(platforms, config.Platform{OS: p.OS, Arch: p.Architecture, Variant: p.Variant})
		}
	}
	return platforms, nil
}
