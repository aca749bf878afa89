package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata/messages.golden")

// fault is one thing that goes wrong, and what the user must be able to tell from it.
type fault struct {
	name    string
	leg     Leg
	kind    error
	status  int
	scripts []conversation
	options func(*Options)
	dialer  func(*Dialer)
}

func faults(t *testing.T) []fault {
	page := func(text string) string {
		return "<!DOCTYPE html><html><head><title>" + text + "</title><style>p { color: red }</style>" +
			"<script>alert('<p>')</script></head>\n<body><!-- <p>hidden --><h1>" + text + "</h1><p>Ask &quot;IT&quot; &amp; be\x1b[31m patient.</p></body></html>"
	}
	const html = "Content-Type: text/html; charset=utf-8\r\n"
	// Only the leg that is to stall is in a hurry, so that a busy machine does not make another leg fail.
	quick := func(leg *time.Duration) { *leg = 100 * time.Millisecond }
	quickResolve := func(o *Options) { quick(&o.ResolveTimeout); o.Proxy = []string{"http://proxy.example:3128"} }
	quickConnect := func(o *Options) { quick(&o.ConnectTimeout) }
	quickReply := func(o *Options) { quick(&o.ReplyTimeout) }
	credentials := func(o *Options) { *o = withCredentials(*o) }
	both := func(o *Options) { quickReply(o); credentials(o) }
	secure := func(o *Options) { o.Proxy[0] = strings.Replace(o.Proxy[0], "http:", "https:", 1) }
	quickTLS := func(o *Options) { quick(&o.TLSTimeout); secure(o) }
	stall := func(c *proxyConn) { c.stall() }
	cut := func(c *proxyConn) { c.request(); c.cut() }
	saying := func(text string, then conversation) conversation {
		return func(c *proxyConn) {
			c.request()
			c.say(text)
			then(c)
		}
	}
	refusedPort := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return "http://" + ln.Addr().String()
	}()
	cert, _ := testCertificate(t)
	tlsConversation := func(c *proxyConn) {
		secure := tls.Server(c.Conn, &tls.Config{Certificates: []tls.Certificate{cert}})
		secure.Handshake()
		secure.Close()
	}

	return []fault{
		// The legs before the CONNECT.
		{
			name: "proxy's name does not exist", leg: LegResolveProxy, kind: ErrDNS, options: func(o *Options) { o.Proxy = []string{"http://proxy.example:3128"} },
			dialer: func(d *Dialer) {
				d.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
					return nil, &net.DNSError{Err: "no such host", Name: "proxy.example", IsNotFound: true}
				}
			},
		},
		{
			name: "name server is silent", leg: LegResolveProxy, kind: ErrTimeout, options: quickResolve,
			dialer: func(d *Dialer) {
				d.lookup = func(ctx context.Context, _, _ string) ([]netip.Addr, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				}
			},
		},
		{name: "proxy's port is closed", leg: LegConnectProxy, kind: ErrRefused, options: func(o *Options) { o.Proxy = []string{refusedPort} }},
		{
			name: "proxy's host is silent", leg: LegConnectProxy, kind: ErrTimeout, options: quickConnect, scripts: []conversation{stall},
			dialer: func(d *Dialer) {
				d.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				}
			},
		},
		{name: "stall in TLS", leg: LegProxyTLS, kind: ErrTimeout, options: quickTLS, scripts: []conversation{stall}},
		{name: "cut in TLS", leg: LegProxyTLS, kind: io.EOF, options: secure, scripts: []conversation{func(c *proxyConn) { io.ReadFull(c, make([]byte, 5)); c.Conn.(*net.TCPConn).CloseWrite(); c.stall() }}},
		{name: "reset in TLS", leg: LegProxyTLS, kind: syscall.ECONNRESET, options: secure, scripts: []conversation{func(c *proxyConn) { io.ReadFull(c, make([]byte, 5)); c.cut() }}},
		{name: "no TLS there", leg: LegProxyTLS, kind: nil, options: secure, scripts: []conversation{func(c *proxyConn) { c.say("HTTP/1.1 400 Bad Request\r\n\r\n"); c.stall() }}},
		{name: "certificate not trusted", leg: LegProxyTLS, kind: nil, options: secure, scripts: []conversation{tlsConversation}},

		// Stalls and cuts of the CONNECT.
		{name: "stall before the reply", leg: LegCONNECT, kind: ErrTimeout, options: quickReply, scripts: []conversation{stall}},
		{name: "stall in the status line", leg: LegCONNECT, kind: ErrTimeout, options: quickReply, scripts: []conversation{saying("HTTP/1.1 20", stall)}},
		{name: "stall in the header", leg: LegCONNECT, kind: ErrTimeout, options: quickReply, scripts: []conversation{saying("HTTP/1.1 200 OK\r\nVia: ", stall)}},
		{name: "stall after an interim reply", leg: LegCONNECT, kind: ErrTimeout, options: quickReply, scripts: []conversation{saying("HTTP/1.1 100 Continue\r\n\r\n", stall)}},
		{name: "stall after authentication", leg: LegCONNECT, kind: ErrTimeout, options: both, scripts: []conversation{saying(ask407, stall), stall}},
		{name: "stall in the body of a 407", leg: LegCONNECT, kind: ErrTimeout, options: both, scripts: []conversation{
			saying("HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\nContent-Length: 5\r\n\r\nhe", stall), stall,
		}},
		{name: "stall in the body of a 403", leg: LegCONNECT, kind: ErrForbidden, status: 403, options: func(o *Options) { o.ReplyTimeout = time.Second }, scripts: []conversation{
			saying("HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\n<p>Not this port", stall),
		}},
		{name: "closed before the reply", leg: LegCONNECT, kind: io.EOF, scripts: []conversation{saying("", func(*proxyConn) {})}},
		{name: "reset before the reply", leg: LegCONNECT, kind: syscall.ECONNRESET, scripts: []conversation{cut}},
		{name: "closed in the status line", leg: LegCONNECT, kind: io.ErrUnexpectedEOF, scripts: []conversation{saying("HTTP/1.1 20", func(*proxyConn) {})}},
		{name: "closed in the header", leg: LegCONNECT, kind: io.ErrUnexpectedEOF, scripts: []conversation{saying("HTTP/1.1 200 OK\r\nVia: x\r\n", func(*proxyConn) {})}},
		{name: "closed after an interim reply", leg: LegCONNECT, kind: io.ErrUnexpectedEOF, scripts: []conversation{saying("HTTP/1.1 100 Continue\r\n\r\n", func(*proxyConn) {})}},
		{name: "closed whenever credentials arrive", leg: LegCONNECT, kind: io.EOF, options: credentials, scripts: []conversation{
			replies(ask407), saying("", func(*proxyConn) {}),
		}},

		// Replies that are none.
		{name: "an ssh server", leg: LegCONNECT, kind: ErrBadReply, scripts: []conversation{saying("SSH-2.0-OpenSSH_9.2p1 Debian\r\n", stall)}},
		{name: "a TLS server", leg: LegCONNECT, kind: ErrBadReply, scripts: []conversation{saying("\x15\x03\x01\x00\x02\x02\x46", stall)}},
		{name: "a SOCKS server", leg: LegCONNECT, kind: ErrBadReply, scripts: []conversation{saying("\x05\xff", stall)}},
		{name: "giant header", leg: LegCONNECT, kind: ErrBadReply, scripts: []conversation{saying("HTTP/1.1 200 OK\r\nA: "+strings.Repeat("a", 2*maxHeader), stall)}},
		{name: "endless interim replies", leg: LegCONNECT, kind: ErrBadReply, scripts: []conversation{saying(strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100), stall)}},
		{name: "line without colon", leg: LegCONNECT, kind: ErrBadReply, scripts: []conversation{saying("HTTP/1.1 200 OK\r\nno colon\x1b[2J\r\n\r\n", stall)}},
		{name: "header without colon", leg: LegCONNECT, kind: ErrBadReply, scripts: []conversation{saying("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", stall)}},
		{name: "two lengths", leg: LegCONNECT, kind: ErrBadReply, scripts: []conversation{saying("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", stall)}},

		// Replies that say no.
		{name: "forbidden", leg: LegCONNECT, kind: ErrForbidden, status: 403, scripts: []conversation{replies(status(403, html, page("Access denied")))}},
		{name: "forbidden, chunked", leg: LegCONNECT, kind: ErrForbidden, status: 403, scripts: []conversation{replies("HTTP/1.1 403\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nBecause\r\n6\r\n I can\r\n0\r\n\r\n")}},
		{name: "forbidden, compressed", leg: LegCONNECT, kind: ErrForbidden, status: 403, scripts: []conversation{replies(status(403, "Content-Encoding: gzip\r\n", "\x1f\x8bnonsense"))}},
		{name: "forbidden, binary", leg: LegCONNECT, kind: ErrForbidden, status: 403, scripts: []conversation{replies(status(403, "", "\x1f\x8b\x00nonsense"))}},
		{name: "forbidden, at length", leg: LegCONNECT, kind: ErrForbidden, status: 403, scripts: []conversation{replies(status(403, "", strings.Repeat("no and again ", 3000)))}},
		{name: "forbidden after authentication", leg: LegCONNECT, kind: ErrForbidden, status: 403, options: credentials, scripts: []conversation{replies(ask407, status(403, "", "not you"))}},
		{name: "wrong kind of server", leg: LegCONNECT, kind: ErrNoTunnel, status: 405, scripts: []conversation{replies(status(405, html, page("Method Not Allowed")))}},
		{name: "bad request", leg: LegCONNECT, kind: ErrNoTunnel, status: 400, scripts: []conversation{replies("HTTP/1.1 400 Bad Request\r\n\r\n")}},
		{name: "target unreachable for the proxy", leg: LegCONNECT, kind: ErrUnavailable, status: 503, scripts: []conversation{replies(status(503, html, page("Unable to forward")))}},
		{name: "gateway timeout", leg: LegCONNECT, kind: ErrUnavailable, status: 504, scripts: []conversation{replies("HTTP/1.0 504 Gateway Time-out\r\n\r\n")}},
		{name: "redirect to a login", leg: LegCONNECT, kind: ErrCaptivePortal, status: 302, scripts: []conversation{replies(status(302, "Location: https://portal.hotel.example/login?mac=00:11\r\n", ""))}},
		{name: "network authentication required", leg: LegCONNECT, kind: ErrCaptivePortal, status: 511, scripts: []conversation{replies(status(511, html, page("Log in")))}},
		{name: "a page instead of a tunnel", leg: LegCONNECT, kind: ErrCaptivePortal, status: 200, scripts: []conversation{replies(status(200, html, page("Welcome to the hotel")))}},
		{name: "a page of no length", leg: LegCONNECT, kind: ErrCaptivePortal, status: 200, scripts: []conversation{replies("HTTP/1.1 200 OK\r\n" + html + "\r\n" + page("Welcome"))}},

		{name: "a page that comes late", leg: LegCONNECT, kind: ErrCaptivePortal, status: 200, scripts: []conversation{saying("HTTP/1.1 200 OK\r\n"+html+"\r\n", func(c *proxyConn) {
			<-time.After(portalWait / 10)
			c.say(page("Welcome"))
		})}},

		// Authentication.
		{name: "no credentials", leg: LegProxyAuth, kind: ErrCredentialsMissing, status: 407, scripts: []conversation{replies(status(407, html+"Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: ntlm, basic realm=\"x\"\r\n", page("Who are you?")))}},
		{name: "wrong credentials", leg: LegProxyAuth, kind: ErrCredentialsRefused, status: 407, options: credentials, scripts: []conversation{replies(ask407, ask407)}},
		{name: "wrong credentials, tinyproxy", leg: LegProxyAuth, kind: ErrCredentialsRefused, status: 401, options: credentials, scripts: []conversation{replies(ask407, status(401, "", "<h1>Unauthorized</h1>"))}},
		{name: "only other schemes", leg: LegProxyAuth, kind: ErrSchemeUnsupported, status: 407, options: credentials, scripts: []conversation{replies(status(407, "Proxy-Authenticate: Bearer\r\nProxy-Authenticate: Kerberos\r\n", ""))}},
		{name: "no scheme", leg: LegProxyAuth, kind: ErrSchemeUnsupported, status: 407, options: credentials, scripts: []conversation{replies(status(407, "", ""))}},
	}
}

