package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "progress", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it anew); got\n%s", file, got)
	}
}

// story tells an observer of a run, by a clock of its own: base is published,
// app fails on arm64, web needs it, and a tool is interrupted by nothing.
func story(o *ProgressOptions, observe func() Observer) {
	now := time.Date(2026, 11, 21, 2, 3, 4, 0, time.UTC)
	o.Now = func() time.Time { return now }
	o.LogPath = func(id string) string { return "out/builds/" + id + ".log" }
	obs := observe()
	p := graph("base: amd64 arm64", "app: amd64 arm64 < base", "web: amd64 < app", "tool: arm64")
	img := func(name string) *plan.Image { i, _ := p.Image(name); return i }
	tell := func(after time.Duration, kind EventKind, id string, more func(*Event)) {
		now = now.Add(after)
		e := Event{Time: now, Kind: kind, Plan: p, Image: img(id)}
		if i, b, ok := p.Find(id); ok {
			e.Image, e.Build = i, b
		}
		if more != nil {
			more(&e)
		}
		obs.Observe(e)
	}
	line := func(id, text string) { tell(time.Second, LogLine, id, func(e *Event) { e.Line = text }) }
	built := func(id string, took time.Duration) {
		tell(0, BuildFinished, id, func(e *Event) {
			e.State, e.Elapsed, e.Result = Succeeded, took, &plan.Result{ID: id, Digest: "sha256:" + strings.Repeat("a", 64)}
		})
	}
	published := func(name string) *plan.Published {
		return &plan.Published{
			Name: name, Repository: "registry/images", Digest: "sha256:" + strings.Repeat("b", 64), Tags: img(name).Tags,
			Kept: []plan.KeptTag{{Tag: "v1", Reason: "it holds a later commit"}},
		}
	}
	tell(0, RunStarted, "", nil)
	for _, id := range []string{"base@amd64", "base@arm64", "tool@arm64"} {
		tell(0, BuildQueued, id, nil)
	}
	tell(0, BuildStarted, "base@amd64", nil)
	tell(time.Second/2, BuildStarted, "base@arm64", nil)
	line("base@amd64", "INFO Retrieving image manifest docker.io/library/debian:12")
	line("base@arm64", "INFO Unpacking rootfs as cmd RUN apt-get update && apt-get install -y ca-certificates requires it.")
	built("base@amd64", 2500*time.Millisecond)
	tell(0, BuildStarted, "tool@arm64", nil)
	line("tool@arm64", "\x1b[31mred\x1b[0m\ttab \u202egnp.\x07 \xff 漢字")
	built("base@arm64", 3*time.Second)
	tell(0, ImagePublishing, "base", nil)
	tell(time.Second, ImagePublished, "base", func(e *Event) { e.Published, e.Elapsed = published("base"), 4500*time.Millisecond })
	tell(0, BuildQueued, "app@amd64", nil)
	tell(0, BuildQueued, "app@arm64", nil)
	tell(0, BuildStarted, "app@arm64", nil)
	for i := range 20 {
		tell(0, LogLine, "app@arm64", func(e *Event) { e.Line = fmt.Sprintf("compiling unit %d of 20", i+1) })
	}
	line("app@arm64", "unit 20: error: no such file")
	broken := failure.WithHint(errors.New("build app@arm64: kaniko failed:\nexit status 1"), "look at unit 20")
	tell(70*time.Second, BuildFinished, "app@arm64", func(e *Event) { e.State, e.Elapsed, e.Err = Failed, 71*time.Second, broken })
	tell(0, BuildStarted, "app@amd64", nil)
	tell(time.Hour, LogLine, "app@amd64", func(e *Event) { e.Line = "done" })
	built("app@amd64", time.Hour)
	tell(0, ImageFailed, "app", func(e *Event) { e.Err, e.Elapsed = broken, time.Hour+71*time.Second })
	tell(0, ImageSkipped, "web", func(e *Event) { e.Reason = "needs app, which failed" })
	tell(0, BuildFinished, "tool@arm64", func(e *Event) {
		e.State, e.Elapsed, e.Err = Interrupted, time.Hour+73*time.Second, errors.New("stopped")
	})
	tell(0, RunFinished, "", func(e *Event) {
		e.Elapsed = time.Hour + 76*time.Second
		e.Summary = &Summary{
			Elapsed: e.Elapsed,
			Images: []ImageSummary{
				{Name: "base", State: Published, Published: published("base"), Elapsed: 4500 * time.Millisecond, Builds: []BuildSummary{
					{ID: "base@amd64", Platform: "linux/amd64", State: Succeeded}, {ID: "base@arm64", Platform: "linux/arm64", State: Succeeded},
				}},
				{Name: "app", State: Failed, Err: broken, Elapsed: time.Hour + 71*time.Second, Builds: []BuildSummary{
					{ID: "app@amd64", Platform: "linux/amd64", State: Succeeded}, {ID: "app@arm64", Platform: "linux/arm64", State: Failed, Err: broken},
				}},
				{Name: "web", State: Skipped, Reason: "needs app, which failed", Builds: []BuildSummary{{ID: "web@amd64", Platform: "linux/amd64", State: Skipped}}},
				{Name: "tool", State: Interrupted, Elapsed: time.Hour + 73*time.Second, Builds: []BuildSummary{{ID: "tool@arm64", Platform: "linux/arm64", State: Interrupted}}},
			},
		}
	})
}

