package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// h2Proxy answers CONNECT over HTTP/2 with an echo, to whoever sends the wanted authorization.
type h2Proxy struct {
	want     string
	offer    []string
	status   int
	requests atomic.Int32
}

// Values of h2Proxy's status that are none: it resets the stream before the reply, or behind it.
const (
	abortStream = -1
	abortTunnel = -2
)

func (p *h2Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.requests.Add(1)
	switch {
	case r.Method != http.MethodConnect || r.Host != testTarget || r.ProtoMajor != 2:
		w.WriteHeader(http.StatusTeapot)
	case r.Header.Get("Proxy-Authorization") != p.want:
		w.Header()["Proxy-Authenticate"] = p.offer
		w.WriteHeader(http.StatusProxyAuthRequired)
		io.WriteString(w, "<p>who are you?")
	case p.status == abortStream:
		panic(http.ErrAbortHandler)
	case p.status == abortTunnel:
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	case p.status != 0:
		w.WriteHeader(p.status)
		io.WriteString(w, "<p>because")
	default:
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		buf := make([]byte, 4096)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			w.(http.Flusher).Flush()
			if err != nil {
				return
			}
		}
	}
}

func (p *h2Proxy) start(t *testing.T) (*httptest.Server, Options) {
	s := httptest.NewUnstartedServer(p)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	o := testOptions(s.URL)
	o.TLS = func(string) *tls.Config { return s.Client().Transport.(*http.Transport).TLSClientConfig.Clone() }
	return s, o
}

func TestHTTP2Proxy(t *testing.T) {
	p := &h2Proxy{want: wantBasic, offer: []string{"NTLM", `Basic realm="x"`}}
	_, o := p.start(t)
	o.Schemes = []string{"basic"}
	d := mustNew(t, withCredentials(o))
	for range 2 {
		conn, e := dial(t, d, testTarget)
		if e != nil {
			t.Fatal(e)
		}
		checkEcho(t, conn)
		// A deadline that passes leaves the connection usable, as that of a socket does.
		conn.SetReadDeadline(time.Unix(1, 0))
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("read after the deadline")
		}
		conn.SetDeadline(time.Time{})
		checkEcho(t, conn)
		big := strings.Repeat("over the default window", 10_000)
		go io.WriteString(conn, big)
		got := make([]byte, len(big))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != big {
			t.Errorf("%v", err)
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
			t.Errorf("after half-close: %q %v", rest, err)
		}
		if conn.RemoteAddr() == nil || conn.LocalAddr() == nil || conn.(interface{ NetConn() net.Conn }).NetConn() == nil {
			t.Error("no addresses")
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
	if n := p.requests.Load(); n != 2+1 {
		t.Errorf("%d requests", n)
	}
}

// Who closes only the socket, as a carrier does that is in a hurry, leaves nothing running: goleak looks.
func TestHTTP2SocketClosed(t *testing.T) {
	p := &h2Proxy{}
	_, o := p.start(t)
	conn, e := dial(t, mustNew(t, o), testTarget)
	if e != nil {
		t.Fatal(e)
	}
	inner := conn
	for {
		w, ok := inner.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		inner = w.NetConn()
	}
	inner.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("read")
	}
	if _, err := io.WriteString(conn, "x"); err == nil {
		t.Error("written")
	}
}

