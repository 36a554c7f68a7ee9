package uploadpack

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// kind of a packet; see gitprotocol-common(5), "pkt-line Format", and
// gitprotocol-v2(5), "Packet-Line Framing".
type kind int

const (
	data        kind = iota
	flush            // 0000
	delimiter        // 0001
	responseEnd      // 0002
)

// maxPacket is the longest packet there is, its length included.
const maxPacket = 65520

// packets reads what a server sends.
type packets struct {
	r   *bufio.Reader
	buf [maxPacket]byte
}

func newPackets(r io.Reader) *packets { return &packets{r: bufio.NewReaderSize(r, maxPacket)} }

// next gives a packet; its content is valid until the next call. A packet in
// which the server says what is wrong is an error.
func (p *packets) next() (kind, []byte, error) {
	if _, err := io.ReadFull(p.r, p.buf[:4]); err != nil {
		return 0, nil, fmt.Errorf("the answer is cut off: %w", cutOff(err))
	}
	n, err := strconv.ParseUint(string(p.buf[:4]), 16, 32)
	switch {
	case err != nil || n == 3 || n > maxPacket:
		return 0, nil, fmt.Errorf("the answer is no git protocol: %q", p.buf[:4])
	case n <= 2:
		return kind(n) + flush, nil, nil
	}
	content := p.buf[:n-4]
	if _, err := io.ReadFull(p.r, content); err != nil {
		return 0, nil, fmt.Errorf("the answer is cut off: %w", cutOff(err))
	}
	if said, ok := strings.CutPrefix(string(content[:min(len(content), 1000)]), "ERR "); ok {
		return 0, nil, refusal(said)
	}
	return data, content, nil
}

// line is next for a line of text, without its end.
func (p *packets) line() (kind, string, error) {
	k, content, err := p.next()
	return k, strings.TrimSuffix(string(content), "\n"), err
}

// cutOff makes an unexpected end of any end.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// request collects packets for a server.
type request struct{ strings.Builder }

func (r *request) line(format string, args ...any) {
	text := fmt.Sprintf(format, args...) + "\n"
	fmt.Fprintf(r, "%04x%s", len(text)+4, text)
}

func (r *request) end(k kind) { fmt.Fprintf(r, "%04x", int(k-flush)) }
