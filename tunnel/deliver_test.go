//go:build unix

package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"sallyport/tunnel/internal/frame"
)

// gateConn is a socket whose writes without blocking run a hook first.
type gateConn struct {
	net.Conn // for what nobody calls
	fd       int
	hook     func()
}

func (g *gateConn) SyscallConn() (syscall.RawConn, error) { return (*gateRaw)(g), nil }

type gateRaw gateConn

func (g *gateRaw) Control(f func(uintptr)) error { f(uintptr(g.fd)); return nil }
func (g *gateRaw) Read(func(uintptr) bool) error { return errors.ErrUnsupported }
func (g *gateRaw) Write(f func(uintptr) bool) error {
	if g.hook != nil {
		g.hook()
	}
	f(uintptr(g.fd))
	return nil
}

// accepted returns the next stream of the bed's peer, with its first byte read.
func accepted(t *testing.T, b *bed) *Stream {
	t.Helper()
	st, err := b.session.Accept(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(st, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return st
}

// writeTo starts WriteTo and returns once it waits for bytes.
func writeTo(st *Stream, w io.Writer) (ended chan int64) {
	ended = make(chan int64, 1)
	go func() { n, _ := st.WriteTo(w); ended <- n }()
	for ready := false; !ready; runtime.Gosched() {
		st.session.mu.Lock()
		ready = st.sink != nil
		st.session.mu.Unlock()
	}
	return ended
}

// socketPair returns the two ends of a connection, as files.
func socketPair(t *testing.T) (r, w *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, w = os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// TestHandOverOutlivesItsStream hands over two streams from one message, the
// second of which is reset while the first is being written.
func TestHandOverOutlivesItsStream(t *testing.T) {
	b := newBed(t, true, Options{})
	b.send(frame.AppendStream(nil, b.peerID(0), 0, []byte("a"), false, true))
	b.send(frame.AppendStream(nil, b.peerID(1), 0, []byte("b"), false, true))
	first, second := accepted(t, b), accepted(t, b)
	_, w := socketPair(t)
	entered, goOn := make(chan bool), make(chan bool)
	firstEnded := writeTo(first, &gateConn{fd: int(w.Fd()), hook: func() { entered <- true; <-goOn }})
	secondEnded := writeTo(second, &gateConn{fd: int(w.Fd())})
	b.send(frame.AppendStream(nil, b.peerID(0), 1, []byte("more"), true, false),
		frame.AppendStream(nil, b.peerID(1), 1, []byte("more"), false, true))
	<-entered
	second.Reset(17, "the relay failed")
	close(goOn)
	b.send(frame.AppendPing(nil, 99))
	b.expect(frame.TypePong)
	if n := <-firstEnded; n != 4 {
		t.Errorf("the first stream wrote %d bytes, want 4", n)
	}
	if n := <-secondEnded; n != 0 {
		t.Errorf("the second stream wrote %d bytes after its reset", n)
	}
}

// TestDeadlineWhileHandedOver lets the read deadline pass while the carrier's
// reader hands a segment over: nothing may be read twice.
func TestDeadlineWhileHandedOver(t *testing.T) {
	b := newBed(t, true, Options{})
	b.send(frame.AppendStream(nil, b.peerID(0), 0, []byte("a"), false, true))
	st := accepted(t, b)
	r, w := socketPair(t)
	entered, goOn := make(chan bool), make(chan bool)
	ended := writeTo(st, &gateConn{fd: int(w.Fd()), hook: func() { entered <- true; <-goOn }})
	b.send(frame.AppendStream(nil, b.peerID(0), 1, []byte("hello"), false, true))
	<-entered
	st.SetReadDeadline(time.Now())
	close(goOn)
	if n := <-ended; n != 5 {
		t.Fatalf("WriteTo wrote %d bytes, want 5", n)
	}
	st.SetReadDeadline(time.Time{})
	b.send(frame.AppendStream(nil, b.peerID(0), 6, []byte("world"), false, true))
	for _, from := range []struct {
		r    io.Reader
		want string
	}{{r, "hello"}, {st, "world"}} {
		got := make([]byte, 5)
		if _, err := io.ReadFull(from.r, got); err != nil || string(got) != from.want {
			t.Errorf("read %q, %v; want %q", got, err, from.want)
		}
	}
}

// TestOnlySocketsAreHandedOver: a file's descriptor may block the carrier's reader.
func TestOnlySocketsAreHandedOver(t *testing.T) {
	_, w := socketPair(t)
	if newSink(w) != nil {
		t.Error("a pipe, which stdout may be, would be written to by the carrier's reader")
	}
}

// TestWriteToCountsWhatWasWritten resets a stream while a segment is written.
func TestWriteToCountsWhatWasWritten(t *testing.T) {
	b := newBed(t, true, Options{})
	b.send(frame.AppendStream(nil, b.peerID(0), 0, make([]byte, 30000), false, true))
	b.send(frame.AppendStream(nil, b.peerID(0), 30000, make([]byte, 30000), false, true))
	st, err := b.session.Accept(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	entered, goOn := make(chan bool), make(chan bool)
	var got bytes.Buffer
	res := make(chan int64, 1)
	go func() {
		n, _ := st.WriteTo(writerFunc(func(p []byte) (int, error) {
			entered <- true
			<-goOn
			return got.Write(p)
		}))
		res <- n
	}()
	<-entered
	b.send(frame.AppendResetStream(nil, b.peerID(0), 20, 60000, "gone"), frame.AppendPing(nil, 7))
	b.expect(frame.TypePong)
	close(goOn)
	if n := <-res; n != int64(got.Len()) {
		t.Errorf("WriteTo returned %d, the writer got %d", n, got.Len())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
