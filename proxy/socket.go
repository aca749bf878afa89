package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// socket is the near end of a relay: a local connection, or a pair of stdin and stdout.
type socket interface {
	// reader and writer are what package tunnel copies from and to. A *net.TCPConn or *net.UnixConn is handed over as
	// it is, for its fast paths.
	reader() io.Reader
	writer() io.Writer
	// closeWrite passes an end of file on; reading goes on.
	closeWrite() error
	// watch blocks, after reader gave an end of file, until the socket is reset (an error), or was closed (nil).
	watch() error
	// abort ends both directions so that the far side notices: a TCP peer sees RST. Idempotent.
	abort()
	// close ends both directions after everything was passed on. Idempotent.
	close()
}

// netSocket is a TCP or unix connection.
type netSocket struct {
	conn net.Conn
}

func (s netSocket) reader() io.Reader { return s.conn }
func (s netSocket) writer() io.Writer { return s.conn }
func (s netSocket) watch() error      { return watchReset(s.conn) }
func (s netSocket) close()            { _ = s.conn.Close() }
func (s netSocket) abort()            { abortConn(s.conn) }

func (s netSocket) closeWrite() error {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil // a connection without half-close is closed when both directions are done
}

// abortConn closes a connection so that its peer sees a reset rather than an end of file. A unix socket has no RST; its
// peer sees the connection closed.
func abortConn(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// pipeSocket is stdin and stdout.
type pipeSocket struct {
	in     *pipeReader
	out    *pipeWriter
	closed chan struct{} // closed by close and abort
	once   sync.Once
}

// newPipeSocket makes a socket of a pair like stdin and stdout. A Read of stdin or a Write to stdout cannot be
// interrupted, so their goroutines are the ones that may stay behind, until that call returns.
func newPipeSocket(in io.Reader, out io.Writer) *pipeSocket {
	s := &pipeSocket{closed: make(chan struct{})}
	s.in = &pipeReader{chunks: make(chan pipeChunk), closed: s.closed}
	s.out = &pipeWriter{out: out, chunks: make(chan []byte), written: make(chan pipeWritten), closed: s.closed}
	go s.in.pump(in)
	go s.out.pump()
	return s
}

func (s *pipeSocket) reader() io.Reader { return s.in }
func (s *pipeSocket) writer() io.Writer { return s.out }
func (s *pipeSocket) abort()            { s.close() }
func (s *pipeSocket) close()            { s.once.Do(func() { close(s.closed) }) }

func (s *pipeSocket) closeWrite() error {
	if c, ok := s.out.out.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (s *pipeSocket) watch() error {
	<-s.closed
	return nil
}

// pipeReader is a reader whose Read ends when its socket is closed, whatever it reads from.
type pipeReader struct {
	chunks chan pipeChunk
	closed chan struct{}
	rest   pipeChunk
}

// pipeChunk is what one Read gave.
type pipeChunk struct {
	data []byte
	err  error
}

// pump reads in and hands over chunk by chunk. Two buffers alternate: when one is taken, the one before is used up.
func (r *pipeReader) pump(in io.Reader) {
	buffers := [2][]byte{make([]byte, 32<<10), make([]byte, 32<<10)}
	for i := 0; ; i = 1 - i {
		n, err := in.Read(buffers[i])
		select {
		case r.chunks <- pipeChunk{buffers[i][:n], err}:
		case <-r.closed:
			return
		}
		if err != nil {
			return
		}
	}
}

func (r *pipeReader) Read(p []byte) (int, error) {
	for len(r.rest.data) == 0 {
		if r.rest.err != nil {
			return 0, r.rest.err
		}
		select {
		case r.rest = <-r.chunks:
		case <-r.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(p, r.rest.data)
	r.rest.data = r.rest.data[n:]
	return n, nil
}

// pipeWriter is a writer whose Write ends when its socket is closed, whatever it writes to.
type pipeWriter struct {
	out     io.Writer
	copied  []byte // what is being written: the caller may use its own again when Write returns early
	chunks  chan []byte
	written chan pipeWritten
	closed  chan struct{}
}

// pipeWritten is what one Write did.
type pipeWritten struct {
	n   int
	err error
}

// pump writes chunk by chunk.
func (w *pipeWriter) pump() {
	for {
		select {
		case p := <-w.chunks:
			n, err := w.out.Write(p)
			select {
			case w.written <- pipeWritten{n, err}:
			case <-w.closed:
				return
			}
		case <-w.closed:
			return
		}
	}
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	w.copied = append(w.copied[:0], p...)
	select {
	case w.chunks <- w.copied:
	case <-w.closed:
		return 0, net.ErrClosed
	}
	select {
	case r := <-w.written:
		return r.n, r.err
	case <-w.closed:
		return 0, net.ErrClosed
	}
}

// acceptLoop hands each connection of l to serve, one at a time, until l is closed or its deadline is set to the
// past; the error says which. Whatever else makes Accept fail, such as too many open files, passes sooner or later:
// it waits, longer each time, and never spins.
func acceptLoop(l net.Listener, serve func(net.Conn), failed func(err error, wait time.Duration)) error {
	const first, longest = 5 * time.Millisecond, time.Second
	wait := time.Duration(0)
	for {
		c, err := l.Accept()
		if err == nil {
			wait = 0
			serve(c)
			continue
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		wait = min(max(first, 2*wait), longest)
		failed(err, wait)
		time.Sleep(wait) // at most a second late at the end: not worth a timer and a channel
	}
}
