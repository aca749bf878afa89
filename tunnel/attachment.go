package tunnel

import (
	"context"
	"fmt"
	"sync"
	"time"

	"sallyport/tunnel/internal/frame"
)

// attachment is one carrier while the session is served over it, and what the
// session must remember of it afterwards: which messages are not acked.
//
// Its messages are counted from 0 each way, after the HELLOs.
type attachment struct {
	s    *Session
	c    Carrier
	id   uint64
	kick chan struct{} // tells the writer goroutine that there is work
	dead chan struct{} // closed when lost

	// Guarded by s.mu.
	lost  bool
	cause error // why it was lost

	// broken is why a write failed. What the peer said before, perhaps a CLOSE,
	// is still read, until brokenUntil.
	broken      error
	brokenUntil time.Time

	// Sending.
	writing     bool       // somebody is building or writing a message
	inline      bool       // and it is a stream's writer, not the writer goroutine
	frames      []outFrame // STREAM frames of the message under construction
	out         [1][]byte  // that message, on its way to the carrier
	interactive deque[*Stream]
	bulk        deque[*Stream]
	ahead       int            // interactive bytes sent while bulk waited
	sentCount   uint64         // messages sent
	ackedCount  uint64         // of them, acked
	inFlight    deque[message] // sent, not acked
	records     deque[record]  // what those held
	flight      flight
	closeDue    bool

	// Receiving.
	direct    []handOver // with bytes to hand over when the message is taken in
	recvCount uint64     // messages received
	ackBytes  int        // received since the last ack we sent
	ackFrom   time.Time  // when the newest message came
	ackAt     time.Time  // when to ack at the latest; zero: nothing to ack
	lastAck   time.Time
	ackDue    bool

	// Liveness.
	pongDue  bool
	pong     uint64
	pingDue  bool
	pingSeq  uint64 // of our newest PING
	pingSent time.Time
	pongSeen uint64
	asks     int       // messages in flight that the peer must answer
	askedAt  time.Time // since when an answer is due; zero: none is
	lastSent time.Time // of a message that must be answered
	pingIn   time.Duration
	rtt      time.Duration // smoothed; 0: not measured
	suspect  bool          // silent for too long; its load has moved
	spoke    time.Time     // when it last was no more
	silences int           // in a row, without a round trip in between
}

// message is what the sender remembers of a message in flight.
type message struct {
	sent   time.Time
	bytes  int
	asks   bool // it must be answered
	sample sample
}

// record is one thing that a message in flight holds and that is queued again
// if the message is lost.
type record struct {
	message uint64
	stream  *Stream
	from    uint64
	to      uint64
	kind    recordKind
	fin     bool
	moved   bool // queued again already: another carrier answers for it
}

type recordKind uint8

const (
	recordData recordKind = iota
	recordCredit
	recordReset
	recordStop
	recordMaxStreams
	recordGoAway
)

func (s *Session) newAttachment(c Carrier, id uint64) *attachment {
	now := time.Now()
	return &attachment{
		s: s, c: c, id: id,
		kick:     make(chan struct{}, 1),
		dead:     make(chan struct{}),
		flight:   newFlight(&s.path),
		lastSent: now,
		lastAck:  now,
		pingIn:   jittered(s.opt.KeepAlive),
	}
}

// join makes an attachment one of the session's carriers: the peer's lists
// from its HELLO are applied, and everything that waited goes out over it.
func (s *Session) join(a *attachment, hello *frame.Hello) error {
	if s.err != nil {
		return s.err
	}
	if len(s.attached) >= maxCarriers {
		return ErrTooManyCarriers
	}
	resumed := len(s.attached) == 0 && s.counters.carriers > 0
	s.attached = append(s.attached, a)
	s.counters.carriers++
	if resumed {
		s.counters.resumes++
		call(s.opt.Trace.Resumed)
	}
	s.detached = time.Time{}
	if s.isWaiting {
		s.isWaiting, s.waiting = false, make(chan struct{})
	}
	s.requeueLimbo()
	s.suspects(hello.Suspects)
	for _, other := range s.attached {
		if other.suspect {
			other.moveAway()
		}
	}
	for _, st := range s.streams {
		st.push()
	}
	s.schedule(time.Now())
	s.changed.Broadcast()
	a.wake()
	return nil
}

// arrivals takes note of what the peer received on carriers that it has lost.
// One that still counts as alive here is lost now.
func (s *Session) arrivals(list []frame.Received) error {
	for _, r := range list {
		for _, a := range s.attached {
			if a.id == r.Carrier {
				a.lose(ErrReplaced)
				break
			}
		}
		for _, a := range s.limbo {
			if a.id != r.Carrier {
				continue
			}
			if r.Count > a.sentCount {
				return protocolError("peer claims %d messages of carrier %d, of which %d were sent", r.Count, a.id, a.sentCount)
			}
			a.settle(r.Count)
		}
	}
	return nil
}

// suspects marks carriers that have gone silent on the peer.
func (s *Session) suspects(ids []uint64) {
	for _, id := range ids {
		for _, a := range s.attached {
			if a.id == id {
				a.suspect = true
			}
		}
	}
}

// requeueLimbo queues again what the peer did not acknowledge of lost carriers.
func (s *Session) requeueLimbo() {
	for _, a := range s.limbo {
		a.requeue()
	}
	s.limbo = nil
}

