package runner

import (
	"io/fs"
	"runtime"
	"testing"
	"testing/fstest"

	"github.com/pipegen/pipegen/pkg/config"
)

// What Debian's qemu-user-static and Lima's rosetta register, as the kernel shows it.
const (
	qemuAarch64 = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n" +
		"magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
	qemuS390x = "enabled\ninterpreter /usr/bin/qemu-s390x-static\nflags: F\noffset 0\n" +
		"magic 7f454c4602020100000000000000000000020016\nmask ffffffffffffff00fffffffffffffffffffeffff\n"
	rosetta = "enabled\ninterpreter /mnt/lima-rosetta/rosetta\nflags: OCF\noffset 0\n" +
		"magic 7f454c4602010100000000000000000002003e00\nmask fffffffffffefe00fffffffffffffffffeffffff\n"
	withoutF = "enabled\ninterpreter /usr/bin/qemu-arm\nflags: \noffset 0\n" +
		"magic 7f454c4601010100000000000000000002002800\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
	python = "enabled\ninterpreter /usr/bin/python3.11\nflags: F\noffset 0\nmagic a70d0d0a\n"
	jar    = "enabled\ninterpreter /usr/bin/jexec\nflags: F\nextension .jar\n"
)

func TestCanExecute(t *testing.T) {
	sysctl := func(files map[string]string) fs.FS {
		out := fstest.MapFS{}
		for name, text := range files {
			out[name] = &fstest.MapFile{Data: []byte(text)}
		}
		return out
	}
	full := sysctl(map[string]string{
		"fs/binfmt_misc/status": "enabled\n", "fs/binfmt_misc/register": "", "fs/binfmt_misc/qemu-aarch64": qemuAarch64,
		"fs/binfmt_misc/qemu-s390x": qemuS390x, "fs/binfmt_misc/rosetta": rosetta, "fs/binfmt_misc/qemu-arm": withoutF,
		"fs/binfmt_misc/python3.11": python, "fs/binfmt_misc/jar": jar, "abi/vsyscall32": "1\n",
	})
	off := sysctl(map[string]string{"fs/binfmt_misc/status": "disabled\n", "fs/binfmt_misc/qemu-aarch64": qemuAarch64})
	entryOff := sysctl(map[string]string{"fs/binfmt_misc/status": "enabled\n", "fs/binfmt_misc/qemu-aarch64": "disabled" + qemuAarch64[len("enabled"):]})
	for _, c := range []struct {
		platform, os, arch string
		sysctl             fs.FS
		how                string // empty: not executable
	}{
		{"linux/amd64", "linux", "amd64", sysctl(nil), "native"},
		{"linux/arm64/v8", "linux", "arm64", sysctl(nil), "native"},
		{"linux/arm64", "linux", "amd64", sysctl(nil), ""},
		{"linux/arm64", "linux", "amd64", full, "binfmt qemu-aarch64"},
		{"linux/arm64", "linux", "amd64", off, ""},
		{"linux/arm64", "linux", "amd64", entryOff, ""},
		{"linux/s390x", "linux", "amd64", full, "binfmt qemu-s390x"},
		{"linux/ppc64le", "linux", "amd64", full, ""},
		{"linux/amd64", "linux", "arm64", full, "binfmt rosetta"},
		{"linux/386", "linux", "amd64", full, "compatible processor"},
		{"linux/386", "linux", "amd64", sysctl(nil), ""},
		{"linux/386", "linux", "arm64", full, ""},
		{"linux/arm/v7", "linux", "amd64", full, ""},
		{"windows/amd64", "linux", "amd64", full, ""},
		{"linux/amd64", "darwin", "amd64", sysctl(nil), ""},
	} {
		p, err := config.ParsePlatform(c.platform)
		if err != nil {
			t.Fatal(err)
		}
		ok, how := canExecute(p, c.os, c.arch, c.sysctl)
		if ok != (c.how != "") || how != c.how {
			t.Errorf("%s on %s/%s: %v, %q; want %q", c.platform, c.os, c.arch, ok, how, c.how)
		}
	}
	if ok, _ := CanExecute(config.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH}); !ok {
		t.Error("this machine cannot execute its own programs")
	}
}

func FuzzMatches(f *testing.F) {
	for _, s := range []string{qemuAarch64, qemuS390x, rosetta, withoutF, python, jar} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, entry string) {
		matches(entry, make([]byte, 20))
	})
}
