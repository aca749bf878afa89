package tunnel

import (
	"fmt"
	"io"
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

// TestOneCarrierIsKeptClearOfBulk checks that interactive streams have a carrier
// of their own beside bulk, and that bulk spreads over all without them.
func TestOneCarrierIsKeptClearOfBulk(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(5*time.Millisecond, 10_000_000))
		p.join(newWire(5*time.Millisecond, 10_000_000), "alice")
		time.Sleep(time.Second)
		bulk, sink := p.open()
		p.wg.Go(func() { bulk.ReadFrom(endless{}) })
		p.wg.Go(func() { io.Copy(io.Discard, sink) })
		c, s := p.open()
		carried := func(d time.Duration, each func()) (older, newer int) {
			before := p.delivered()
			for begin := time.Now(); time.Since(begin) < d; {
				each()
			}
			after := p.delivered()
			return after[0] - before[0], after[1] - before[1]
		}
		key := func() {
			time.Sleep(300 * time.Millisecond) // as somebody types
			start := time.Now()
			fmt.Fprint(c, "k")
			mustRead(t, s, "k")
			if took := time.Since(start); took > 6*time.Millisecond {
				t.Errorf("a byte beside bulk took %v one way", took)
			}
		}
		carried(time.Second, func() { time.Sleep(300 * time.Millisecond); fmt.Fprint(c, "k"); mustRead(t, s, "k") })
		if older, newer := carried(3*time.Second, key); older < 27_000_000 || newer > 100_000 {
			t.Errorf("beside an interactive stream the older carrier took %d bytes, the newer one %d", older, newer)
		}
		time.Sleep(2 * reservedPeriod)
		older, newer := carried(3*time.Second, func() { time.Sleep(time.Second) })
		if older < 27_000_000 || newer < 27_000_000 {
			t.Errorf("bulk alone: the older carrier took %d bytes, the newer one %d", older, newer)
		}
		bulk.Reset(1, "enough")
	})
}

// delivered returns how many bytes of each of the client's carriers were acked.
func (p *pair) delivered() (n []int) {
	p.client.mu.Lock()
	defer p.client.mu.Unlock()
	for _, a := range p.client.attached {
		n = append(n, a.flight.delivered)
	}
	return n
}

// endless is a source that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestLostCarrierStealsNothing checks that whoever still looks at a carrier that
// was lost meanwhile, as a writer does that was in its write, takes no bulk to it.
func TestLostCarrierStealsNothing(t *testing.T) {
	s := newSession(Options{}.withDefaults())
	var carriers []*attachment
	for id := range uint64(3) {
		a := s.newAttachment(&memCarrier{}, id+1)
		s.attached = append(s.attached, a)
		carriers = append(carriers, a)
	}
	for range 2 {
		st := s.newStream(s.ownID(s.opened), true)
		s.opened++
		buf := s.opt.Memory.get(1000)
		st.out.push(buf, buf.b[:1000], false)
		st.out.limit, st.home, st.queued = 1000, carriers[1], true
		carriers[1].bulk.push(st)
	}
	lost := carriers[0]
	lost.lose(errCut)
	if lost.hasWork() || lost.bulk.len() != 0 || carriers[1].bulk.len() != 2 {
		t.Errorf("the lost carrier has %d streams, the other %d", lost.bulk.len(), carriers[1].bulk.len())
	}
}

// TestMovesAreBounded checks that carriers that take turns with one stream stop
// before these leave more gaps than the peer allows, until it has acked.
func TestMovesAreBounded(t *testing.T) {
	s := newSession(Options{}.withDefaults())
	a, b := s.newAttachment(&memCarrier{}, 1), s.newAttachment(&memCarrier{}, 2)
	s.attached = append(s.attached, a, b)
	st := s.newStream(s.ownID(s.opened), true)
	s.opened++
	st.out.limit, st.home, st.queued = 1<<40, a, true
	a.bulk.push(st)
	rounds := func() (moves int) {
		for range 2 * maxGaps {
			buf := s.opt.Memory.get(1000)
			st.out.push(buf, buf.b[:1000], false)
			from, to := st.home, a
			if from == a {
				to = b
			}
			from.flight.unacked, to.flight.unacked = from.flight.limit, 0
			to.steal()
			if st.home != from {
				moves++
			}
			if f, ok := st.out.next(st, 1000, 1); ok {
				f.buf.release()
			}
		}
		return moves
	}
	before := rounds()
	acked := st.out.sent
	st.out.onAck(0, acked, false)
	after := rounds()
	if before == 0 || before > maxMoves || after == 0 || before+after > 2*maxMoves {
		t.Errorf("%d moves before an ack, %d after it; at most %d may be in flight", before, after, maxGaps/2)
	}
}

// TestBulkIsNotLeftToASlowCarrier checks that the newest of two carriers is not
// kept clear of bulk when that would leave bulk to one that is much slower, be
// it from the start or later.
func TestBulkIsNotLeftToASlowCarrier(t *testing.T) {
	const fast, slow = 100_000_000, 1_000_000
	for name, later := range map[string]bool{"from the start": false, "later": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newPair(t, Options{}, HostOptions{})
				first := newWire(5*time.Millisecond, slow)
				if later {
					first = newWire(5*time.Millisecond, fast)
				}
				p.start(first)
				p.join(newWire(5*time.Millisecond, fast), "alice")
				time.Sleep(time.Second)
				from, to := p.open()
				p.wg.Go(func() { from.ReadFrom(endless{}) })
				p.wg.Go(func() { io.Copy(io.Discard, to) })
				c, s := p.open()
				exchange := func(seconds int) {
					for range seconds {
						fmt.Fprint(c, "k")
						mustRead(t, s, "k")
						time.Sleep(time.Second)
					}
				}
				exchange(5)
				first.server.set(func() { first.server.rate = slow })
				exchange(5)
				before := p.server.Stats().Received
				exchange(5)
				if rate := (p.server.Stats().Received - before) / 5; rate < fast/2 {
					t.Errorf("bulk goes at %d bytes a second beside a carrier that is idle", rate)
				}
				from.Reset(1, "enough")
			})
		})
	}
}
