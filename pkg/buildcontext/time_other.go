//go:build !linux

package buildcontext

import "io/fs"

// setTime gives what has a name in a directory its time; symbolic links keep
// theirs.
func setTime(p *place, name string) error {
	if info, err := p.root.Lstat(name); err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return bare(err)
	}
	return bare(p.root.Chtimes(name, packedTime, packedTime))
}
