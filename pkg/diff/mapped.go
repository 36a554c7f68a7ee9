package diff

import (
	"os"
	"runtime"
	"runtime/debug"
)

// mapped is the content of a file as memory, read as it is touched. Whoever
// looks at it does so within guard.
type mapped struct {
	data  []byte
	close func() error
}

// openMapped gives the whole of a regular file.
func openMapped(name string) (mapped, error) {
	f, err := os.Open(name)
	if err != nil {
		return mapped{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return mapped{}, err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return mapped{nil, func() error { return nil }}, nil
	}
	return mapFile(f, info.Size())
}

// guard runs f. A file that became shorter while it is mapped faults when what
// is gone is touched; that is an error here and not the end of the process.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch fault := recover().(type) {
		case nil:
		case interface {
			runtime.Error
			Addr() uintptr
		}:
			err = damaged("it cannot be read any more, or became shorter meanwhile")
		default:
			panic(fault)
		}
	}()
	return f()
}
