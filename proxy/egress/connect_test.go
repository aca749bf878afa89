package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

func status(code int, header, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d Because\r\n%sContent-Length: %d\r\n\r\n%s", code, header, len(body), body)
}

// Every way to the tunnel: which requests with which authorization, on how many connections.
func TestTunnels(t *testing.T) {
	const none, basic = "", wantBasic
	bigBody := strings.Repeat("x", maxDrain+1)
	for _, c := range []struct {
		name        string
		credentials bool
		scripts     []conversation
		requests    []string
		connections int
	}{
		{"open proxy", false, []conversation{replies(ok200)}, []string{none}, 1},
		{"open proxy, credentials kept back", true, []conversation{replies(ok200)}, []string{none}, 1},
		{"any 2xx", false, []conversation{replies("HTTP/1.1 299 Fine\r\n\r\n{echo}")}, []string{none}, 1},
		{"HTTP/1.0", false, []conversation{replies("HTTP/1.0 200 OK\r\n\r\n{echo}")}, []string{none}, 1},
		{"LF only", false, []conversation{replies("HTTP/1.1 200 OK\nVia: x\n\n{echo}")}, []string{none}, 1},
		{"blank line first", false, []conversation{replies("\r\nHTTP/1.1 200 OK\r\n\r\n{echo}")}, []string{none}, 1},
		{"interim first", false, []conversation{replies("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{echo}")}, []string{none}, 1},
		{"html on an empty 200", false, []conversation{replies("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n{echo}")}, []string{none}, 1},
		{"407 and 200 on one connection", true, []conversation{replies(ask407, ok200)}, []string{none, basic}, 1},
		{"chunked 407", true, []conversation{replies("HTTP/1.1 407 x\r\nProxy-Authenticate: basic realm=x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ok200)}, []string{none, basic}, 1},
		{"strongest usable of several", true, []conversation{replies(status(407, "Proxy-Authenticate: Kerberos, Token\r\nProxy-Authenticate: Bearer realm=\"a, Basic\", nonce=x, Basic realm=b\r\n", ""), ok200)}, []string{none, basic}, 1},
		{"407 closes", true, []conversation{replies(close407), replies(ok200)}, []string{none, basic}, 2},
		{"HTTP/1.0 407 closes", true, []conversation{replies("HTTP/1.0 407 x\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 2\r\n\r\nno"), replies(ok200)}, []string{none, basic}, 2},
		{"407 without length", true, []conversation{replies("HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=x\r\n\r\nno"), replies(ok200)}, []string{none, basic}, 2},
		{"giant 407 body", true, []conversation{replies(status(407, "Proxy-Authenticate: Basic realm=x\r\n", bigBody)), replies(ok200)}, []string{none, basic}, 2},
		{"407 body cut short", true, []conversation{replies("HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 100\r\n\r\nno"), replies(ok200)}, []string{none, basic}, 2},
		{"keep-alive announced, but closed", true, []conversation{replies(ask407), replies(ok200)}, []string{none, basic}, 2},
		{"keep-alive announced, but reset", true, []conversation{func(c *proxyConn) {
			c.request()
			c.say(ask407)
			c.request()
			c.cut()
		}, replies(ok200)}, []string{none, basic, basic}, 2},
		{"keep-alive announced, but silent", true, []conversation{func(c *proxyConn) {
			c.request()
			c.say(ask407)
			c.request()
			c.stall()
		}, replies(ok200)}, []string{none, basic, basic}, 2},
		{"401 like a 407", true, []conversation{replies(status(401, "WWW-Authenticate: Basic realm=x\r\n", ""), ok200)}, []string{none, basic}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newFaultyProxy(t, c.scripts...)
			o := testOptions(p.url())
			if c.credentials {
				o = withCredentials(o)
			}
			if strings.HasSuffix(c.name, "silent") {
				o.ReplyTimeout = 500 * time.Millisecond
			}
			conn, err := dial(t, mustNew(t, o), testTarget)
			if err != nil {
				t.Fatal(err)
			}
			if _, raw := conn.(*net.TCPConn); !raw {
				t.Errorf("a %T", conn)
			}
			checkEcho(t, conn)
			if got := p.authorizations(); !slices.Equal(got, c.requests) || p.connections() != c.connections {
				t.Errorf("requests %q on %d connections", got, p.connections())
			}
		})
	}
}

func TestRequestOnTheWire(t *testing.T) {
	var seen string
	p := newFaultyProxy(t, func(c *proxyConn) {
		buf := make([]byte, 4096)
		n, _ := c.Read(buf)
		seen = string(buf[:n])
		c.say("HTTP/1.1 200 OK\r\n\r\n")
	})
	conn, err := dial(t, mustNew(t, testOptions(p.url())), "[2001:db8::1]:443")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, conn)
	want := "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nUser-Agent: sallyport\r\nProxy-Connection: keep-alive\r\n\r\n"
	if seen != want {
		t.Errorf("%q", seen)
	}
}

// Bytes of the target that come with the 200 are its first.
func TestEarlyBytesAreKept(t *testing.T) {
	early := "hello from the target" + strings.Repeat(".", 3000)
	p := newFaultyProxy(t, replies("HTTP/1.1 200 OK\r\n\r\n"+early+"{echo}"))
	conn, e := dial(t, mustNew(t, testOptions(p.url())), testTarget)
	if e != nil {
		t.Fatal(e)
	}
	wrapped, ok := conn.(interface {
		NetConn() net.Conn
		CloseWrite() error
	})
	if !ok {
		t.Fatalf("a %T", conn)
	}
	if _, ok := wrapped.NetConn().(*net.TCPConn); !ok {
		t.Errorf("over a %T", wrapped.NetConn())
	}
	io.WriteString(conn, "and back")
	if err := wrapped.CloseWrite(); err != nil {
		t.Error(err)
	}
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != early+"and back" {
		t.Errorf("%q, %v", got, err)
	}
}

// A connection returned has none of the handshake's deadlines left, nor is it bound to the context.
func TestConnectionOutlivesItsHandshake(t *testing.T) {
	p := newFaultyProxy(t, replies(ask407, ok200))
	d := mustNew(t, withCredentials(testOptions(p.url())))
	dialTCP := d.dial
	var last *deadlines
	d.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialTCP(ctx, network, addr)
		last = &deadlines{Conn: conn}
		return last, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := d.DialContext(ctx, "tcp", testTarget)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	checkEcho(t, conn)
	if last.set < 2 || !last.deadline.IsZero() {
		t.Errorf("deadline set %d times, last to %v", last.set, last.deadline)
	}
}

// deadlines keeps count of them.
type deadlines struct {
	net.Conn
	set      int
	deadline time.Time
}

func (c *deadlines) SetDeadline(t time.Time) error {
	c.set, c.deadline = c.set+1, t
	return c.Conn.SetDeadline(t)
}

func TestProxyOverTLS(t *testing.T) {
	cert, pool := testCertificate(t)
	listen := func() net.Listener {
		ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
			Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"},
		})
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	p := serveFaultyProxy(t, listen(), func(c *proxyConn) { c.request() })
	o := withCredentials(testOptions("https://" + p.Addr().String()))

	_, e := dial(t, mustNew(t, o), testTarget) // system roots
	if e == nil || e.Leg != LegProxyTLS || !e.Permanent() || !strings.Contains(e.Error(), "CN=Test Proxy CA") {
		t.Errorf("without the CA: %v", e)
	}
	o.TLS = func(string) *tls.Config { return &tls.Config{RootCAs: pool, ServerName: "elsewhere"} }
	_, e = dial(t, mustNew(t, o), testTarget)
	if e == nil || e.Leg != LegProxyTLS || !e.Permanent() || !strings.Contains(e.Error(), "elsewhere") {
		t.Errorf("another name: %v", e)
	}
	p = serveFaultyProxy(t, listen(), replies(ask407, ok200), replies("HTTP/1.1 200 OK\r\n\r\nearly{echo}"))
	o.Proxy = []string{"https://" + p.Addr().String()}
	shared := &tls.Config{RootCAs: pool}
	o.TLS = func(string) *tls.Config { return shared }
	d := mustNew(t, o)
	conn, e := dial(t, d, testTarget)
	if e != nil {
		t.Fatal(e)
	}
	secure, ok := conn.(*tls.Conn)
	if !ok || secure.ConnectionState().NegotiatedProtocol != "http/1.1" {
		t.Errorf("a %T", conn)
	}
	checkEcho(t, conn)
	conn, e = dial(t, d, testTarget)
	if e != nil {
		t.Fatal(e)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "early" {
		t.Errorf("%q %v", got, err)
	}
	checkEcho(t, conn)
	if shared.ServerName != "" || shared.NextProtos != nil || shared.MinVersion != 0 {
		t.Error("the caller's config was changed")
	}
}

// Refused credentials are sent once, then not for a minute, over any number of dials; the reason stays the same.
func TestRefusedCredentialsAreNotSentAgain(t *testing.T) {
	for name, refusal := range map[string]string{
		"407":                     ask407,
		"407 that closes":         close407,
		"401, as tinyproxy":       status(401, "Server: tinyproxy\r\n", "<h1>Unauthorized</h1>"),
		"407 that offers nothing": status(407, "", ""),
	} {
		t.Run(name, func(t *testing.T) {
			p := newFaultyProxy(t, replies(ask407, refusal))
			d := mustNew(t, withCredentials(testOptions(p.url())))
			for i := range 4 {
				_, e := dial(t, d, testTarget)
				if e == nil || !errors.Is(e, ErrCredentialsRefused) || !e.Permanent() || e.Leg != LegProxyAuth {
					t.Fatalf("dial %d: %v", i, e)
				}
			}
			if got := p.authorizations(); !slices.Equal(got, []string{"", wantBasic}) || p.connections() != 1 {
				t.Errorf("sent %q on %d connections", got, p.connections())
			}
		})
	}
}

// Many carriers dial at once: wrong credentials are still tried only once, right ones let all through.
func TestOneAuthenticationAtATime(t *testing.T) {
	for name, c := range map[string]struct {
		accepted string
		tries    int
		want     error
	}{
		"wrong": {"Basic of somebody else", 1, ErrCredentialsRefused},
		"right": {wantBasic, 8, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := newFaultyProxy(t, func(conn *proxyConn) {
				for {
					switch r := conn.request(); {
					case r == nil:
						return
					case r.Header.Get("Proxy-Authorization") == c.accepted:
						conn.say("HTTP/1.1 200 OK\r\n\r\n")
						return
					}
					conn.say(ask407)
				}
			})
			d := mustNew(t, withCredentials(testOptions(p.url())))
			results := make(chan error)
			for range 8 {
				go func() {
					conn, err := d.DialContext(t.Context(), "tcp", testTarget)
					if err == nil {
						conn.Close()
					}
					results <- err
				}()
			}
			for range 8 {
				if err := <-results; !errors.Is(err, c.want) {
					t.Error(err)
				}
			}
			sent := slices.DeleteFunc(p.authorizations(), func(a string) bool { return a == "" })
			if len(sent) != c.tries {
				t.Errorf("credentials sent %d times", len(sent))
			}
		})
	}
}

