package ws

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// rawServer runs serve for one connection, until the test ends.
func rawServer(t *testing.T, serve func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			done.Go(func() {
				defer conn.Close()
				stop := context.AfterFunc(t.Context(), func() { _ = conn.Close() })
				defer stop()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		done.Wait()
	})
	return ln.Addr().String()
}

// answer is a rawServer's serve that reads a request and sends text; silent
// keeps the connection open.
func answer(text string, silent bool) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		_, _ = io.WriteString(conn, text)
		if silent {
			_, _ = io.Copy(io.Discard, conn)
		}
	}
}

// dialFails dials and returns the typed error.
func dialFails(t *testing.T, o DialOptions) *HandshakeError {
	t.Helper()
	start := time.Now()
	conn, err := Dial(t.Context(), o)
	if err == nil {
		_ = conn.Close(nil)
		t.Fatal("Dial worked")
	}
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("Dial took %v to fail", took)
	}
	e, ok := errors.AsType[*HandshakeError](err)
	if !ok {
		t.Fatalf("got %T %v, want a *HandshakeError", err, err)
	}
	if e.Addr == "" || !strings.HasPrefix(err.Error(), string(e.Leg)+" "+e.Addr) {
		t.Errorf("the error names neither leg nor address: %v", err)
	}
	return e
}

func TestDialURL(t *testing.T) {
	const secret = "s3cret"
	for _, u := range []string{
		"", "wss://", "example.com/" + secret, "https://example.com/" + secret, "wss:///" + secret,
		"wss://user:" + secret + "@example.com/", "wss://user:" + secret + "@exa mple.com/", "wss://example.com:port/" + secret, "\x7f" + secret,
	} {
		conn, err := Dial(t.Context(), DialOptions{URL: u})
		if err == nil {
			_ = conn.Close(nil)
			t.Errorf("%q: no error", u)
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error quotes the URL: %v", err)
		}
	}
}

func TestDialAddr(t *testing.T) {
	for in, want := range map[string]string{
		"wss://example.com/x":          "example.com:443",
		"ws://example.com":             "example.com:80",
		"wss://[2001:db8::1]/x#f":      "[2001:db8::1]:443",
		"ws://[2001:db8::1]:8080/?q=1": "[2001:db8::1]:8080",
	} {
		var got string
		e := dialFails(t, DialOptions{URL: in, DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
			got = addr
			return nil, io.ErrClosedPipe
		}})
		if got != want || e.Addr != want {
			t.Errorf("%s: dialled %q, error says %q, want %q", in, got, e.Addr, want)
		}
		if e.Leg != LegConnect || !errors.Is(e, io.ErrClosedPipe) {
			t.Errorf("the dialler's error became %v", e)
		}
	}
}

func TestDialConnectLegs(t *testing.T) {
	t.Run("resolve", func(t *testing.T) {
		e := dialFails(t, DialOptions{URL: "wss://nowhere.invalid/", DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "nowhere.invalid", IsNotFound: true}}
		}})
		if e.Leg != LegResolve {
			t.Errorf("got %v", e)
		}
	})
	t.Run("refused", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = ln.Close()
		e := dialFails(t, DialOptions{URL: "ws://" + ln.Addr().String()})
		if _, ok := errors.AsType[*net.OpError](e); e.Leg != LegConnect || !ok {
			t.Errorf("got %v", e)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := Dial(ctx, DialOptions{URL: "ws://127.0.0.1:1"})
		if e, ok := errors.AsType[*HandshakeError](err); !ok || e.Leg != LegConnect || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestDialTLSLeg(t *testing.T) {
	cert, pool := testCert(t, "Corporate Interceptor CA")
	terminate := func(conn net.Conn) {
		_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake()
	}
	tests := []struct {
		name   string
		serve  func(net.Conn)
		config *tls.Config
		check  func(error) bool
		text   string
	}{
		{"untrusted issuer", terminate, nil, func(err error) bool {
			_, ok := errors.AsType[x509.UnknownAuthorityError](err)
			return ok
		}, `issued by "Corporate Interceptor CA"`},
		{"another name", terminate, &tls.Config{RootCAs: pool, ServerName: "other.example"}, func(err error) bool {
			_, ok := errors.AsType[x509.HostnameError](err)
			return ok
		}, "other.example"},
		{
			"pin", terminate, &tls.Config{RootCAs: pool, VerifyConnection: func(tls.ConnectionState) error { return io.ErrNoProgress }},
			func(err error) bool { return errors.Is(err, io.ErrNoProgress) }, "",
		},
		{"no TLS there", func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.0 400 Bad Request\r\n\r\n") }, nil, func(err error) bool {
			_, ok := errors.AsType[tls.RecordHeaderError](err)
			return ok
		}, "does not speak TLS"},
		{
			"closed", func(conn net.Conn) { _, _ = io.ReadFull(conn, make([]byte, 100)) }, nil,
			func(err error) bool { return err != nil }, "",
		},
		{
			"silent", func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }, nil,
			func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }, "within 300ms",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := DialOptions{URL: "wss://" + rawServer(t, tt.serve), TLS: tt.config}
			if tt.name == "silent" {
				o.HandshakeTimeout = 300 * time.Millisecond
			}
			e := dialFails(t, o)
			if e.Leg != LegTLS || !tt.check(e) || !strings.Contains(e.Error(), tt.text) {
				t.Errorf("got %v", e)
			}
		})
	}
}

