package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/pipegen/pipegen/pkg/quote"
)

const (
	// maxFileSize is what a configuration file may have, in bytes.
	maxFileSize = 1 << 20
	// maxNodes is how many values a file may hold once aliases are expanded.
	maxNodes = 100_000
	// maxFaults is how many faults of one file are reported.
	maxFaults = 200
)

// document is one YAML file, parsed.
type document struct {
	file string
	text []byte
	// root is the mapping the file consists of; nil when it could not be read
	// or is empty, or is in parse.
	root   *yaml.Node
	faults Faults
	// Whether it is another tool's: see Document.
	foreign bool
	// parse gives the root of a file whose meaning is known; may be nil.
	parse func() *yaml.Node
}

// shelve lets go of the tree of a file whose meaning is known: it is many
// times larger than the text, and needed again only for the position of a
// fault. read gives the text.
func (doc *document) shelve(read func() []byte) {
	doc.root, doc.text = nil, nil
	doc.parse = sync.OnceValue(func() *yaml.Node { return parse(doc.file, read(), false).root })
}

// tree gives the mapping that the file consists of, or nil.
func (doc *document) tree() *yaml.Node {
	if doc.parse != nil {
		return doc.parse()
	}
	return doc.root
}

// known says whether the file could be read and is not empty.
func (doc *document) known() bool { return doc.root != nil || doc.parse != nil }

// read gives the content of a file of the checkout. A file that is gone (a
// tracked one that was removed from the work tree) gives fs.ErrNotExist;
// whatever else keeps it from being read as text is a fault.
func read(fsys fs.FS, file string) ([]byte, Faults, error) {
	if _, regular := blobOf(fsys, file); regular {
		if data, err := fs.ReadFile(fsys, file); err == nil {
			return fit(file, int64(len(data)), data)
		}
	}
	refuse := func(rule, hint, format string, args ...any) ([]byte, Faults, error) {
		return nil, Faults{{File: file, Severity: Error, Rule: rule, Message: fmt.Sprintf(format, args...), Hint: hint}}, nil
	}
	unreadable := func(err error) ([]byte, Faults, error) {
		if perr, ok := errors.AsType[*fs.PathError](err); ok {
			err = perr.Err
		}
		return refuse("unreadable", "", "cannot be read: %s", quote.Text(err.Error()))
	}
	info, err := fs.Stat(fsys, file)
	if errors.Is(err, fs.ErrNotExist) {
		if _, lerr := fs.Lstat(fsys, file); lerr != nil {
			return nil, nil, fs.ErrNotExist
		}
		return refuse("unreadable", "", "is a symbolic link to a file that does not exist")
	}
	switch {
	case err != nil:
		return unreadable(err)
	case info.IsDir():
		return refuse("unreadable", "pipegen reads a file of this name; rename the directory", "is a directory")
	case !info.Mode().IsRegular():
		return refuse("unreadable", "", "is no regular file")
	}
	var data []byte
	if info.Size() <= maxFileSize {
		if data, err = fs.ReadFile(fsys, file); err != nil {
			return unreadable(err)
		}
	}
	return fit(file, max(info.Size(), int64(len(data))), data)
}

// fit gives a file's content, or why it is not parsed at all.
func fit(file string, size int64, data []byte) ([]byte, Faults, error) {
	if faults := unfit(file, size, data); faults != nil {
		return nil, faults, nil
	}
	return data, nil, nil
}

// unfit says why a file of this size is not parsed at all; nil: it is.
func unfit(file string, size int64, data []byte) Faults {
	if size > maxFileSize {
		return Faults{{File: file, Severity: Error, Rule: "too-large", Message: "is larger than 1 MiB"}}
	}
	at := invalidUTF8(data)
	if at < 0 {
		return nil
	}
	line, column := position(data, at)
	return Faults{{File: file, Line: line, Column: column, Severity: Error, Rule: "not-utf8", Message: "is not UTF-8 text", Hint: "save the file as UTF-8"}}
}

// invalidUTF8 gives the offset of the first byte that is not UTF-8, or -1.
func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	at := 0
	for at < len(data) {
		r, n := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		at += n
	}
	return at
}

// position gives line and column of an offset, both from 1, columns in runes.
func position(data []byte, at int) (line, column int) {
	before := data[:at]
	return 1 + bytes.Count(before, []byte("\n")), 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
}

// open reads and parses a YAML file; false: there is none.
func open(fsys fs.FS, file string, mayBeEmpty bool) (*document, bool) {
	data, faults, err := read(fsys, file)
	if errors.Is(err, fs.ErrNotExist) {
		return &document{file: file}, false
	}
	if faults != nil {
		return &document{file: file, faults: faults}, true
	}
	return parse(file, data, mayBeEmpty), true
}

