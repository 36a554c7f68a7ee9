package config

import (
	"maps"
	"slices"
	"testing/fstest"
)

// paths gives the files of a checkout as git lists them.
func paths(fsys fstest.MapFS) []string { return slices.Sorted(maps.Keys(fsys)) }