func TestHTTP2Failures(t *testing.T) {
	p := &h2Proxy{status: 403}
	_, o := p.start(t)
	_, e := dial(t, mustNew(t, o), testTarget)
	if e == nil || !errors.Is(e, ErrForbidden) || e.Excerpt != "because" || e.Status != 403 {
		t.Errorf("%+v", e)
	}
	p = &h2Proxy{want: "somebody else", offer: []string{"Basic"}}
	_, o = p.start(t)
	_, e = dial(t, mustNew(t, withCredentials(o)), testTarget)
	if !errors.Is(e, ErrCredentialsRefused) || e.Excerpt != "who are you?" {
		t.Errorf("%+v", e)
	}
	// A reset is told by its code, and after the beginning it is no end.
	p = &h2Proxy{status: abortStream}
	_, o = p.start(t)
	if _, e = dial(t, mustNew(t, o), testTarget); e == nil || e.Permanent() || !strings.Contains(e.Error(), "the proxy ended the request (HTTP/2 INTERNAL_ERROR)") {
		t.Errorf("%v", e)
	}
	p = &h2Proxy{status: abortTunnel}
	_, o = p.start(t)
	conn, e := dial(t, mustNew(t, o), testTarget)
	if e != nil {
		t.Fatal(e)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a reset reads as %v", err)
	}
	if err := h2Failure(http2.StreamError{Code: http2.ErrCodeConnect}); !errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "stream ID") {
		t.Errorf("%v", err)
	}
	// NTLM cannot go over HTTP/2, so the proxy is asked by HTTP/1.1.
	p = &h2Proxy{want: "nobody", offer: []string{"NTLM"}}
	s, o := p.start(t)
	_, e = dial(t, mustNew(t, withCredentials(o)), testTarget)
	if e == nil || e.Status != http.StatusTeapot || p.requests.Load() != 2 {
		t.Errorf("%d requests to %s: %v", p.requests.Load(), s.URL, e)
	}
	cert, pool := testCertificate(t)
	listen := func() net.Listener {
		ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	// One that goes away, with a text that is not for eyes.
	for _, last := range []uint32{0, 1} { // the request is refused, or left without an answer
		leaving := serveFaultyProxy(t, listen(), func(c *proxyConn) {
			io.ReadFull(c.br, make([]byte, len(http2.ClientPreface)))
			f := http2.NewFramer(c, c.br)
			f.WriteSettings()
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					return
				}
				if frame.Header().Type != http2.FrameHeaders {
					continue
				}
				f.WriteGoAway(last, http2.ErrCodeEnhanceYourCalm, []byte(testPassword+"\x1b[2J"))
				if last == 1 {
					return
				}
			}
		})
		o = testOptions("https://" + leaving.Addr().String())
		o.TLS = trustPool(pool)
		_, e = dial(t, mustNew(t, o), testTarget)
		if e == nil || e.Leg != LegCONNECT || e.Permanent() || !strings.Contains(e.Error(), "ENHANCE_YOUR_CALM") || strings.Contains(e.Error(), "[2J") {
			t.Errorf("%v", e)
		}
	}
	// A proxy that says nothing.
	silent := serveFaultyProxy(t, listen(), func(c *proxyConn) {
		http2.NewFramer(c, c).WriteSettings()
		c.stall()
	})
	o = testOptions("https://" + silent.Addr().String())
	o.TLS, o.ReplyTimeout = trustPool(pool), 100*time.Millisecond
	_, e = dial(t, mustNew(t, o), testTarget)
	if e == nil || e.Leg != LegCONNECT || !errors.Is(e, ErrTimeout) {
		t.Errorf("%v", e)
	}
	o.ReplyTimeout = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := mustNew(t, o).DialContext(ctx, "tcp", testTarget)
	if e := asError(t, err); e.Leg != LegCONNECT || !errors.Is(e, context.DeadlineExceeded) {
		t.Errorf("%v", e)
	}
}

