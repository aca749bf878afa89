package tunnel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"sallyport/tunnel"
	"sallyport/tunnel/ws"
)

// dialer makes connected carriers of one kind, client and server end.
type dialer func(t testing.TB) (client, server tunnel.Carrier)

// carriers are the kinds that every test of the suite runs over.
func carriers(t testing.TB) map[string]dialer {
	return map[string]dialer{
		"pipe": func(t testing.TB) (client, server tunnel.Carrier) {
			a, b := net.Pipe()
			return &lengthPrefixed{c: a}, &lengthPrefixed{c: b}
		},
		"tcp": func(t testing.TB) (client, server tunnel.Carrier) {
			a, b := tcpPair(t)
			return &lengthPrefixed{c: a}, &lengthPrefixed{c: b}
		},
		"websocket": websocketTLS(t),
	}
}

// lengthPrefixed carries messages over a net.Conn, each behind its length.
type lengthPrefixed struct {
	c    net.Conn
	buf  []byte
	head [4]byte
}

func (l *lengthPrefixed) MaxMessage() int { return tunnel.MaxMessage }

func (l *lengthPrefixed) ReadMessage(take func() []byte) (int, error) {
	if _, err := io.ReadFull(l.c, l.head[:]); err != nil {
		return 0, err
	}
	n := binary.BigEndian.Uint32(l.head[:])
	return io.ReadFull(l.c, take()[:n])
}

func (l *lengthPrefixed) WriteMessages(msgs [][]byte) error {
	l.buf = l.buf[:0]
	for _, m := range msgs {
		l.buf = append(binary.BigEndian.AppendUint32(l.buf, uint32(len(m))), m...)
	}
	_, err := l.c.Write(l.buf)
	return err
}

func (l *lengthPrefixed) Close(error) error { return l.c.Close() }

func tcpPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// websocketTLS starts a server of WebSockets and returns a dialer to it.
func websocketTLS(t testing.TB) dialer {
	t.Helper()
	accepted := make(chan tunnel.Carrier)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := ws.Accept(w, r, ws.AcceptOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		accepted <- c
	})
	certs := httptest.NewTLSServer(nil) // for its certificate only
	roots := x509.NewCertPool()
	roots.AddCert(certs.Certificate())
	certificate := certs.TLS.Certificates[0]
	certs.Close()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	var wg sync.WaitGroup
	wg.Go(func() {
		server.Serve(ws.NewListener(inner, &tls.Config{Certificates: []tls.Certificate{certificate}}))
	})
	t.Cleanup(func() { server.Close(); wg.Wait() })
	return func(t testing.TB) (client, server tunnel.Carrier) {
		t.Helper()
		c, err := ws.Dial(context.Background(), ws.DialOptions{
			URL: "wss://" + inner.Addr().String() + "/tunnel",
			TLS: &tls.Config{RootCAs: roots, ServerName: "example.com"},
		})
		if err != nil {
			t.Fatal(err)
		}
		return c, <-accepted
	}
}

// ends is a client and a server session joined by carriers of one kind.
type ends struct {
	t              testing.TB
	dial           dialer
	client, server *tunnel.Session
	host           *tunnel.Host
	ctx            context.Context
	stop           context.CancelFunc
	wg             sync.WaitGroup
	mu             sync.Mutex
	live           []tunnel.Carrier
}

