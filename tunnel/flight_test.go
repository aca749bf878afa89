package tunnel

import (
	"container/heap"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"
)

// linkSim is one carrier with a bulk sender that never runs dry, over a link
// with an endless queue, in virtual time and without goroutines.
type linkSim struct {
	flight    flight
	path      path
	now       time.Time
	start     time.Time
	events    eventHeap
	rate      float64       // bytes a second
	oneWay    time.Duration // propagation
	free      time.Time     // when the queue is empty
	largest   int
	inFlight  deque[message]
	sent      uint64
	arrived   uint64 // messages, at the receiver
	unacked   int    // bytes there since its last ack
	lastAck   time.Time
	newest    time.Time // when the newest message arrived
	timer     uint64    // number of the valid ack timer
	delivered int
	delays    []delaySample
}

type delaySample struct {
	at    time.Time
	queue time.Duration
}

type event struct {
	at  time.Time
	seq uint64
	f   func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

func newLinkSim(rate float64, rtt time.Duration) *linkSim {
	s := &linkSim{rate: rate, oneWay: rtt / 2, largest: MaxMessage - 8, now: time.Unix(1e9, 0)}
	s.start, s.lastAck = s.now, s.now
	s.flight = newFlight(&s.path)
	return s
}

func (s *linkSim) at(t time.Time, f func()) {
	s.timer++
	heap.Push(&s.events, event{t, s.timer, f})
}

// run lets d pass.
func (s *linkSim) run(d time.Duration) {
	end := s.now.Add(d)
	s.fill()
	for len(s.events) > 0 && !s.events[0].at.After(end) {
		e := heap.Pop(&s.events).(event)
		s.now = e.at
		e.f()
	}
	s.now = end
}

// fill sends as long as the limit allows, as attachment.build does.
func (s *linkSim) fill() {
	for s.flight.allows(minBulk) {
		n := s.flight.bulkSize(s.largest)
		if s.flight.unacked > 0 {
			n = min(n, s.flight.limit-s.flight.unacked)
		}
		remember := s.flight.sent(s.now, s.sent, n)
		s.inFlight.push(message{sent: s.now, bytes: n, asks: true, sample: remember})
		s.sent++
		took := time.Duration(float64(n) / s.rate * 1e9)
		if s.free.Before(s.now) {
			s.free = s.now
		}
		s.free = s.free.Add(took)
		s.delays = append(s.delays, delaySample{s.now, s.free.Sub(s.now) - took})
		s.at(s.free.Add(s.oneWay), func() { s.arrive(n) })
	}
	s.flight.round.binding = true
}

// arrive acks as attachment.ackLater does.
func (s *linkSim) arrive(n int) {
	first := s.unacked == 0
	s.arrived++
	s.delivered += n
	s.unacked += n
	s.newest = s.now
	switch due := s.lastAck.Add(ackInterval); {
	case s.unacked >= ackBytes && !s.now.Before(due):
		s.ack()
	case s.unacked >= ackBytes:
		s.at(due, s.ack)
	case first:
		s.at(s.now.Add(ackDelay), s.ack)
	}
}

func (s *linkSim) ack() {
	if s.unacked == 0 {
		return
	}
	s.unacked, s.lastAck = 0, s.now
	count, delay := s.arrived, s.now.Sub(s.newest)
	s.at(s.now.Add(s.oneWay), func() {
		bytes := 0
		var m message
		for s.sent-uint64(s.inFlight.len()) < count {
			m = s.inFlight.pop()
			bytes += m.bytes
		}
		if bytes > 0 {
			s.flight.acked(s.now.Add(-delay), count, bytes, m, s.now.Sub(m.sent)-delay, s.sent)
		}
		s.fill()
	})
}

// measure lets d pass and returns the throughput as a part of the link's rate,
// and the median and 95th percentile of the queueing delay.
func (s *linkSim) measure(d time.Duration) (share float64, median, p95 time.Duration) {
	from, had := len(s.delays), s.delivered
	s.run(d)
	share = float64(s.delivered-had) / (s.rate * d.Seconds())
	queue := make([]time.Duration, 0, len(s.delays)-from)
	for _, x := range s.delays[from:] {
		queue = append(queue, x.queue)
	}
	slices.Sort(queue)
	return share, queue[len(queue)/2], queue[len(queue)*95/100]
}

// TestFlightKeepsTheQueueShort checks, on links of very different length, that
// bulk fills the link and that what it queues stays near the target.
func TestFlightKeepsTheQueueShort(t *testing.T) {
	for _, c := range []struct {
		name       string
		rate       float64
		rtt        time.Duration
		settle     time.Duration
		share      float64
		most, tail time.Duration // median and 95th percentile
	}{
		{"40 ms, 20 MB/s", 20e6, 40 * time.Millisecond, 3 * time.Second, 0.98, 6 * time.Millisecond, 9 * time.Millisecond},
		{"40 ms, 100 MB/s", 100e6, 40 * time.Millisecond, 3 * time.Second, 0.98, 6 * time.Millisecond, 9 * time.Millisecond},
		{"5 ms, 20 MB/s", 20e6, 5 * time.Millisecond, 3 * time.Second, 0.97, 5 * time.Millisecond, 8 * time.Millisecond},
		{"200 ms, 20 MB/s", 20e6, 200 * time.Millisecond, 10 * time.Second, 0.97, 15 * time.Millisecond, 30 * time.Millisecond},
		{"40 ms, 2 MB/s", 2e6, 40 * time.Millisecond, 5 * time.Second, 0.97, 40 * time.Millisecond, 60 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newLinkSim(c.rate, c.rtt)
			s.run(c.settle)
			share, median, p95 := s.measure(20 * time.Second)
			t.Logf("%.1f %% of the rate, queue %v, 95th percentile %v, W %d KiB", 100*share, median, p95, s.flight.limit>>10)
			if share < c.share || median > c.most || p95 > c.tail {
				t.Errorf("%.1f %% of the rate (at least %.0f), queue %v (at most %v), 95th percentile %v (%v)",
					100*share, 100*c.share, median, c.most, p95, c.tail)
			}
		})
	}
}

