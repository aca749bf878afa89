package ws

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// DialOptions say where Dial goes and how. URL is required; the zero value of
// everything else is a sensible default.
type DialOptions struct {
	// URL is ws://host[:port]/path or wss://host[:port]/path. User and password
	// in it are refused: credentials belong into Header.
	URL string

	// Header is sent with the upgrade request, except what the WebSocket
	// handshake itself sets. A Host in it counts as Host below.
	Header http.Header

	// Host replaces the URL's host in the Host header only. Empty: the URL's.
	Host string

	// Subprotocols are offered, and the server must choose one of them.
	// Empty: none is offered or asked for.
	Subprotocols []string

	// TLS is used for wss. Nil: the system's trust. ServerName defaults to the
	// URL's host; ALPN is always http/1.1; the floor is TLS 1.2. Not modified.
	TLS *tls.Config

	// SmallHello remembers between dials that TLS hellos with ML-KEM get no
	// answer here: Dial sets it when only one without them did, and then
	// begins with that. Nil: each dial finds out anew.
	SmallHello *atomic.Bool

	// DialContext connects to the server's host:port, perhaps through a proxy.
	// Nil: directly. If its connections wrap others, a NetConn method (as
	// crypto/tls has it) lets Close reach the socket at once.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// HandshakeTimeout bounds each of: connecting directly, the TLS handshake,
	// the upgrade. 0: 10 s. DialContext bounds itself.
	HandshakeTimeout time.Duration
}

// Dial opens a WebSocket to a server and returns it as a carrier. ctx bounds
// the handshake only. A failure on the way is a *HandshakeError; a URL that
// makes no sense is another error, which does not repeat the URL.
func Dial(ctx context.Context, o DialOptions) (*Conn, error) {
	u, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	header := o.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if o.Host == "" {
		o.Host = header.Get("Host")
	}
	header.Del("Host")
	header.Del("Sec-WebSocket-Extensions")
	if header.Get("User-Agent") == "" {
		header.Set("User-Agent", "sallyport")
	}
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = defaultHandshakeTimeout
	}

	d := &dialler{options: o, addr: dialAddr(u), host: u.Hostname(), secure: u.Scheme == "wss"}
	conn := &Conn{max: corkSize - maxHeaderClient}
	library, resp, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{ //nolint:bodyclose // the library takes the body over
		HTTPClient: &http.Client{
			Transport:     d,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		HTTPHeader:     header,
		Host:           o.Host,
		Subprotocols:   o.Subprotocols,
		OnPingReceived: conn.onPing,
	})
	if err != nil {
		return nil, d.failure(libraryError(err), resp)
	}
	if len(o.Subprotocols) > 0 && library.Subprotocol() == "" {
		_ = library.CloseNow()
		return nil, d.failure(fmt.Errorf("a WebSocket opened, but the server did not agree to subprotocol %q: another service at this address, or something in between drops the header", strings.Join(o.Subprotocols, ", ")), resp)
	}
	_ = d.cork.conn.SetDeadline(time.Time{})
	conn.secured = d.secured
	conn.start(library, d.cork)
	return conn, nil
}

// parseURL checks a server's URL. Its errors do not quote it: it may hold a
// secret.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("the server's URL is malformed: it should look like wss://host/path")
	case u.Scheme != "ws" && u.Scheme != "wss":
		return nil, fmt.Errorf("the server's URL has scheme %q: it should begin with wss:// (or ws://)", clean(u.Scheme, 20))
	case u.Hostname() == "":
		return nil, errors.New("the server's URL names no host: it should look like wss://host/path")
	case u.User != nil:
		return nil, errors.New("the server's URL holds a user or password: send credentials in a header instead")
	}
	u.Fragment = "" // never sent (RFC 6455 §3)
	return u, nil
}

