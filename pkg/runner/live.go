package runner

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/plan"
	"github.com/pipegen/pipegen/pkg/quote"
)

// live keeps one line a build at the bottom of a terminal and redraws them in
// place. What is to stay, such as the end of a failed build's log, is printed
// above them. Each frame is one write.
type live struct {
	w     io.Writer
	o     ProgressOptions
	paint paint

	mu      sync.Mutex
	started time.Time
	rows    []*row
	byBuild map[*plan.Build]*row
	byImage map[*plan.Image][]*row
	names   int
	drawn   int // lines of the frame on the screen
	dirty   bool
	apart   bool // whether an empty line is above the lines
	tails   tails
	stop    chan struct{}
	stopped sync.WaitGroup
}

// row is what is known of a build.
type row struct {
	id, platform   string
	state          State
	started, ended time.Time
	note           string // safe to show
}

func newLive(w io.Writer, o ProgressOptions) *live {
	if o.Interval == 0 {
		o.Interval = 100 * time.Millisecond
	}
	return &live{
		w: w, o: o, paint: paint(o.Color), tails: tails{}, stop: make(chan struct{}),
		byBuild: map[*plan.Build]*row{}, byImage: map[*plan.Image][]*row{},
	}
}

// Observe takes e into the next frame.
func (l *live) Observe(e Event) {
	if e.Kind == RunFinished {
		close(l.stop)
		l.stopped.Wait()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tails.observe(e)
	above := l.update(e)
	if e.Kind == RunFinished {
		l.rows = nil
		text := table(*e.Summary, l.paint)
		if l.apart {
			text = strings.TrimPrefix(text, "\n")
		}
		l.draw(text)
		return
	}
	l.dirty = true
	if above != "" || l.o.Interval < 0 {
		l.draw(above)
	}
	if e.Kind == RunStarted && l.o.Interval > 0 {
		l.stopped.Go(l.tick)
	}
}

func (l *live) tick() {
	t := time.NewTicker(l.o.Interval)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-l.stop:
			return
		case now := <-t.C:
			l.mu.Lock()
			// The clock moves on by the second, too.
			if l.dirty || now.Sub(last) >= time.Second {
				l.draw("")
				last = now
			}
			l.mu.Unlock()
		}
	}
}

// update takes in an event, and gives what is to be printed above the lines.
func (l *live) update(e Event) (above string) {
	r := l.byBuild[e.Build]
	switch e.Kind {
	case RunStarted:
		l.started, l.names = e.Time, longestName(e.Plan)
		for i := range e.Plan.Images {
			img := &e.Plan.Images[i]
			for j := range img.Builds {
				b := &img.Builds[j]
				r := &row{id: quote.Text(b.ID), platform: b.Platform, state: Queued}
				if len(img.Needs) > 0 {
					r.note = "waits for " + quote.Text(strings.Join(img.Needs, ", "))
				}
				l.rows = append(l.rows, r)
				l.byBuild[b] = r
				l.byImage[img] = append(l.byImage[img], r)
			}
		}
	case BuildQueued:
		r.note = ""
	case BuildStarted:
		r.state, r.started = Building, e.Time
	case LogLine:
		if text := clean(e.Line); strings.TrimSpace(text) != "" {
			r.note = text
		}
		if l.o.Logs {
			l.apart = false
			above = prefixed(e, l.names, l.paint) + clean(e.Line) + "\n"
		}
	case Note:
		l.apart = false
		above = prefixed(e, l.names, l.paint) + told(e) + "\n"
	case BuildFinished:
		r.state, r.ended, r.note = e.State, e.Time, ""
		if e.State == Failed {
			r.note = cause(e)
			above = l.tails.failure(e, l.o.LogPath, l.paint) + "\n"
			l.apart = true
		}
	case ImagePublishing:
		l.noteImage(e.Image, "publishing")
	case ImagePublished:
		l.noteImage(e.Image, "published")
	case ImageFailed:
		l.noteImage(e.Image, "not published")
	case ImageSkipped:
		for _, r := range l.byImage[e.Image] {
			r.state, r.note = Skipped, quote.Text(e.Reason)
		}
	}
	return above
}