func join(t testing.TB, dial dialer) *ends {
	t.Helper()
	e := &ends{t: t, dial: dial, client: tunnel.NewSession(tunnel.Options{}), host: tunnel.NewHost(tunnel.HostOptions{})}
	e.ctx, e.stop = context.WithCancel(context.Background())
	e.wg.Go(func() { e.client.Run(e.ctx) })
	e.wg.Go(func() { e.host.Run(e.ctx) })
	t.Cleanup(func() { e.stop(); e.wg.Wait() })
	e.attach()
	var err error
	if e.server, err = e.host.Accept(e.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := e.client.Ping(e.ctx); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *ends) attach() {
	c, s := e.dial(e.t)
	e.mu.Lock()
	e.live = append(e.live, c)
	e.mu.Unlock()
	e.wg.Go(func() { e.client.Attach(e.ctx, c) })
	e.wg.Go(func() { e.host.Serve(e.ctx, s, "alice") })
}

// cut ends the oldest carrier without a word, and attaches another.
func (e *ends) cut() {
	e.mu.Lock()
	c := e.live[0]
	e.live = e.live[1:]
	e.mu.Unlock()
	c.Close(errors.New("cut by the test"))
	e.attach()
}

func (e *ends) open() (opener, acceptor *tunnel.Stream) {
	e.t.Helper()
	opener, err := e.client.Open(e.ctx)
	if err != nil {
		e.t.Fatal(err)
	}
	if _, err := opener.Write([]byte("!")); err != nil {
		e.t.Fatal(err)
	}
	if acceptor, err = e.server.Accept(e.ctx); err != nil {
		e.t.Fatal(err)
	}
	if _, err := io.ReadFull(acceptor, make([]byte, 1)); err != nil {
		e.t.Fatal(err)
	}
	return opener, acceptor
}

// each runs f over every kind of carrier.
func each(t *testing.T, f func(t *testing.T, e *ends)) {
	for name, dial := range carriers(t) {
		t.Run(name, func(t *testing.T) { f(t, join(t, dial)) })
	}
}

func pattern(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestSuiteTransfersBothWays(t *testing.T) {
	each(t, func(t *testing.T, e *ends) {
		for _, n := range []int{0, 1, 65_000, 70_000, 8 << 20} {
			a, b := e.open()
			transfer(t, a, b, n)
		}
	})
}

func TestSuiteTransfersUnderCuts(t *testing.T) {
	each(t, func(t *testing.T, e *ends) {
		a, b := e.open()
		done := make(chan struct{})
		go func() { defer close(done); transfer(t, a, b, 32<<20) }()
		for cuts := 0; ; cuts++ {
			select {
			case <-done:
				t.Logf("%d cuts: %+v", cuts, e.client.Stats())
				return
			case <-time.After(20 * time.Millisecond):
				e.cut()
			}
		}
	})
}

// transfer sends n bytes each way at once, ends both directions and checks what came.
func transfer(t *testing.T, a, b *tunnel.Stream, n int) {
	t.Helper()
	data := pattern(n)
	var wg sync.WaitGroup
	for _, way := range [][2]*tunnel.Stream{{a, b}, {b, a}} {
		wg.Go(func() {
			if k, err := way[0].ReadFrom(bytes.NewReader(data)); err != nil || k != int64(n) {
				t.Errorf("sent %d of %d bytes: %v", k, n, err)
			}
			way[0].CloseWrite()
		})
		wg.Go(func() {
			var got bytes.Buffer
			if _, err := way[1].WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), data) {
				t.Errorf("got %d of %d bytes, equal %v: %v", got.Len(), n, bytes.Equal(got.Bytes(), data), err)
			}
		})
	}
	wg.Wait()
	a.Close()
	b.Close()
}

func TestSuiteManyStreams(t *testing.T) {
	each(t, func(t *testing.T, e *ends) {
		var wg sync.WaitGroup
		for range 50 {
			a, b := e.open()
			wg.Go(func() { transfer(t, a, b, 200_000) })
		}
		wg.Wait()
	})
}

func TestSuiteAbortAndHalfClose(t *testing.T) {
	each(t, func(t *testing.T, e *ends) {
		a, b := e.open()
		a.CloseWrite()
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("after FIN: %v", err)
		}
		e.cut()
		fmt.Fprint(b, "still here")
		b.CloseWrite()
		if got, err := io.ReadAll(a); string(got) != "still here" || err != nil {
			t.Fatalf("other direction: %q, %v", got, err)
		}
		a, b = e.open()
		b.Reset(77, "enough")
		var se *tunnel.StreamError
		if _, err := a.Read(make([]byte, 1)); !errors.As(err, &se) || se.Code != 77 {
			t.Fatalf("after reset: %v", err)
		}
	})
}
