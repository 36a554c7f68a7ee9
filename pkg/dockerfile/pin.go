package dockerfile

import (
	"bytes"
	"slices"
	"strings"
	"unicode"

	csv "github.com/tonistiigi/go-csvvalue"
)

// Pin gives the file's text with the references of Bases that equal a key of
// digests replaced by its value. All else stays byte for byte as it was; a
// reference that goes over several lines moves to the last of them. With an
// error of Bases nothing is replaced.
func (f *File) Pin(args map[string]string, target string, digests map[string]string) []byte {
	out := bytes.Clone(f.text)
	bases, err := f.Bases(args, target)
	if err != nil {
		return out
	}
	byLine := map[int][]Base{}
	for _, b := range bases {
		if _, ok := digests[b.Ref]; ok {
			byLine[b.Line] = append(byLine[b.Line], b)
		}
	}
	starts := lineStarts(f.text)
	var edits []edit
	for n, bases := range byLine {
		l := f.logical(starts, n)
		words := l.words(f.escape)
		for i, w := range words {
			text := w.text
			for _, b := range bases {
				text = w.pinned(i, words, b.at, text, digests[b.Ref])
			}
			if text != w.text {
				if w.flag {
					text = escaped(text, f.escape)
				}
				edits = append(edits, l.replace(w.start, w.end, text)...)
			}
		}
	}
	slices.SortFunc(edits, func(a, b edit) int { return b.start - a.start })
	for _, e := range edits {
		out = slices.Replace(out, e.start, e.end, []byte(e.text)...)
	}
	return out
}

// edit replaces the bytes from start to end.
type edit struct {
	start, end int
	text       string
}

// word is one word of an instruction, the quotes and escapes of a flag
// removed.
type word struct {
	start, end int // in the logical line
	text       string
	flag       bool
}

// pinned gives the text of word i of an instruction with the reference at
// replaced by digest, if it is the word that holds it.
func (w word) pinned(i int, words []word, at ref, text, digest string) string {
	switch at.By {
	case byFrom:
		if !w.flag && i > 0 && w.text == at.Text {
			return digest
		}
	case byCopy:
		if w.flag && strings.HasPrefix(w.text, "--from=") {
			return "--from=" + digest
		}
	case byRun:
		mounts := 0
		for _, before := range words[:i] {
			if before.flag && strings.HasPrefix(before.text, "--mount=") {
				mounts++
			}
		}
		if value, ok := strings.CutPrefix(text, "--mount="); ok && w.flag && mounts == at.Mount {
			return "--mount=" + withFrom(value, digest)
		}
	}
	return text
}

// withFrom replaces the field from of a mount.
func withFrom(mount, image string) string {
	fields, err := csv.Fields(mount, nil)
	if err != nil {
		return mount
	}
	for i, f := range fields {
		if key, _, ok := strings.Cut(f, "="); ok && strings.EqualFold(key, "from") {
			f = key + "=" + image
		}
		if strings.ContainsAny(f, "\",\r\n") {
			f = `"` + strings.ReplaceAll(f, `"`, `""`) + `"`
		}
		fields[i] = f
	}
	return strings.Join(fields, ",")
}

// escaped writes a flag so that BuildKit's parser reads it as it is.
func escaped(s string, escape byte) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c == '\'' || c == '"' || c == escape || unicode.IsSpace(rune(c)) {
			b.WriteByte(escape)
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// logical is an instruction as the parser joins it from its lines.
type logical struct {
	text []byte
	at   []int // where each byte stands in the file
}

func lineStarts(text []byte) []int {
	starts := []int{0}
	for i, c := range text {
		if c == '\n' {
			starts = append(starts, i+1)
		}
	}
	return append(starts, len(text))
}

// logical joins the lines of the instruction that starts at line n, by the
// rules of BuildKit's parser.Parse.
func (f *File) logical(starts []int, n int) logical {
	var l logical
	for i := n - 1; i >= 0 && i+1 < len(starts); i++ {
		start := starts[i]
		s := f.text[start:starts[i+1]]
		if i == 0 {
			trimmed := bytes.TrimPrefix(s, []byte("\xef\xbb\xbf"))
			start += len(s) - len(trimmed)
			s = trimmed
		}
		s = bytes.TrimRight(s, "\r\n")
		trimmed := bytes.TrimLeftFunc(s, unicode.IsSpace)
		if i == n-1 {
			start += len(s) - len(trimmed)
			s = trimmed
		} else if len(trimmed) == 0 || trimmed[0] == '#' {
			continue
		}
		s, more := cutContinuation(s, f.escape)
		for j := range s {
			l.text = append(l.text, s[j])
			l.at = append(l.at, start+j)
		}
		if !more {
			break
		}
	}
	return l
}

// cutContinuation removes the escape character at the end of a line that goes
// on in the next one.
func cutContinuation(s []byte, escape byte) ([]byte, bool) {
	t := bytes.TrimRight(s, " \t")
	n := len(t) - 1
	if n < 0 || t[n] != escape || n > 0 && t[n-1] == escape {
		return s, false
	}
	return t[:n], true
}

// replace gives the edits that put text in the place of l.text[start:end].
// Where those bytes go over several lines, the last one takes the text: the
// first might then end the instruction with a line of nothing.
func (l logical) replace(start, end int, text string) []edit {
	var edits []edit
	for i := start; i < end; {
		j := i + 1
		for j < end && l.at[j] == l.at[j-1]+1 {
			j++
		}
		edits = append(edits, edit{l.at[i], l.at[j-1] + 1, ""})
		i = j
	}
	if len(edits) > 0 {
		edits[len(edits)-1].text = text
	}
	return edits
}

const blank = "\t\v\f\r "

// words splits an instruction as parser.splitCommand does: its name, its
// flags, and the first argument. ONBUILD yields those of its trigger.
func (l logical) words(escape byte) []word {
	end := len(bytes.TrimRightFunc(l.text, unicode.IsSpace))
	pos := end - len(bytes.TrimLeftFunc(l.text[:end], unicode.IsSpace))
	next := func() word {
		w := word{start: pos}
		for pos < end && !strings.ContainsRune(blank, rune(l.text[pos])) {
			pos++
		}
		w.end, w.text = pos, string(l.text[w.start:pos])
		for pos < end && strings.ContainsRune(blank, rune(l.text[pos])) {
			pos++
		}
		return w
	}
	words := []word{next()}
	if strings.EqualFold(words[0].text, "onbuild") {
		words[0] = next()
	}
	for {
		for pos < end && unicode.IsSpace(rune(l.text[pos])) {
			pos++
		}
		if pos+1 >= end || l.text[pos] != '-' || l.text[pos+1] != '-' {
			break
		}
		w := l.flag(pos, end, escape)
		pos = w.end
		if w.text == "--" {
			break
		}
		words = append(words, w)
	}
	pos = end - len(bytes.TrimLeftFunc(l.text[pos:end], unicode.IsSpace))
	if pos < end {
		words = append(words, next())
	}
	return words
}

// flag reads one flag as parser.extractBuilderFlags does, byte by byte.
func (l logical) flag(pos, end int, escape byte) word {
	w := word{start: pos, flag: true}
	var text []byte
	quote := byte(0)
	for ; pos < end; pos++ {
		c := l.text[pos]
		switch {
		case quote == 0 && unicode.IsSpace(rune(c)):
			w.end, w.text = pos, string(text)
			return w
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		case c == escape:
			if pos+1 == end {
				continue
			}
			pos++
			text = append(text, l.text[pos])
		default:
			text = append(text, c)
		}
	}
	w.end, w.text = end, string(text)
	return w
}
