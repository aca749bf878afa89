package tunnel

import "time"

// push puts the stream into its carrier's queue if it has something to send,
// and wakes whoever sends it.
func (st *Stream) push() {
	if a := st.enqueue(); a != nil {
		a.wake()
		st.session.wakeSpare(a)
	}
}

// send is push for the stream's own writer: if the carrier is idle, the caller
// writes a message itself, which saves a goroutine's wake-up. A Write does so
// only with little, for it must not get stuck in a carrier that went silent;
// ReadFrom (bulk) with whatever the message takes.
func (st *Stream) send(bulk bool) {
	a := st.enqueue()
	if a == nil {
		if st.queued {
			st.session.wakeSpare(st.home)
		}
		return
	}
	little := a.bulk.len() == 0 && a.flight.unacked+int(st.out.pending()) <= inlineBytes
	if a.writing || a.suspect || !bulk && !little {
		a.wake()
	} else {
		a.flush(true)
	}
	if st.queued {
		st.session.wakeSpare(a)
	}
}

// enqueue puts the stream into one of its carrier's queues, unless it is in
// one or has nothing to send, and returns the carrier.
func (st *Stream) enqueue() *attachment {
	if st.queued || st.abandoned || !st.out.sendable() {
		return nil
	}
	now := time.Now()
	interactive := st.isInteractive(now)
	st.home = st.session.carrierFor(now, st.home, interactive)
	switch {
	case st.home == nil:
		st.session.waits()
		return nil // join pushes every stream
	case interactive:
		st.home.interactive.push(st)
	default:
		st.home.bulk.push(st)
	}
	st.queued = true
	return st.home
}

// isInteractive says whether the stream, with what it has to send, stays
// within what an interactive one sends: in this period, and in the one before.
func (st *Stream) isInteractive(now time.Time) bool {
	st.countSent(now, 0)
	return !st.wasBulk && st.periodBytes < interactiveBytes &&
		st.periodBytes+int(min(st.out.pending(), interactiveBytes)) <= interactiveBytes
}

// countSent counts what the stream sends in each period.
func (st *Stream) countSent(now time.Time, n int) {
	if elapsed := now.Sub(st.periodStart); elapsed >= interactivePeriod {
		st.wasBulk = elapsed < 2*interactivePeriod && st.periodBytes >= interactiveBytes
		st.periodStart, st.periodBytes = now, 0
	}
	st.periodBytes += n
}

// carrierFor returns the carrier for a stream that has something to send: where
// it was, unless that one is suspect, or one is kept clear of bulk.
func (s *Session) carrierFor(now time.Time, home *attachment, interactive bool) *attachment {
	if interactive {
		s.interactiveAt = now
	} else {
		s.bulkAt = now
	}
	reserved := s.reserved(now)
	switch {
	case reserved != nil && interactive:
		return reserved
	case home == nil || home.suspect || home == reserved:
		return s.pickBeside(reserved)
	}
	return home
}

// reserved returns the carrier that is kept clear of bulk, so that interactive
// streams do not share a connection and its reader with it: the newest, if there
// are several and both kinds are being sent; otherwise nil. It is not kept clear
// if bulk would be left with little: until its own rate is known, and while the
// others together are slower than an eighth of that.
func (s *Session) reserved(now time.Time) (newest *attachment) {
	if len(s.attached) < 2 || now.Sub(s.bulkAt) > interactivePeriod || now.Sub(s.interactiveAt) > reservedPeriod {
		return nil
	}
	healthy, rate := 0, 0.0
	for _, a := range s.attached {
		if a.suspect {
			continue
		}
		healthy++
		rate += a.flight.maxRate()
		if newest == nil || a.id > newest.id {
			newest = a
		}
	}
	if healthy < 2 || newest.flight.startup {
		return nil
	}
	if own := newest.flight.maxRate(); rate-own < own/8 {
		return nil
	}
	return newest
}

// share spreads bulk: an idle carrier takes some from another, the one that is
// to be clear of it gives it away.
func (a *attachment) share() {
	reserved := a.s.reserved(time.Now())
	if a != reserved {
		a.steal()
		return
	}
	for range a.bulk.len() {
		if st := a.bulk.pop(); st.home == a {
			st.queued = false
			st.push()
		}
	}
}

