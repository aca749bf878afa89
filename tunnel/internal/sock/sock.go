// Package sock reads and writes sockets without blocking, at the least cost that Go allows.
//
// A system call that may block is announced to Go's scheduler: when the whole program was idle before, that wakes the
// runtime's monitor thread, and whenever the call takes longer than 20 µs its processor may be handed to another
// thread. For a relay, whose every byte comes after an idle moment, that was a third of its processor time. A call that
// cannot block need not be announced, so on Linux [Read] and [Write] are recv and send with MSG_DONTWAIT, as raw calls.
// With the race detector, and on other systems, they are the ordinary ones.
package sock

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Conn is a TCP connection whose Read and Write are this package's.
type Conn struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out half
}

// half is one direction of a Conn: the arguments and results of a call, which outlive it so that it allocates nothing.
type half struct {
	mu   sync.Mutex // one call at a time
	p    []byte
	n    int
	err  error
	call func(fd uintptr) (done bool)
}

// Wrap returns conn as a *Conn if it is a TCP connection of a system where that helps, otherwise conn itself.
func Wrap(conn net.Conn) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok || !quick {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	c := &Conn{TCPConn: tcp, raw: raw}
	c.in.call, c.out.call = c.in.read, c.out.write
	return c
}

// NetConn is what lies below.
func (c *Conn) NetConn() net.Conn { return c.TCPConn }

// Read is net.Conn's.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.in.do(p, c.raw.Read)
	switch {
	case err != nil:
		return n, c.error("read", err)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write is net.Conn's.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.do(p, c.raw.Write)
	if err != nil {
		return n, c.error("write", err)
	}
	return n, nil
}

// ReadFrom hides the TCP connection's own, which would bypass Write.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c}, r)
}

// WriteTo hides the TCP connection's own, which would bypass Read.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}

func (h *half) do(p []byte, wait func(func(uintptr) bool) error) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.p, h.n, h.err = p, 0, nil
	err := wait(h.call)
	h.p = nil
	if err == nil {
		err = h.err
	}
	return h.n, err
}

func (h *half) read(fd uintptr) bool {
	h.n, h.err = Read(fd, h.p)
	return !errors.Is(h.err, syscall.EAGAIN)
}

// write goes on until everything is written.
func (h *half) write(fd uintptr) bool {
	for h.n < len(h.p) {
		n, err := Write(fd, h.p[h.n:])
		if errors.Is(err, syscall.EAGAIN) {
			return false
		}
		if h.err = err; err != nil {
			break
		}
		h.n += n
	}
	return true
}

// error makes err what package net would have returned.
func (c *Conn) error(op string, err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		err = e.Err // of the wait: a deadline, or the connection is closed
	} else {
		err = os.NewSyscallError(op, err)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
