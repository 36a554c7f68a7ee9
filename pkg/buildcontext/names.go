package buildcontext

import (
	"os"
	"slices"
)

// names gives what is in a directory, sorted by bytes.
func names(root *os.Root) ([]string, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := f.Readdirnames(-1)
	slices.Sort(all)
	return all, err
}