// Each fault has its own message, in testdata/messages.golden: read it as a user would.
func TestFaults(t *testing.T) {
	var golden strings.Builder
	for _, f := range faults(t) {
		t.Run(f.name, func(t *testing.T) {
			scripts := f.scripts
			if scripts == nil {
				scripts = []conversation{func(c *proxyConn) { t.Error("the proxy was reached") }}
			}
			p := newFaultyProxy(t, scripts...)
			o := testOptions(p.url())
			if f.options != nil {
				f.options(&o)
			}
			d := mustNew(t, o)
			if f.dialer != nil {
				f.dialer(d)
			}
			_, e := dial(t, d, testTarget)
			if e == nil {
				t.Fatal("no error")
			}
			if e.Leg != f.leg || e.Status != f.status || e.Target != testTarget || e.Hint == "" {
				t.Errorf("%#v", e)
			}
			if f.kind != nil && !isReset(f.kind, e) && !errors.Is(e, f.kind) {
				t.Errorf("%v is not %v", e, f.kind)
			}
			if len([]rune(e.Excerpt)) > maxExcerpt || strings.ContainsAny(e.Error(), "\n\x1b") {
				t.Errorf("%q", e)
			}
			text := strings.ReplaceAll(e.Error(), firstProxy(d).addr, "PROXY")
			if errno, ok := errors.AsType[syscall.Errno](e); ok { // each system says it in its own words
				text = strings.ReplaceAll(text, errno.Error(), "SYSTEM'S REASON")
			}
			again := map[bool]string{true: "permanent", false: "transient"}[e.Permanent()]
			fmt.Fprintf(&golden, "%s (%s)\n    %s\n    try: %s\n\n", f.name, again, text, e.Hint)
		})
	}
	const file = "testdata/messages.golden"
	if *update {
		if err := os.WriteFile(file, []byte(golden.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wantText := strings.ReplaceAll(string(want), "\r\n", "\n")
	if golden.String() != wantText {
		got, want := strings.Split(golden.String(), "\n"), strings.Split(wantText, "\n")
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("messages differ from %s (go test -update rewrites it), first in line %d:\ngot  %s\nwant %s", file, i+1, got[i], want[i])
			}
		}
		t.Fatalf("messages and %s differ in length", file)
	}
}

// isReset allows for a reset that overtakes nothing but is told otherwise by another system.
func isReset(kind error, err error) bool {
	if kind != syscall.ECONNRESET {
		return false
	}
	_, ok := errors.AsType[syscall.Errno](err)
	return ok
}

// The context ends any leg at once, whatever the leg's own deadline.
func TestContextEndsAnyLeg(t *testing.T) {
	for name, c := range map[string]struct {
		leg    Leg
		scheme string
		script func(reached chan<- struct{}) conversation
	}{
		"TLS": {LegProxyTLS, "https", func(reached chan<- struct{}) conversation {
			return func(c *proxyConn) { c.br.Peek(1); close(reached); c.stall() }
		}},
		"CONNECT": {LegCONNECT, "http", func(reached chan<- struct{}) conversation {
			return func(c *proxyConn) { c.request(); close(reached); c.stall() }
		}},
		"the second CONNECT": {LegCONNECT, "http", func(reached chan<- struct{}) conversation {
			return func(c *proxyConn) { c.request(); c.say(ask407); c.request(); close(reached); c.stall() }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			reached := make(chan struct{})
			p := newFaultyProxy(t, c.script(reached))
			o := withCredentials(testOptions(strings.Replace(p.url(), "http", c.scheme, 1)))
			o.TLSTimeout, o.ReplyTimeout = time.Hour, time.Hour
			cause := errors.New("the user has left")
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				<-reached
				cancel(cause)
			}()
			_, err := mustNew(t, o).DialContext(ctx, "tcp", testTarget)
			if e := asError(t, err); e.Leg != c.leg || !errors.Is(e, cause) || e.Permanent() {
				t.Errorf("%v", e)
			}
		})
	}
}

