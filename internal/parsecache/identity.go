package parsecache

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
)

// Identity tells the build of the running program from others: how it was
// built, and size, time and beginning of its file, where the linker writes its
// build id.
func Identity() string {
	const beginning = 64 << 10
	var b strings.Builder
	fmt.Fprintln(&b, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if info, ok := debug.ReadBuildInfo(); ok {
		fmt.Fprintln(&b, info.Main.Version, info.Main.Sum)
		for _, s := range info.Settings {
			fmt.Fprintln(&b, s.Key, s.Value)
		}
	}
	name, err := os.Executable()
	if err != nil {
		return b.String()
	}
	f, err := os.Open(name)
	if err != nil {
		return b.String()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		fmt.Fprintln(&b, info.Size(), info.ModTime().UnixNano())
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(f, beginning)); err == nil {
		fmt.Fprintf(&b, "%x\n", sum.Sum(nil))
	}
	return b.String()
}