func TestProgressLines(t *testing.T) {
	for _, c := range []struct {
		name string
		o    ProgressOptions
	}{
		{"plain.txt", ProgressOptions{Format: Plain, Color: true, Terminal: true}},
		{"plain.txt", ProgressOptions{Format: Simple}},
		{"color.txt", ProgressOptions{Color: true}},
		{"json.txt", ProgressOptions{Format: JSON, Color: true, Terminal: true}},
	} {
		var b bytes.Buffer
		story(&c.o, func() Observer { return NewProgress(&b, c.o) })
		golden(t, c.name, b.String())
		for _, r := range b.String() {
			if unicode.IsControl(r) && r != '\n' && (r != '\x1b' || c.name != "color.txt") {
				t.Errorf("%s has control character %q", c.name, r)
			}
		}
		if c.o.Format == JSON {
			for line := range strings.Lines(b.String()) {
				if !json.Valid([]byte(line)) {
					t.Errorf("no JSON: %s", line)
				}
			}
		}
	}
}

func TestProgressOnATerminal(t *testing.T) {
	for _, c := range []struct {
		name          string
		columns, rows int
		o             ProgressOptions
	}{
		{"live.txt", 80, 24, ProgressOptions{Color: true}},
		{"live-small.txt", 40, 6, ProgressOptions{}},
		{"live-logs.txt", 60, 30, ProgressOptions{Logs: true}},
	} {
		s := &screen{t: t, columns: c.columns, rows: c.rows}
		c.o.Terminal, c.o.Interval = true, -1
		c.o.Size = func() (int, int) { return c.columns, c.rows }
		story(&c.o, func() Observer { return NewProgress(s, c.o) })
		var b strings.Builder
		for i, f := range s.frames {
			if i%8 == 0 || i >= len(s.frames)-2 {
				fmt.Fprintf(&b, "%s\n%s", strings.Repeat("=", c.columns), f)
			}
		}
		golden(t, c.name, b.String())
	}
}

func TestProgressRedrawsByItself(t *testing.T) {
	var b syncBuffer
	o := ProgressOptions{Terminal: true, Interval: time.Millisecond}
	obs := NewProgress(&b, o)
	p := graph("app: amd64")
	obs.Observe(Event{Time: time.Now(), Kind: RunStarted, Plan: p})
	for !strings.Contains(b.String(), "app@amd64") {
		time.Sleep(time.Millisecond)
	}
	obs.Observe(Event{Kind: BuildStarted, Time: time.Now(), Image: &p.Images[0], Build: &p.Images[0].Builds[0]})
	for !strings.Contains(b.String(), "1 building") {
		time.Sleep(time.Millisecond)
	}
	obs.Observe(Event{Kind: RunFinished, Summary: &Summary{}})
	end := b.String()
	time.Sleep(20 * time.Millisecond)
	if b.String() != end || !strings.HasSuffix(end, "nothing to build\n\x1b[J\x1b[?2026l") {
		t.Errorf("it goes on after the end: %q", b.String())
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0s", 40 * time.Millisecond: "0.0s", 1450 * time.Millisecond: "1.4s", 9949 * time.Millisecond: "9.9s", 9950 * time.Millisecond: "10s",
		59499 * time.Millisecond: "59s", 59500 * time.Millisecond: "1m00s", 65 * time.Second: "1m05s", 3599 * time.Second: "59m59s",
		3600 * time.Second: "1h00m", 25*time.Hour + 3*time.Minute: "25h03m",
	} {
		if got := duration(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add("app@amd64 漢字 é", 5)
	f.Fuzz(func(t *testing.T, s string, n int) {
		n = max(0, min(n, 300))
		s = clean(s)
		got := cut(s, n)
		if columns(got) > n || columns(s) <= n && got != s {
			t.Errorf("%q cut to %d columns is %q", s, n, got)
		}
	})
}
