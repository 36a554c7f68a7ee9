package controller

import (
	"slices"
	"sort"
	"sync"
	"time"
)

const (
	// livePerRun and liveInAll are about how many bytes of lines are kept in
	// memory for readers that are behind; who is further behind reads the store.
	livePerRun = 4 << 20
	liveInAll  = 24 << 20
	// pollEvery is how often to look for what other controllers wrote.
	pollEvery = 500 * time.Millisecond
)

// hub passes what is added to logs on to those who follow them. What nobody
// follows costs nothing.
type hub struct {
	// Looks for lines and ends that other controllers wrote.
	poll func(*hub)

	mu      sync.Mutex
	streams map[string]*stream // by run
	bytes   int                // of all chunks
	polling bool
}

// stream is the latest part of a log that somebody follows. The hub's lock is
// its lock: what is done under it is short.
type stream struct {
	readers map[*reader]struct{}
	chunks  []liveChunk   // without gaps
	bytes   int           // of them
	next    int64         // number of the line after them; -1: not known
	ended   bool          // nothing comes after what the store has
	changed chan struct{} // closed when something has changed
}

type liveChunk struct {
	LogChunk
	build string
}

// reader is where somebody is who follows a log.
type reader struct {
	run string
	pos int64 // number of the line to read next
}

// join begins to follow a log.
func (h *hub) join(run string, pos int64) *reader {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams == nil {
		h.streams = map[string]*stream{}
	}
	if !h.polling {
		h.polling = true
		go h.keepPolling()
	}
	s := h.streams[run]
	if s == nil {
		s = &stream{readers: map[*reader]struct{}{}, next: -1, changed: make(chan struct{})}
		h.streams[run] = s
	}
	r := &reader{run, pos}
	s.readers[r] = struct{}{}
	return r
}

// leave ends that.
func (h *hub) leave(r *reader) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.streams[r.run]
	delete(s.readers, r)
	if len(s.readers) == 0 {
		h.drop(s, len(s.chunks))
		delete(h.streams, r.run)
	}
}

// keepPolling polls until nobody follows any log.
func (h *hub) keepPolling() {
	for {
		time.Sleep(pollEvery)
		h.mu.Lock()
		if len(h.streams) == 0 {
			h.polling = false
			h.mu.Unlock()
			return
		}
		h.mu.Unlock()
		h.poll(h)
	}
}

// push adds lines to a stream, if there is one, once they are in the store.
func (h *hub) push(run, build string, first int64, p piece) {
	h.mu.Lock()
	s := h.streams[run]
	h.mu.Unlock()
	if s == nil {
		return
	}
	c := liveChunk{LogChunk{First: first, Count: p.count, NDJSON: number(first, p.count, p.lines)}, build}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s = h.streams[run]; s == nil || first < s.next {
		return
	}
	if s.next >= 0 && first > s.next { // another controller wrote what is between
		h.drop(s, len(s.chunks))
	}
	s.chunks = append(s.chunks, c)
	s.next = c.end()
	s.bytes += len(c.NDJSON)
	h.bytes += len(c.NDJSON)
	// What all have read goes, and what is too much.
	slowest := s.next
	for r := range s.readers {
		slowest = min(slowest, r.pos)
	}
	for len(s.chunks) > 1 && (s.chunks[0].end() <= slowest || s.bytes > livePerRun || h.bytes > liveInAll) {
		h.drop(s, 1)
	}
	s.tell()
}

func (c *liveChunk) end() int64 { return c.First + int64(c.Count) }

// drop forgets the first n chunks.
func (h *hub) drop(s *stream, n int) {
	for i := range s.chunks[:n] {
		h.bytes -= len(s.chunks[i].NDJSON)
		s.bytes -= len(s.chunks[i].NDJSON)
		s.chunks[i] = liveChunk{}
	}
	s.chunks = s.chunks[n:]
}

func (s *stream) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// finish says that a run has ended, and all of its log is in the store.
func (h *hub) finish(run string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.streams[run]; s != nil && !s.ended {
		s.ended = true
		s.tell()
	}
}

// next gives what is in memory for a reader. Without, look says whether the
// store may have something, and changed when to ask again.
func (h *hub) next(r *reader) (chunks []liveChunk, look bool, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.streams[r.run]
	i := sort.Search(len(s.chunks), func(i int) bool { return s.chunks[i].end() > r.pos })
	if i < len(s.chunks) && s.chunks[i].First <= r.pos {
		return slices.Clone(s.chunks[i:]), false, s.changed
	}
	return nil, s.ended || r.pos != s.next, s.changed
}

// read notes how far a reader is.
func (h *hub) read(r *reader, pos int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.pos = pos
}

// at says that the store had so many lines, and how it is if nothing came since.
func (h *hub) at(run string, lines int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.streams[run]; s != nil && s.next < 0 {
		s.next = lines
	}
}

// found says what a look into the store found.
func (h *hub) found(run string, lines int64, ended bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.streams[run]
	if s == nil || lines <= s.next && (!ended || s.ended) {
		return
	}
	if lines > s.next && s.next >= 0 {
		// Another controller wrote, or this one is just about to push.
		h.drop(s, len(s.chunks))
		s.next = -1
	}
	s.ended = s.ended || ended
	s.tell()
}

// followed gives the runs whose logs somebody follows.
func (h *hub) followed() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	runs := make([]string, 0, len(h.streams))
	for run := range h.streams {
		runs = append(runs, run)
	}
	return runs
}
