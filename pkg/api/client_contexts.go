package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/failure"
)

// uploading is how many parts of a context travel at once.
const uploading = 4

// AnnounceContext asks how to bring a context, if it is not there yet.
func (c *Client) AnnounceContext(ctx context.Context, r ContextRequest) (ContextUpload, error) {
	var u ContextUpload
	err := c.call(ctx, request{method: http.MethodPost, path: []string{"contexts"}, body: r, out: &u})
	return u, err
}

// CompleteContext ends an upload. The controller reads what came, so that the
// answer may take its time.
func (c *Client) CompleteContext(ctx context.Context, digest string, done ContextComplete) error {
	patient := *c
	patient.answering = max(c.answering, 10*time.Minute)
	return patient.call(ctx, request{method: http.MethodPost, path: []string{"contexts", digest, "complete"}, body: done})
}

// UploadContext brings an archive to the controller unless it is there, and says
// whether it had to be sent. What an upload that was cut off has left there is not
// sent again. progress is told how many bytes of it are there, and may be nil; it
// is called concurrently, and goes back when an upload has to start again.
func (c *Client) UploadContext(ctx context.Context, r ContextRequest, archive io.ReaderAt, progress func(there int64)) (sent bool, err error) {
	if progress == nil {
		progress = func(int64) {}
	}
	const attempts = 3
	wrong := false
	for attempt := 1; ; attempt++ {
		u, err := c.AnnounceContext(ctx, r)
		if err != nil || u.Exists {
			return sent, err
		}
		sent = true
		if err = c.upload(ctx, r, u, archive, progress); err == nil {
			return true, nil
		}
		// Addresses expire, an upload whose end was not answered may be done, and
		// parts that somebody else left may be other ones, which is seen at the end.
		again := isAny(err, ErrForbidden, ErrNotFound, ErrConflict, ErrGone) || errors.Is(err, failure.ErrInput) && !wrong
		wrong = wrong || errors.Is(err, failure.ErrInput)
		if ctx.Err() != nil || attempt == attempts || !again {
			return true, err
		}
	}
}

func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

