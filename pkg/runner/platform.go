package runner

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"github.com/pipegen/pipegen/pkg/config"
)

// CanExecute tells whether this machine runs programs of a platform inside a
// root of their own, and how: natively, because its processor is compatible, or
// through an interpreter registered with binfmt_misc (with flag F: without it
// the kernel would look for the interpreter inside the root).
func CanExecute(p config.Platform) (ok bool, how string) {
	return canExecute(p, runtime.GOOS, runtime.GOARCH, os.DirFS("/proc/sys"))
}

func canExecute(p config.Platform, hostOS, hostArch string, sysctl fs.FS) (ok bool, how string) {
	if p.OS != hostOS {
		return false, ""
	}
	if p.Arch == hostArch {
		return true, "native"
	}
	if p.OS != "linux" {
		return false, ""
	}
	// This file is there when the kernel runs 32-bit programs, too.
	if _, err := fs.Stat(sysctl, "abi/vsyscall32"); err == nil && hostArch == "amd64" && p.Arch == "386" {
		return true, "compatible processor"
	}
	if hostArch == "arm64" && p.Arch == "arm" && runs32Bit() {
		return true, "compatible processor"
	}
	if name, ok := interpreter(p.Arch, sysctl); ok {
		return true, "binfmt " + name
	}
	return false, ""
}

// elf says how the header of a program for an architecture reads: class (1: 32
// bits, 2: 64), byte order (1: little, 2: big) and machine, as in elf(5).
var elf = map[string]struct {
	class, order byte
	machine      uint16
}{
	"386": {1, 1, 3}, "amd64": {2, 1, 62}, "arm": {1, 1, 40}, "arm64": {2, 1, 183}, "loong64": {2, 1, 258},
	"mips": {1, 2, 8}, "mipsle": {1, 1, 8}, "mips64": {2, 2, 8}, "mips64le": {2, 1, 8},
	"ppc64": {2, 2, 21}, "ppc64le": {2, 1, 21}, "riscv64": {2, 1, 243}, "s390x": {2, 2, 22},
}

// interpreter finds an enabled entry of binfmt_misc for programs of an
// architecture by the bytes it matches: names differ between distributions.
func interpreter(arch string, sysctl fs.FS) (name string, ok bool) {
	want, known := elf[arch]
	if status, err := fs.ReadFile(sysctl, "fs/binfmt_misc/status"); !known || err != nil || !bytes.HasPrefix(status, []byte("enabled")) {
		return "", false
	}
	header := make([]byte, 20)
	copy(header, "\x7fELF")
	header[4], header[5], header[6] = want.class, want.order, 1
	var order binary.ByteOrder = binary.LittleEndian
	if want.order == 2 {
		order = binary.BigEndian
	}
	order.PutUint16(header[16:], 2) // an executable
	order.PutUint16(header[18:], want.machine)
	entries, err := fs.ReadDir(sysctl, "fs/binfmt_misc")
	if err != nil {
		return "", false
	}
	for _, e := range entries {
		text, err := fs.ReadFile(sysctl, "fs/binfmt_misc/"+e.Name())
		if err == nil && matches(string(text), header) {
			return e.Name(), true
		}
	}
	return "", false
}

// matches tells whether an entry of binfmt_misc, as the kernel shows it
// (Documentation/admin-guide/binfmt-misc.rst), is for this header and can be
// used inside another root.
func matches(entry string, header []byte) bool {
	lines := strings.Split(entry, "\n")
	if lines[0] != "enabled" {
		return false
	}
	var magic, mask []byte
	fixed := false
	for _, l := range lines[1:] {
		key, value, _ := strings.Cut(l, " ")
		switch key {
		case "flags:":
			fixed = strings.Contains(value, "F")
		case "offset":
			if value != "0" {
				return false
			}
		case "magic":
			magic, _ = hex.DecodeString(value)
		case "mask":
			mask, _ = hex.DecodeString(value)
		}
	}
	if !fixed || len(magic) < len(header) {
		return false
	}
	for i, b := range header {
		m := byte(0xff)
		if i < len(mask) {
			m = mask[i]
		}
		if b&m != magic[i]&m {
			return false
		}
	}
	return true
}
