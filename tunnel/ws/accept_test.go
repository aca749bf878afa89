package ws

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestAcceptRefuses(t *testing.T) {
	tests := []struct {
		name    string
		request string
		status  int
		text    string
	}{
		{"no upgrade", "GET / HTTP/1.1\r\nHost: x\r\n", 426, "Upgrade"},
		{"wrong method", strings.Replace(upgradeRequest, "GET", "POST", 1) + "Content-Length: 0\r\n", 405, "method"},
		{"HTTP/1.0", strings.Replace(upgradeRequest, "HTTP/1.1", "HTTP/1.0", 1), 426, "HTTP/1.1"},
		{"wrong version", strings.Replace(upgradeRequest, "13", "8", 1), 400, "13"},
		{"no key", strings.Replace(upgradeRequest, "Sec-WebSocket-Key", "X-Key", 1), 400, "Sec-WebSocket-Key"},
		{"bad key", strings.Replace(upgradeRequest, "AAA", "!!!", 1), 400, "Sec-WebSocket-Key"},
		{"no subprotocol", upgradeHead, 400, testProtocol},
		{"wrong subprotocol", upgradeHead + "Sec-WebSocket-Protocol: mqtt, sallyport.v2\r\n", 400, testProtocol},
		{"a browser's origin", upgradeRequest + "Origin: https://evil.example\r\n", 403, "evil.example"},
	}
	s := startServer(t, false)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, tt.request+"\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.text) {
				t.Errorf("got %d %q, want %d and a text with %q", resp.StatusCode, body, tt.status, tt.text)
			}
			if err := <-s.failed; err == nil || !strings.Contains(err.Error(), conn.LocalAddr().String()) {
				t.Errorf("Accept returned %v, want an error that names the client", err)
			}
		})
	}
}

func TestAcceptOwnOrigin(t *testing.T) {
	s := startServer(t, false)
	s.client.Header = http.Header{"Origin": {"http://" + s.addr}}
	client, server := s.pair(t)
	if err := transfer(t, client, server, [][]byte{{1}}); err != nil {
		t.Error(err)
	}
}

func TestAcceptCannotHijack(t *testing.T) {
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(upgradeRequest + "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	if _, err := Accept(w, req, AcceptOptions{}); err == nil || w.Code != http.StatusNotImplemented {
		t.Errorf("got %v and status %d", err, w.Code)
	}
}

// wrapped is a ResponseWriter of some middleware.
type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestAcceptBelowMiddleware(t *testing.T) {
	s := startServer(t, true, func(_ *testServer, server *http.Server, _ *tls.Config) {
		inner := server.Handler
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { inner.ServeHTTP(wrapped{w}, r) })
	})
	client, server := s.pair(t)
	if err := transfer(t, server, client, [][]byte{pattern(1000)}); err != nil {
		t.Error(err)
	}
}

// TestAcceptForeignTLS: without a NewListener below it works, with more system
// calls.
func TestAcceptForeignTLS(t *testing.T) {
	accepted := make(chan *Conn, 1)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := Accept(w, r, AcceptOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		accepted <- conn
	}))
	defer server.Close()
	client, err := Dial(t.Context(), DialOptions{
		URL: "wss" + strings.TrimPrefix(server.URL, "https"),
		TLS: server.Client().Transport.(*http.Transport).TLSClientConfig,
	})
	if err != nil {
		t.Fatal(err)
	}
	at := <-accepted
	if err := transfer(t, at, client, [][]byte{pattern(at.MaxMessage())}); err != nil {
		t.Error(err)
	}
	_ = at.Close(nil)
	if _, err := client.ReadMessage(func() []byte { return make([]byte, readLimit) }); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want a close frame", err)
	}
	_ = client.Close(nil)
}

func TestBytesBehindTheRequest(t *testing.T) {
	// More than the carrier's small buffers hold, less than the http.Server's.
	var frames []byte
	for i := range 30 {
		frames = append(frames, controlFrame(opBinary, pattern(90+i), true)...)
	}
	_, _, server := startServer(t, false).rawClient(t, frames)
	for i := range 30 {
		if got := read(t, server); !bytes.Equal(got, pattern(90+i)) {
			t.Errorf("message %d: got %d other bytes", i, len(got))
		}
	}
}

