package tunnel

import (
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Stream is one bidirectional byte stream of a session. It is a net.Conn with
// half-close ([Stream.CloseWrite]) and abort ([Stream.Reset]), and it neither
// knows nor cares which carriers its bytes travel on.
//
// Reading and writing may go on at the same time, and so may any other call.
type Stream struct {
	session *Session
	id      uint64
	own     bool       // we opened it
	reading sync.Mutex // held over a whole Read, WriteTo
	writing sync.Mutex // held over a whole Write, ReadFrom

	// Guarded by session.mu.
	in             incoming
	out            outgoing
	readable       sync.Cond
	writable       sync.Cond
	readBy         deadline
	writeBy        deadline
	stopReason     *StreamError // of the STOP_SENDING that we owe or sent
	stopped        *StreamError // the peer's STOP_SENDING
	creditDue      bool
	resetDue       bool
	stopDue        bool
	inControl      bool            // in session.control
	home           *attachment     // which carrier it is sent on
	queued         bool            // in one of home's queues
	turn           int             // bytes left of its turn in the bulk queue
	periodStart    time.Time       // of interactivePeriod
	periodBytes    int             // sent in it
	wasBulk        bool            // in the period before
	moves          int             // to carriers that stole it, since what was in flight
	movesFrom      uint64          // when they were last counted from 0, up to here
	charged        int             // of session.sendCharged
	datagrams      deque[datagram] // received, not read
	datagramsDue   int             // of ours, waiting in session.datagrams
	sink           *sink           // where WriteTo writes to; nil if not at once
	spoken         bool            // the peer has said something on it, or we opened it
	abandoned      bool            // the session is over
	forgotten      bool
	released       bool // the handler has ended
	slotBack       bool
	doneCh         chan struct{}
	afterDone      []*func()
	received, sent uint64 // for Stats
	moved          uint64 // of both, before the period of look
	look           uint64 // the crowd's next when it last moved any
}

// ID returns the stream's id in its session.
func (st *Stream) ID() uint64 { return st.id }

// Session returns the stream's session.
func (st *Stream) Session() *Session { return st.session }

// Addr is the address of one end of a stream.
type Addr struct {
	Stream uint64
	Peer   string // the identity, if known
}

// Network returns "sallyport".
func (Addr) Network() string { return "sallyport" }

func (a Addr) String() string { return a.Peer + "#" + strconv.FormatUint(a.Stream, 10) }

// LocalAddr returns an Addr.
func (st *Stream) LocalAddr() net.Addr { return Addr{Stream: st.id} }

// RemoteAddr returns an Addr with the peer's identity.
func (st *Stream) RemoteAddr() net.Addr { return Addr{st.id, st.session.identity} }

// Read reads what has arrived, and waits if nothing has. It returns io.EOF
// after the peer's FIN, a *StreamError if the peer has reset the stream, and
// why the session is over if it is.
func (st *Stream) Read(p []byte) (n int, err error) {
	st.reading.Lock()
	defer st.reading.Unlock()
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if err := st.awaitReadable(); err != nil {
		return 0, err
	}
	for n < len(p) && st.in.read < st.in.ready {
		k := copy(p[n:], st.in.segs.at(0).data)
		st.in.advance(k)
		n += k
	}
	st.consumed(n)
	return n, nil
}

// awaitReadable waits for a byte; otherwise it says why none will come.
func (st *Stream) awaitReadable() error {
	for {
		in := &st.in
		switch {
		case st.sink != nil && st.sink.busy:
		case in.reset != nil:
			return in.reset
		case in.discard:
			return errClosedStream
		case st.sink != nil && st.sink.err != nil:
			return st.sink.err
		case st.readBy.passed():
			return os.ErrDeadlineExceeded
		case in.read < in.ready:
			return nil
		case in.hasFinal && in.read == in.final:
			return io.EOF
		case st.abandoned:
			return st.session.err
		}
		st.readable.Wait()
	}
}

// consumed gives the peer new credit when enough was read.
func (st *Stream) consumed(n int) {
	s := st.session
	s.crowd.moves(st)
	st.received += uint64(n)
	s.counters.received += uint64(n)
	st.refund()
	if st.abandoned {
		return
	}
	if _, due := st.in.creditDue(time.Now(), s.path.min(), &s.receiveBudget); due {
		st.creditDue = true
		st.controlDue()
	}
}

// CloseWrite ends our direction: after what was written, the peer reads EOF.
// The other direction stays open.
func (st *Stream) CloseWrite() error {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := st.writeError(); err != nil {
		return err
	}
	st.finish()
	return nil
}

func (st *Stream) finish() {
	if !st.out.closed && st.out.reset == nil && !st.abandoned {
		st.out.closed = true
		st.writable.Broadcast()
		st.send(false)
	}
}

// CloseRead says that we read no more: the peer is asked to stop sending, and
// what comes all the same is dropped.
func (st *Stream) CloseRead(code uint64, reason string) error {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	st.stop(&StreamError{Code: code, Reason: reason})
	return nil
}

func (st *Stream) stop(why *StreamError) {
	st.dropDatagrams()
	if st.in.discard || st.in.reset != nil {
		return
	}
	complete := st.in.hasFinal && st.in.ready == st.in.final
	st.in.discard = true
	st.in.drop()
	st.readable.Broadcast()
	if !complete && !st.abandoned {
		st.stopReason, st.stopDue = why, true
		st.controlDue()
	}
	st.session.forget(st)
}

// Reset aborts both directions at once. The peer's calls fail with a
// *StreamError that holds code and reason; what was under way is dropped.
func (st *Stream) Reset(code uint64, reason string) error {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	why := &StreamError{Code: code, Reason: reason}
	st.abort(why)
	st.stop(why)
	st.released = true
	s.forget(st)
	return nil
}

// abort ends our direction with a RESET_STREAM.
func (st *Stream) abort(why *StreamError) {
	if st.out.reset != nil || st.out.done() || st.abandoned {
		return
	}
	st.out.abort(why)
	st.charge()
	st.writable.Broadcast()
	st.resetDue = true
	st.controlDue()
}

// Close ends the stream: the peer gets everything that was written and then
// EOF; unless it had finished, it is asked to stop sending, and unread bytes
// are dropped. The handler of an accepted stream must call it (or Reset) last.
func (st *Stream) Close() error {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	st.finish()
	st.stop(&StreamError{Code: CodeClosed, Reason: "the reader closed the stream"})
	st.released = true
	s.forget(st)
	return nil
}

// Done is closed when neither direction can carry anything any more because
// the peer has aborted or stopped both, or the session is over.
func (st *Stream) Done() <-chan struct{} {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.doneCh == nil {
		st.doneCh = make(chan struct{})
		st.checkDone()
	}
	return st.doneCh
}

// AfterDone calls f in a goroutine of its own when Done is closed, as
// context.AfterFunc does. stop prevents that, and reports whether it did: if
// not, it is for the caller to wait for f.
func (st *Stream) AfterDone(f func()) (stop func() bool) {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &f
	st.afterDone = append(st.afterDone, w)
	st.checkDone()
	return func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		i := slices.Index(st.afterDone, w)
		if i < 0 {
			return false
		}
		st.afterDone = slices.Delete(st.afterDone, i, i+1)
		return true
	}
}

