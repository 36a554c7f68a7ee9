package controller

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pipegen/pipegen/pkg/controller/blob"
	"github.com/pipegen/pipegen/pkg/controller/store"
)

// frameSize is about how many bytes of lines are compressed together in an
// archived log; reading begins with such a frame.
const frameSize = 1 << 20

func logKey(run string) string { return "logs/" + run }

// frame is where a frame of an archived log begins.
type frame struct {
	first  int64 // number of its first line
	offset int64 // in the blob
}

// gather is how long to wait for the ends of other runs when one has ended.
const gather = 200 * time.Millisecond

// archiveLogs moves the logs of ended runs from the database to the blob
// store, until ctx ends.
func (c *Controller) archiveLogs(ctx context.Context) {
	const usual, longest = 5 * time.Second, time.Minute
	wait := usual
	for ctx.Err() == nil {
		var more bool
		_, err := c.o.Store.Lead(ctx, "archive", func(ctx context.Context) (err error) { more, err = c.archiveSome(ctx); return err })
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.log.Warn("moving logs to the blob store", "err", err)
			wait = min(wait*2, longest)
		case more:
			wait = usual
			continue
		default:
			wait = usual
		}
		wake := c.archive
		if err != nil {
			wake = nil // the same would go wrong again
		}
		t := time.NewTimer(wait)
		select {
		case <-wake:
			pause(ctx, gather)
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// archiveSome moves some logs, and says whether there may be more.
func (c *Controller) archiveSome(ctx context.Context) (more bool, err error) {
	const some = 16
	var fresh, leaving []string
	if err := c.o.Store.Read(ctx, func(tx *store.Tx) (err error) {
		if fresh, err = tx.LogsAt(store.LogRows, some); err != nil {
			return err
		}
		leaving, err = tx.LogsAt(store.LogLeaving, some)
		return err
	}); err != nil {
		return false, err
	}
	var faults []error
	for _, run := range fresh {
		if err := c.archiveLog(ctx, run); err != nil {
			faults = append(faults, fmt.Errorf("the log of run %s: %w", run, err))
		}
	}
	for _, run := range leaving {
		if err := c.dropRows(ctx, run, false, nil); err != nil {
			return false, err
		}
	}
	return len(fresh)+len(leaving) >= some && len(faults) == 0, errors.Join(faults...)
}

// archiveLog writes the log of a run to the blob store.
func (c *Controller) archiveLog(ctx context.Context, run string) error {
	var packed spool
	defer packed.close()
	index, size, err := c.compressLog(ctx, run, &packed)
	if err != nil {
		return err
	}
	log, err := packed.reader()
	if err != nil {
		return err
	}
	if err := c.o.Blobs.Put(ctx, logKey(run), log, size); err != nil {
		return err
	}
	return c.dropRows(ctx, run, true, index)
}

// compressLog writes the log of a run to w in frames, and gives their index.
func (c *Controller) compressLog(ctx context.Context, run string, w io.Writer) (index []byte, size int64, err error) {
	var lines, packed []byte
	var pos, first, entry, place int64 // entry and place: what the index says last
	flush := func() error {
		if len(lines) == 0 {
			return nil
		}
		index = binary.AppendUvarint(index, uint64(first-entry)) //nolint:gosec // they grow
		index = binary.AppendUvarint(index, uint64(size-place))  //nolint:gosec // they grow
		entry, place = first, size
		packed = c.codec.frames.EncodeAll(lines, packed[:0])
		n, err := w.Write(packed)
		size += int64(n)
		lines, first = lines[:0], pos
		return err
	}
	for {
		s, err := c.readLog(ctx, run, pos)
		if err != nil {
			return nil, 0, err
		}
		if pos >= s.lines {
			return index, size, flush()
		}
		if len(s.chunks) == 0 || s.chunks[0].First > pos {
			return nil, 0, fmt.Errorf("line %d is not there", pos)
		}
		for _, chunk := range s.chunks {
			plain, err := c.codec.unpack(chunk.Data)
			if err != nil {
				return nil, 0, err
			}
			lines = append(lines, plain...)
			pos = chunk.First + int64(chunk.Count)
			if len(lines) >= frameSize {
				if err := flush(); err != nil {
					return nil, 0, err
				}
			}
		}
	}
}

// dropRows deletes a log from the database that is in the blob store. It does
// so a little at a time: others want to write too. fresh: it has just come there,
// with this index.
func (c *Controller) dropRows(ctx context.Context, run string, fresh bool, index []byte) error {
	const some = 200
	for ; ; fresh = false {
		var n int64
		if err := c.o.Store.Write(ctx, onRun(run), func(tx *store.Tx) (err error) {
			n = 0
			if fresh {
				if moved, err := tx.SetLog(run, store.LogRows, store.LogLeaving, index); err != nil || !moved {
					return err // another controller was faster
				}
			}
			if n, err = tx.DropChunks(run, some); err != nil || n == some {
				return err
			}
			return tx.MoveLog(run, store.LogLeaving, store.LogBlob)
		}); err != nil || n < some {
			return err
		}
	}
}

// readArchive is Logs of a log of so many lines in the blob store.
func (c *Controller) readArchive(ctx context.Context, run string, from, lines int64, build string, yield func(LogChunk) error) error {
	var index []byte
	if err := c.o.Store.Read(ctx, func(tx *store.Tx) (err error) { index, err = tx.LogIndex(run); return err }); err != nil {
		return fmt.Errorf("run %s: %w", run, err)
	}
	at, err := locate(index, from)
	if err != nil {
		return fmt.Errorf("the log of run %s: %w", run, err)
	}
	body, _, err := c.o.Blobs.Get(ctx, logKey(run), at.offset)
	if errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("%w: the log of run %s has expired", ErrGone, run)
	}
	if err != nil {
		return fmt.Errorf("the log of run %s: %w", run, err)
	}
	defer body.Close()
	dec, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8*frameSize))
	if err != nil {
		return err
	}
	defer dec.Close()
	var filter []byte
	if build != "" {
		filter = append(appendString([]byte(`,"build":`), build), ',')
	}
	in := bufio.NewReaderSize(dec, 64<<10)
	var piece []byte
	var first int64 // number of the first line in piece
	count := 0
	flush := func() error {
		if count == 0 {
			return nil
		}
		chunk := LogChunk{First: first, Count: count, NDJSON: piece}
		piece, count = nil, 0
		if err := ctx.Err(); err != nil {
			return err
		}
		return yield(chunk)
	}
	for pos := at.first; ; pos++ {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) && pos == lines {
			return flush()
		}
		if err != nil {
			return fmt.Errorf("the log of run %s, line %d: %w", run, pos, err)
		}
		if pos&1023 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if pos < from || filter != nil && !isOf(line, filter) {
			continue
		}
		if count == 0 {
			first = pos
		}
		piece = append(piece, number(pos, 1, line)...)
		if count++; len(piece) >= largestPiece {
			if err := flush(); err != nil {
				return err
			}
		}
	}
}

