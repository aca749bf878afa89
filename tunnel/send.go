package tunnel

import (
	"errors"
	"time"

	"sallyport/tunnel/internal/frame"
)

const streamOverhead = frame.StreamOverhead

// maxControl is the most bytes that one control frame takes.
const maxControl = 1 + 4*8 + 2*(2+frame.MaxReason)

// writeLoop writes whatever there is whenever it is woken, until the
// attachment is lost. It takes the lock itself.
func (a *attachment) writeLoop() {
	for {
		select {
		case <-a.dead:
			return
		case <-a.kick:
			a.s.mu.Lock()
			a.flush(false)
			a.s.mu.Unlock()
		}
	}
}

// flush builds messages and writes them until there is nothing to send. Only
// one goroutine does so at a time; what others queue meanwhile goes with the
// next message. Inline, on behalf of a stream's writer, it writes one message
// and leaves the rest to the writer goroutine. The lock is not held during
// the write.
func (a *attachment) flush(inline bool) {
	if a.writing {
		return // whoever is writing looks again afterwards
	}
	a.writing, a.inline = true, inline
	for !a.lost {
		now := time.Now()
		buf, msg := a.build(now)
		if buf == nil {
			break
		}
		closing := a.closeDue
		a.s.mu.Unlock()
		err := a.encodeAndWrite(buf, msg)
		took := time.Since(now)
		a.s.mu.Lock()
		a.flight.blocked = took >= blockedTime
		if err != nil {
			a.fail(err)
		} else if closing {
			a.lose(a.s.err)
		}
		if inline {
			if a.hasWork() {
				a.wake()
			}
			break
		}
	}
	a.writing = false
}

// encodeAndWrite appends the payload that build picked to its message and
// writes it. It runs without the lock: the frames own what they point to.
func (a *attachment) encodeAndWrite(buf *buffer, msg []byte) error {
	if len(a.frames) == 1 && a.frames[0].room && len(msg)+streamOverhead <= headroom {
		msg = a.frames[0].around(msg)
	} else {
		for i, f := range a.frames {
			msg = frame.AppendStream(msg, f.stream.id, f.off, f.data, f.fin, i == len(a.frames)-1)
		}
	}
	a.out[0] = msg
	err := a.c.WriteMessages(a.out[:])
	a.out[0] = nil
	for _, f := range a.frames {
		if f.buf != nil {
			f.buf.release()
		}
	}
	clear(a.frames)
	a.frames = a.frames[:0]
	buf.release()
	return err
}

// around makes the message with what stands before the frame's bytes in their
// headroom, and returns it.
func (f *outFrame) around(before []byte) []byte {
	before = frame.AppendStream(before, f.stream.id, f.off, nil, f.fin, true)
	start := headroom - len(before)
	copy(f.buf.b[start:], before)
	return f.buf.b[start : headroom+len(f.data)]
}

// hasWork reports whether build would make a message.
func (a *attachment) hasWork() bool {
	s := a.s
	if a.broken != nil || a.lost { // a lost one must not take bulk from others
		return false
	}
	if a.closeDue || a.ackDue || a.pongDue || a.pingDue || a.interactive.len() > 0 {
		return true
	}
	return a.speaks() && (s.maxStreamsDue || s.goAwayDue || s.control.len() > 0 || s.datagrams.len() > 0) || a.bulkReady()
}

// speaks reports whether the attachment may send what any carrier could: a
// suspect one leaves that to the others, if there are any.
func (a *attachment) speaks() bool { return !a.suspect || a.s.pick() == a }

// bulkReady reports whether bulk may be sent, stealing some from another
// carrier if there is none here.
func (a *attachment) bulkReady() bool {
	if len(a.s.attached) > 1 {
		a.share()
	}
	if a.bulk.len() == 0 {
		return false
	}
	if !a.flight.allows(minBulk) {
		a.flight.round.binding = true
		a.s.bulkAt = time.Now() // it waits
		return false
	}
	return true
}

