package ws

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
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

// testCA makes a self-signed certificate for localhost, and a pool that trusts
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
	last atomic.Pointer[countingConn]
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &countingConn{Conn: conn}
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

// startServer runs an http.Server over a NewListener until the test ends.
func startServer(t testing.TB, secure bool) *testServer {
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
