package uploadpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Request says what to fetch. All are full hashes.
type Request struct {
	// Objects to get, with all that they lead to.
	Wants []string
	// Commits that are there already with all that they lead to, except for
	// the parents of those in Shallow.
	Haves, Shallow []string
	// How many commits in a row to get; 0: all.
	Depth int
	// What to leave out, as git fetch --filter takes it. A server that cannot
	// leaves nothing out.
	Filter string
}

// Fetch writes the pack with what is asked for, and gives the commits whose
// parents were left out because of Depth. What it does not get may be
// ErrUnadvertised or ErrRefused; an error of w ends it.
func (r *Remote) Fetch(ctx context.Context, req Request, w io.Writer) (shallow []string, err error) {
	if len(req.Wants) == 0 {
		return nil, errors.New("nothing to fetch")
	}
	var q request
	if r.two {
		r.askTwo(&q, req)
	} else if err := r.askZero(&q, req); err != nil {
		return nil, err
	}
	res, err := r.post(ctx, &q)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if p := newPackets(res.Body); r.two {
		shallow, err = answerTwo(p, w)
	} else {
		shallow, err = answerZero(p, w)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return shallow, err
}

// askTwo writes the command fetch of gitprotocol-v2(5).
func (r *Remote) askTwo(q *request, req Request) {
	q.line("command=fetch")
	r.preface(q)
	q.line("no-progress")
	q.line("ofs-delta")
	for _, id := range req.Wants {
		q.line("want %s", id)
	}
	r.limit(q, req)
	for _, id := range req.Haves {
		q.line("have %s", id)
	}
	q.line("done")
	q.end(flush)
}

func (r *Remote) limit(q *request, req Request) {
	for _, id := range req.Shallow {
		q.line("shallow %s", id)
	}
	if req.Depth > 0 {
		q.line("deepen %d", req.Depth)
	}
	if req.Filter != "" && r.Filters() {
		q.line("filter %s", req.Filter)
	}
}

// askZero writes the upload request of gitprotocol-pack(5).
func (r *Remote) askZero(q *request, req Request) error {
	has := func(capability string) bool { _, ok := r.capabilities[capability]; return ok }
	if !has("side-band-64k") || !has("shallow") {
		return errors.New("the server is too old")
	}
	if !has("allow-tip-sha1-in-want") && !has("allow-reachable-sha1-in-want") {
		for _, id := range req.Wants {
			if !slices.ContainsFunc(r.refs, func(ref Ref) bool { return ref.Hash == id }) {
				return ErrUnadvertised
			}
		}
	}
	ask := []string{"side-band-64k"}
	for _, c := range []string{"ofs-delta", "no-progress", "filter"} {
		if has(c) {
			ask = append(ask, c)
		}
	}
	for i, id := range req.Wants {
		if i == 0 {
			id += " " + strings.Join(ask, " ")
		}
		q.line("want %s", id)
	}
	r.limit(q, req)
	q.end(flush)
	for _, id := range req.Haves {
		q.line("have %s", id)
	}
	q.line("done")
	return nil
}

// answerTwo reads the sections of the answer; with all said in one request
// there are no acknowledgments.
func answerTwo(p *packets, w io.Writer) (shallow []string, err error) {
	for {
		_, section, err := p.line()
		if err != nil {
			return nil, err
		}
		switch section {
		case "packfile":
			return shallow, readPack(p, nil, w)
		case "shallow-info":
			if shallow, err = readShallow(p, shallow); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("the server answers with %.40q, not with a pack", section)
		}
	}
}

// answerZero reads what comes before the pack: the ends of history if there
// was a depth, then what the server thinks of the commits that are here.
func answerZero(p *packets, w io.Writer) (shallow []string, err error) {
	for {
		k, content, err := p.next()
		if err != nil {
			return nil, err
		}
		line := strings.TrimSuffix(string(content), "\n")
		switch {
		case k == flush, line == "NAK", strings.HasPrefix(line, "ACK "), strings.HasPrefix(line, "unshallow "):
		case strings.HasPrefix(line, "shallow ") && isHash(line[len("shallow "):]):
			shallow = append(shallow, line[len("shallow "):])
		case k == data && len(content) > 0 && content[0] <= 3:
			return shallow, readPack(p, content, w)
		default:
			return nil, fmt.Errorf("the server answers with %.40q, not with a pack", line)
		}
	}
}

func readShallow(p *packets, into []string) ([]string, error) {
	for {
		k, line, err := p.line()
		if err != nil || k != data {
			return into, err
		}
		if id, ok := strings.CutPrefix(line, "shallow "); ok && isHash(id) {
			into = append(into, id)
		}
	}
}

// readPack reads packets of the side band; first is one that was read already.
func readPack(p *packets, first []byte, w io.Writer) error {
	for content := first; ; {
		if content == nil {
			k, next, err := p.next()
			if err != nil {
				return err
			}
			if k != data {
				return nil
			}
			content = next
		}
		if len(content) == 0 {
			return errors.New("the server's pack comes in no band")
		}
		switch content[0] {
		case 1:
			if _, err := w.Write(content[1:]); err != nil {
				return err
			}
		case 2: // progress, for people
		default:
			return refusal(string(content[1:min(len(content), 1000)]))
		}
		content = nil
	}
}
