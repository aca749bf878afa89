package proxy

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// target is a TCP or unix server whose connections a test serves itself.
func target(t testing.TB, network, addr string, serve func(net.Conn)) net.Addr {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr()
}

func echo(c net.Conn) {
	defer c.Close()
	_, _ = io.Copy(c, c)
}

func dialTest(t testing.TB, network, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

func forward(t testing.TB, s string) Forward {
	t.Helper()
	f, err := ParseForward(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// transports runs a test over carriers in memory and over real WebSockets.
func transports(t *testing.T, test func(t *testing.T, real bool)) {
	t.Run("memory", func(t *testing.T) { test(t, false) })
	t.Run("wss", func(t *testing.T) { test(t, true) })
}

func withForwards(specs ...Forward) func(*ClientOptions) {
	return func(o *ClientOptions) { o.Forwards = specs }
}

// TestForwardEcho: bytes go both ways and the end of file with them (rule 2), also across cuts (rule 1).
func TestForwardEcho(t *testing.T) {
	transports(t, func(t *testing.T, real bool) {
		addr := target(t, "tcp", "127.0.0.1:0", echo)
		w := newWorld(t, worldOptions{real: real, client: withForwards(forward(t, "0:"+addr.String()))})
		w.run()
		w.ready()
		c := dialTest(t, "tcp", w.addr(0))
		data := make([]byte, 4<<20)
		_, _ = rand.Read(data)
		sum := make(chan error, 1)
		go func() {
			h := sha256.New()
			n, err := io.Copy(h, c)
			if err == nil && (n != int64(len(data)) || !bytes.Equal(h.Sum(nil), sumOf(data))) {
				err = fmt.Errorf("%d bytes came back, or others", n)
			}
			sum <- err
		}()
		for i := 0; i < len(data); i += len(data) / 8 {
			if _, err := c.Write(data[i : i+len(data)/8]); err != nil {
				t.Fatal(err)
			}
			if i > 0 && i < 5*len(data)/8 {
				w.cut()
			}
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := <-sum; err != nil {
			t.Fatal(err)
		}
		w.until("the streams' end", func() bool {
			return w.client.Status().Counters.StreamsEnded["eof"] == 1 && w.server.Status().Counters.StreamsEnded["eof"] == 1
		})
	})
}

func sumOf(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}
