package ws

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

const testProtocol = "sallyport.v1"

// testCert makes a self-signed certificate for localhost, and a pool that trusts
// it.
func testCert(t testing.TB, issuer string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: issuer},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// countingConn counts what passes to and from the connection below.
type countingConn struct {
	net.Conn
	reads, writes, sent atomic.Int64
	record              func(p []byte) // sees each write; may be nil
}

func (c *countingConn) NetConn() net.Conn { return c.Conn }

func (c *countingConn) Read(p []byte) (int, error) {
	c.reads.Add(1)
	return c.Conn.Read(p)
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	c.sent.Add(int64(len(p)))
	if c.record != nil {
		c.record(p)
	}
	return c.Conn.Write(p)
}

// countingListener makes every accepted connection a countingConn.
type countingListener struct {
	net.Listener
	record func(p []byte) // of the connections
	last   atomic.Pointer[countingConn]
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &countingConn{Conn: conn, record: l.record}
	l.last.Store(c)
	return c, nil
}

// testServer accepts carriers and hands them over.
type testServer struct {
	url      string
	addr     string
	inner    *countingListener
	accepted chan *Conn
	failed   chan error
	client   DialOptions
}

// startServer runs an http.Server over a NewListener until the test ends;
// adjust sees all parts before it starts.
func startServer(t testing.TB, secure bool, adjust ...func(*testServer, *http.Server, *tls.Config)) *testServer {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &testServer{
		addr:     inner.Addr().String(),
		inner:    &countingListener{Listener: inner},
		accepted: make(chan *Conn, 1),
		failed:   make(chan error, 64),
	}
	var config *tls.Config
	s.url = "ws://" + s.addr + "/tunnel"
	if secure {
		cert, pool := testCert(t, "Test Authority")
		config = &tls.Config{Certificates: []tls.Certificate{cert}}
		s.client.TLS = &tls.Config{RootCAs: pool}
		s.url = "wss://" + s.addr + "/tunnel"
	}
	s.client.URL = s.url
	s.client.Subprotocols = []string{testProtocol}
	server := &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	for _, f := range adjust {
		f(s, server, config)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(NewListener(s.inner, config))
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return s
}

func (s *testServer) serve(w http.ResponseWriter, r *http.Request) {
	conn, err := Accept(w, r, AcceptOptions{Subprotocols: []string{testProtocol}})
	if err != nil {
		s.failed <- err
		return
	}
	s.accepted <- conn
}

// pair opens a carrier and returns both its ends.
func (s *testServer) pair(t testing.TB) (client, server *Conn) {
	t.Helper()
	client, err := Dial(context.Background(), s.client)
	if err != nil {
		t.Fatal(err)
	}
	server = <-s.accepted
	t.Cleanup(func() {
		_ = client.Close(nil)
		_ = server.Close(nil)
	})
	return client, server
}

// read reads one message, which the test needs.
func read(t testing.TB, c *Conn) []byte {
	t.Helper()
	buf := make([]byte, readLimit)
	n, err := c.ReadMessage(func() []byte { return buf })
	if err != nil {
		t.Fatalf("reading a message: %v", err)
	}
	return buf[:n]
}

// write writes messages, which must work.
func write(t testing.TB, c *Conn, msgs ...[]byte) {
	t.Helper()
	if err := c.WriteMessages(msgs); err != nil {
		t.Fatalf("writing messages: %v", err)
	}
}

const (
	opBinary = 0x2
	opPing   = 0x9
)

const upgradeHead = "GET /tunnel HTTP/1.1\r\nHost: here.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

const upgradeRequest = upgradeHead + "Sec-WebSocket-Protocol: other, sallyport.v1\r\n"

// rawClient opens a plaintext carrier by hand, with follows in the segment of
// the request.
func (s *testServer) rawClient(t *testing.T, follows []byte) (net.Conn, *bufio.Reader, *Conn) {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write(append([]byte(upgradeRequest+"\r\n"), follows...)); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrading: %v, %v", resp, err)
	}
	server := <-s.accepted
	t.Cleanup(func() { _ = server.Close(nil) })
	return conn, br, server
}

// readFrame reads a frame as a server sends it: whole messages, not masked.
func readFrame(t *testing.T, r io.Reader) (opcode byte, payload []byte) {
	t.Helper()
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		t.Fatal(err)
	}
	size := int(head[1])
	if size == 126 {
		if _, err := io.ReadFull(r, head[2:]); err != nil {
			t.Fatal(err)
		}
		size = int(binary.BigEndian.Uint16(head[2:]))
	}
	payload = make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		t.Fatal(err)
	}
	return head[0] & 0x0f, payload
}

// echo sends back whatever comes until c ends.
func echo(c *Conn) {
	in := make([]byte, readLimit)
	out := make([][]byte, 1)
	take := func() []byte { return in }
	for {
		n, err := c.ReadMessage(take)
		if err != nil {
			return
		}
		out[0] = in[:n]
		if c.WriteMessages(out) != nil {
			return
		}
	}
}