func TestDialRefusedClientCertificate(t *testing.T) {
	_, pool := testCert(t, "Client Authority")
	s := startServer(t, true, func(_ *testServer, _ *http.Server, config *tls.Config) {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, pool
	})
	if e := dialFails(t, s.client); e.Leg != LegTLS || !strings.Contains(e.Error(), "client certificate") {
		t.Errorf("got %v", e)
	}
}

func TestDialUpgradeLeg(t *testing.T) {
	page := "<html><head><title>Hotel &amp; WiFi</title><script>var x='<b>'</script></head><body>\r\n<h1>Log\x07 in</h1></body></html>"
	html := "Content-Type: text/html; charset=utf-8\r\n"
	tests := []struct {
		name    string
		text    string
		silent  bool
		status  int
		header  string // "Name: value" that must have been kept
		excerpt string
		want    string // in the error's text
	}{
		{"captive portal", "HTTP/1.1 200 OK\r\n" + html + "\r\n" + page, false, 200, "", "Hotel & WiFi Log in", "captive portal"},
		{"another service", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", true, 200, "", "hi", "path"},
		{
			"redirect", "HTTP/1.1 302 Found\r\nLocation: https://u:p4ss@login.example/a?token=t0k\r\nContent-Length: 0\r\n\r\n", true, 302,
			"Location: https://u:p4ss@login.example/a?token=t0k", "", "https://login.example/a",
		},
		{"no credentials", "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n", true, 401, "Www-Authenticate: Bearer", "", "token"},
		{"forbidden", "HTTP/1.1 403 Forbidden\r\nX-Other: 1\r\n\r\nno", false, 403, "", "no", "403 Forbidden"},
		{"wrong path", "HTTP/1.1 404 Not Found\r\n\r\n", false, 404, "", "", "path"},
		{"proxy in between", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: NTLM\r\n\r\n", false, 407, "Proxy-Authenticate: NTLM", "", "proxy"},
		{"upgrade lost", "HTTP/1.1 426 Upgrade Required\r\n\r\n", false, 426, "", "", "Upgrade header"},
		{"draining", "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 17\r\n\r\ndraining", false, 503, "Retry-After: 17", "draining", "retry after 17"},
		{"gateway", "HTTP/1.1 502 Bad Gateway\r\n\r\n", false, 502, "", "", "gateway"},
		{"teapot", "HTTP/1.0 418 I'm a teapot\r\n\r\n", false, 418, "", "", "418"},
		{"portal by status", "HTTP/1.1 511 x\r\n\r\n", false, 511, "", "", "captive portal"},
		{"busy", "HTTP/1.1 429 x\r\n\r\n", false, 429, "", "", "retry later"},
		{"interim answers first", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\n", false, 404, "", "", "path"},
		{"interim answers only", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100), true, 0, "", "", "interim"},
		{"closed", "", false, 0, "", "", "closed before an answer"},
		{"cut", "HTTP/1.1 101 Swi", false, 0, "", "", "closed before an answer"},
		{"silent", "", true, 0, "", "", "within 300ms"},
		{"half an answer", "HTTP/1.1 101 Switching Protocols\r\nUpgrade", true, 0, "", "", "within 300ms"},
		{"body that does not come", "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nnop", true, 403, "", "nop", "403"},
		{"not HTTP", "SSH-2.0-OpenSSH_9.9\r\n" + strings.Repeat("x", 1000), true, 0, "", "", "not HTTP"},
		{"endless header", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxResponseHeader), true, 0, "", "", "larger than 65536"},
		{"endless body", "HTTP/1.1 400 Bad Request\r\n\r\n" + strings.Repeat("x", 1<<20), true, 400, "", strings.Repeat("x", maxExcerpt), "400"},
		{"no key", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", true, 101, "", "", "not a WebSocket handshake"},
		{"no upgrade", "HTTP/1.1 101 Switching Protocols\r\nX: " + strings.Repeat("y", 5000) + "\r\n\r\n", true, 101, "", "", "not a WebSocket handshake"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := DialOptions{URL: "ws://" + rawServer(t, answer(tt.text, tt.silent)) + "/p?q=s3cret"}
			if tt.want == "within 300ms" {
				o.HandshakeTimeout = 300 * time.Millisecond
			}
			e := dialFails(t, o)
			if e.Leg != LegUpgrade || e.Status != tt.status || e.Excerpt != tt.excerpt {
				t.Errorf("leg %s, status %d, excerpt %q, want upgrade, %d, %q", e.Leg, e.Status, e.Excerpt, tt.status, tt.excerpt)
			}
			name, value, _ := strings.Cut(tt.header, ": ")
			if e.Header.Get(name) != value || len(e.Header) > 1 {
				t.Errorf("header %v, want %q only", e.Header, tt.header)
			}
			text := e.Error()
			if !strings.Contains(text, tt.want) || len(text) > 800 {
				t.Errorf("%q lacks %q or is too long", text, tt.want)
			}
			for _, secret := range []string{"p4ss", "t0k", "s3cret"} {
				if strings.Contains(text, secret) {
					t.Errorf("the error quotes a secret: %s", text)
				}
			}
		})
	}
}

func TestDialUpgradeTimeoutIsATimeout(t *testing.T) {
	e := dialFails(t, DialOptions{URL: "ws://" + rawServer(t, answer("", true)), HandshakeTimeout: 50 * time.Millisecond})
	if !errors.Is(e, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", e)
	}
}

func TestDialCancelledWhileUpgrading(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	addr := rawServer(t, func(conn net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		cancel(io.ErrNoProgress)
		_, _ = io.Copy(io.Discard, conn)
	})
	_, err := Dial(ctx, DialOptions{URL: "ws://" + addr})
	if e, ok := errors.AsType[*HandshakeError](err); !ok || e.Leg != LegUpgrade || !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("got %v", err)
	}
}

