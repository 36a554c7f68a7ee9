package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pipegen/pipegen/pkg/api"
)

const (
	// inMemory is how many bytes of lines wait in memory before others go to disk.
	inMemory = 1 << 20
	// onDisk is how many wait there before the build does.
	onDisk = 512 << 20
)

// spool holds the lines that the controller does not have yet, in order: the
// first in memory, what does not fit there in a file that is used in the
// round. When that is full too, or cannot be written, whoever adds lines waits
// until there is room.
type spool struct {
	dir        string
	inMemory   int
	onDisk     int64
	overflowed func(error) // is told once that the disk takes nothing; may be nil

	mu      sync.Mutex
	changed sync.Cond
	first   int64 // number of the oldest line
	lines   []api.TaskLine
	bytes   int // of lines
	file    *os.File
	read    int64 // where the oldest record begins, and the next one will, counted on
	write   int64
	stored  int64 // records
	ended   bool  // there will be no more
	dropped bool  // nobody wants them
	hurried bool  // nobody waits for room
	lost    int64 // lines for which there was none then
	broken  bool  // the disk takes nothing
}

func newSpool(dir string, first int64) *spool {
	s := &spool{dir: dir, inMemory: inMemory, onDisk: onDisk, first: first}
	s.changed.L = &s.mu
	return s
}

// add takes a line, which may have to wait for room.
func (s *spool) add(l api.TaskLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.dropped {
		if s.stored == 0 && (s.bytes+len(l.Message) <= s.inMemory || len(s.lines) == 0) {
			s.lines, s.bytes = append(s.lines, l), s.bytes+len(l.Message)
			s.changed.Broadcast()
			return
		}
		if s.store(l) {
			return
		}
		if s.hurried {
			s.lost++
			return
		}
		s.changed.Wait()
	}
}

// store writes a line to the file, if there is room.
func (s *spool) store(l api.TaskLine) bool {
	record := encode(l)
	if s.broken && s.stored > 0 || s.write-s.read+int64(len(record)) > s.onDisk {
		return false
	}
	err := s.open()
	if err == nil {
		err = s.round(s.write, record, s.file.WriteAt)
	}
	if err != nil {
		if !s.broken && s.overflowed != nil {
			go s.overflowed(err) // it may want to say so in the log
		}
		s.broken = true
		return false
	}
	s.write += int64(len(record))
	s.stored++
	return true
}

// open makes the file, which has no name for long: nobody else is to read it.
func (s *spool) open() error {
	if s.file != nil {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(s.dir, "spool"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	s.file = f
	return os.Remove(f.Name())
}

// round reads or writes at a place in the file, past whose end comes its
// beginning.
func (s *spool) round(at int64, p []byte, do func([]byte, int64) (int, error)) error {
	at %= s.onDisk
	n := min(int64(len(p)), s.onDisk-at)
	if _, err := do(p[:n], at); err != nil {
		return err
	}
	if n == int64(len(p)) {
		return nil
	}
	_, err := do(p[n:], 0)
	return err
}

// end says that there will be no more lines.
func (s *spool) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.changed.Broadcast()
}

// hurry says that nobody is to wait for room any more: lines that find none
// are lost, and counted.
func (s *spool) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hurried = true
	s.changed.Broadcast()
}

// missing is how many lines were lost.
func (s *spool) missing() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// drop lets go of all lines, those that come included.
func (s *spool) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped = true
	s.changed.Broadcast()
}