// dialAddr is the host:port of u.
func dialAddr(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
		if u.Scheme == "ws" {
			port = "80"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// dialler is the http.RoundTripper of one Dial: one connection, one request.
type dialler struct {
	options DialOptions
	addr    string // host:port
	host    string // without port, for TLS
	secure  bool

	secured *tls.Conn       // once TLS is up
	cork    *frameCork      // the stack, once the server has answered 101
	err     *HandshakeError // what went wrong in RoundTrip
}

// failure prefers what RoundTrip knows to what the library made of it.
func (d *dialler) failure(err error, resp *http.Response) error {
	if d.err != nil {
		return d.err
	}
	if d.cork != nil {
		_ = d.cork.Close()
	}
	e := d.fail(LegUpgrade, err)
	if resp != nil {
		e.Status = resp.StatusCode
	}
	return e
}

// libraryError is what the library found wrong with the request or a 101. It
// quotes the answer's header at length and, through net/http, the URL.
func libraryError(err error) error {
	if quoted, ok := errors.AsType[*url.Error](err); ok {
		err = quoted.Err
	}
	return fmt.Errorf("not a WebSocket handshake: %s", clean(err.Error(), maxExcerpt))
}

// RoundTrip connects, secures the connection and sends req on it. It returns
// the answer if that is 101, with a body that is the stack for the WebSocket;
// all else is an error.
func (d *dialler) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.roundTrip(req)
	if err != nil {
		d.err = err
		return nil, err
	}
	return resp, nil
}

func (d *dialler) roundTrip(req *http.Request) (*http.Response, *HandshakeError) {
	ctx := req.Context()
	conn, err := d.connect(ctx)
	if err != nil {
		return nil, d.fail(dialLeg(err), err)
	}
	tune(conn)
	if d.secure {
		var failure *HandshakeError
		if d.secured, failure = d.encrypt(ctx, conn); failure != nil {
			return nil, failure
		}
		conn = d.secured
	}
	resp, failure := d.upgrade(ctx, conn, req)
	if failure != nil {
		_ = closeNow(conn)
		return nil, failure
	}
	return resp, nil
}

func (d *dialler) fail(leg Leg, err error) *HandshakeError {
	return &HandshakeError{Leg: leg, Addr: d.addr, Err: err}
}

func (d *dialler) connect(ctx context.Context) (net.Conn, error) {
	if dial := d.options.DialContext; dial != nil {
		return dial(ctx, "tcp", d.addr)
	}
	direct := net.Dialer{Timeout: d.options.HandshakeTimeout}
	return direct.DialContext(ctx, "tcp", d.addr)
}

// clientTLS is config (nil: defaults) as a carrier needs it.
func clientTLS(config *tls.Config, host string) *tls.Config {
	c := carrierTLS(config)
	if c.ServerName == "" {
		c.ServerName = strings.TrimSuffix(host, ".")
	}
	return c
}

// carrierTLS is a copy of config (nil: defaults) with the ALPN and the floor
// that all carriers have. Records are full from the start: crypto/tls would
// begin with small ones, so that a receiver can process them one by one, but a
// message is of no use before its end.
func carrierTLS(config *tls.Config) *tls.Config {
	if config == nil {
		config = &tls.Config{}
	}
	c := config.Clone()
	c.NextProtos = slices.Clone(alpn)
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	c.DynamicRecordSizingDisabled = true
	return c
}

// alpn is what carriers negotiate: WebSockets over HTTP/2 do not exist here.
var alpn = []string{"http/1.1"}

// upgrade sends req and reads the answer, within the leg's timeout.
func (d *dialler) upgrade(ctx context.Context, conn net.Conn, req *http.Request) (*http.Response, *HandshakeError) {
	var out bytes.Buffer
	if err := req.Write(&out); err != nil {
		return nil, d.fail(LegUpgrade, fmt.Errorf("the request cannot be written: %w", err))
	}
	_ = conn.SetDeadline(time.Now().Add(d.options.HandshakeTimeout))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	resp, rest, err := d.exchange(conn, req, out.Bytes())
	if !stop() {
		return nil, d.fail(LegUpgrade, fmt.Errorf("stopped while waiting for the upgrade: %w", context.Cause(ctx)))
	}
	if err != nil {
		if isAlert(err) {
			return nil, d.fail(LegTLS, tlsError(err))
		}
		return nil, d.fail(LegUpgrade, err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, d.refused(resp, rest)
	}
	// Should the library not like the answer, it reads on for diagnostics:
	// no waiting for that. Dial resets the deadline.
	_ = conn.SetReadDeadline(time.Unix(1, 0))
	d.cork = newFrameCork(conn, rest, true)
	resp.Body = d.cork
	return resp, nil
}

// exchange writes the request and reads the answer.
func (d *dialler) exchange(conn net.Conn, req *http.Request, out []byte) (*http.Response, []byte, error) {
	if _, err := conn.Write(out); err != nil {
		return nil, nil, fmt.Errorf("sending the upgrade request: %w", err)
	}
	resp, rest, err := readResponse(conn, req, func() {
		_ = conn.SetReadDeadline(time.Now().Add(min(failureBodyTimeout, d.options.HandshakeTimeout)))
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("no answer to the upgrade request within %v: %w", d.options.HandshakeTimeout, os.ErrDeadlineExceeded)
	}
	return resp, rest, err
}

// refused describes an answer other than 101.
func (d *dialler) refused(resp *http.Response, body []byte) *HandshakeError {
	e := d.fail(LegUpgrade, statusError(resp))
	e.Status = resp.StatusCode
	e.Header = http.Header{}
	for _, name := range []string{"Location", "Retry-After", "Www-Authenticate", "Proxy-Authenticate"} {
		if values := resp.Header.Values(name); len(values) > 0 {
			e.Header[name] = values
		}
	}
	e.Excerpt = excerpt(body)
	return e
}
