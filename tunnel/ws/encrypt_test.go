package ws

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// A box in between that drops hellos of two packets, with a cut or in silence,
// costs one more try; whoever says anything is not asked again.
func TestLargeHelloSwallowed(t *testing.T) {
	for _, silent := range []bool{false, true} {
		s := startServer(t, true)
		large := make(chan bool, 9)
		o := s.client
		o.HandshakeTimeout = time.Second
		o.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, network, addr)
			return &narrowConn{Conn: conn, silent: silent, large: large}, err
		}
		if !silent {
			o.HandshakeTimeout = 0
		}
		dialWorks := func() {
			t.Helper()
			conn, err := Dial(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close(nil)
			_ = (<-s.accepted).Close(nil)
		}
		dialWorks()
		if first, second := <-large, <-large; !first || second || len(large) != 0 {
			t.Errorf("large hellos: %v, %v", first, second)
		}
		// What was found out is used, if there is a place for it.
		o.SmallHello = new(atomic.Bool)
		for range 2 {
			dialWorks()
		}
		for range 3 {
			<-large
		}
		if len(large) != 0 || !o.SmallHello.Load() {
			t.Errorf("%d hellos too many", len(large))
		}

		o.TLS = o.TLS.Clone()
		o.TLS.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768} // whoever insists gets no other
		dialFails(t, o)
		if n := len(large); n != 1 {
			t.Errorf("%d tries", n)
		}
	}
}

// narrowConn loses what does not fit into one packet of a handshake.
type narrowConn struct {
	net.Conn
	silent bool
	large  chan<- bool
	begun  bool
}

func (c *narrowConn) Write(p []byte) (int, error) {
	if c.begun {
		return c.Conn.Write(p)
	}
	c.begun = true
	c.large <- len(p) > 1000
	switch {
	case len(p) <= 1000:
		return c.Conn.Write(p)
	case c.silent:
		return len(p), nil
	}
	_ = c.Conn.Close()
	return 0, io.ErrClosedPipe
}