// close gives the file back.
func (s *spool) close() {
	s.drop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

// sent is how many lines the controller has.
func (s *spool) sent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

// batch waits for lines and gives the oldest, up to so many bytes, at least
// one. It waits for up to linger for an eighth of that to come. more is false
// once all that will ever be there are taken, or nobody wants them.
func (s *spool) batch(bytes int, linger time.Duration) (from int64, lines []api.TaskLine, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.lines) == 0 && s.stored == 0 && !s.ended && !s.dropped {
		s.changed.Wait()
	}
	late := false
	timer := time.AfterFunc(linger, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		late = true
		s.changed.Broadcast()
	})
	defer timer.Stop()
	for s.bytes < bytes/8 && s.stored == 0 && !late && !s.ended && !s.dropped {
		s.changed.Wait()
	}
	if err := s.refill(); err != nil {
		return 0, nil, false, err
	}
	if s.dropped || len(s.lines) == 0 {
		return s.first, nil, false, nil
	}
	n, size := 0, 0
	for n < len(s.lines) && (n == 0 || size+len(s.lines[n].Message) <= bytes) {
		size += len(s.lines[n].Message)
		n++
	}
	return s.first, append(lines, s.lines[:n]...), true, nil
}

// refill brings lines from the file when those in memory are gone.
func (s *spool) refill() error {
	if len(s.lines) > 0 || s.stored == 0 {
		return nil
	}
	p := make([]byte, min(s.write-s.read, int64(max(s.inMemory, maxLine+maxHeader))))
	if err := s.round(s.read, p, s.file.ReadAt); err != nil {
		return fmt.Errorf("reading the log's spool: %w", err)
	}
	for s.stored > 0 {
		l, n := decode(p)
		if n == 0 {
			break
		}
		s.lines, s.bytes = append(s.lines, l), s.bytes+len(l.Message)
		s.read += int64(n)
		s.stored--
		p = p[n:]
	}
	if len(s.lines) == 0 {
		return errors.New("reading the log's spool: it is damaged")
	}
	if s.stored == 0 {
		s.read, s.write, s.broken = 0, 0, false
		_ = s.file.Truncate(0)
	}
	s.changed.Broadcast()
	return nil
}

// done lets go of the lines before the one with this number. A number that it
// cannot have is an error.
func (s *spool) done(next int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := next - s.first
	if n < 0 || n > int64(len(s.lines)) {
		return fmt.Errorf("the controller wants line %d of the log next, where %d to %d were sent", next, s.first, s.first+int64(len(s.lines)))
	}
	for _, l := range s.lines[:n] {
		s.bytes -= len(l.Message)
	}
	s.first = next
	if s.lines = s.lines[n:]; len(s.lines) == 0 {
		s.lines = nil // with what it held
	}
	s.changed.Broadcast()
	return nil
}

// maxHeader bounds what stands before the text of a record.
const maxHeader = 8 + 1 + 1 + binary.MaxVarintLen64

var levels = []string{"info", "warning", "error"}

// encode gives a line as a record: time, level, whether it goes on, length, text.
func encode(l api.TaskLine) []byte {
	b := make([]byte, 0, maxHeader+len(l.Message))
	b = binary.BigEndian.AppendUint64(b, uint64(l.Time.UnixNano()))
	level := byte(0)
	for i, name := range levels {
		if l.Level == name {
			level = byte(i)
		}
	}
	more := byte(0)
	if l.More {
		more = 1
	}
	b = append(b, level, more)
	b = binary.AppendUvarint(b, uint64(len(l.Message)))
	return append(b, l.Message...)
}

// decode gives the first line of records, and the length of its record; 0: it is
// not whole.
func decode(b []byte) (api.TaskLine, int) {
	if len(b) < 11 {
		return api.TaskLine{}, 0
	}
	size, n := binary.Uvarint(b[10:])
	if n <= 0 || size > uint64(len(b)-10-n) { //nolint:gosec // both are not negative
		return api.TaskLine{}, 0
	}
	end := 10 + n + int(size) //nolint:gosec // within b
	return api.TaskLine{
		Time: time.Unix(0, int64(binary.BigEndian.Uint64(b))).UTC(), Level: levels[min(int(b[8]), len(levels)-1)], //nolint:gosec // as it was written
		More: b[9] == 1, Message: string(b[10+n : end]),
	}, end
}
