package controller

import (
	"bytes"
	"io"
	"os"
)

// spool keeps what is written to it: in memory, or, when it is more than a
// frame, in a file without a name.
type spool struct {
	small bytes.Buffer
	file  *os.File
}

// Write implements io.Writer.
func (s *spool) Write(b []byte) (int, error) {
	if s.file == nil && s.small.Len()+len(b) <= frameSize {
		return s.small.Write(b)
	}
	if s.file == nil {
		f, err := os.CreateTemp("", "pipegen-log-")
		if err != nil {
			return 0, err
		}
		s.file = f
		if err := os.Remove(f.Name()); err != nil {
			return 0, err
		}
		if _, err := s.small.WriteTo(f); err != nil {
			return 0, err
		}
	}
	return s.file.Write(b)
}

// reader gives all that was written.
func (s *spool) reader() (io.Reader, error) {
	if s.file == nil {
		return &s.small, nil
	}
	_, err := s.file.Seek(0, io.SeekStart)
	return s.file, err
}

func (s *spool) close() {
	if s.file != nil {
		_ = s.file.Close()
	}
}
