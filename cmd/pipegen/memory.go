package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// plenty is how much memory, in bytes, is spent before it is collected as
// often as Go does by itself.
const plenty = 150 << 20

// spareCollections lets garbage lie while there is plenty of memory, unless the
// environment says otherwise: what makes one document and ends keeps most of
// what it allocates, and looking for the rest is a sixth of its CPU.
func (a *app) spareCollections() {
	if a.getenv("GOGC") != "" || a.getenv("GOMEMLIMIT") != "" {
		return
	}
	// After each collection the next one is set by what it left.
	type sentinel struct{ p *int }
	var next func(*sentinel)
	next = func(s *sentinel) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		debug.SetGCPercent(percent(live[0].Value.Uint64()))
		runtime.SetFinalizer(s, next)
	}
	next(&sentinel{new(int)})
}

// percent is how much a heap of so many live bytes may grow: to plenty, but at
// least to twice what it is.
func percent(live uint64) int {
	const most = 400
	if live == 0 {
		return most
	}
	return int(min(max(plenty*100/live, 200), 100+most)) - 100
}
