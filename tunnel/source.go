package tunnel

import (
	"errors"
	"io"
	"net"
	"syscall"

	"sallyport/tunnel/internal/sock"
)

// source reads from a reader into pooled buffers. From a socket it takes one
// only when there is something to read.
type source struct {
	r   io.Reader
	raw syscall.RawConn // nil if r is not a socket
	mem *Memory

	// Of the read under way; they are here so that it allocates nothing.
	buf     *buffer
	n       int
	errno   error
	attempt func(fd uintptr) (done bool)
	looked  bool // the first look, before any wait, is over
}

func newSource(r io.Reader, mem *Memory) *source {
	s := &source{r: r, mem: mem}
	s.attempt = s.try
	if _, ok := r.(net.Conn); !ok || !sock.CanPoll {
		return s // a file's descriptor may block
	}
	if c, ok := r.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	return s
}

// read returns a buffer and how many bytes were read, which begin after its
// headroom. The caller releases the buffer, which may be nil if there is
// nothing in it. Before its first wait it calls wait.
func (s *source) read(wait func()) (*buffer, int, error) {
	if s.raw != nil {
		return s.readRaw(wait)
	}
	if !s.looked {
		s.looked = true
		wait()
	}
	buf := s.mem.get(MaxMessage)
	n, err := s.r.Read(buf.b[headroom:])
	return buf, n, err
}

// readRaw waits until the socket is readable before it takes a buffer.
func (s *source) readRaw(wait func()) (*buffer, int, error) {
	var err error
	if !s.looked {
		s.looked = true
		err = s.raw.Read(func(fd uintptr) bool { s.try(fd); return true })
		if err == nil && errors.Is(s.errno, syscall.EAGAIN) {
			wait()
			err = s.raw.Read(s.attempt)
		}
	} else {
		err = s.raw.Read(s.attempt)
	}
	buf := s.buf
	s.buf = nil
	switch {
	case err != nil:
		return buf, 0, err
	case s.errno != nil:
		return buf, 0, &socketError{"read", s.errno}
	case s.n == 0:
		return buf, 0, io.EOF
	}
	return buf, s.n, nil
}

// try is called when the socket may be readable. If it is not, the buffer goes
// back.
func (s *source) try(fd uintptr) bool {
	s.buf = s.mem.get(MaxMessage)
	s.n, s.errno = sock.Read(fd, s.buf.b[headroom:])
	if errors.Is(s.errno, syscall.EAGAIN) {
		s.buf.release()
		s.buf = nil
		return false
	}
	return true
}

// socketError is a failed read or write of a socket.
type socketError struct {
	op  string
	err error
}

func (e *socketError) Error() string { return e.op + ": " + e.err.Error() }
func (e *socketError) Unwrap() error { return e.err }