// checkDone tells those who wait for Done if its time has come.
func (st *Stream) checkDone() {
	if st.doneCh == nil && len(st.afterDone) == 0 {
		return
	}
	in := &st.in
	complete := in.hasFinal && in.ready == in.final
	if !(st.abandoned || in.reset != nil && (st.stopped != nil || st.out.finAcked) || complete && st.stopped != nil) {
		return
	}
	for _, f := range st.afterDone {
		go (*f)()
	}
	st.afterDone = nil
	select {
	case <-st.doneCh:
	default:
		if st.doneCh != nil {
			close(st.doneCh)
		}
	}
}

// abandon ends the stream with its session. What can be read still can.
func (st *Stream) abandon() {
	st.abandoned = true
	st.out.drop()
	st.charge()
	st.readable.Broadcast()
	st.writable.Broadcast()
	st.checkDone()
}

// SetDeadline sets both deadlines.
func (st *Stream) SetDeadline(t time.Time) error {
	st.readBy.set(&st.readable, t)
	st.writeBy.set(&st.writable, t)
	return nil
}

// SetReadDeadline bounds Read and WriteTo; the zero time means no bound.
func (st *Stream) SetReadDeadline(t time.Time) error {
	st.readBy.set(&st.readable, t)
	return nil
}

// SetWriteDeadline bounds how long Write and ReadFrom wait for room; the zero
// time means no bound.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	st.writeBy.set(&st.writable, t)
	return nil
}

// deadline wakes the waiters of a condition when a time has come.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// set takes c's lock itself.
func (d *deadline) set(c *sync.Cond, t time.Time) {
	c.L.Lock()
	defer c.L.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), func() {
			c.L.Lock()
			defer c.L.Unlock()
			c.Broadcast()
		})
	}
	c.Broadcast()
}