// build makes the next message: its control frames are in the returned slice
// already, its stream data is in a.frames. It returns nil if there is nothing
// to send.
//
// Control and acks go first, then interactive streams, then bulk within the
// in-flight limit. When interactive streams have had 7/8 of the carrier while
// bulk waited, bulk goes first once.
func (a *attachment) build(now time.Time) (*buffer, []byte) {
	if !a.hasWork() {
		return nil, nil
	}
	largest := a.c.MaxMessage()
	buf := a.s.opt.Memory.get(largest)
	msg := buf.b[:0]
	if a.closeDue {
		return buf, a.appendClose(msg)
	}
	msg = a.appendControl(now, msg, largest)
	control := len(msg)
	if a.ackBytes > 0 {
		msg = a.appendAck(now, msg)
	}
	size := len(msg)
	bulk := a.bulkReady()
	if bulk {
		a.s.bulkAt = now
	}
	bulkRoom := min(size+a.flight.bulkSize(largest-size), largest)
	if bulk && a.ahead >= (bulkShare-1)*minBulk {
		a.ahead = 0
		size = a.nextBulk(now, size, a.bulkLimit(size, bulkRoom))
	}
	before := size
	size = a.nextInteractive(now, size, largest)
	interactive := size - before
	if bulk && size < bulkRoom {
		size = a.nextBulk(now, size, a.bulkLimit(size, bulkRoom))
	}
	if bulk && size == before+interactive {
		a.ahead += interactive // also if bulk had some room, but not enough for its next frame
	} else {
		a.ahead = 0
	}
	asks := control > 0 || len(a.frames) > 0
	if !asks && !a.ackDue && len(msg) == 0 {
		buf.release() // what was queued had nothing to send after all
		if a.bulk.len() > 0 {
			a.wake() // or has turned to bulk since that was looked at
		}
		return nil, nil
	}
	a.recordSent(now, size, asks)
	return buf, msg
}

// bulkLimit returns up to where a message of size bytes may be filled with bulk.
func (a *attachment) bulkLimit(size, room int) int {
	if a.flight.unacked == 0 {
		return room
	}
	return min(room, size+a.flight.limit-a.flight.unacked)
}

// recordSent counts the message under construction as sent.
func (a *attachment) recordSent(now time.Time, size int, asks bool) {
	for i := range a.frames {
		f := &a.frames[i]
		to := f.off + uint64(len(f.data))
		a.records.push(record{message: a.sentCount, stream: f.stream, from: f.off, to: to, fin: f.fin})
	}
	m := message{sent: now, asks: asks}
	if asks {
		m.bytes = size
		m.sample = a.flight.sent(now, a.sentCount, size)
		a.asks++
		a.lastSent = now
		if a.askedAt.IsZero() {
			a.askedAt = now
			a.s.schedule(now.Add(a.suspectAfter()))
		}
	}
	a.inFlight.push(m)
	a.sentCount++
}

// note records that the message under construction holds something about st.
func (a *attachment) note(kind recordKind, st *Stream) {
	a.records.push(record{message: a.sentCount, kind: kind, stream: st})
}

func (a *attachment) appendAck(now time.Time, b []byte) []byte {
	delay := now.Sub(a.ackFrom)
	a.ackBytes, a.ackDue, a.ackAt, a.lastAck = 0, false, time.Time{}, now
	return frame.AppendCarrierAck(b, a.recvCount, uint64(max(0, delay.Microseconds())))
}

func (a *attachment) appendClose(b []byte) []byte {
	code, reason := CloseDone, ""
	if e, ok := errors.AsType[*CloseError](a.s.err); ok {
		code, reason = e.Code, e.Reason
	}
	return frame.AppendClose(b, uint64(code), reason)
}

// appendControl appends every control frame that is due, as far as there is room.
func (a *attachment) appendControl(now time.Time, b []byte, largest int) []byte {
	s := a.s
	if a.pongDue {
		a.pongDue = false
		b = frame.AppendPong(b, a.pong)
	}
	if a.pingDue {
		a.pingDue, a.pingSent = false, now
		b = frame.AppendPing(b, a.pingSeq)
	}
	if !a.speaks() {
		return b
	}
	if s.maxStreamsDue {
		s.maxStreamsDue, s.peerTold = false, s.peerMax
		b = frame.AppendMaxStreams(b, s.peerMax)
		a.note(recordMaxStreams, nil)
	}
	if s.goAwayDue {
		s.goAwayDue, s.goAwaySent = false, true
		g := s.goAway
		b = frame.AppendGoAway(b, uint64(g.Code), uint64(g.Delay.Milliseconds()), g.URL, g.Reason)
		a.note(recordGoAway, nil)
	}
	for s.control.len() > 0 && len(b)+3*maxControl < largest {
		st := s.control.pop()
		st.inControl = false
		b = a.appendStreamControl(b, st)
	}
	return s.appendDatagrams(b, largest)
}

func (a *attachment) appendStreamControl(b []byte, st *Stream) []byte {
	if st.resetDue {
		st.resetDue = false
		r := st.out.reset
		b = frame.AppendResetStream(b, st.id, r.Code, st.out.sent, r.Reason)
		a.note(recordReset, st)
	}
	if st.stopDue {
		st.stopDue = false
		b = frame.AppendStopSending(b, st.id, st.stopReason.Code, st.stopReason.Reason)
		a.note(recordStop, st)
	}
	if st.creditDue {
		st.creditDue = false
		b = frame.AppendCredit(b, st.id, st.in.limit)
		a.note(recordCredit, st)
	}
	return b
}
