package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"time"
)

// link is a connection to a proxy on which nothing but the CONNECT happens yet.
type link struct {
	conn net.Conn
	br   *bufio.Reader
}

func newLink(conn net.Conn) *link { return &link{conn: conn, br: bufio.NewReader(conn)} }

// within runs f, whose reads and writes end when timeout has passed or ctx ends, and turns either into the error. After
// nil the connection has no deadline and nobody else will set one.
func (l *link) within(ctx context.Context, timeout time.Duration, f func() error) error {
	if err := l.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { l.conn.SetDeadline(time.Unix(1, 0)) })
	err := f()
	if !stop() {
		return ended(ctx, err) // the connection is spoilt even if f was done
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return noAnswer(timeout)
	}
	if err != nil {
		return classify(err)
	}
	return l.conn.SetDeadline(time.Time{})
}

// take returns the connection as the tunnel: as it is, unless bytes of the target have been read already.
func (l *link) take() net.Conn {
	n := l.br.Buffered()
	if n == 0 {
		return l.conn
	}
	rest, _ := l.br.Peek(n) // the reader is not used again, so its buffer is ours
	return &earlyConn{Conn: l.conn, rest: rest}
}

// earlyConn is a connection whose first bytes arrived together with the proxy's reply.
type earlyConn struct {
	net.Conn
	rest []byte // for the one reader that a connection has
}

func (c *earlyConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.rest = nil
	}
	return n, nil
}

// NetConn returns the connection below, as [tls.Conn.NetConn] does, for socket options; reading from it loses bytes.
func (c *earlyConn) NetConn() net.Conn { return c.Conn }

// CloseWrite ends the sending side; both kinds of connection below can.
func (c *earlyConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// dialProxy walks the legs up to the point where the proxy can be spoken to.
func (d *Dialer) dialProxy(ctx context.Context, p *proxy, target string) (*link, error) {
	host, port, err := net.SplitHostPort(p.addr)
	if err != nil { // parseProxy joined it
		return nil, &Error{Leg: LegSetting, Target: target, Err: reason(ErrConfig, "proxy address: %w", err)}
	}
	conn, resolved, err := d.connectTCP(ctx, "tcp", host, port)
	if err != nil {
		e := &Error{Leg: LegConnectProxy, Proxy: p.addr, Target: target, Err: err}
		if !resolved {
			e.Leg = LegResolveProxy
		}
		e.Hint = hint(e)
		return nil, e
	}
	if !p.tls {
		return newLink(conn), nil
	}
	cfg := d.tls
	if cfg.ServerName == "" {
		cfg = cfg.Clone()
		cfg.ServerName = p.host
	}
	legCtx, cancel := context.WithTimeoutCause(ctx, d.tlsTimeout, noAnswer(d.tlsTimeout))
	defer cancel()
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(legCtx); err != nil {
		conn.Close()
		hint, err := explainTLS(ended(legCtx, err))
		if ctx.Err() != nil {
			hint = ""
		}
		return nil, &Error{Leg: LegProxyTLS, Proxy: p.addr, Target: target, Err: err, Hint: hint}
	}
	return newLink(secure), nil
}