func TestDialWrongSubprotocol(t *testing.T) {
	for name, chosen := range map[string]string{"none": "", "another": "Sec-WebSocket-Protocol: mqtt\r\n"} {
		t.Run(name, func(t *testing.T) {
			e := dialFails(t, DialOptions{
				URL:          "ws://" + rawServer(t, upgradeBy(chosen, nil)),
				Subprotocols: []string{testProtocol},
			})
			if e.Leg != LegUpgrade || e.Status != 101 || !strings.Contains(strings.ToLower(e.Error()), "protocol") {
				t.Errorf("got %v", e)
			}
		})
	}
}

// upgradeBy answers a request as RFC 6455 §4.2.2 says, with header and, in the
// same segment, what follows; then it reads until the end.
func upgradeBy(header string, follows []byte) func(net.Conn) {
	return func(conn net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		text := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
			base64.StdEncoding.EncodeToString(sum[:]) + "\r\n" + header + "\r\n"
		_, _ = conn.Write(append([]byte(text), follows...))
		_, _ = io.Copy(io.Discard, conn)
	}
}

func TestBytesBehindTheAnswer(t *testing.T) {
	frames := append([]byte{0x82, 3}, "one"...)
	frames = append(frames, 0x82, 126, 0x0f, 0xa0)
	frames = append(frames, pattern(4000)...)
	conn, err := Dial(t.Context(), DialOptions{URL: "ws://" + rawServer(t, upgradeBy("", frames))})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(nil)
	if got := read(t, conn); string(got) != "one" {
		t.Errorf("got %q", got)
	}
	if got := read(t, conn); string(got) != string(pattern(4000)) {
		t.Errorf("got %d other bytes", len(got))
	}
}

func TestDialRequest(t *testing.T) {
	seen := make(chan *http.Request, 1)
	addr := rawServer(t, func(conn net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err == nil {
			seen <- req
		}
	})
	header := http.Header{"Authorization": {"Bearer t"}, "Host": {"front.example"}, "Sec-Websocket-Extensions": {"permessage-deflate"}}
	dialFails(t, DialOptions{URL: "ws://" + addr + "/tunnel?x=1#frag", Header: header, Subprotocols: []string{testProtocol}})
	req := <-seen
	if req.Host != "front.example" || req.RequestURI != "/tunnel?x=1" || req.Header.Get("Authorization") != "Bearer t" ||
		req.Header.Get("Sec-WebSocket-Protocol") != testProtocol || req.Header.Get("Sec-WebSocket-Extensions") != "" || req.UserAgent() != "sallyport" {
		t.Errorf("the request: %s %s %v", req.Host, req.RequestURI, req.Header)
	}
	if len(header) != 3 {
		t.Errorf("the caller's header was changed: %v", header)
	}
}

func TestDialKeepsConfig(t *testing.T) {
	s := startServer(t, true)
	s.client.TLS.MinVersion = tls.VersionTLS10
	client, server := s.pair(t)
	if c := s.client.TLS; c.ServerName != "" || c.NextProtos != nil || c.MinVersion != tls.VersionTLS10 {
		t.Error("the caller's TLS configuration was changed")
	}
	for _, c := range []*Conn{client, server} {
		state, ok := c.TLS()
		if !ok || state.Version < tls.VersionTLS12 || state.NegotiatedProtocol != "http/1.1" {
			t.Errorf("TLS version %x, ALPN %q", state.Version, state.NegotiatedProtocol)
		}
		if c.Subprotocol() != testProtocol {
			t.Errorf("subprotocol %q", c.Subprotocol())
		}
	}
	if client.LocalAddr().String() != server.RemoteAddr().String() || client.RemoteAddr().String() != server.LocalAddr().String() {
		t.Error("the addresses of the two ends do not match")
	}
}
