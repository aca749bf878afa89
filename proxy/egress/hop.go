package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// through opens a connection to target through proxies, the nearest first: each is reached through those before it.
func (d *Dialer) through(ctx context.Context, hops []*proxy, target string) (net.Conn, error) {
	p := hops[len(hops)-1]
	if p.socks() {
		return d.throughSOCKS(ctx, hops, target)
	}
	return d.throughHTTP(ctx, hops, p, target)
}

// reach opens a TCP connection, or what stands for one, to the last of the proxies.
func (d *Dialer) reach(ctx context.Context, hops []*proxy, target string) (net.Conn, error) {
	p := hops[len(hops)-1]
	if before := hops[:len(hops)-1]; len(before) > 0 {
		return d.through(ctx, before, p.addr)
	}
	_, port, err := net.SplitHostPort(p.addr)
	if err != nil { // parseProxy joined it
		return nil, &Error{Leg: LegSetting, Target: target, Err: reason(ErrConfig, "proxy address: %w", err)}
	}
	conn, resolved, err := d.connectTCP(ctx, "tcp", p.host, port)
	if err != nil {
		e := &Error{Leg: LegConnectProxy, Proxy: p.addr, Target: target, Err: err}
		if !resolved {
			e.Leg = LegResolveProxy
		}
		e.Hint = hint(e)
		return nil, e
	}
	return conn, nil
}

// dialHTTP walks the legs up to the point where an HTTP proxy can be spoken to. onlyHTTP1 keeps HTTP/2 out.
func (d *Dialer) dialHTTP(ctx context.Context, hops []*proxy, target string, onlyHTTP1 bool) (*link, error) {
	conn, err := d.reach(ctx, hops, target)
	if err != nil {
		return nil, err
	}
	p := hops[len(hops)-1]
	if !p.tls() {
		return newLink(conn), nil
	}
	alpn := []string{"h2", "http/1.1"}
	if onlyHTTP1 {
		alpn = alpn[1:]
	}
	cfg := d.tlsConfig(p.host, alpn...)
	if p.mem.smallHello.Load() {
		cfg.CurvePreferences = classicalCurves()
	}
	secure, err := d.secure(ctx, conn, cfg)
	if err != nil && cfg.CurvePreferences == nil && swallowed(ctx, err) {
		// A hello with ML-KEM takes two packets, and some middle boxes drop what they have not seen before.
		d.log.Debug("TLS with the proxy got no answer; trying again with classical curves only", "proxy", p.String())
		if conn, err = d.reach(ctx, hops, target); err != nil {
			return nil, err
		}
		cfg.CurvePreferences = classicalCurves()
		secure, err = d.secure(ctx, conn, cfg)
		p.mem.smallHello.Store(err == nil)
	}
	if err != nil {
		hint, err := explainTLS("the proxy", err)
		if ctx.Err() != nil {
			hint = ""
		}
		return nil, &Error{Leg: LegProxyTLS, Proxy: p.addr, Target: target, Err: err, Hint: hint}
	}
	l := newLink(secure)
	if secure.ConnectionState().NegotiatedProtocol == "h2" {
		if l.h2, err = newH2Client(secure); err != nil {
			secure.Close()
			return nil, &Error{Leg: LegProxyTLS, Proxy: p.addr, Target: target, Err: classify(err), Hint: tlsHint}
		}
	}
	return l, nil
}

// secure does the TLS handshake within its leg's time, and closes conn if that fails.
func (d *Dialer) secure(ctx context.Context, conn net.Conn, cfg *tls.Config) (*tls.Conn, error) {
	legCtx, cancel := context.WithTimeoutCause(ctx, d.tlsTimeout, noAnswer(d.tlsTimeout))
	defer cancel()
	counted := &countedConn{Conn: conn}
	secure := tls.Client(counted, cfg)
	if err := secure.HandshakeContext(legCtx); err != nil {
		conn.Close()
		err = ended(legCtx, err)
		if counted.read == 0 {
			err = &kindError{errNoTLSAnswer, err}
		}
		return nil, err
	}
	return secure, nil
}

// classicalCurves are those whose key shares leave the hello in one packet.
func classicalCurves() []tls.CurveID { return []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384} }

var errNoTLSAnswer = errors.New("no byte of an answer to the TLS hello")

// swallowed reports whether the hello may have been lost for its size: silence, or a cut, without a byte.
func swallowed(ctx context.Context, err error) bool {
	if ctx.Err() != nil || !errors.Is(err, errNoTLSAnswer) {
		return false
	}
	op, ok := errors.AsType[*net.OpError](err)
	return errors.Is(err, ErrTimeout) || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) || ok && op.Op == "read"
}

// countedConn knows whether anything was read. It is for the handshake; NetConn is for whoever wants the socket later.
type countedConn struct {
	net.Conn
	read int
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.read == 0 {
		c.read = n
	}
	return n, err
}

// NetConn returns the connection below.
func (c *countedConn) NetConn() net.Conn { return c.Conn }

// CloseWrite ends the sending side of the connection below.
func (c *countedConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return fmt.Errorf("closing one direction: %w", errors.ErrUnsupported)
}
