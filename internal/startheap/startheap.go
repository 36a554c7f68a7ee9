// Package startheap lets the first collection of garbage of a program that
// imports it wait until there are 12 MB instead of 4: what packages make when a
// program starts stays, and to look through it over and over takes a quarter of
// the time that a short command has. From that collection on, or if GOGC is
// set, all is as ever.
//
// It has an effect by its import alone, as nothing else should: the collections
// come before main runs. Go initializes packages by their paths, of those that
// need nothing that is yet to come, and so this one before most that make much.
package startheap

import (
	"os"
	"runtime"
	"runtime/debug"
)

// percent of 4 MB is how large the heap grows before the first collection.
const percent = 300

func init() {
	if os.Getenv("GOGC") != "" {
		return
	}
	usual := debug.SetGCPercent(percent)
	garbage := new([64]byte) // the first collection finds it
	runtime.AddCleanup(garbage, func(usual int) { debug.SetGCPercent(usual) }, usual)
}