// TestFlightStartsQuickly checks that a transfer reaches the link's rate soon,
// and that the queue it makes meanwhile is bounded.
func TestFlightStartsQuickly(t *testing.T) {
	s := newLinkSim(20e6, 40*time.Millisecond)
	share, _, p95 := s.measure(time.Second)
	if share < 0.75 || p95 > 300*time.Millisecond {
		t.Errorf("%.1f %% of the rate in the first second, 95th percentile of the queue %v", 100*share, p95)
	}
	s.run(500 * time.Millisecond)
	if _, median, _ := s.measure(time.Second); median > 8*time.Millisecond {
		t.Errorf("after 1.5 s the queue is still %v", median)
	}
}

// TestFlightIsNoLimitOnLoopback checks a path without delay worth speaking of.
func TestFlightIsNoLimitOnLoopback(t *testing.T) {
	s := newLinkSim(1.5e9, 60*time.Microsecond)
	s.run(500 * time.Millisecond)
	share, median, _ := s.measure(500 * time.Millisecond)
	t.Logf("%.1f %% of the rate, queue %v, W %d KiB", 100*share, median, s.flight.limit>>10)
	if share < 0.95 || median > 5*time.Millisecond {
		t.Errorf("%.1f %% of the rate, queue %v", 100*share, median)
	}
}

// TestFlightFollowsTheRate changes the link under a transfer.
func TestFlightFollowsTheRate(t *testing.T) {
	s := newLinkSim(100e6, 40*time.Millisecond)
	s.run(5 * time.Second)
	s.rate = 20e6
	s.run(time.Second)
	if share, median, _ := s.measure(2 * time.Second); share < 0.97 || median > 8*time.Millisecond {
		t.Errorf("a second after 100 → 20 MB/s: %.1f %%, queue %v", 100*share, median)
	}
	s.run(10 * time.Second)
	if share, median, _ := s.measure(2 * time.Second); share < 0.97 || median > 6*time.Millisecond {
		t.Errorf("long after 100 → 20 MB/s: %.1f %%, queue %v", 100*share, median)
	}
	s.rate = 100e6
	s.run(4 * time.Second)
	if share, median, _ := s.measure(2 * time.Second); share < 0.95 || median > 8*time.Millisecond {
		t.Errorf("four seconds after 20 → 100 MB/s: %.1f %%, queue %v", 100*share, median)
	}
}

// TestFlightFollowsThePath makes the path longer and shorter under a transfer:
// what looks like a queue must not starve it.
func TestFlightFollowsThePath(t *testing.T) {
	s := newLinkSim(20e6, 40*time.Millisecond)
	s.run(5 * time.Second)
	s.oneWay = 40 * time.Millisecond
	s.run(2 * time.Second)
	if share, _, _ := s.measure(3 * time.Second); share < 0.95 {
		t.Errorf("two seconds after 40 → 80 ms: %.1f %% of the rate", 100*share)
	}
	s.run(15 * time.Second)
	if share, median, _ := s.measure(5 * time.Second); share < 0.97 || median > 12*time.Millisecond {
		t.Errorf("long after 40 → 80 ms: %.1f %% of the rate, queue %v", 100*share, median)
	}
	s.oneWay = 20 * time.Millisecond
	s.run(12 * time.Second)
	if share, median, _ := s.measure(5 * time.Second); share < 0.97 || median > 8*time.Millisecond {
		t.Errorf("after 80 → 40 ms: %.1f %% of the rate, queue %v", 100*share, median)
	}
}