// isOf says whether a line is of the build that filter is the encoding of.
func isOf(line, filter []byte) bool {
	// It follows the time, which has no quotes in it.
	i := bytes.IndexByte(line[len(`"ts":"`):], '"') + len(`"ts":"`) + 1
	return bytes.HasPrefix(line[i:], filter)
}

// readLine reads a line with its end.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		if errors.Is(err, io.EOF) && len(line) > 0 {
			return nil, io.ErrUnexpectedEOF
		}
		return line, err
	}
	long := bytes.Clone(line)
	rest, err := in.ReadBytes('\n')
	return append(long, rest...), err
}

// locate finds the frame that a line is in.
func locate(index []byte, line int64) (frame, error) {
	var frames []frame
	var at frame
	for len(index) > 0 {
		first, n := binary.Uvarint(index)
		if n <= 0 {
			return at, errors.New("its index is damaged")
		}
		offset, m := binary.Uvarint(index[n:])
		if m <= 0 {
			return at, errors.New("its index is damaged")
		}
		index = index[n+m:]
		at = frame{at.first + int64(first), at.offset + int64(offset)} //nolint:gosec // as archiveLog wrote them
		frames = append(frames, at)
	}
	i := sort.Search(len(frames), func(i int) bool { return frames[i].first > line })
	if i == 0 {
		return frame{}, errors.New("its index is damaged")
	}
	return frames[i-1], nil
}
