//go:build !linux

package archive

// exchange puts tmp in the place of path.
func exchange(tmp, path string) error { return exchangeInSteps(tmp, path) }