// A remembered scheme that the proxy no longer offers is not a refusal.
func TestRememberedSchemeNoLongerOffered(t *testing.T) {
	p := newFaultyProxy(t, replies(ask407, ok200),
		replies(status(407, "Proxy-Authenticate: Bearer\r\nProxy-Authenticate: Kerberos\r\n", "")), replies(ask407, ok200))
	d := mustNew(t, withCredentials(testOptions(p.url())))
	if _, e := dial(t, d, testTarget); e != nil {
		t.Fatal(e)
	}
	_, e := dial(t, d, testTarget)
	if e == nil || !errors.Is(e, ErrSchemeUnsupported) || !slices.Equal(e.Offered, []string{"Bearer", "Kerberos"}) {
		t.Fatalf("%v", e)
	}
}

func TestColonInUserName(t *testing.T) {
	p := newFaultyProxy(t, replies(ask407))
	o := testOptions(p.url())
	o.Username, o.Password = "ja:ne", testPassword
	_, e := dial(t, mustNew(t, o), testTarget)
	if e == nil || !errors.Is(e, ErrSchemeUnsupported) || !strings.Contains(e.Error(), "colon") {
		t.Errorf("%v", e)
	}
	if got := p.authorizations(); !slices.Equal(got, []string{""}) {
		t.Errorf("sent %q", got)
	}
}
