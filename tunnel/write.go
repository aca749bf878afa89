package tunnel

import (
	"io"
	"os"
)

// Write hands p to the session, which keeps it until the peer has it. It waits
// while as much as the stream may hold ahead of the network is waiting. It
// returns a *StreamError if the stream was reset or the peer has stopped
// reading, and why the session is over if it is.
func (st *Stream) Write(p []byte) (n int, err error) {
	st.writing.Lock()
	defer st.writing.Unlock()
	return st.write(p, true)
}

// WriteLater is Write for something short that a ReadFrom follows: it goes out
// together with what that finds to read at once. What is not short goes at once.
func (st *Stream) WriteLater(p []byte) (n int, err error) {
	st.writing.Lock()
	defer st.writing.Unlock()
	return st.write(p, false)
}

// write sends what it has queued, if now or when it must wait for room. So much
// is never left that whoever writes next would wait for it to be sent.
func (st *Stream) write(p []byte, now bool) (n int, err error) {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := st.awaitWritable(); err != nil {
			return n, err
		}
		if n == len(p) {
			return n, nil
		}
		if k := st.out.fill(p[n:]); k > 0 {
			n += k
		} else {
			k = min(len(p)-n, readSize)
			start := 0
			if k >= minBulk {
				start = headroom
			}
			buf := s.opt.Memory.get(max(start+k, min(st.out.held/2, MaxMessage/4)))
			s.mu.Unlock() // the copy may be long
			data := buf.b[start : start+copy(buf.b[start:], p[n:n+k])]
			s.mu.Lock()
			if err := st.writeError(); err != nil {
				buf.release()
				return n, err
			}
			st.out.push(buf, data, start > 0)
			n += k
		}
		st.charge()
		if now || n < len(p) || st.out.unsent() >= minBulk {
			st.send(false)
		}
		if n == len(p) {
			return n, nil
		}
	}
}

// ReadFrom writes everything that r yields up to its EOF, which it does not
// pass on (CloseWrite does). If r is a socket, it takes a buffer only when there
// is something to read, so an idle stream holds none. What it has read it writes
// to an idle carrier itself: a carrier's slow write holds it up.
func (st *Stream) ReadFrom(r io.Reader) (n int64, err error) {
	st.writing.Lock()
	defer st.writing.Unlock()
	s := st.session
	src := newSource(r, s.opt.Memory)
	for {
		s.mu.Lock()
		err := st.awaitWritable()
		s.mu.Unlock()
		if err != nil {
			return n, err
		}
		buf, k, err := src.read(st.flushLater)
		n += int64(k)
		if k > 0 {
			if werr := st.give(buf, k); werr != nil {
				return n, werr
			}
		} else if buf != nil {
			buf.release()
		}
		if err != nil {
			if err == io.EOF { //nolint:errorlint // only the bare io.EOF is an end; an error around one is a failure
				err = nil
			}
			return n, err
		}
	}
}

// flushLater sends what WriteLater has left. It takes the lock itself.
func (st *Stream) flushLater() {
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	st.send(false)
}

// give appends n bytes behind buf's headroom and takes over its reference. It
// takes the lock itself.
func (st *Stream) give(buf *buffer, n int) error {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := st.writeError(); err != nil {
		buf.release()
		return err
	}
	data := buf.b[headroom : headroom+n]
	if !worthKeeping(data, buf) {
		data = data[st.out.fill(data):]
		if len(data) > 0 {
			small := s.opt.Memory.get(max(len(data), min(st.out.held/2, MaxMessage/4)))
			st.out.push(small, append(small.b[:0], data...), false)
		}
		buf.release()
	} else {
		st.out.push(buf, data, true)
	}
	st.charge()
	st.send(true)
	return nil
}

// awaitWritable waits for room for at least one more buffer.
func (st *Stream) awaitWritable() error {
	s := st.session
	for {
		if err := st.writeError(); err != nil {
			return err
		}
		if st.writeBy.passed() {
			return os.ErrDeadlineExceeded
		}
		if st.out.unsent() < maxUnsent {
			if st.out.held < initialWindow || s.sendCharged < s.opt.SendBudget {
				return nil
			}
			s.sendWaiters = true
		}
		st.writable.Wait()
	}
}

// writeError says why nothing more can be written.
func (st *Stream) writeError() error {
	switch {
	case st.stopped != nil:
		return st.stopped
	case st.out.reset != nil:
		return st.out.reset
	case st.abandoned:
		return st.session.err
	case st.out.closed:
		return errClosedStream
	}
	return nil
}

// charge keeps the session's count of what its streams hold beyond their own
// share, and lets writers go on that waited for it to fall.
func (st *Stream) charge() {
	s := st.session
	c := max(0, st.out.held-initialWindow)
	s.sendCharged += c - st.charged
	st.charged = c
	if s.sendWaiters && s.sendCharged < s.opt.SendBudget {
		s.sendWaiters = false
		for _, other := range s.streams {
			other.writable.Broadcast()
		}
	}
}
