package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// Write writes the plan's JSON: indented, with a newline at its end. It is
// what encoding/json would write, an image at a time: of 10,000 images the
// whole text would be in memory several times.
func (p *Plan) Write(w io.Writer) error {
	shell := *p
	shell.Images, shell.Skipped = nil, nil
	out := &jsonWriter{to: w}
	head, err := out.encode(shell)
	if err != nil {
		return err
	}
	// The lists are the last fields.
	head, ok := bytes.CutSuffix(head, []byte(`"images":null,"skipped":null}`))
	if !ok {
		return errors.New("encoding the plan: its lists are not at its end")
	}
	out.indented(head, 0)
	if err := writeList(out, "images", p.Images); err != nil {
		return err
	}
	out.text(",\n  ")
	if err := writeList(out, "skipped", p.Skipped); err != nil {
		return err
	}
	out.text("\n}\n")
	return out.flush()
}

// Bytes is the plan's JSON.
func (p *Plan) Bytes() ([]byte, error) {
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// writeList writes a key at the top of the plan with its list.
func writeList[E any](out *jsonWriter, key string, list []E) error {
	out.text(`"` + key + `": `)
	switch {
	case list == nil:
		out.text("null")
		return nil
	case len(list) == 0:
		out.text("[]")
		return nil
	}
	separator := "["
	for i := range list {
		data, err := out.encode(&list[i])
		if err != nil {
			return err
		}
		out.text(separator + "\n    ")
		out.indented(data, 2)
		separator = ","
		if len(out.done) > 1<<16 {
			if err := out.flush(); err != nil {
				return err
			}
		}
	}
	out.text("\n  ]")
	return nil
}

// jsonWriter writes JSON with an indent of two blanks.
type jsonWriter struct {
	to      io.Writer
	done    []byte // not written yet
	compact bytes.Buffer
	line    []byte // a newline with the indent of the depth
}

func (j *jsonWriter) flush() error {
	_, err := j.to.Write(j.done)
	j.done = j.done[:0]
	return err
}

// encode gives the JSON of a value on one line; it is there until the next
// call.
func (j *jsonWriter) encode(v any) ([]byte, error) {
	j.compact.Reset()
	enc := json.NewEncoder(&j.compact)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(j.compact.Bytes(), []byte("\n")), nil
}

func (j *jsonWriter) text(s string) { j.done = append(j.done, s...) }

// indented writes JSON that is on one line, or its beginning, as json.Indent
// does.
func (j *jsonWriter) indented(data []byte, depth int) {
	j.line = append(append(j.line[:0], '\n'), bytes.Repeat([]byte("  "), depth)...)
	out := j.done
	for i := 0; i < len(data); {
		end := i + 1
		switch c := data[i]; c {
		case '"':
			end = i + stringLength(data[i:])
			out = append(out, data[i:end]...)
		case '{', '[':
			if end < len(data) && data[end] == c+2 { // the bracket that closes it
				end++
				out = append(out, data[i:end]...)
				break
			}
			j.line = append(j.line, "  "...)
			out = append(append(out, c), j.line...)
		case '}', ']':
			j.line = j.line[:len(j.line)-2]
			out = append(append(out, j.line...), c)
		case ',':
			out = append(append(out, c), j.line...)
		case ':':
			out = append(out, ": "...)
		default:
			if n := bytes.IndexAny(data[i:], ",]}"); n > 0 {
				end = i + n
			} else {
				end = len(data)
			}
			out = append(out, data[i:end]...)
		}
		i = end
	}
	j.done = out
}

// stringLength is that of the string that data begins with, quotes included.
func stringLength(data []byte) int {
	for i := 1; i < len(data); i++ {
		n := bytes.IndexByte(data[i:], '"')
		if n < 0 {
			break
		}
		i += n
		escapes := len(data[:i]) - len(bytes.TrimRight(data[:i], `\`))
		if escapes%2 == 0 {
			return i + 1
		}
	}
	return len(data)
}
