package faults

import (
	"sync"
	"time"
)

// DefaultQueue is the size in bytes of a link's queue when none is given.
const DefaultQueue = 256 << 10

// Link is a long link: each direction has one bottleneck, shared by all connections of a relay,
// with a queue before it, and a propagation delay after it. The zero value is no link at all.
//
// A full queue does not drop: it stops reading from the connections, first come, first served. The
// first bytes of a new connection wait one round trip more, as for a handshake that a relay on
// loopback answers at once.
type Link struct {
	// Delay is the propagation delay one way: half of the quiet round trip. 0 = none.
	Delay time.Duration
	// Rate is the bottleneck's rate in bytes per second, each way. 0 = unlimited, and no queue.
	Rate int64
	// Queue is how many bytes may wait for the bottleneck, each way. 0 = DefaultQueue.
	Queue int
}

// RTT returns the round trip of a byte while the queues are empty.
func (l Link) RTT() time.Duration { return 2 * l.Delay }

// enabled says whether the link does anything.
func (l Link) enabled() bool { return l.Delay > 0 || l.Rate > 0 }

// lane is one direction of a link: a transmitter that is booked ahead of time.
type lane struct {
	turn sync.Mutex // held by the one who waits for room, so that the others wait behind it

	mu   sync.Mutex
	link Link
	free time.Time // when the transmitter has sent all that is booked
}

// set changes the link. What is booked keeps its times.
func (l *lane) set(link Link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if link.Queue <= 0 {
		link.Queue = DefaultQueue
	}
	l.link = link
}

// book waits until n more bytes fit in the queue and returns when the last of them arrives at the
// far end: not before floor has passed and the propagation delay after it. It returns early, with
// false, when over is closed.
func (l *lane) book(n int, floor time.Time, over <-chan struct{}) (time.Time, bool) {
	l.turn.Lock()
	defer l.turn.Unlock()
	for {
		arrival, wait := l.tryBook(n, floor, time.Now())
		if wait <= 0 {
			return arrival, true
		}
		if !sleep(wait, over) {
			return time.Time{}, false
		}
	}
}

// tryBook books n bytes at now, or returns how long to wait for room.
func (l *lane) tryBook(n int, floor, now time.Time) (arrival time.Time, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sent := now
	if l.link.Rate > 0 {
		if l.free.Before(now) {
			l.free = now
		}
		// A queue smaller than the chunk would never have room: one chunk may always wait.
		room := max(l.link.Queue-n, 0)
		if wait := l.free.Sub(now) - l.time(room); wait > 0 {
			return time.Time{}, wait
		}
		l.free = l.free.Add(l.time(n))
		sent = l.free
	}
	if sent.Before(floor) {
		sent = floor
	}
	return sent.Add(l.link.Delay), 0
}

// time returns how long the transmitter takes for n bytes.
func (l *lane) time(n int) time.Duration {
	return time.Duration(float64(n) / float64(l.link.Rate) * float64(time.Second))
}

// window returns how many bytes one connection may have between its reader and its writer: what
// the link itself holds and as much again, so that only a slow receiver ever meets the limit.
func (l *lane) window() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	bdp := int(float64(l.link.Rate) * l.link.Delay.Seconds())
	return max(16<<20, 2*(bdp+l.link.Queue))
}

// sleep waits for d and returns true, or returns false as soon as over is closed.
func sleep(d time.Duration, over <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-over:
		return false
	}
}
