//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startTarget accepts until the test ends and serves each connection in a goroutine of its own. The
// connection is closed afterwards.
func startTarget(t testing.TB, serve func(*net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, ln, func(c net.Conn) { serve(c.(*net.TCPConn)) })
	return ln.Addr().String()
}

// serveOn is startTarget for a listener.
func serveOn(t testing.TB, ln net.Listener, serve func(net.Conn)) {
	var (
		mu    sync.Mutex
		conns = make(map[net.Conn]struct{})
		wg    sync.WaitGroup
	)
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = struct{}{}
			mu.Unlock()
			wg.Go(func() {
				serve(c)
				c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
}

// startEcho starts a target that sends everything back, and a FIN after a FIN.
func startEcho(t testing.TB) string {
	t.Helper()
	return startTarget(t, func(c *net.TCPConn) {
		// Not spliced: that takes two more file descriptors for each connection.
		io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
		c.CloseWrite()
	})
}

// startAccepts starts a target whose connections the test handles itself.
func startAccepts(t testing.TB) (addr string, accept func() *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String(), func() *net.TCPConn {
		t.Helper()
		ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return limited(t, c).(*net.TCPConn)
	}
}

// startDeaf returns the address of a target that answers nothing, not even a SYN: its queue of
// connections is full.
func startDeaf(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := loopback(name.(*syscall.SockaddrInet4).Port)
	for range 10 {
		c, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
			return addr
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the target still answers")
	return ""
}

// dial connects to an address, with a limit on everything.
func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	return limited(t, c).(*net.TCPConn)
}

// limited closes a connection at the test's end, and lets no read or write take longer than patience
// from now.
func limited(t testing.TB, c net.Conn) net.Conn {
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// echoed sends a message and waits until it is back. It returns the round trip.
func echoed(c net.Conn, message string) (time.Duration, error) {
	begin := time.Now()
	c.SetDeadline(begin.Add(patience))
	if _, err := io.WriteString(c, message); err != nil {
		return 0, err
	}
	got := make([]byte, len(message))
	if _, err := io.ReadFull(c, got); err != nil {
		return 0, err
	}
	if string(got) != message {
		return 0, fmt.Errorf("echo of %q is %q", message, got)
	}
	return time.Since(begin), nil
}

// mustEcho is echoed for a test that cannot go on without.
func mustEcho(t testing.TB, c net.Conn, message string) time.Duration {
	t.Helper()
	d, err := echoed(c, message)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// wantReset waits until a connection is found aborted by RST.
func wantReset(t testing.TB, c net.Conn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d bytes, then %v; want a reset", n, err)
	}
}

// median returns the middle one; it sorts its argument.
func median[T int | int64 | float64 | time.Duration](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

// rate counts how many bytes a second arrive, over d.
func rate(c net.Conn, d time.Duration) (float64, error) {
	buf := make([]byte, 256<<10)
	begin := time.Now()
	var n int
	for time.Since(begin) < d {
		c.SetReadDeadline(time.Now().Add(patience))
		k, err := c.Read(buf)
		n += k
		if err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}