// serve runs a joined attachment until it is lost and returns why. It takes
// the lock itself.
func (a *attachment) serve(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(a.readLoop)
	wg.Go(a.writeLoop)
	select {
	case <-a.dead:
	case <-ctx.Done():
		a.s.mu.Lock()
		a.lose(context.Cause(ctx))
		a.s.mu.Unlock()
	}
	a.s.mu.Lock()
	cause := a.cause
	a.s.mu.Unlock()
	a.c.Close(cause)
	wg.Wait()
	return cause
}

// lose takes the attachment out of the session. What it had in flight is
// queued again: at once if there is another carrier, otherwise when the next
// one's HELLO has told what arrived.
func (a *attachment) lose(cause error) {
	s := a.s
	if a.lost {
		return
	}
	a.lost, a.cause = true, cause
	close(a.dead)
	for i, other := range s.attached {
		if other == a {
			s.attached = append(s.attached[:i:i], s.attached[i+1:]...)
			break
		}
	}
	if s.err != nil {
		s.changed.Broadcast()
		return
	}
	if len(s.lostCounts) == maxLost {
		s.lostCounts = append(s.lostCounts[:0], s.lostCounts[1:]...)
	}
	s.lostCounts = append(s.lostCounts, frame.Received{Carrier: a.id, Count: a.recvCount})
	s.counters.carriersLost++
	if s.opt.Trace.CarrierLost != nil {
		s.opt.Trace.CarrierLost(cause)
	}
	s.limbo = append(s.limbo, a)
	a.release()
	switch {
	case len(s.attached) > 0:
		a.requeue()
		s.limbo = s.limbo[:len(s.limbo)-1]
		s.wakeAny() // also for what the lost carrier had been woken for
	case !s.client && !s.confirmed:
		s.end(&CloseError{Code: CloseDone, Reason: "its only carrier was lost before the session was used"})
	default:
		s.detached = time.Now()
		s.schedule(s.detached.Add(s.expiry()))
		if s.flowing || s.unacked() {
			s.waits()
		}
	}
	s.changed.Broadcast()
}

// unacked says whether a stream has sent something that the peer may not have.
func (s *Session) unacked() bool {
	for _, st := range s.streams {
		if st.out.base < st.out.written {
			return true
		}
	}
	return false
}

// fail takes note of a write that failed: nothing is sent over the carrier any
// more, and it is lost when the reader fails too, or soon.
func (a *attachment) fail(err error) {
	if a.broken != nil || a.lost {
		return
	}
	a.broken, a.suspect = fmt.Errorf("carrier lost: %w", err), true
	a.brokenUntil = time.Now().Add(brokenLinger)
	a.s.schedule(a.brokenUntil)
	a.moveAway()
}

// release takes the attachment's streams off its queues and gives them to others.
func (a *attachment) release() {
	a.interactive, a.bulk = deque[*Stream]{}, deque[*Stream]{}
	for _, st := range a.s.streams {
		if st.home == a {
			st.home, st.queued = nil, false
			st.push()
		}
	}
}

// moveAway queues everything in flight on a suspect carrier again, for the
// others. Should the suspect ack after all, what was not yet repeated is not.
func (a *attachment) moveAway() {
	for _, other := range a.s.attached {
		if !other.suspect {
			if a.writing && a.inline && a.broken == nil {
				a.lose(ErrReplaced) // frees a stream's writer that is stuck in it
				return
			}
			a.release()
			a.requeue()
			other.wake()
			return
		}
	}
}

// requeue queues again what is still current of everything in flight.
func (a *attachment) requeue() {
	for i := range a.records.len() {
		if r := a.records.at(i); !r.moved {
			r.moved = true
			a.s.requeue(r)
		}
	}
}

func (s *Session) requeue(r *record) {
	st := r.stream
	switch r.kind {
	case recordMaxStreams:
		s.maxStreamsDue = true
	case recordGoAway:
		s.goAwayDue = true
	case recordData:
		st.out.onLoss(r.from, r.to, r.fin)
		s.counters.replayed += r.to - r.from
		st.push()
	case recordCredit:
		st.creditDue = !st.in.done() && !st.in.hasFinal
	case recordReset:
		st.resetDue = !st.out.resetAcked
	case recordStop:
		st.stopDue = !st.in.done()
	}
	if st != nil {
		st.controlDue()
	}
}

// settle takes note that the peer has count messages; it says nothing of time.
// It returns the newest of them, the newest that had to be answered, and how
// many bytes those had.
func (a *attachment) settle(count uint64) (newest, asking message, bytes int) {
	for ; a.ackedCount < count; a.ackedCount++ {
		newest = a.inFlight.pop()
		if newest.asks {
			asking = newest
			bytes += newest.bytes
			a.asks--
		}
	}
	for a.records.len() > 0 && a.records.at(0).message < count {
		r := a.records.pop()
		a.s.recordAcked(&r)
	}
	return newest, asking, bytes
}

func (s *Session) recordAcked(r *record) {
	st := r.stream
	switch r.kind {
	case recordData:
		st.out.onAck(r.from, r.to, r.fin)
		st.charge()
		if st.out.held < initialWindow || s.sendCharged < s.opt.SendBudget {
			st.writable.Broadcast()
		}
		st.checkDone()
		s.forget(st)
	case recordReset:
		st.out.resetAcked = true
		s.forget(st)
	}
}

// backlog is a measure of how long a new stream would wait.
func (a *attachment) backlog() int {
	return a.flight.unacked + MaxMessage*a.bulk.len() + a.interactive.len()
}

// wake makes the writer goroutine look for work.
func (a *attachment) wake() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

func call(f func()) {
	if f != nil {
		f()
	}
}
