package tunnel

import (
	"errors"
	"io"
	"syscall"
)

// source reads from a reader into pooled buffers, taking one only when there
// is something to read, where the system can tell.
type source struct {
	r   io.Reader
	raw syscall.RawConn // nil if r is not a socket or pipe
	mem *Memory
}

func newSource(r io.Reader, mem *Memory) *source {
	s := &source{r: r, mem: mem}
	if c, ok := r.(syscall.Conn); ok && canPoll {
		if raw, err := c.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	return s
}

// read returns a buffer and how many bytes were read, which begin after its
// headroom. The caller releases the buffer, which may be nil if there is
// nothing in it.
func (s *source) read() (*buffer, int, error) {
	if s.raw != nil {
		return s.readRaw()
	}
	buf := s.mem.get(MaxMessage)
	n, err := s.r.Read(buf.b[headroom:])
	return buf, n, err
}

// readRaw waits until the socket is readable before it takes a buffer.
func (s *source) readRaw() (buf *buffer, n int, err error) {
	werr := s.raw.Read(func(fd uintptr) bool {
		buf = s.mem.get(MaxMessage)
		for {
			n, err = readFD(fd, buf.b[headroom:])
			if !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		if errors.Is(err, syscall.EAGAIN) {
			buf.release()
			buf, n, err = nil, 0, nil
			return false
		}
		return true
	})
	switch {
	case werr != nil:
		return buf, 0, werr
	case err != nil:
		return buf, 0, &socketError{"read", err}
	case n == 0:
		return buf, 0, io.EOF
	}
	return buf, n, nil
}

// socketError is a failed read or write of a socket.
type socketError struct {
	op  string
	err error
}

func (e *socketError) Error() string { return e.op + ": " + e.err.Error() }
func (e *socketError) Unwrap() error { return e.err }