// wakeSpare lets another carrier take bulk from one that has more than it may
// have in flight.
func (s *Session) wakeSpare(busy *attachment) {
	if len(s.attached) < 2 || busy.flight.allows(minBulk) && busy.bulk.len() < 2 {
		return
	}
	reserved := s.reserved(time.Now())
	for _, a := range s.attached {
		if a != busy && a != reserved && !a.suspect && a.bulk.len() == 0 && a.flight.allows(minBulk) {
			a.wake()
			return
		}
	}
}

// steal moves a bulk stream from another carrier's queue to this idle one's.
func (a *attachment) steal() {
	if a.suspect || a.bulk.len() > 0 || !a.flight.allows(minBulk) {
		return
	}
	for _, other := range a.s.attached {
		if other == a || other.bulk.len() == 0 || other.flight.allows(minBulk) && other.bulk.len() < 2 {
			continue
		}
		if first := *other.bulk.at(0); !first.mayMove() {
			continue
		}
		st := other.bulk.pop()
		if st.home == other && st.out.sendable() {
			st.home = a
			st.moves++
			a.bulk.push(st)
		} else {
			st.queued = false
		}
		return
	}
}

// mayMove says whether another carrier may take the stream. What was in flight
// when its moves were last counted from 0 may hold as many again: twice
// maxMoves at most are unacked.
func (st *Stream) mayMove() bool {
	if st.out.base > st.movesFrom {
		st.moves, st.movesFrom = 0, st.out.sent
	}
	return st.moves < maxMoves
}

// controlDue queues the stream for its CREDIT, RESET_STREAM or STOP_SENDING.
func (st *Stream) controlDue() {
	if st.abandoned || !(st.creditDue || st.resetDue || st.stopDue) {
		return
	}
	s := st.session
	if !st.inControl {
		st.inControl = true
		s.control.push(st)
	}
	a := st.home
	if a == nil || a.lost || a.suspect {
		a = s.pick()
	}
	if a != nil {
		a.wake()
	}
}

// nextInteractive takes frames of interactive streams, in turn, until the
// message has no room left. A stream that has turned to bulk changes queue.
func (a *attachment) nextInteractive(now time.Time, size, room int) int {
	for n := a.interactive.len(); n > 0 && size < room; n-- {
		st := a.interactive.pop()
		if st.home != a || !st.out.sendable() {
			st.queued = st.queued && st.home != a
			continue
		}
		if !st.isInteractive(now) {
			a.s.bulkAt = now
			a.bulk.push(st)
			continue
		}
		size = a.take(now, st, size, room)
		if st.out.sendable() {
			a.interactive.push(st)
		} else {
			st.queued = false
		}
	}
	return size
}

// nextBulk takes frames of bulk streams: each sends its turn's worth and then
// goes to the back of the queue (deficit round robin, RFC 8290 §4 in spirit).
func (a *attachment) nextBulk(now time.Time, size, room int) int {
	for a.bulk.len() > 0 && size+minRoom < room {
		st := *a.bulk.at(0)
		if st.home != a || !st.out.sendable() {
			a.bulk.pop()
			st.queued = st.queued && st.home != a
			continue
		}
		if st.turn <= 0 {
			st.turn += room
		}
		before := size
		size = a.take(now, st, size, room) // a turn may be overdrawn: the next is shorter by that
		st.turn -= size - before
		switch {
		case !st.out.sendable():
			a.bulk.pop()
			st.queued, st.turn = false, 0
		case size == before:
			return size // the rest of the message is too small for what comes next
		case st.turn <= 0:
			a.bulk.push(a.bulk.pop())
		}
	}
	return size
}

// minRoom is the least room in a message for which a STREAM frame is begun, and
// minCut the least that one is cut to because it does not fit.
const (
	minRoom = 64
	minCut  = minBulk / 2
)

// take moves frames of one stream into the message under construction.
func (a *attachment) take(now time.Time, st *Stream, size, room int) int {
	for size+minRoom < room {
		f, ok := st.out.next(st, room-size-streamOverhead, minCut)
		if !ok {
			break
		}
		a.frames = append(a.frames, f)
		size += len(f.data) + streamOverhead
		st.countSent(now, len(f.data))
		a.s.crowd.moves(st)
		st.sent += uint64(len(f.data))
		a.s.counters.sent += uint64(len(f.data))
	}
	if st.out.unsent() < maxUnsent {
		st.writable.Signal()
	}
	return size
}
