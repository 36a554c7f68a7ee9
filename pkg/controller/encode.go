package controller

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"github.com/pipegen/pipegen/pkg/api"
)

const (
	// longestLine is how many bytes of a message one line holds; what is longer
	// goes on in the next.
	longestLine = 64 << 10
	// largestPiece is about how many bytes of lines are kept together.
	largestPiece = 256 << 10
	// smallestPacked is from how many bytes on compressing lines is worth it.
	smallestPacked = 1 << 10
)

// piece is some lines of a log as JSON, an api.LogLine a line, but for the
// `{"seq":N,` at the beginning of each: what number they get is only known in
// the transaction that adds them.
type piece struct {
	count int
	lines []byte
	data  []byte // the lines as they are kept
}

// subject is what lines are about.
type subject struct {
	build string // empty: the run, or the image
	image string // whose publication they are about
	// Which the task came to of which a line tells.
	state api.State
}

// encode makes pieces of lines about one subject.
func (c codec) encode(about subject, lines []api.TaskLine) []piece {
	var pieces []piece
	var buf []byte
	count := 0
	cut := func() {
		if count > 0 {
			pieces = append(pieces, piece{count, buf, c.pack(buf)})
		}
		buf, count = nil, 0
	}
	// What is equal in all lines.
	var same []byte
	for _, field := range []struct{ name, value string }{
		{`,"build":`, about.build}, {`,"image":`, about.image}, {`,"state":`, string(about.state)},
	} {
		if field.value != "" {
			same = appendString(append(same, field.name...), field.value)
		}
	}
	for _, l := range lines {
		for rest, more := l.Message, true; more; {
			var message string
			message, rest, more = breakLine(rest)
			if buf == nil {
				buf = make([]byte, 0, min(largestPiece+longestLine, len(lines)*(len(l.Message)+len(same)+96)))
			}
			buf = append(buf, `"ts":"`...)
			buf = l.Time.UTC().AppendFormat(buf, time.RFC3339Nano)
			buf = append(buf, '"')
			buf = append(buf, same...)
			buf = append(buf, `,"level":"`...)
			buf = append(buf, level(l.Level)...)
			buf = append(buf, `","message":`...)
			buf = appendString(buf, message)
			if more || l.More {
				buf = append(buf, `,"more":true`...)
			}
			buf = append(buf, "}\n"...)
			if count++; len(buf) >= largestPiece {
				cut()
			}
		}
	}
	cut()
	return pieces
}

// breakLine cuts off as much of a message as one line holds; more says whether
// something is left.
func breakLine(s string) (line, rest string, more bool) { return breakAt(s, longestLine) }

// breakAt cuts s after n bytes, or a little before: between characters.
func breakAt(s string, n int) (head, rest string, more bool) {
	if len(s) <= n {
		return s, "", false
	}
	for i := n; i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i], s[i:], true
		}
	}
	return s[:n], s[n:], true // it is no text
}

// level gives the level that is meant.
func level(s string) string {
	switch s {
	case "warning", "warn":
		return "warning"
	case "error", "fatal", "panic":
		return "error"
	}
	return "info"
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. What is no UTF-8 becomes U+FFFD.
func appendString(buf []byte, s string) []byte {
	buf = append(buf, '"')
	start := 0
	for i := 0; i < len(s); {
		b := s[i]
		if b < utf8.RuneSelf {
			if b >= ' ' && b != '"' && b != '\\' && b != 0x7f {
				i++
				continue
			}
			buf = append(buf, s[start:i]...)
			switch b {
			case '"', '\\':
				buf = append(buf, '\\', b)
			case '\n':
				buf = append(buf, '\\', 'n')
			case '\r':
				buf = append(buf, '\\', 'r')
			case '\t':
				buf = append(buf, '\\', 't')
			default:
				buf = append(buf, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		// Line separators, which JavaScript and some readers of lines take for ends.
		if r == utf8.RuneError && size == 1 || r == '\u2028' || r == '\u2029' || r == '\u0085' {
			buf = append(buf, s[start:i]...)
			buf = append(buf, '\\', 'u', hexDigits[r>>12], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
			i += size
			start = i
			continue
		}
		i += size
	}
	buf = append(buf, s[start:]...)
	return append(buf, '"')
}

// number gives lines their numbers, from first on.
func number(first int64, count int, lines []byte) []byte {
	out := make([]byte, 0, len(lines)+count*(len(`{"seq":,`)+len(strconv.FormatInt(first+int64(count), 10))))
	for ; len(lines) > 0; first++ {
		n := bytes.IndexByte(lines, '\n') + 1
		out = append(out, `{"seq":`...)
		out = strconv.AppendInt(out, first, 10)
		out = append(out, ',')
		out = append(out, lines[:n]...)
		lines = lines[n:]
	}
	return out
}

// skipLines leaves out the first n lines.
func skipLines(lines []byte, n int64) []byte {
	for ; n > 0; n-- {
		lines = lines[bytes.IndexByte(lines, '\n')+1:]
	}
	return lines
}

// codec compresses and decompresses. It is safe for concurrent use.
type codec struct {
	in, frames *zstd.Encoder // of what the store keeps, and of archived logs
	out        *zstd.Decoder
}

func newCodec() (codec, error) {
	in, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(256<<10), zstd.WithEncoderCRC(false))
	if err != nil {
		return codec{}, err
	}
	frames, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(frameSize))
	if err != nil {
		return codec{}, err
	}
	out, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(1<<30))
	return codec{in, frames, out}, err
}

// pack compresses, if that is worth it.
func (c codec) pack(data []byte) []byte {
	if len(data) < smallestPacked {
		return data
	}
	return c.in.EncodeAll(data, nil)
}

// unpack gives what was packed: lines or documents, which never begin as compressed data does.
func (c codec) unpack(data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte("\x28\xb5\x2f\xfd")) {
		return data, nil
	}
	out, err := c.out.DecodeAll(data, nil)
	if err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	return out, nil
}
