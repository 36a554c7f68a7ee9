//go:build !linux

package engine

// AdoptOrphans does nothing here: only Linux has it.
func AdoptOrphans() error { return nil }

func adoptsOrphans() bool { return false }
