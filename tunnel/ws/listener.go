package ws

import (
	"crypto/tls"
	"net"
	"time"
)

// NewListener wraps what inner accepts for an http.Server whose handler calls
// Accept: it sets the TCP options, and unless config is nil it puts TLS between
// the two corks. The TLS handshake happens in the goroutine that the
// http.Server gives each connection, never in Accept; a client that does not
// finish it within 10 s, or the http.Server's ReadHeaderTimeout if it has one,
// is dropped. Set that one in any case: it bounds the request that follows. The
// server sees *tls.Conn and so fills in Request.TLS.
//
// ALPN is always http/1.1 and the floor TLS 1.2, also for what config's
// GetConfigForClient returns. config is not modified.
func NewListener(inner net.Listener, config *tls.Config) net.Listener {
	if config == nil {
		return &listener{Listener: inner}
	}
	return &listener{Listener: inner, config: serverTLS(config)}
}

type listener struct {
	net.Listener
	config *tls.Config // nil: plaintext
}

// Accept waits for the next connection and does no more.
func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tune(conn)
	if l.config == nil {
		return conn, nil
	}
	// A guard, should the http.Server have no ReadHeaderTimeout: it sets read
	// deadlines of its own before it reads a request.
	_ = conn.SetReadDeadline(time.Now().Add(defaultHandshakeTimeout))
	return tls.Server(&recordCork{Conn: conn}, l.config), nil
}

// serverTLS is config as a carrier needs it.
func serverTLS(config *tls.Config) *tls.Config {
	c := carrierTLS(config)
	choose := c.GetConfigForClient
	if choose == nil {
		return c
	}
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		chosen, err := choose(hello)
		if err != nil || chosen == nil {
			return chosen, err
		}
		return carrierTLS(chosen), nil
	}
	return c
}
