package tunnel

import (
	"testing"
	"time"
)

// TestBulkKeepsItsShare checks that bulk gets its part of a carrier beside
// interactive data that leaves some room in each message, but not enough for a
// frame that is worth it.
func TestBulkKeepsItsShare(t *testing.T) {
	s := newSession(Options{}.withDefaults())
	a := s.newAttachment(&memCarrier{}, 1)
	s.attached = append(s.attached, a)
	add := func(q *deque[*Stream], size int) *Stream {
		st := s.newStream(s.ownID(s.opened), true)
		s.opened++
		buf := s.opt.Memory.get(size)
		st.out.push(buf, buf.b[:size], false)
		st.out.limit = uint64(size)
		st.home, st.queued = a, true
		q.push(st)
		return st
	}
	bulk := add(&a.bulk, readSize)
	for n := 0; bulk.out.sent == 0; n++ {
		if n > bulkShare*bulkShare {
			t.Fatalf("bulk got nothing of %d messages", n)
		}
		add(&a.interactive, minBulk-minCut)
		now := time.Now()
		a.flight.unacked = 0 // W is not what is tested
		if buf, _ := a.build(now); buf == nil {
			t.Fatal("no message was made")
		}
		a.frames = a.frames[:0]
	}
}
