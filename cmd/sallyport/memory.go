package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// returnMemory gives back to the system what a burst has left behind. The Go runtime collects garbage only when the heap
// has doubled, or after two minutes, and keeps pooled buffers and grown stacks until then: an agent that has become idle
// would hold its highest use for long.
func returnMemory(ctx context.Context) error {
	var r returns
	ticker := time.NewTicker(returnInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if r.due(readMemory()) {
				runtime.GC() // pools let go of their buffers at the second collection
				debug.FreeOSMemory()
				r.returned = readMemory()
			}
		}
	}
}

const (
	// returnInterval is how often to look: memory falls back two looks after the work has ended.
	returnInterval = time.Second
	// longTime is how many looks in a row make up for the lack of a sudden end.
	longTime = 5
	// minGarbage is what is worth it, in bytes, if it is also an eighth of what lives: allocated since memory was last
	// returned. Collections meanwhile do not matter: what is pooled outlives the first one.
	minGarbage = 512 << 10
	// stillness is the most, in bytes, that an agent at rest allocates between two looks.
	stillness = 64 << 10
	// minSpare is what is worth giving back, in bytes, if it is also a third of what the heap may grow to.
	minSpare = 8 << 20
)

// memory is what the runtime says of the heap, in bytes.
type memory struct {
	allocated uint64 // ever
	cycles    uint64 // collections, ever
	live      uint64 // objects that the last collection found alive
	goal      uint64 // up to where the heap grows before the next collection
	held      uint64 // from the system, stacks not included
}

// returns decides when to return memory.
type returns struct {
	returned memory // when memory was last returned
	last     memory // when it was last looked at
	calm     int    // looks in a row without a collection
	spare    int    // looks in a row with much to spare
}

// due says whether the agent has become quiet after some work, or has had much to spare for long. It is quiet when it
// allocates next to nothing, or so little for long that there was no collection.
func (r *returns) due(now memory) bool {
	r.calm = next(r.calm, now.cycles == r.last.cycles)
	r.spare = next(r.spare, now.held > now.goal+max(minSpare, now.goal/3))
	still := r.calm > 0 && now.allocated-r.last.allocated <= stillness
	garbage := now.allocated-r.returned.allocated >= max(minGarbage, now.live/8)
	due := garbage && (still || r.calm >= longTime) || r.spare >= longTime
	r.last = now
	if due {
		r.calm, r.spare = 0, 0
	}
	return due
}

// next counts how often in a row.
func next(count int, again bool) int {
	if !again {
		return 0
	}
	return count + 1
}

func readMemory() memory {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/goal:bytes"},
	}
	metrics.Read(samples)
	v := func(i int) uint64 { return samples[i].Value.Uint64() }
	return memory{allocated: v(0), cycles: v(1), live: v(2), held: v(3) + v(4) + v(5), goal: v(6)}
}
