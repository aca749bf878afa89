package egress

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport/proxy/egress/pac"
)

// The test program is its own PAC helper, as the real one is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "pac-eval" {
		if err := pac.Serve(os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // for helpers under the race detector
	goleak.VerifyTestMain(m)
}

// The secrets of all tests: no error may hold any of them. The user's text is not secret, the token made of both is.
const (
	testUser     = `DOM\jane`
	testPassword = "s3cr&t p@ss/ö"
)

const testTarget = "tunnel.example.com:443"

// conversation is how the faulty proxy treats one connection. It is closed when the function returns.
type conversation func(c *proxyConn)

// faultyProxy does to its clients whatever a test wants. Connection i gets script i, the last script any further.
type faultyProxy struct {
	net.Listener
	scripts []conversation
	done    chan struct{} // closed at the end of the test
	wg      sync.WaitGroup

	mu       sync.Mutex
	accepted int
	requests []*http.Request
}

type proxyConn struct {
	net.Conn
	br    *bufio.Reader
	proxy *faultyProxy
}

func newFaultyProxy(t *testing.T, scripts ...conversation) *faultyProxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveFaultyProxy(t, ln, scripts...)
}

func serveFaultyProxy(t *testing.T, ln net.Listener, scripts ...conversation) *faultyProxy {
	p := &faultyProxy{Listener: ln, scripts: scripts, done: make(chan struct{})}
	p.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			script := scripts[min(p.accepted, len(scripts)-1)]
			p.accepted++
			p.mu.Unlock()
			p.wg.Go(func() {
				defer conn.Close()
				script(&proxyConn{Conn: conn, br: bufio.NewReader(conn), proxy: p})
			})
		}
	})
	t.Cleanup(func() {
		close(p.done)
		ln.Close()
		p.wg.Wait()
	})
	return p
}

func (p *faultyProxy) url() string { return "http://" + p.Addr().String() }

func (p *faultyProxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// authorizations lists the Proxy-Authorization of each request so far, "" for none.
func (p *faultyProxy) authorizations() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, r := range p.requests {
		all = append(all, r.Header.Get("Proxy-Authorization"))
	}
	return all
}

// request reads the next CONNECT; nil when the client has gone.
func (c *proxyConn) request() *http.Request {
	r, err := http.ReadRequest(c.br)
	if err != nil {
		return nil
	}
	c.proxy.mu.Lock()
	c.proxy.requests = append(c.proxy.requests, r)
	c.proxy.mu.Unlock()
	return r
}

func (c *proxyConn) say(text string) { io.WriteString(c, text) }

// stall keeps the connection open without a word until the client gives up or the test ends.
func (c *proxyConn) stall() {
	gone := make(chan struct{})
	go func() {
		io.Copy(io.Discard, c.br)
		close(gone)
	}()
	select {
	case <-gone:
	case <-c.proxy.done:
		c.Close()
		<-gone
	}
}

// cut ends the connection with a reset.
func (c *proxyConn) cut() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// echo is the target behind the tunnel.
func (c *proxyConn) echo() {
	go func() {
		<-c.proxy.done
		c.Close()
	}()
	io.Copy(c, c.br)
}

// replies answers the i-th request with texts[i]; "{echo}" at an end means the tunnel stands.
func replies(texts ...string) conversation {
	return func(c *proxyConn) {
		for _, text := range texts {
			if c.request() == nil {
				return
			}
			text, tunnel := strings.CutSuffix(text, "{echo}")
			c.say(text)
			if tunnel {
				c.echo()
				return
			}
		}
	}
}

const (
	ok200     = "HTTP/1.1 200 Connection established\r\n\r\n{echo}"
	ask407    = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x, y\"\r\nContent-Length: 5\r\n\r\nhello"
	close407  = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\nConnection: close\r\n\r\nbye"
	wantBasic = "Basic RE9NXGphbmU6czNjciZ0IHBAc3Mvw7Y="
)

// testOptions has short deadlines and no environment.
func testOptions(proxy string) Options {
	o := Options{
		Kerberos:       Kerberos{Cache: "testdata/no-tickets", Config: "testdata/krb5.conf"},
		ResolveTimeout: 5 * time.Second, ConnectTimeout: 5 * time.Second,
		TLSTimeout: 5 * time.Second, ReplyTimeout: 5 * time.Second,
		Getenv: func(string) string { return "" },
	}
	if proxy != "" {
		o.Proxy = []string{proxy}
	}
	return o
}

// firstProxy is the one that the options name, whichever setting did.
func firstProxy(d *Dialer) *proxy {
	switch f := d.find.(type) {
	case fixed:
		return f.hops[0]
	case *envFinder:
		return f.proxy
	}
	return nil
}

// trustPool has a proxy's TLS verified with a pool.
func trustPool(pool *x509.CertPool) func(string) *tls.Config {
	return func(string) *tls.Config { return &tls.Config{RootCAs: pool} }
}

func withCredentials(o Options) Options {
	o.Username, o.Password = testUser, testPassword
	return o
}

func mustNew(t *testing.T, o Options) *Dialer {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// dial returns the connection and the error in our type; any error is searched for secrets.
func dial(t *testing.T, d *Dialer, addr string) (net.Conn, *Error) {
	t.Helper()
	conn, err := d.DialContext(t.Context(), "tcp", addr)
	if err == nil {
		t.Cleanup(func() { conn.Close() })
		return conn, nil
	}
	return nil, asError(t, err)
}

func asError(t *testing.T, err error) *Error {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("not an *Error: %T: %v", err, err)
	}
	noSecrets(t, e)
	return e
}

// checkEcho sends through the tunnel and back.
func checkEcho(t *testing.T, conn net.Conn) {
	t.Helper()
	const text = "through and back"
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("echo: %q, %v", got, err)
	}
}

// testCertificate is for a proxy at 127.0.0.1 and localhost.
func testCertificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test Proxy CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
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