func (c *Client) upload(ctx context.Context, r ContextRequest, u ContextUpload, archive io.ReaderAt, progress func(int64)) error {
	size := u.PartSize
	if len(u.Parts) == 1 {
		size = r.Size
	}
	if n := int64(len(u.Parts)); n == 0 || size <= 0 && r.Size > 0 || n > 1 && (r.Size+size-1)/size != n {
		return fmt.Errorf("the controller's parts do not make up the context: %d of %d bytes for %d", n, size, r.Size)
	}
	if n := len(u.Have); n != 0 && n != len(u.Parts) {
		return fmt.Errorf("the controller has %d parts of %d", n, len(u.Parts))
	}
	var done atomic.Int64
	etags := make([]string, len(u.Parts))
	copy(etags, u.Have)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(uploading)
	for i, part := range u.Parts {
		at := int64(i) * size
		n := min(size, r.Size-at)
		if etags[i] != "" {
			progress(done.Add(n))
			continue
		}
		g.Go(func() error {
			var err error
			etags[i], err = c.put(gctx, part, io.NewSectionReader(archive, at, n), n, func(d int64) { progress(done.Add(d)) })
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return c.CompleteContext(ctx, r.Digest, ContextComplete{Upload: u.Upload, ETags: etags})
}

// put sends a part, and gives the ETag of the answer. moved is told of each
// step; what counts no more when it is sent again, as a negative one.
func (c *Client) put(ctx context.Context, to SignedURL, body io.ReadSeeker, size int64, moved func(int64)) (etag string, err error) {
	err = c.again(ctx, func(ctx context.Context) error {
		if _, err := body.Seek(0, io.SeekStart); err != nil {
			return err
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		quiet := time.AfterFunc(c.silence, func() { cancel(errSilent) })
		defer quiet.Stop()
		counted := &counting{r: body, moved: func(n int64) { quiet.Reset(c.silence); moved(n) }}
		req, err := c.signed(ctx, http.MethodPut, to, io.NopCloser(counted))
		if err != nil {
			return err
		}
		if req.ContentLength = size; size == 0 {
			req.Body = http.NoBody
		}
		res, err := c.send(req)
		if err != nil {
			moved(-counted.n.Load())
			return err
		}
		defer res.Body.Close()
		etag = res.Header.Get("ETag")
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
		return nil
	})
	return etag, err
}

type counting struct {
	r     io.Reader
	n     atomic.Int64
	moved func(int64)
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.n.Add(int64(n))
		c.moved(int64(n))
	}
	return n, err
}

// signed makes a request to where a SignedURL leads. The token goes along to a
// path of the controller, and nowhere else.
func (c *Client) signed(ctx context.Context, method string, to SignedURL, body io.Reader) (*http.Request, error) {
	u, err := url.Parse(to.URL)
	if err != nil {
		return nil, errors.New("the controller gave an address that is none")
	}
	own := u.Scheme == "" && u.Host == "" && u.Opaque == "" && strings.HasPrefix(u.Path, "/")
	switch {
	case own:
		at := *c.base
		at.Path, at.RawPath = strings.TrimSuffix(c.base.Path, "/")+u.Path, strings.TrimSuffix(c.base.EscapedPath(), "/")+u.EscapedPath()
		at.RawQuery = u.RawQuery
		u = &at
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("the controller gave an address that is neither http nor https")
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, errors.New("the controller gave an address that cannot be used")
	}
	for name, value := range to.Header {
		req.Header.Set(name, value)
	}
	// What is stored is what is wanted, not another form of it.
	req.Header.Set("Accept-Encoding", "identity")
	if own {
		return req, c.identify(req)
	}
	req.Header.Set("User-Agent", c.userAgent)
	return req, nil
}

// Download gives a context's archive as one stream, which goes on where it broke
// off. refresh is asked for another address once this one is refused, as it is
// when it expired; it may be nil. The stream ends with the first error that does
// not pass within the client's patience. The digest is for the reader to check.
func (c *Client) Download(ctx context.Context, from ContextSource, refresh func(context.Context) (SignedURL, error)) io.ReadCloser {
	ctx, cancel := context.WithCancelCause(ctx)
	return &download{client: c, ctx: ctx, cancel: cancel, from: from.SignedURL, size: from.Size, refresh: refresh, backoff: c.backoff()}
}

// download is a stream over as many answers as it takes.
type download struct {
	client  *Client
	ctx     context.Context
	cancel  context.CancelCauseFunc
	from    SignedURL
	size    int64 // 0: not known
	refresh func(context.Context) (SignedURL, error)
	backoff backoff

	body    io.ReadCloser
	stop    context.CancelCauseFunc
	request *http.Request
	at      int64
	version string // ETag of the first answer
	renewed bool   // since the last byte came
	err     error
}

func (d *download) Close() error {
	d.cancel(context.Canceled)
	d.drop()
	return nil
}

func (d *download) drop() {
	if d.body != nil {
		_ = d.body.Close()
		d.stop(nil)
		d.body = nil
	}
}

func (d *download) Read(p []byte) (int, error) {
	for d.err == nil {
		if d.body == nil {
			if err := d.open(); err != nil {
				d.again(err)
				continue
			}
		}
		quiet := time.AfterFunc(d.client.silence, func() { d.stop(errSilent) })
		n, err := d.body.Read(p)
		quiet.Stop()
		if n > 0 {
			d.at += int64(n)
			d.backoff, d.renewed = d.client.backoff(), false
		}
		switch {
		case errors.Is(err, io.EOF) && d.at >= d.size:
			d.err = io.EOF
		case err != nil:
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			err = d.client.broken(d.request.Context(), d.request, "reading the context", err)
			d.drop()
			d.again(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, d.err
}

// again waits for the next attempt, with a new address where the old one is
// refused, or ends the stream.
func (d *download) again(err error) {
	if isAny(err, ErrForbidden, ErrUnauthorized, ErrGone, ErrNotFound) && d.refresh != nil && !d.renewed {
		d.renewed = true
		d.from, d.err = d.refresh(d.ctx)
		return
	}
	d.err = d.backoff.wait(d.ctx, err)
}

// open asks for what is still missing.
func (d *download) open() error {
	c := d.client
	ctx, stop := context.WithCancelCause(d.ctx)
	req, err := c.signed(ctx, http.MethodGet, d.from, http.NoBody)
	if err != nil {
		stop(nil)
		return err
	}
	if d.at > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.at))
		if d.version != "" {
			req.Header.Set("If-Range", d.version)
		}
	}
	quiet := time.AfterFunc(c.answering, func() { stop(errSilent) })
	res, err := c.send(req) //nolint:bodyclose // drop closes it
	quiet.Stop()
	if err != nil {
		stop(nil)
		return err
	}
	d.body, d.stop, d.request = res.Body, stop, req
	if d.at == 0 {
		if tag := res.Header.Get("ETag"); !strings.HasPrefix(tag, "W/") {
			d.version = tag
		}
		return nil
	}
	// A server that knows no ranges, or has something else now, begins anew:
	// what was read is passed over, and the digest judges.
	skip := d.at
	if res.StatusCode == http.StatusPartialContent {
		var start int64
		if _, err := fmt.Sscanf(res.Header.Get("Content-Range"), "bytes %d-", &start); err != nil || start > d.at {
			d.drop()
			return fmt.Errorf("%s: the answer is not the part of the context that was asked for", c.name(req))
		}
		skip -= start
	}
	quiet = time.AfterFunc(10*c.silence, func() { stop(errSilent) })
	defer quiet.Stop()
	if n, err := io.CopyN(io.Discard, d.body, skip); err != nil {
		d.drop()
		if errors.Is(err, io.EOF) {
			return failure.WithHint(fmt.Errorf("%s: the context has only %d bytes now", c.name(req), n), "submit it again")
		}
		return c.broken(ctx, req, "reading the context", err)
	}
	return nil
}