// A hello that gets no answer is sent once more without ML-KEM.
func TestClassicalCurves(t *testing.T) {
	cert, pool := testCertificate(t)
	large := make(chan bool, 9) // the hellos, by connection: a key share of ML-KEM takes 1.2 KB
	swallowing := func(c *proxyConn) {
		raw := make([]byte, 4096)
		n, _ := c.Read(raw)
		large <- n > 1000
		if n > 1000 {
			return
		}
		server := tls.Server(&replayConn{Conn: c.Conn, first: raw[:n]}, &tls.Config{Certificates: []tls.Certificate{cert}})
		if server.Handshake() != nil {
			return
		}
		http.ReadRequest(newLink(server).br)
		io.WriteString(server, "HTTP/1.1 200 OK\r\n\r\n")
		io.Copy(io.Discard, server)
	}
	f := newFaultyProxy(t, swallowing)
	o := testOptions("https://" + f.Addr().String())
	o.TLS = trustPool(pool)
	d := mustNew(t, o)
	for range 2 {
		conn, e := dial(t, d, testTarget)
		if e != nil {
			t.Fatal(e)
		}
		conn.Close()
	}
	if first, second, third := <-large, <-large, <-large; !first || second || third || len(large) > 0 {
		t.Errorf("hellos are large: %v, %v, %v", first, second, third)
	}
	// Who answers, be it with a certificate that is not trusted, is not asked again.
	answering := newFaultyProxy(t, func(c *proxyConn) {
		tls.Server(c.Conn, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake()
	})
	o = testOptions("https://" + answering.Addr().String())
	if _, e := dial(t, mustNew(t, o), testTarget); e == nil || e.Leg != LegProxyTLS || answering.connections() != 1 {
		t.Errorf("%v on %d connections", e, answering.connections())
	}
}

type replayConn struct {
	net.Conn
	first []byte
}

func (c *replayConn) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// relay connects an HTTP proxy's tunnels to where they lead.
func relay(c *proxyConn) {
	r := c.request()
	if r == nil {
		return
	}
	next, err := net.Dial("tcp", r.Host)
	if err != nil {
		c.say("HTTP/1.1 502 x\r\n\r\n")
		return
	}
	c.say("HTTP/1.1 200 OK\r\n\r\n")
	go func() { <-c.proxy.done; next.Close(); c.Close() }()
	go func() { io.Copy(c, next); c.Close() }()
	io.Copy(next, c.br)
	next.Close()
}

// hosts lists what was asked for.
func (p *faultyProxy) hosts() (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.requests {
		all = append(all, r.Host)
	}
	return all
}

func TestChain(t *testing.T) {
	cert, pool := testCertificate(t)
	last := &socksProxy{user: "joe", password: "pw"}
	socks := newFaultyProxy(t, last.conversation)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	middle := serveFaultyProxy(t, ln, relay)
	near := newFaultyProxy(t, func(c *proxyConn) { c.request(); c.say(ask407); relay(c) })
	o := withCredentials(testOptions(near.url()))
	o.Proxy = append(o.Proxy, "https://"+middle.Addr().String(), "socks5h://joe:pw@"+socks.Addr().String())
	o.TLS = trustPool(pool)
	d := mustNew(t, o)
	conn, e := dial(t, d, testTarget)
	if e != nil {
		t.Fatal(e)
	}
	checkEcho(t, conn)
	if first, second := near.hosts(), middle.hosts(); first[1] != middle.Addr().String() || second[0] != socks.Addr().String() || last.target() != testTarget {
		t.Errorf("%v %v %v", first, second, last.target())
	}
	if got := near.authorizations(); !slices.Equal(got, []string{"", wantBasic}) || middle.authorizations()[0] != "" {
		t.Errorf("%q %q", got, middle.authorizations())
	}
	r, err := d.Route(testTarget)
	want := "via " + near.url() + " > https://" + middle.Addr().String() + " > socks5h://" + socks.Addr().String() + " (--proxy)"
	if err != nil || r.String() != want {
		t.Errorf("%v %v", r, err)
	}
	// The failing one is named.
	o.Proxy[2] = "http://127.0.0.1:1"
	_, e = dial(t, mustNew(t, o), testTarget)
	if e == nil || e.Proxy != middle.Addr().String() || e.Target != "127.0.0.1:1" || e.Status != 502 {
		t.Errorf("%+v", e)
	}
	for _, bad := range [][]string{{"a:1", None}, {None, "a:1"}, slices.Repeat([]string{"a:1"}, 9), {"a:1", "b:2/x"}} {
		o.Proxy = bad
		if _, err := New(o); !errors.Is(err, ErrConfig) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
