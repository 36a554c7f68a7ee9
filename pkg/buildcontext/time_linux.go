package buildcontext

import "golang.org/x/sys/unix"

// setTime gives what has a name in a directory its time, a symbolic link
// itself included.
func setTime(p *place, name string) error {
	ts := unix.Timespec{Sec: packedTime.Unix()}
	return unix.UtimesNanoAt(int(p.self.Fd()), name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
