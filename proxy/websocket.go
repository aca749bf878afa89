package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"sallyport/proxy/egress"
	"sallyport/tunnel"
	"sallyport/tunnel/ws"
)

// WebSocket dials carriers to a server agent; its Dial is a [DialFunc]. URL is required.
type WebSocket struct {
	// URL is the server agent's, wss://host[:port]/path, or ws:// for plaintext.
	URL string
	// Header is sent with each request.
	Header http.Header
	// Token returns the bearer token, anew for each carrier so that a file may change. Nil or "": none.
	Token func() (string, error)
	// TLS returns the configuration for wss, anew for each carrier. Nil: the system's trust.
	TLS func() *tls.Config
	// SmallHello is the place for what [ws.DialOptions.SmallHello] remembers. Nil: nothing is remembered.
	SmallHello *atomic.Bool
	// DialContext connects to the server agent's host and port, perhaps through a proxy ([egress.Dialer.DialContext]).
	// Nil: directly.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// HandshakeTimeout bounds the TLS handshake and the upgrade, each; 0 means 10 seconds.
	HandshakeTimeout time.Duration
}

// Format prints no header, which may hold secrets.
func (w WebSocket) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "proxy.WebSocket{…}") }

// Dial opens a carrier. Its errors are a [*CarrierError].
func (w WebSocket) Dial(ctx context.Context, resume bool) (tunnel.Carrier, error) {
	o := ws.DialOptions{
		URL:              w.URL,
		Header:           w.Header.Clone(),
		Subprotocols:     []string{Subprotocol},
		SmallHello:       w.SmallHello,
		DialContext:      w.DialContext,
		HandshakeTimeout: w.HandshakeTimeout,
	}
	if o.Header == nil {
		o.Header = make(http.Header)
	}
	if resume {
		o.Header.Set(resumeHeader, "1")
	}
	if w.TLS != nil {
		o.TLS = w.TLS()
	}
	if w.Token != nil {
		token, err := w.Token()
		if err != nil {
			return nil, &CarrierError{Cause: CauseConfig, Permanent: true, Err: err}
		}
		if token != "" {
			o.Header.Set("Authorization", "Bearer "+token)
		}
	}
	conn, err := ws.Dial(ctx, o)
	if err != nil {
		return nil, carrierError(err)
	}
	return conn, nil
}

// carrierError sorts a failure of ws.Dial by whose business it is, and whether trying again can help.
func carrierError(err error) *CarrierError {
	e := &CarrierError{Cause: CauseNetwork, Err: err}
	if hinted, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		e.Advice = hinted.Hint()
	}
	if out, ok := errors.AsType[*egress.Error](err); ok {
		e.egress(out)
		return e
	}
	hs, ok := errors.AsType[*ws.HandshakeError](err)
	switch {
	case !ok: // the URL
		e.Cause, e.Permanent = CauseConfig, !isContextError(err)
	case hs.Leg == ws.LegTLS && isRemoteAlert(err):
		e.Cause, e.Permanent = CauseTLS, true
		e.hint("the server agent refused the handshake: if it asks for a client certificate, give one that it trusts (--client-cert, --client-key)")
	case hs.Leg == ws.LegTLS:
		e.tls(err)
	case hs.Leg == ws.LegUpgrade && hs.Status != 0:
		e.status(hs.Status)
	}
	return e
}

func (e *CarrierError) hint(text string) {
	if e.Advice == "" {
		e.Advice = text
	}
}

// egress takes over what the way out says.
func (e *CarrierError) egress(out *egress.Error) {
	e.Err = out // it names the leg and the addresses itself
	e.Permanent = out.Permanent()
	e.Advice = out.Hint
	switch {
	case !e.Permanent:
	case errors.Is(out, egress.ErrCredentialsMissing), errors.Is(out, egress.ErrCredentialsRefused),
		errors.Is(out, egress.ErrSchemeUnsupported), errors.Is(out, egress.ErrNotTrusted):
		e.Cause = CauseAuth
	case out.Leg == egress.LegProxyTLS:
		e.Cause = CauseTLS
	default:
		e.Cause = CauseConfig
	}
}

// tls tells a certificate that is not accepted, or no TLS at all, from a handshake that was cut.
func (e *CarrierError) tls(err error) {
	nerr, _ := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isReset(err), isContextError(err),
		nerr != nil && nerr.Timeout():
	default:
		e.Cause, e.Permanent = CauseTLS, true
		e.hint("check the server agent's name and port; trust its certificate with --ca-file or --pin")
	}
}

// status reads an answer other than 101. What a captive portal or an overloaded gateway says passes.
func (e *CarrierError) status(status int) {
	switch status {
	case http.StatusUnauthorized:
		e.Cause, e.Permanent = CauseAuth, true
		e.hint("check the token (--token-file, SALLYPORT_TOKEN) or the client certificate; the server agent's log says more")
	case http.StatusForbidden, http.StatusProxyAuthRequired:
		e.Cause, e.Permanent = CauseAuth, true
		e.hint("something before the server agent refuses the request: a firewall, or a proxy to be named with --proxy")
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone,
		http.StatusUpgradeRequired, http.StatusNotImplemented:
		e.Cause, e.Permanent = CauseConfig, true
		e.hint("check the URL's path (the server agent's --path), and that what stands before it passes WebSockets on")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		e.Cause = CauseLimit
	}
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// isRemoteAlert tells an alert that the peer sent (RFC 8446 §6) from other failures. crypto/tls keeps the alert's type to
// itself; what it wraps it in is documented nowhere but has been the same since Go 1.
func isRemoteAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}