// parse reads data as one YAML document whose root is a mapping. An empty
// file is a fault unless it may be empty.
func parse(file string, data []byte, mayBeEmpty bool) *document {
	doc := &document{file: file, text: data}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var n yaml.Node
	err := dec.Decode(&n)
	if errors.Is(err, io.EOF) || err == nil && isNull(n.Content[0]) {
		if !mayBeEmpty {
			doc.fault(&yaml.Node{Line: 1, Column: 1}, "empty-file", "for a project with nothing but defaults write: use_local_context: true", "the file is empty")
		}
		return doc
	}
	if err != nil {
		doc.add(syntaxFault(file, data, err))
		return doc
	}
	var next yaml.Node
	if err := dec.Decode(&next); err == nil {
		doc.fault(&next, "several-documents", "remove the line --- and what follows it", "the file holds more than one YAML document")
		return doc
	} else if !errors.Is(err, io.EOF) {
		doc.add(syntaxFault(file, data, err))
		return doc
	}
	root := target(n.Content[0])
	if root.Kind != yaml.MappingNode {
		doc.fault(root, "wrong-type", "write one key: value a line", "the file is %s, not a map of keys", kindOf(root))
		return doc
	}
	if _, alias := expand(root, map[*yaml.Node]int{}); alias != nil {
		doc.fault(alias, "expansion", "", "aliases make the file larger than %d values", maxNodes)
		return doc
	}
	doc.root = root
	return doc
}

func (doc *document) fault(n *yaml.Node, rule, hint, format string, args ...any) {
	if doc.full() {
		return
	}
	doc.add(Fault{
		File: doc.file, Line: n.Line, Column: n.Column, Severity: Error,
		Rule: rule, Message: fmt.Sprintf(format, args...), Hint: hint,
	})
}

// add reports a fault, unless there are too many already.
func (doc *document) add(f Fault) {
	if doc.full() {
		return
	}
	doc.faults = append(doc.faults, f)
	if doc.full() {
		doc.faults = append(doc.faults, Fault{
			File: doc.file, Severity: Error, Rule: "many-faults",
			Message: fmt.Sprintf("there are %d faults or more; these are the first that were found", maxFaults),
		})
	}
}

// full says whether further faults are not reported, and need not be looked
// for.
func (doc *document) full() bool { return len(doc.faults) >= maxFaults }

// expand counts the values below n with every alias expanded. When there are
// more than maxNodes, or an alias stands within what it names, it gives the
// alias (or value) at which that shows.
func expand(n *yaml.Node, sizes map[*yaml.Node]int) (int, *yaml.Node) {
	const within = -1
	if n.Kind == yaml.AliasNode {
		size, known := sizes[n.Alias]
		if size == within {
			return 0, n
		}
		if !known {
			return expand(n.Alias, sizes)
		}
		return size, nil
	}
	if n.Anchor != "" {
		sizes[n] = within
	}
	size := 1
	for _, child := range n.Content {
		more, at := expand(child, sizes)
		if at != nil {
			return 0, at
		}
		if size += more; size > maxNodes {
			return 0, child
		}
	}
	if n.Anchor != "" {
		sizes[n] = size
	}
	return size, nil
}

// syntaxFault turns an error of the YAML parser into a fault. The parser
// gives a line only within its text, and counts it from 0 for one class of
// errors.
func syntaxFault(file string, data []byte, err error) Fault {
	f := Fault{File: file, Line: 1, Column: 1, Severity: Error, Rule: "syntax"}
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if n, serr := fmt.Sscanf(text, "line %d:", &f.Line); n == 1 && serr == nil {
		_, text, _ = strings.Cut(text, ": ")
	}
	if strings.HasPrefix(text, "did not find expected") {
		f.Line++
	}
	if anchor, ok := strings.CutPrefix(text, "unknown anchor '"); ok {
		anchor = strings.TrimSuffix(anchor, "' referenced")
		if at := bytes.Index(data, []byte("*"+anchor)); at >= 0 {
			f.Line, f.Column = position(data, at)
		}
		text = "no anchor &" + anchor + " stands before this alias"
	}
	if text == "control characters are not allowed" {
		at := bytes.IndexFunc(data, func(r rune) bool { return isControl(r) && !strings.ContainsRune("\n\t\r\u0085", r) })
		f.Line, f.Column = position(data, max(0, at))
	}
	f.Line = min(f.Line, 1+bytes.Count(bytes.TrimRight(data, "\n"), []byte("\n")))
	f.Message = "this is not valid YAML: " + quote.Text(text)
	for _, known := range []struct{ text, hint string }{
		{"mapping values are not allowed", "put a value that contains a colon in quotes, or check the indentation"},
		{"tab character", "indent with blanks, not with tabs"},
		{"cannot start any token", "indent with blanks, and put a value that begins with @, ` or % in quotes"},
		{"unexpected end of stream", "a quote is not closed"},
		{"expected ',' or", "a bracket is not closed"},
		{"did not find expected", "check the indentation of this line and of the one before it"},
		{"could not find expected ':'", "write key: value, with a colon and a blank"},
		{"unknown escape", "use single quotes, in which a backslash is a backslash"},
	} {
		if strings.Contains(text, known.text) {
			f.Hint = known.hint
			break
		}
	}
	return f
}
