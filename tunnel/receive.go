package tunnel

import (
	"fmt"
	"time"

	"sallyport/tunnel/internal/frame"
)

// readLoop takes in messages until the attachment is lost. It takes the lock
// itself, and waits for nothing but the carrier.
func (a *attachment) readLoop() {
	r := newMessageReader(a.c, a.s.opt.Memory)
	for {
		n, err := r.next()
		a.s.mu.Lock()
		switch {
		case err != nil:
			a.lose(fmt.Errorf("carrier lost: %w", err))
		case !a.lost:
			if err := a.receive(time.Now(), r.buf, n); err != nil {
				a.s.end(err) // the carrier stays until the CLOSE is written
			}
			a.deliver()
		}
		lost := a.lost
		a.s.mu.Unlock()
		r.release()
		if lost {
			return
		}
	}
}

// messageReader reads messages into pooled buffers, which it takes only when
// one has begun.
type messageReader struct {
	c    Carrier
	buf  *buffer // of the latest message; nil if none was begun
	take func() []byte
}

func newMessageReader(c Carrier, mem *Memory) *messageReader {
	r := &messageReader{c: c}
	r.take = func() []byte {
		r.buf = mem.get(MaxMessage)
		return r.buf.b
	}
	return r
}

// next reads a message, whose bytes are at the front of r.buf until release.
func (r *messageReader) next() (int, error) { return r.c.ReadMessage(r.take) }

func (r *messageReader) release() {
	if r.buf != nil {
		r.buf.release()
		r.buf = nil
	}
}

// receive takes in one message. An error of it is the peer's fault and ends
// the session.
func (a *attachment) receive(now time.Time, buf *buffer, n int) error {
	s := a.s
	if s.err != nil {
		return nil
	}
	s.confirmed = true
	a.recvCount++
	a.ackFrom = now
	var f frame.Frame
	asks := false
	for msg := buf.b[:n]; len(msg) > 0; {
		rest, err := frame.Next(&f, msg)
		if err != nil {
			return protocolError("%v", err)
		}
		msg = rest
		if f.Type != frame.TypeCarrierAck {
			asks = true
		}
		if err := a.onFrame(now, &f, buf); err != nil {
			return err
		}
		if s.err != nil || a.lost {
			return nil
		}
	}
	if a.inFlight.len() > maxUnacked {
		a.lose(errNoAcks)
		return nil
	}
	a.alive(now)
	s.watchCrowd(now)
	if asks || n == 0 {
		a.ackLater(now, max(n, 1))
	}
	if a.hasWork() {
		a.wake()
	}
	return nil
}

// alive notes a sign of life.
func (a *attachment) alive(now time.Time) {
	a.askedAt = time.Time{}
	if a.asks > 0 {
		a.askedAt = now
		a.s.schedule(now.Add(a.suspectAfter()))
	}
	if a.suspect && a.broken == nil {
		a.suspect, a.spoke = false, now
		a.silences++
		for _, other := range a.s.attached {
			if other.suspect {
				other.moveAway() // there is somewhere to go now
			}
		}
		a.s.changed.Broadcast()
	}
}

// ackLater decides when to ack: at once if enough has come and the last ack
// is old enough, otherwise when that is so, or when it has waited long.
func (a *attachment) ackLater(now time.Time, n int) {
	if a.ackBytes == 0 {
		a.ackAt = now.Add(ackDelay)
	}
	a.ackBytes += n
	if a.ackBytes >= ackBytes {
		a.ackAt = a.lastAck.Add(ackInterval)
		a.ackDue = a.ackBytes >= ackAtOnce || !now.Before(a.ackAt)
	}
	if !a.ackDue {
		a.s.schedule(a.ackAt)
	}
}

func (a *attachment) onFrame(now time.Time, f *frame.Frame, buf *buffer) error {
	s := a.s
	switch f.Type {
	case frame.TypeStream:
		if len(f.Data) > 0 {
			s.dataCame(now)
		}
		return a.onStream(now, f, buf)
	case frame.TypeCarrierAck:
		return a.onAck(now, f.Count, time.Duration(min(f.Delay, uint64(time.Hour/time.Microsecond)))*time.Microsecond)
	case frame.TypeCredit:
		return s.onCredit(f)
	case frame.TypeResetStream:
		return s.onReset(f)
	case frame.TypeStopSending:
		return s.onStop(f)
	case frame.TypeMaxStreams:
		if f.Count > s.maxOpen {
			s.maxOpen = f.Count
			s.changed.Broadcast()
		}
	case frame.TypePing:
		a.pong, a.pongDue = f.Count, true
	case frame.TypePong:
		a.onPong(now, f.Count)
	case frame.TypeDatagram:
		return s.onDatagram(f)
	case frame.TypeGoAway:
		s.onGoAway(f)
	case frame.TypeClose:
		s.end(&CloseError{Code: CloseCode(f.Code), Reason: string(f.Reason), Remote: true})
	default:
		return protocolError("%v after the handshake", f.Type)
	}
	return nil
}

// dataCame watches a client's incoming data: when it was flowing and stops, the
// client asks whether its carriers are alive. The server's own unacked data
// tells the server, but only the client can dial.
func (s *Session) dataCame(now time.Time) {
	if !s.client {
		return
	}
	s.flowing = s.flowing || now.Sub(s.dataAt) < stallAfter
	s.dataAt, s.stallAsked = now, false
	if s.flowing {
		s.schedule(now.Add(stallAfter))
	}
}

