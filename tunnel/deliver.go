package tunnel

import (
	"errors"
	"io"
	"net"
	"syscall"

	"sallyport/tunnel/internal/sock"
)

// WriteTo writes everything up to the peer's FIN to w, straight from the
// buffers in which it arrived.
//
// If w is a socket, a carrier's reader that has just taken in bytes hands them
// to it right away, as far as the socket takes them without blocking. That
// saves waking this goroutine, which does the rest.
func (st *Stream) WriteTo(w io.Writer) (n int64, err error) {
	st.reading.Lock()
	defer st.reading.Unlock()
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	st.sink = newSink(w)
	start := st.received
	defer func() {
		n = int64(st.received - start)
		st.sink = nil
	}()
	for {
		if err := st.awaitReadable(); err != nil {
			if err == io.EOF { //nolint:errorlint // only the bare io.EOF is an end; an error around one is a failure
				err = nil
			}
			return n, err
		}
		if err := st.writeFirst(w); err != nil {
			return n, err
		}
	}
}

// writeFirst writes the first segment to w. The lock is not held during the write.
func (st *Stream) writeFirst(w io.Writer) error {
	g := *st.in.segs.at(0)
	g.buf.retain() // a reset may release the segment meanwhile
	st.setBusy(true)
	st.session.mu.Unlock()
	k, err := w.Write(g.data)
	g.buf.release()
	st.session.mu.Lock()
	st.setBusy(false)
	st.wrote(k)
	return err
}

// wrote consumes what a write took of the first segment, unless a reset has
// dropped it meanwhile.
func (st *Stream) wrote(n int) {
	if st.in.read < st.in.ready {
		st.in.advance(n)
	}
	st.consumed(n)
}

func (st *Stream) setBusy(on bool) {
	if st.sink != nil {
		st.sink.busy = on
	}
}

// sink is a socket that can be written to without blocking.
type sink struct {
	raw  syscall.RawConn
	busy bool  // somebody is writing to it
	err  error // a write failed; WriteTo returns it

	// Of the write under way; they are here so that it allocates nothing.
	p       []byte
	n       int
	errno   error
	attempt func(fd uintptr) (done bool)
}

// newSink returns nil if w cannot be written to without blocking. An *os.File
// may have a descriptor that blocks, as stdout's often does: only sockets will do.
func newSink(w io.Writer) *sink {
	if _, ok := w.(net.Conn); !ok || !sock.CanPoll {
		return nil
	}
	if c, ok := w.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			k := &sink{raw: raw}
			k.attempt = k.try
			return k
		}
	}
	return nil
}

// write writes what the socket takes at once.
func (k *sink) write(p []byte) (n int, err error) {
	k.p, k.n, k.errno = p, 0, nil
	err = k.raw.Write(k.attempt)
	k.p = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(k.errno, syscall.EAGAIN):
		return 0, nil
	case k.errno != nil:
		return 0, &socketError{"write", k.errno}
	}
	return k.n, nil
}

// try does not wait: it is always done.
func (k *sink) try(fd uintptr) bool {
	k.n, k.errno = sock.Write(fd, k.p)
	return true
}

// handOver is a stream whose bytes the reader hands over, and the sink that it
// has taken hold of by marking it busy: WriteTo does not return before the
// reader has let go of it.
type handOver struct {
	stream *Stream
	sink   *sink
}

// deliverable notes that the stream has bytes to hand over once the whole
// message is taken in, or wakes who waits for them.
func (a *attachment) deliverable(st *Stream) {
	if st.sink == nil || st.sink.busy || st.sink.err != nil {
		st.readable.Broadcast() // Read and ReceiveDatagram may both wait
		return
	}
	st.sink.busy = true
	a.direct = append(a.direct, handOver{st, st.sink})
}

// maxDirect is how many segments a carrier's reader hands over before it goes
// back to reading.
const maxDirect = 4

// deliver hands over what the latest message brought. The lock is held, but
// not while it writes.
func (a *attachment) deliver() {
	for i, h := range a.direct {
		st, k := h.stream, h.sink
		for range maxDirect {
			if st.in.read == st.in.ready || k.err != nil {
				break
			}
			g := *st.in.segs.at(0)
			g.buf.retain()
			a.s.mu.Unlock()
			n, err := k.write(g.data)
			g.buf.release()
			a.s.mu.Lock()
			st.wrote(n)
			if k.err = err; n < len(g.data) {
				break
			}
		}
		k.busy = false
		if st.in.read < st.in.ready || st.in.hasFinal || k.err != nil || st.abandoned || st.in.discard || st.readBy.passed() {
			st.readable.Broadcast()
		}
		a.direct[i] = handOver{}
	}
	a.direct = a.direct[:0]
}
