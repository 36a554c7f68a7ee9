package access

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
)

// TokenFile is the file of a data directory that holds the tokens.
const TokenFile = "tokens.json"

// File is a file of tokens with mode 0600. Whoever changes it replaces it
// whole, and a controller that runs sees the change within a second.
type File struct {
	path string

	mu     sync.Mutex
	asked  time.Time
	seen   os.FileInfo
	tokens []Token
}

// OpenFile gives the tokens of a data directory. The file need not be there.
func OpenFile(dataDir string) *File { return &File{path: filepath.Join(dataDir, TokenFile)} }

// document is what the file holds.
type document struct {
	Version int     `json:"version"`
	Tokens  []Token `json:"tokens"`
}

// Tokens gives the tokens, which may be those of a second ago. A file that
// cannot be read is an error: no token is valid then.
func (f *File) Tokens() ([]Token, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.asked) < time.Second && now.After(f.asked) {
		return f.tokens, nil
	}
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.tokens, f.seen = nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading tokens: %w", err)
	case f.seen == nil || !os.SameFile(info, f.seen) || info.ModTime() != f.seen.ModTime() || info.Size() != f.seen.Size():
		tokens, err := f.read()
		if err != nil {
			return nil, err
		}
		f.tokens, f.seen = tokens, info
	}
	f.asked = time.Now()
	return f.tokens, nil
}

func (f *File) read() ([]Token, error) {
	data, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading tokens: %w", err)
	}
	var doc document
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return nil, failure.Input("reading tokens: %s: %w", f.path, err)
	}
	if doc.Version != 1 {
		return nil, failure.Input("reading tokens: %s has version %d, this pipegen reads version 1", f.path, doc.Version)
	}
	for _, t := range doc.Tokens {
		if err := t.Check(); err != nil {
			return nil, fmt.Errorf("reading tokens: %s: %w", f.path, err)
		}
	}
	return doc.Tokens, nil
}

// Add stores a new token for t, whose SHA256 and Created it fills in, and
// gives the token itself: it is nowhere else. A name that is taken is an error.
func (f *File) Add(t Token) (string, error) {
	secret := Generate()
	sum := Hash(secret)
	t.SHA256, t.Created = hex.EncodeToString(sum[:]), time.Now().UTC().Truncate(time.Second)
	if err := t.Check(); err != nil {
		return "", err
	}
	err := f.change(func(tokens []Token) ([]Token, error) {
		if slices.ContainsFunc(tokens, func(other Token) bool { return other.Name == t.Name }) {
			return nil, failure.WithHint(failure.Input("there is a token named %q already", t.Name), "remove it first, or choose another name")
		}
		return append(tokens, t), nil
	})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// Remove removes a token by name.
func (f *File) Remove(name string) error {
	return f.change(func(tokens []Token) ([]Token, error) {
		var names []string
		for i, t := range tokens {
			if t.Name == name {
				return slices.Delete(tokens, i, i+1), nil
			}
			names = append(names, t.Name)
		}
		err := failure.Input("there is no token named %q", name)
		if near := config.Nearest(name, names); near != "" {
			return nil, failure.WithHint(err, "did you mean %q?", near)
		}
		return nil, err
	})
}

// change replaces the file, one process at a time.
func (f *File) change(change func([]Token) ([]Token, error)) error {
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("writing tokens: %w", err)
	}
	lock, err := os.OpenFile(f.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("writing tokens: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("writing tokens: waiting for another process: %w", err)
	}
	tokens, err := f.read()
	if err != nil {
		return err
	}
	if tokens, err = change(tokens); err != nil {
		return err
	}
	data, err := json.MarshalIndent(document{1, tokens}, "", "  ")
	if err != nil {
		return err
	}
	if err := replace(f.path, append(data, '\n')); err != nil {
		return fmt.Errorf("writing tokens: %w", err)
	}
	return nil
}

func replace(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
