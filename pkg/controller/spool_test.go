package controller

import (
	"bytes"
	"io"
	"testing"
)

func TestSpool(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, sizes := range [][]int{{}, {1}, {frameSize}, {frameSize, 1}, {frameSize - 1, 2, frameSize}, {3 * frameSize}} {
		var s spool
		var want []byte
		for i, n := range sizes {
			piece := bytes.Repeat([]byte{byte('a' + i)}, n)
			want = append(want, piece...)
			if got, err := s.Write(piece); err != nil || got != n {
				t.Fatal(got, err)
			}
		}
		r, err := s.reader()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: %d bytes, %v", sizes, len(got), err)
		}
		if inFile := s.file != nil; inFile != (len(want) > frameSize) {
			t.Errorf("%v: in a file: %v", sizes, inFile)
		}
		s.close()
	}
}
