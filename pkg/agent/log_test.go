package agent

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pipegen/pipegen/pkg/api"
)

const full = syscall.ENOSPC

func small(t *testing.T, memory int, disk int64) *spool {
	t.Helper()
	s := newSpool(t.TempDir(), 3)
	s.inMemory, s.onDisk = memory, disk
	t.Cleanup(s.close)
	return s
}

// Whatever goes in comes out, in order and once, through memory and disk.
func TestSpool(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		s := small(t, 200+r.IntN(1000), 2000+r.Int64N(5000))
		const lines = 3000
		made := make([]api.TaskLine, lines)
		for i := range made {
			made[i] = api.TaskLine{
				Time: time.Unix(int64(i), 5).UTC(), Level: levels[i%3], Message: strings.Repeat(string(rune('a'+i%26)), r.IntN(150)), More: i%7 == 0,
			}
		}
		var wait sync.WaitGroup
		wait.Go(func() {
			for _, l := range made {
				s.add(l)
			}
			s.end()
		})
		var got []api.TaskLine
		for {
			from, batch, more, err := s.batch(300, time.Microsecond)
			if err != nil {
				t.Fatal(err)
			}
			if !more {
				break
			}
			if from != int64(3+len(got)) {
				t.Fatalf("from %d after %d", from, len(got))
			}
			n := 1 + r.IntN(len(batch)) // not all of it may have been taken
			got = append(got, batch[:n]...)
			if err := s.done(from + int64(n)); err != nil {
				t.Fatal(err)
			}
		}
		wait.Wait()
		if !slices.Equal(got, made) || s.sent() != 3+lines {
			t.Fatalf("%d of %d lines", len(got), lines)
		}
	}
}

// What has no room waits, and no longer once nobody wants it.
func TestSpoolIsFull(t *testing.T) {
	for name, disk := range map[string]bool{"disk": true, "no disk": false} {
		s := small(t, 10, 100)
		var told sync.WaitGroup
		if !disk {
			s.dir = filepath.Join(s.dir, "gone")
			told.Add(1)
			s.overflowed = func(err error) {
				if !errors.Is(err, os.ErrNotExist) {
					t.Error(err)
				}
				told.Done()
			}
		}
		over := make(chan int)
		go func() {
			n := 0
			for ; n < 100; n++ {
				s.add(api.TaskLine{Message: "0123456789"})
			}
			over <- n
		}()
		told.Wait()
		select {
		case <-over:
			t.Errorf("%s: nobody waited", name)
		case <-time.After(50 * time.Millisecond):
		}
		from, batch, _, err := s.batch(1000, 0)
		if err != nil || len(batch) == 0 {
			t.Fatal(batch, err)
		}
		if err := s.done(from + int64(len(batch)) + 1); err == nil {
			t.Error("lines are done that were not sent")
		}
		if err := s.done(from - 1); err == nil {
			t.Error("lines come back")
		}
		if err := s.done(from + int64(len(batch))); err != nil {
			t.Error(err)
		}
		s.drop()
		<-over
		if _, _, more, err := s.batch(1, 0); more || err != nil {
			t.Error("there is more", err)
		}
	}
}

// Who is stopped does not wait for room, and what is lost for that is counted.
func TestSpoolHurries(t *testing.T) {
	s := small(t, 10, 100)
	over := make(chan struct{})
	go func() {
		defer close(over)
		for range 100 {
			s.add(api.TaskLine{Message: "0123456789"})
		}
	}()
	time.AfterFunc(20*time.Millisecond, s.hurry)
	<-over
	s.end()
	got := int64(0)
	for {
		from, batch, more, err := s.batch(1000, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			break
		}
		got += int64(len(batch))
		if err := s.done(from + int64(len(batch))); err != nil {
			t.Fatal(err)
		}
	}
	if got == 0 || s.missing() == 0 || got+s.missing() != 100 {
		t.Errorf("%d lines, %d missing", got, s.missing())
	}
}