func TestClientCertificateIsSeen(t *testing.T) {
	cert, pool := testCert(t, "alice")
	seen := make(chan string, 1)
	s := startServer(t, true, func(_ *testServer, server *http.Server, config *tls.Config) {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, pool
		inner := server.Handler
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen <- r.TLS.PeerCertificates[0].Subject.CommonName
			inner.ServeHTTP(w, r)
		})
	})
	s.client.TLS.Certificates = []tls.Certificate{cert}
	s.pair(t)
	if name := <-seen; name != "alice" {
		t.Errorf("the handler saw %q", name)
	}
}

// TestConfigForClient: reloading swaps configurations, whose ALPN may be
// anything.
func TestConfigForClient(t *testing.T) {
	var calls int
	s := startServer(t, true, func(_ *testServer, _ *http.Server, config *tls.Config) {
		chosen := &tls.Config{Certificates: config.Certificates, NextProtos: []string{"h2"}}
		config.Certificates = nil
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			calls++
			return chosen, nil
		}
	})
	client, _ := s.pair(t)
	if state, _ := client.TLS(); state.NegotiatedProtocol != "http/1.1" || calls != 1 {
		t.Errorf("ALPN %q after %d calls", state.NegotiatedProtocol, calls)
	}
}

// stubListener accepts one connection.
type stubListener struct {
	net.Listener
	conn net.Conn
	err  error
}

func (l *stubListener) Accept() (net.Conn, error) { return l.conn, l.err }

func TestListenerDoesNotHandshake(t *testing.T) {
	cert, _ := testCert(t, "x")
	below := &stubConn{}
	conn, err := NewListener(&stubListener{conn: below}, &tls.Config{Certificates: []tls.Certificate{cert}}).Accept()
	if err != nil {
		t.Fatal(err)
	}
	if secured, ok := conn.(*tls.Conn); !ok || secured.ConnectionState().HandshakeComplete {
		t.Errorf("got %T, want a *tls.Conn before its handshake", conn)
	}
	if left := time.Until(below.deadline); left <= 0 || left > defaultHandshakeTimeout {
		t.Errorf("the handshake has %v", left)
	}
	if _, err := NewListener(&stubListener{err: net.ErrClosed}, nil).Accept(); err != net.ErrClosed {
		t.Errorf("Accept's error became %v", err)
	}
}

// TestHalfOpenHandshakes: clients that connect and stop at any leg cost little,
// hold nobody up, and are dropped.
func TestHalfOpenHandshakes(t *testing.T) {
	const each, limitEach = 50, 40 << 10
	s := startServer(t, true, func(_ *testServer, server *http.Server, _ *tls.Config) { server.ReadHeaderTimeout = 2 * time.Second })
	first, _ := s.pair(t)
	_ = first.Close(nil)
	before := memoryInUse()
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		return c
	}
	for range each {
		dial()                                                              // nothing at all
		_, _ = dial().Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc})          // the start of a ClientHello
		secured := tls.Client(dial(), clientTLS(s.client.TLS, "localhost")) // TLS, no request
		if err := secured.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(secured, "GET /tunnel HTTP/1.1\r\n") // half a request
	}
	client, server := s.pair(t)
	if err := transfer(t, client, server, [][]byte{{1}}); err != nil {
		t.Error(err)
	}
	grown := (memoryInUse() - before) / (3 * each)
	t.Logf("%d bytes for each half-open handshake, both ends", grown)
	if grown > limitEach && !raceEnabled {
		t.Errorf("%d bytes for each half-open handshake, want at most %d", grown, limitEach)
	}
	for i, c := range open {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			t.Fatalf("connection %d was not dropped: %v", i, err)
		}
	}
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

func TestPlaintextListenerPassesThrough(t *testing.T) {
	below := &stubConn{}
	conn, err := NewListener(&stubListener{conn: below}, nil).Accept()
	if err != nil || conn != net.Conn(below) {
		t.Errorf("got %v, %v", fmt.Sprintf("%T", conn), err)
	}
}
