//go:build linux

package main

import "testing"

func TestAffordable(t *testing.T) {
	for _, c := range []struct{ wanted, each, limit, want int }{
		{5000, 1, 20_000, 5000},
		{20_000, 1, 20_000, 20_000 - spareFiles},
		{20_000, 2, 20_000, (20_000 - spareFiles) / 2},
		{20_000, 2, wantedFiles, 20_000},
		{20_000, 0, 1 << 20, 20_000}, // direct: only our own end counts
		{1000, 2, spareFiles - 1, 0},
	} {
		if got := affordable(c.wanted, c.each, c.limit); got != c.want {
			t.Errorf("affordable(%d, %d, %d) = %d, want %d", c.wanted, c.each, c.limit, got, c.want)
		}
	}
}

func TestRaiseFiles(t *testing.T) {
	if n, err := raiseFiles(); err != nil || n < 256 {
		t.Errorf("raiseFiles = %d, %v", n, err)
	}
}
