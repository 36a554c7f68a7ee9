//go:build unix

package diff

import (
	"os"

	"golang.org/x/sys/unix"
)

// owned says whether git is sure to take these files for the caller's own, so
// that it would not refuse the repository for dubious ownership; see
// git-config(1), safe.directory. When in doubt git itself has to be asked.
func owned(l layout) bool {
	if os.Getenv("GIT_TEST_ASSUME_DIFFERENT_OWNER") != "" {
		return false
	}
	for _, name := range []string{l.root, l.root + "/.git", l.gitDir} {
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil || int(st.Uid) != os.Geteuid() {
			return false
		}
	}
	return true
}
