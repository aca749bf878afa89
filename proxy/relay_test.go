package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// conns hands the connections of a target to the test.
func conns(t testing.TB, network, addr string) (net.Addr, <-chan net.Conn) {
	ch := make(chan net.Conn, 16)
	a := target(t, network, addr, func(c net.Conn) {
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(patience))
		ch <- c
	})
	return a, ch
}

// pair is a connection through both agents: the origin's end and the target's.
func pair(t *testing.T, real bool) (w *world, origin, far *net.TCPConn) {
	addr, accepted := conns(t, "tcp", "127.0.0.1:0")
	w = newWorld(t, worldOptions{real: real, client: withForwards(forward(t, "0:"+addr.String()))})
	w.run()
	w.ready()
	origin = dialTest(t, "tcp", w.addr(0)).(*net.TCPConn)
	far = (<-accepted).(*net.TCPConn)
	w.until("the reply", func() bool {
		list := w.client.Status().Streams
		return len(list) == 1 && list[0].State == StreamOpen
	})
	return w, origin, far
}

func mustWrite(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t testing.TB, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v; want %q", b, err, want)
	}
}

func mustEOF(t testing.TB, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("read %d, %v; want EOF", n, err)
	}
}

// mustReset reads until the reset. After an end of file no Read shows it any more, but a write does.
func mustReset(t testing.TB, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, struct{ io.Reader }{c})
	if err == nil {
		until(t, "a reset", func() bool {
			_, err = c.Write([]byte("x"))
			return err != nil
		})
	}
	if !isReset(err) {
		t.Fatalf("%v; want a reset", err)
	}
}

// abortTest sends a RST.
func abortTest(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// TestHalfClose: rule 2, each way, also when the carrier dies while one direction is closed.
func TestHalfClose(t *testing.T) {
	transports(t, func(t *testing.T, real bool) {
		for _, originFirst := range []bool{true, false} {
			w, a, b := pair(t, real)
			if !originFirst {
				a, b = b, a
			}
			mustWrite(t, a, "question")
			if err := a.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			mustRead(t, b, "question")
			mustEOF(t, b)
			w.cut()
			mustWrite(t, b, "answer")
			mustRead(t, a, "answer")
			mustWrite(t, b, ", at length")
			_ = b.Close()
			mustRead(t, a, ", at length")
			mustEOF(t, a)
		}
	})
}

// TestAbort: rule 2, a reset arrives as a reset, each way, in every state of the stream.
func TestAbort(t *testing.T) {
	states := map[string]func(t *testing.T, a, b *net.TCPConn){
		"open": func(t *testing.T, a, b *net.TCPConn) {
			mustWrite(t, a, "x")
			mustRead(t, b, "x")
		},
		"after the aborter's half-close": func(t *testing.T, a, b *net.TCPConn) {
			_ = a.CloseWrite()
			mustEOF(t, b)
		},
		"after the other's half-close": func(t *testing.T, a, b *net.TCPConn) {
			_ = b.CloseWrite()
			mustEOF(t, a)
		},
		"while the other does not read": func(t *testing.T, a, b *net.TCPConn) {
			_ = a.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			if _, err := a.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("64 MiB went into a connection that nobody reads: %v", err)
			}
		},
	}
	for name, prepare := range states {
		t.Run(name, func(t *testing.T) {
			transports(t, func(t *testing.T, real bool) {
				for _, byOrigin := range []bool{true, false} {
					_, a, b := pair(t, real)
					if !byOrigin {
						a, b = b, a
					}
					prepare(t, a, b)
					abortTest(a)
					mustReset(t, b)
				}
			})
		})
	}
}

// TestUnixSockets: both ends may be unix sockets, in every combination.
func TestUnixSockets(t *testing.T) {
	dir := t.TempDir()
	far, near := filepath.Join(dir, "far"), filepath.Join(dir, "near")
	target(t, "unix", far, echo)
	tcp := target(t, "tcp", "127.0.0.1:0", echo)
	w := newWorld(t, worldOptions{
		connect: []string{"unix:" + dir + "/*", "127.0.0.1:*"},
		client: withForwards(
			forward(t, near+":"+far), forward(t, "0:"+far), forward(t, near+"2:"+tcp.String()),
		),
	})
	w.run()
	for i, network := range []string{"unix", "tcp", "unix"} {
		c := dialTest(t, network, w.addr(i))
		mustWrite(t, c, "hello")
		mustRead(t, c, "hello")
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		mustEOF(t, c)
	}
	info, err := os.Stat(near)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v, %v; want 0600", info.Mode(), err)
	}
}

// TestStopAborts: an agent that is stopped without a drain does not wait for anybody, not even a stuck reader.
func TestStopAborts(t *testing.T) {
	for _, who := range []string{"client", "server"} {
		t.Run(who, func(t *testing.T) {
			w, a, b := pair(t, false)
			_ = a.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			_, _ = a.Write(make([]byte, 32<<20))
			if who == "server" {
				w.stopServer(w.server)
				mustReset(t, a)
				mustReset(t, b)
				return
			}
			w.stopClient()
			mustReset(t, a)
			mustReset(t, b)
		})
	}
}

// TestLiveStreamEndsOnce: end before the relay begins, at the same time and after.
func TestLiveStreamEndsOnce(t *testing.T) {
	w, a, _ := pair(t, false)
	var wg sync.WaitGroup
	for _, live := range w.client.streams() {
		for range 8 {
			wg.Go(func() { live.end(&OpenError{Code: CodeDenied, Target: "x"}) })
		}
	}
	wg.Wait()
	mustReset(t, a)
	w.until("the end", func() bool {
		return w.client.Status().Counters.StreamsEnded["denied"] == 1 && w.server.Status().Counters.StreamsEnded["denied"] == 1
	})
}