func (l *live) noteImage(img *plan.Image, note string) {
	for _, r := range l.byImage[img] {
		if r.state == Succeeded {
			r.note = note
		}
	}
}

// draw replaces the frame on the screen by what is to stay and a new frame.
func (l *live) draw(above string) {
	l.dirty = false
	var b strings.Builder
	b.WriteString("\x1b[?2026h") // shown at once, on terminals that know it
	if l.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r", l.drawn)
	}
	if above != "" {
		b.WriteString("\x1b[J" + above)
	}
	lines := l.frame()
	for _, line := range lines {
		b.WriteString(line + "\x1b[K\n")
	}
	if len(lines) < l.drawn || above != "" {
		b.WriteString("\x1b[J")
	}
	b.WriteString("\x1b[?2026l")
	l.drawn = len(lines)
	_, _ = io.WriteString(l.w, b.String())
}

func (l *live) size() (columns, rows int) {
	if l.o.Size != nil {
		columns, rows = l.o.Size()
	}
	if columns <= 0 || rows <= 0 {
		return 80, 24
	}
	return columns, rows
}

// frame gives the lines to be shown: those that fit the window, with what runs
// first in rank, and a last one that counts.
func (l *live) frame() []string {
	if len(l.rows) == 0 {
		return nil
	}
	wide, high := l.size()
	shown := slices.Clone(l.rows)
	room := max(1, high-3) // the count, the cursor's line, and "more"
	if len(shown) > room {
		slices.SortStableFunc(shown, func(a, b *row) int { return a.rank() - b.rank() })
		keep := map[*row]bool{}
		for _, r := range shown[:room] {
			keep[r] = true
		}
		shown = slices.DeleteFunc(slices.Clone(l.rows), func(r *row) bool { return !keep[r] })
	}
	now := l.o.Now()
	var lines []string
	for _, r := range shown {
		lines = append(lines, l.line(r, now, wide-1))
	}
	if n := len(l.rows) - len(shown); n > 0 {
		lines = append(lines, l.paint.dim(cut(fmt.Sprintf("  … %d more", n), wide-1)))
	}
	return append(lines, cut(l.count(now), wide-1))
}

// rank says what is left out first where there is no room: the highest.
func (r *row) rank() int {
	switch r.state {
	case Building:
		return 0
	case Failed:
		return 1
	case Queued:
		return 2
	case Succeeded:
		return 3
	}
	return 4
}

// line gives a build: mark, name, state, time, and what it does.
func (l *live) line(r *row, now time.Time, wide int) string {
	took := ""
	switch {
	case !r.ended.IsZero():
		took = duration(r.ended.Sub(r.started))
	case !r.started.IsZero():
		took = duration(now.Sub(r.started).Truncate(time.Second))
		took = strings.Replace(took, ".0s", "s", 1)
	}
	state := padded(word(r.state), 11)
	// Too narrow for all: the name goes first, then the rest.
	name := cut(padded(r.id, l.names), max(0, wide-2))
	rest := wide - 2 - columns(name)
	tail := cut("  "+state+fmt.Sprintf("%6s", took), rest)
	note := ""
	if room := rest - columns(tail) - 2; r.note != "" && room > 3 {
		note = "  " + l.paint.dim(cut(r.note, room))
	}
	return strings.TrimRight(l.paint.state(r.state, mark(r.state))+" "+l.paint.arch(r.platform, name)+tail+note, " ")
}

func word(s State) string {
	if s == Succeeded {
		return "built"
	}
	return string(s)
}

func (l *live) count(now time.Time) string {
	n := map[State]int{}
	for _, r := range l.rows {
		n[r.state]++
	}
	parts := []string{fmt.Sprintf("%d of %d built", n[Succeeded], len(l.rows))}
	for _, s := range []State{Building, Failed, Skipped} {
		if n[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[s], s))
		}
	}
	took := strings.Replace(duration(now.Sub(l.started).Truncate(time.Second)), ".0s", "s", 1)
	return strings.Join(append(parts, took), " · ")
}