func (a *attachment) onStream(now time.Time, f *frame.Frame, buf *buffer) error {
	s := a.s
	st, err := s.peerStream(f.Stream)
	if st == nil || err != nil {
		return err
	}
	in := &st.in
	end := f.Offset + uint64(len(f.Data))
	switch {
	case end > in.limit:
		return protocolError("stream %d: data up to %d, credit up to %d", f.Stream, end, in.limit)
	case in.hasFinal && (end > in.final || f.Fin && end != in.final):
		return protocolError("stream %d: data or FIN at %d, final size was %d", f.Stream, end, in.final)
	case f.Fin && end < in.highest():
		return protocolError("stream %d: FIN at %d, data had come up to %d", f.Stream, end, in.highest())
	}
	if f.Fin {
		in.hasFinal, in.final = true, end
	}
	in.observe(now, s.path.min())
	if err := in.insert(f.Offset, f.Data, buf); err != nil {
		return err
	}
	st.speak()
	if in.read < in.ready || in.hasFinal {
		a.deliverable(st)
	}
	st.checkDone()
	s.forget(st)
	return nil
}

// speak offers a stream of the peer's to Accept at its first sign.
func (st *Stream) speak() {
	s := st.session
	if st.spoken || st.own {
		return
	}
	st.spoken = true
	if s.opt.Memory.full() {
		why := &StreamError{Code: CodeLimit, Reason: "the agent has no memory left for new streams"}
		st.abort(why)
		st.stop(why)
		st.released = true
		return
	}
	s.acceptable.push(st)
	s.arrived.Signal()
}

func (s *Session) onCredit(f *frame.Frame) error {
	st, err := s.peerStream(f.Stream)
	if st == nil || err != nil {
		return err
	}
	if f.Offset > st.out.limit {
		st.out.limit = f.Offset
		st.push()
	}
	return nil
}

func (s *Session) onReset(f *frame.Frame) error {
	st, err := s.peerStream(f.Stream)
	if st == nil || err != nil {
		return err
	}
	in := &st.in
	switch {
	case f.Offset > in.limit:
		return protocolError("stream %d: final size %d, credit up to %d", f.Stream, f.Offset, in.limit)
	case f.Offset < in.highest() || in.hasFinal && f.Offset != in.final:
		return protocolError("stream %d: reset at %d does not fit what had come", f.Stream, f.Offset)
	}
	if in.hasFinal && in.ready == in.final && !in.discard {
		return nil // everything had arrived before: the abort came too late
	}
	if in.reset == nil {
		in.reset = &StreamError{Code: f.Code, Reason: string(f.Reason), Remote: true}
		in.hasFinal, in.final = true, f.Offset
		in.drop()
		st.readable.Broadcast()
		st.checkDone()
	}
	st.speak()
	s.forget(st)
	return nil
}

func (s *Session) onStop(f *frame.Frame) error {
	st, err := s.peerStream(f.Stream)
	if st == nil || err != nil {
		return err
	}
	if st.stopped == nil && !st.out.done() {
		st.stopped = &StreamError{Code: f.Code, Reason: string(f.Reason), Remote: true}
		st.abort(&StreamError{Code: f.Code, Reason: string(f.Reason)}) // RFC 9000 §3.5
		st.writable.Broadcast()
		st.checkDone()
	}
	st.speak()
	return nil
}

// onAck takes note of the messages that the peer has, and measures.
func (a *attachment) onAck(now time.Time, count uint64, delay time.Duration) error {
	if count > a.sentCount {
		return protocolError("ack of %d messages, %d were sent", count, a.sentCount)
	}
	if count <= a.ackedCount {
		return nil
	}
	newest, asking, n := a.settle(count)
	delay = min(delay, now.Sub(newest.sent)) // the peer may say anything
	d := now.Sub(newest.sent) - delay
	if n > 0 {
		a.s.path.observe(now, d)
		a.flight.acked(now.Add(-delay), count, n, asking, d, a.sentCount)
		a.measured(newest.sent, d)
	}
	return nil
}

// measured smooths round trips as TCP does (RFC 6298 §2). One that ended a
// silence tells of that, not of the path, or the next silence would be found
// later; several in a row are the path's.
func (a *attachment) measured(sent time.Time, rtt time.Duration) {
	silence := a.suspect || sent.Before(a.spoke)
	switch {
	case a.rtt == 0:
		a.rtt = rtt
	case !silence || a.silences > maxSilences:
		a.rtt += (rtt - a.rtt) / 8
	}
	if !silence {
		a.silences = 0
	}
}

func (a *attachment) onPong(now time.Time, seq uint64) {
	if seq > a.pongSeen && seq == a.pingSeq {
		rtt := now.Sub(a.pingSent)
		a.measured(a.pingSent, rtt)
		if a.s.opt.Trace.RTT != nil {
			a.s.opt.Trace.RTT(rtt)
		}
	}
	if seq <= a.pingSeq {
		a.pongSeen = max(a.pongSeen, seq)
	}
	a.s.changed.Broadcast()
}
