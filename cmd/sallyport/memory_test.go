package main

import (
	"runtime"
	"slices"
	"testing"
)

func TestReturnsDue(t *testing.T) {
	const mb = 1 << 20
	for _, tt := range []struct {
		name  string
		looks []memory
		due   []bool
	}{
		{"idle from the start", []memory{{}, {allocated: 1000}, {allocated: 2000}}, []bool{false, false, false}},
		{"quiet after some work", []memory{
			{allocated: 50 * mb, cycles: 9, live: 4 * mb, goal: 8 * mb, held: 8 * mb},
			{allocated: 50*mb + 1000, cycles: 10, live: 4 * mb, goal: 8 * mb, held: 8 * mb},
			{allocated: 50*mb + 2000, cycles: 10, live: 4 * mb, goal: 8 * mb, held: 8 * mb},
			{allocated: 50*mb + 3000, cycles: 12, live: 4 * mb, goal: 8 * mb, held: 5 * mb},
			{allocated: 50*mb + 4000, cycles: 12, live: 4 * mb, goal: 8 * mb, held: 5 * mb},
		}, []bool{false, false, true, false, false}},
		{"busy, with usual garbage", []memory{
			{allocated: 100 * mb, cycles: 10, live: 30 * mb, goal: 60 * mb, held: 66 * mb},
			{allocated: 200 * mb, cycles: 20, live: 30 * mb, goal: 60 * mb, held: 66 * mb},
			{allocated: 300 * mb, cycles: 30, live: 30 * mb, goal: 60 * mb, held: 66 * mb},
		}, []bool{false, false, false}},
		{"much spare for long", slices.Repeat([]memory{{allocated: 1, held: 90 * mb, goal: 40 * mb}}, 7), []bool{false, false, false, false, true, false, false}},
		{"little work for long", []memory{
			{allocated: 1 * mb, live: 4 * mb, goal: 8 * mb},
			{allocated: 2 * mb, live: 4 * mb, goal: 8 * mb},
			{allocated: 3 * mb, live: 4 * mb, goal: 8 * mb},
			{allocated: 4 * mb, live: 4 * mb, goal: 8 * mb},
			{allocated: 5 * mb, live: 4 * mb, goal: 8 * mb},
			{allocated: 6 * mb, live: 4 * mb, goal: 8 * mb},
		}, []bool{false, false, false, false, true, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r returns
			for i, now := range tt.looks {
				got := r.due(now)
				if got != tt.due[i] {
					t.Errorf("look %d: due %v, want %v", i, got, tt.due[i])
				}
				if got {
					r.returned = now
				}
			}
		})
	}
}

// The names of the runtime's metrics are right: each changes as it should.
func TestReadMemory(t *testing.T) {
	before := readMemory()
	keep := make([]byte, 4<<20)
	runtime.GC()
	after := readMemory()
	runtime.KeepAlive(keep)
	if after.allocated < before.allocated+4<<20 || after.cycles <= before.cycles || after.live < 4<<20 || after.held < after.live || after.goal < after.live {
		t.Errorf("before %+v, after %+v", before, after)
	}
}
