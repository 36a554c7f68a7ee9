package content_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/pipegen/pipegen/pkg/archive/content"
)

const digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" // of hello

func TestVerify(t *testing.T) {
	tests := map[string]struct {
		data, digest string
		size         int64
		want         string
	}{
		"right":       {"hello", digest, 5, ""},
		"empty":       {"", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0, ""},
		"sha512":      {"", "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e", 0, ""},
		"other bytes": {"hallo", digest, 5, "have the digest"},
		"too short":   {"hell", digest, 5, "ends after 4 of 5"},
		"too long":    {"hello!", digest, 5, "longer than"},
		"not empty":   {"x", digest, 0, "longer than"},
		"wrong size":  {"hello", digest, 4, "longer than"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h, err := v1.NewHash(tt.digest)
			if err != nil {
				t.Fatal(err)
			}
			r, err := content.Verify(io.NopCloser(strings.NewReader(tt.data)), h, tt.size)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if tt.want == "" && (err != nil || string(got) != tt.data) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("read %q, %v", got, err)
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error("a damaged blob looks like a broken connection")
			}
		})
	}
}

func TestDecompress(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write([]byte("hello"))
	_ = w.Close()
	packer, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"plain": []byte("hello"), "gzip": zipped.Bytes(), "gzip in parts": bytes.Join([][]byte{zipped.Bytes(), zipped.Bytes()}, nil), "zstd": packer.EncodeAll([]byte("hello"), nil),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := content.Decompress(io.NopCloser(bytes.NewReader(data)))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || strings.ReplaceAll(string(got), "hello", "") != "" || len(got) == 0 {
				t.Errorf("%q, %v", got, err)
			}
			_ = r.Close()
		})
	}
	// A frame of zstd may ask for terabytes of memory (RFC 8878, 3.1.1.1.2).
	hostile := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00}
	r, err := content.Decompress(io.NopCloser(bytes.NewReader(hostile)))
	if err == nil {
		_, err = io.ReadAll(r)
	}
	if err == nil || !strings.Contains(err.Error(), "window") {
		t.Errorf("a hostile window: %v", err)
	}
}

func TestReadAllRefuses(t *testing.T) {
	h, err := v1.NewHash(digest)
	if err != nil {
		t.Fatal(err)
	}
	opened := false
	open := func(v1.Descriptor) (io.ReadCloser, error) { opened = true; return nil, fs.ErrNotExist }
	for name, d := range map[string]v1.Descriptor{
		"no digest": {Size: 5}, "negative": {Digest: h, Size: -1}, "huge": {Digest: h, Size: content.MaxDocument + 1},
	} {
		if _, err := content.ReadAll(open, d); err == nil || opened {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := content.ReadAll(open, v1.Descriptor{Digest: h, Size: 5}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