// TestFlightLimits checks the floor, the ceiling and the one message that may
// always go.
func TestFlightLimits(t *testing.T) {
	var p path
	f := newFlight(&p)
	if !f.allows(100 << 20) {
		t.Error("nothing is in flight, and a message may not go")
	}
	f.sent(time.Now(), 0, 1)
	if f.allows(firstFlight) || !f.allows(firstFlight-1) {
		t.Error("the first limit is not 256 KiB")
	}
	for _, largest := range []int{minBulk, 50_000} {
		if n := f.bulkSize(largest); n < minBulk || n > largest {
			t.Errorf("bulk message of %d bytes, at most %d", n, largest)
		}
	}

	fast := newLinkSim(10e9, 300*time.Millisecond)
	fast.run(20 * time.Second)
	if fast.flight.limit != maxFlight {
		t.Errorf("W %d on a long and fast link, want %d", fast.flight.limit, maxFlight)
	}
	slow := newLinkSim(100e3, 5*time.Millisecond)
	for range 300 {
		slow.run(100 * time.Millisecond)
		if slow.flight.limit < minFlight {
			t.Fatalf("W %d", slow.flight.limit)
		}
	}
	if share, _, _ := slow.measure(10 * time.Second); share < 0.95 {
		t.Errorf("%.1f %% of a slow link", 100*share)
	}
}

// TestBulkBesideAnEcho runs whole sessions over a link of 40 ms and 20 MB/s, in
// virtual time: bulk reaches the rate within a second, keeps it, and costs the
// echo of a byte beside it at most 15 %.
func TestBulkBesideAnEcho(t *testing.T) {
	for range 2 {
		inBubble(t, func(t *testing.T) {
			p := newPair(t, Options{}, HostOptions{})
			p.start(newWire(20*time.Millisecond, 20_000_000))
			bulk, sink := p.open()
			near, far := p.open()
			p.wg.Go(func() { bulk.ReadFrom(neverEnding{}) })
			p.wg.Go(func() { sink.WriteTo(io.Discard) })
			p.wg.Go(func() { far.ReadFrom(far) })
			time.Sleep(time.Second)
			before, start := sink.Stats().Received, time.Now()
			var echoes []time.Duration
			for range 25 {
				turn := time.Now()
				fmt.Fprint(near, "x")
				mustRead(t, near, "x")
				echoes = append(echoes, time.Since(turn))
				time.Sleep(20 * time.Millisecond)
			}
			rate := float64(sink.Stats().Received-before) / time.Since(start).Seconds()
			slices.Sort(echoes)
			if median := echoes[len(echoes)/2]; rate < 19e6 || median > 46*time.Millisecond {
				t.Errorf("bulk %.1f MB/s of 20, echo %v on a path of 40 ms", rate/1e6, median)
			}
			for _, st := range []*Stream{bulk, near} {
				st.Reset(1, "over")
			}
		})
	}
}

// TestFlightBesideARival plays a queue that stays whatever W does: after three
// cuts its delay counts as the path's, and W grows again as at the start.
func TestFlightBesideARival(t *testing.T) {
	p := &path{}
	f := newFlight(p)
	now := time.Unix(0, 0)
	var flying []message
	var sent, acked uint64
	starting := false
	run := func(d, length time.Duration) { // a message each ms, acked after d
		for end := now.Add(length); now.Before(end); now = now.Add(time.Millisecond) {
			for len(flying) > 0 && !flying[0].sent.Add(d).After(now) {
				m := flying[0]
				flying = flying[1:]
				acked++
				f.acked(now, acked, m.bytes, m, now.Sub(m.sent), sent)
			}
			m := message{sent: now, bytes: minBulk}
			m.sample = f.sent(now, sent, minBulk)
			m.sample.full, f.round.binding = true, true
			flying = append(flying, m)
			sent++
			starting = starting || f.startup
		}
	}
	run(40*time.Millisecond, time.Second)
	if f.startup {
		t.Fatal("still at the start after a second")
	}
	low := f.limit
	starting = false
	run(240*time.Millisecond, 2*time.Second)
	if p.bulk.delay != 240*time.Millisecond {
		t.Errorf("the path's delay is %v, want the queue's 240ms", p.bulk.delay)
	}
	if !starting || f.limit <= low {
		t.Errorf("W is %d, and was %d before the rival came; it grew as at the start: %v", f.limit, low, starting)
	}
}