// A proxy that sends a byte now and then stays within a leg's deadline as a whole.
func TestDrippingProxy(t *testing.T) {
	drip := func(first, text string) conversation {
		return func(c *proxyConn) {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			if text[0] != 5 {
				c.request()
			}
			c.say(first)
			for i := 0; ; i++ {
				if _, err := c.Write([]byte{text[min(i, len(text)-1)]}); err != nil {
					return
				}
				<-tick.C
			}
		}
	}
	for name, c := range map[string]struct {
		scheme, first, text string
		legs                int
	}{
		"status line":  {"http", "", "HTTP/1.1 2", 1},
		"header":       {"http", "HTTP/1.1 200 OK\r\n", "A", 1},
		"a 407's body": {"http", "HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\nContent-Length: 60000\r\n\r\n", "x", 3}, // and on a new connection again
		"a 403's body": {"http", "HTTP/1.1 403 x\r\nContent-Length: 60000\r\n\r\n", "x", 2},
		"SOCKS5":       {"socks5h", "", "\x05\x00\x05\x00\x00\x03\xffx", 2},
		"TLS":          {"https", "", "\x16\x03\x03\x40\x00\x02", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFaultyProxy(t, drip(c.first, c.text))
			o := withCredentials(testOptions(strings.Replace(f.url(), "http", c.scheme, 1)))
			const leg = 400 * time.Millisecond
			o.ReplyTimeout, o.TLSTimeout = leg, leg
			begin := time.Now()
			_, e := dial(t, mustNew(t, o), testTarget)
			if took := time.Since(begin); e == nil || took > time.Duration(c.legs)*leg+5*time.Second {
				t.Errorf("after %v: %v", took, e)
			}
		})
	}
}

// A body that never comes does not keep the status waiting for the whole of the reply's deadline.
func TestExcerptIsNotWaitedForLong(t *testing.T) {
	p := newFaultyProxy(t, func(c *proxyConn) {
		c.request()
		c.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\n")
		c.stall()
	})
	o := testOptions(p.url())
	o.ReplyTimeout = time.Hour
	start := time.Now()
	_, e := dial(t, mustNew(t, o), testTarget)
	if took := time.Since(start); e == nil || e.Status != 403 || took > excerptTimeout+3*time.Second {
		t.Errorf("after %v: %v", took, e)
	}
}