// The file cannot be found by name, nor read by others.
func TestSpoolIsPrivate(t *testing.T) {
	s := small(t, 1, 1<<20)
	for range 10 {
		s.add(api.TaskLine{Message: "secret"})
	}
	if s.stored == 0 {
		t.Fatal("nothing on disk")
	}
	if left, err := os.ReadDir(s.dir); err != nil || len(left) > 0 {
		t.Errorf("%v %v", left, err)
	}
	if info, err := s.file.Stat(); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// collect gives what a logger makes of writes.
func collect(t *testing.T, limit int64, write func(l *logger)) []api.TaskLine {
	t.Helper()
	s := newSpool(t.TempDir(), 0)
	s.inMemory = 1 << 30
	l := newLogger(s, limit, time.Now)
	write(l)
	l.close()
	return s.lines
}

// joined gives lines as they were before they were cut.
func joined(lines []api.TaskLine) []string {
	out := []string{""}
	for _, l := range lines {
		out[len(out)-1] += l.Message
		if !l.More {
			out = append(out, "")
		}
	}
	return out[:len(out)-1]
}

func TestLines(t *testing.T) {
	long := strings.Repeat("0123456789", 1_000_000) // 10 MB
	wide := strings.Repeat("日本語", 50_000)
	binary := strings.Repeat("\xff\xfeé\x80", 40_000)
	for name, text := range map[string]string{
		"plain": "a\nb\n\nc", "long": "x\n" + long + "\ny\n", "wide": wide + "\n" + wide, "binary": binary, "at the limit": strings.Repeat("x", maxLine) + "\n", "empty": "",
	} {
		for _, piece := range []int{1 << 30, 8191, 70_000} {
			got := collect(t, 1<<40, func(l *logger) {
				for rest := text; rest != ""; {
					n := min(piece, len(rest))
					if _, err := l.Write([]byte(rest[:n])); err != nil {
						t.Error(err)
					}
					rest = rest[n:]
				}
			})
			for _, l := range got {
				if len(l.Message) > maxLine || !utf8.ValidString(l.Message) {
					t.Fatalf("%s: a line of %d bytes, valid %t", name, len(l.Message), utf8.ValidString(l.Message))
				}
			}
			want := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
			if text == "" {
				want = nil
			}
			if name == "binary" {
				if s := joined(got); len(s) != 1 || strings.Count(s[0], "é") != 40_000 {
					t.Errorf("%s: %d lines", name, len(s))
				}
				continue
			}
			if !slices.Equal(joined(got), want) {
				t.Errorf("%s in pieces of %d: %d lines, want %d", name, piece, len(joined(got)), len(want))
			}
		}
	}
}

// A log has its limit; what comes after is counted, but not what the agent says.
func TestLogLimit(t *testing.T) {
	got := collect(t, 25, func(l *logger) {
		for range 5 {
			fmt.Fprintln(l, "0123456789")
		}
		l.say("error", "failed: %s", "no")
	})
	var text []string
	for _, l := range got {
		text = append(text, l.Level+" "+l.Message)
	}
	want := []string{
		"info 0123456789", "info 0123456789", "warning the log has reached its limit of 25 bytes: what follows is left out",
		"error failed: no", "warning 3 lines of the log with 30 bytes were left out: it may have 25 bytes",
	}
	if !slices.Equal(text, want) {
		t.Errorf("got %q", text)
	}
}

func FuzzLines(f *testing.F) {
	for _, s := range []string{"", "a\nb", "\xff\n\xe2\x82", strings.Repeat("é", maxLine)} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, text []byte, piece int) {
		if piece <= 0 || piece > 1<<20 {
			piece = 1 << 20
		}
		lines := collect(t, 1<<40, func(l *logger) {
			for rest := range slices.Chunk(text, piece) {
				_, _ = l.Write(rest)
			}
		})
		var whole strings.Builder
		for _, l := range lines {
			if len(l.Message) > maxLine || !utf8.ValidString(l.Message) || strings.Contains(l.Message, "\n") {
				t.Fatalf("%q", l.Message)
			}
			whole.WriteString(l.Message)
			if !l.More {
				whole.WriteByte('\n')
			}
			record := encode(l)
			back, n := decode(append(record, 1, 2, 3))
			if n != len(record) || back.Message != l.Message || back.More != l.More || !back.Time.Equal(l.Time) {
				t.Fatalf("%+v became %+v", l, back)
			}
			if _, n := decode(record[:len(record)-1]); n != 0 {
				t.Fatal("half a record is one")
			}
		}
		if utf8.Valid(text) && strings.TrimSuffix(whole.String(), "\n") != strings.TrimSuffix(string(text), "\n") {
			t.Fatal("the text is another one")
		}
	})
}

func TestGroupAccount(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		want  api.Usage
	}{
		"version 2": {map[string]string{"/sys/fs/cgroup/cpu.stat": "usage_usec 2500000\nuser_usec 1\n", "/sys/fs/cgroup/memory.peak": "4096\n"}, api.Usage{CPUSeconds: 2.5, PeakMemory: 4096}},
		"version 1": {map[string]string{"/sys/fs/cgroup/cpuacct/cpuacct.usage": "1500000000\n", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes": "8192\n"}, api.Usage{CPUSeconds: 1.5, PeakMemory: 8192}},
	} {
		m := &meter{alone: true, read: func(path string) string { return tt.files[path] }}
		if got := m.usage(); got != tt.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	m := &meter{read: func(string) string { t.Error("another's account is read"); return "" }}
	if got := m.usage(); got.CPUSeconds <= 0 || got.PeakMemory < 1<<20 {
		t.Errorf("%+v", got)
	}
}
