package main

import "testing"

func TestPercent(t *testing.T) {
	for live, want := range map[uint64]int{
		0: 400, 1: 400, 1 << 20: 400, 30 << 20: 400, 50 << 20: 200, 60 << 20: 150, 75 << 20: 100, 150 << 20: 100, 1 << 40: 100,
	} {
		if got := percent(live); got != want {
			t.Errorf("%d MB: got %d, want %d", live>>20, got, want)
		}
	}
}
