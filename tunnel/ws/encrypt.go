package ws

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// encrypt puts the record cork and TLS above conn, which it closes if that
// fails. A hello that gets not a byte of an answer is sent once more, on a new
// connection, with classical curves: with a key share of ML-KEM it takes two
// packets, and some middle boxes drop what they have not seen before.
func (d *dialler) encrypt(ctx context.Context, conn net.Conn) (*tls.Conn, *HandshakeError) {
	config := clientTLS(d.options.TLS, d.host)
	small := d.options.SmallHello
	if config.CurvePreferences == nil && small != nil && small.Load() {
		config.CurvePreferences = classicalCurves()
	}
	secured, err := d.handshake(ctx, conn, config)
	if err == nil {
		return secured, nil
	}
	_ = closeNow(conn)
	if _, silent := errors.AsType[*silenceError](err); !silent || ctx.Err() != nil || config.CurvePreferences != nil {
		return nil, d.fail(LegTLS, err)
	}
	if conn, err = d.connect(ctx); err != nil {
		return nil, d.fail(dialLeg(err), err)
	}
	tune(conn)
	config.CurvePreferences = classicalCurves()
	if secured, err = d.handshake(ctx, conn, config); err != nil {
		_ = closeNow(conn)
		return nil, d.fail(LegTLS, err)
	}
	if small != nil {
		small.Store(true)
	}
	return secured, nil
}

// classicalCurves keep the hello in one packet.
func classicalCurves() []tls.CurveID { return []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384} }

// handshake is one try, within the leg's timeout.
func (d *dialler) handshake(ctx context.Context, conn net.Conn, config *tls.Config) (*tls.Conn, error) {
	below := &heardConn{Conn: conn}
	cork := &recordCork{Conn: below}
	secured := tls.Client(cork, config)
	timed, cancel := context.WithTimeout(ctx, d.options.HandshakeTimeout)
	defer cancel()
	err := secured.HandshakeContext(timed)
	switch {
	case err == nil:
		cork.Conn = conn
		return secured, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("stopped during the TLS handshake: %w", context.Cause(ctx))
	case timed.Err() != nil:
		err = fmt.Errorf("no end of the TLS handshake within %v: %w", d.options.HandshakeTimeout, timed.Err())
	default:
		err = tlsError(err)
	}
	if !below.heard {
		err = &silenceError{err}
	}
	return nil, err
}

// silenceError marks a handshake in which the other side has not said a byte.
type silenceError struct{ error }

func (e *silenceError) Unwrap() error { return e.error }

// heardConn knows whether anything was read. It goes away with the handshake.
type heardConn struct {
	net.Conn
	heard bool
}

func (c *heardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.heard = c.heard || n > 0
	return n, err
}

// NetConn is what lies below.
func (c *heardConn) NetConn() net.Conn { return c.Conn }
