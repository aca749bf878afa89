package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport/proxy/access"
	"sallyport/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// world is a server agent and a client agent, and the network between them.
type world struct {
	t      *testing.T
	log    *logBook
	store  *access.Store
	server *runningServer
	client *Client
	pair   *tls.Certificate // set: real WebSockets over TLS

	mu       sync.Mutex
	dialable error // nil: carriers can be had
	identity string
	carriers []tunnel.Carrier

	stop  context.CancelFunc // the client's
	ended chan struct{}      // closed when its Run has returned
}

// runningServer is one life of a server agent.
type runningServer struct {
	*Server
	stop context.CancelFunc
	done chan error
	url  string
}

type worldOptions struct {
	real    bool // WebSockets over TLS on loopback instead of memory
	connect []string
	listen  []string
	limits  access.Limits
	server  func(*ServerOptions)
	client  func(*ClientOptions)
}

const testToken = "spt_test-token-0123456789"

func rules(t testing.TB, texts ...string) []access.Rule {
	t.Helper()
	list, err := access.ParseRules(texts)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (w *world) entry(o worldOptions) access.Entry {
	if o.connect == nil {
		o.connect = []string{"127.0.0.0/8:*", "unix:" + w.t.TempDir() + "/*"}
	}
	return access.Entry{
		Name: "alice", SHA256: access.HashToken(testToken), Limits: o.limits,
		Policy: access.Policy{Connect: rules(w.t, o.connect...), Listen: rules(w.t, o.listen...)},
	}
}

// newWorld starts both agents; they are stopped when the test ends.
func newWorld(t *testing.T, o worldOptions) *world {
	t.Helper()
	w := &world{t: t, log: &logBook{t: t}, identity: "alice"}
	if o.real {
		w.pair = selfSigned(t)
	}
	store, err := access.NewStore([]access.Entry{w.entry(o)})
	if err != nil {
		t.Fatal(err)
	}
	w.store = store
	w.startServer(o)
	co := ClientOptions{Dial: w.dial, Logger: w.log.logger("client")}
	if o.client != nil {
		o.client(&co)
	}
	w.client, err = NewClient(co)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) startServer(o worldOptions) {
	w.t.Helper()
	so := ServerOptions{Access: w.store, Logger: w.log.logger("server")}
	if w.pair != nil {
		so.TLS = &tls.Config{Certificates: []tls.Certificate{*w.pair}}
	}
	if o.server != nil {
		o.server(&so)
	}
	srv, err := NewServer(so)
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	rs := &runningServer{Server: srv, stop: cancel, done: make(chan error, 1), url: "wss://" + l.Addr().String() + DefaultPath}
	go func() { rs.done <- srv.Run(ctx, l) }()
	for srv.Ready() != nil {
		time.Sleep(time.Millisecond)
	}
	w.mu.Lock()
	w.server = rs
	w.mu.Unlock()
	w.t.Cleanup(func() { w.stopServer(rs) })
}

func (w *world) stopServer(rs *runningServer) {
	rs.stop()
	select {
	case err := <-rs.done:
		if err != nil {
			w.t.Errorf("server agent: %v", err)
		}
		rs.done <- nil
	case <-time.After(patience):
		w.t.Error("the server agent does not stop")
	}
}

// crashServer ends the server agent without a word to its clients.
func (w *world) crashServer() {
	w.cut()
	w.stopServer(w.server)
}

// run runs the client agent until the test ends.
func (w *world) run() {
	w.t.Helper()
	var ctx context.Context
	ctx, w.stop = context.WithCancel(context.Background())
	w.ended = make(chan struct{})
	go func() {
		defer close(w.ended)
		if err := w.client.Run(ctx); err != nil {
			w.t.Errorf("client agent: %v", err)
		}
	}()
	w.t.Cleanup(w.stopClient)
}

// stopClient stops the client agent without a drain and waits for its end.
func (w *world) stopClient() {
	w.stop()
	w.clientEnds()
}

func (w *world) clientEnds() {
	w.t.Helper()
	select {
	case <-w.ended:
	case <-time.After(patience):
		w.t.Error("the client agent does not end")
	}
}

// ready waits until the session answers.
func (w *world) ready() {
	w.t.Helper()
	w.until("an attached session", func() bool { return isReady(w.client) })
}

func isReady(c *Client) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return c.Ready(ctx) == nil
}

// dial is the client's way to the server.
func (w *world) dial(ctx context.Context, resume bool) (tunnel.Carrier, error) {
	w.mu.Lock()
	err := w.dialable
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return w.dialAlways(ctx, resume)
}

// dialAlways is dial, whether the network is away or not.
func (w *world) dialAlways(ctx context.Context, resume bool) (tunnel.Carrier, error) {
	w.mu.Lock()
	srv, identity := w.server, w.identity
	w.mu.Unlock()
	var err error
	var c tunnel.Carrier
	if w.pair != nil {
		roots := x509.NewCertPool()
		roots.AddCert(w.pair.Leaf)
		c, err = WebSocket{
			URL:   srv.url,
			Token: func() (string, error) { return testToken, nil },
			TLS:   func() *tls.Config { return &tls.Config{RootCAs: roots} },
		}.Dial(ctx, resume)
		if err != nil {
			return nil, err
		}
	} else {
		if srv.draining.Load() && !resume {
			return nil, &CarrierError{Cause: CauseLimit, Err: errors.New("draining")}
		}
		a, b := memPair()
		if err := srv.carry(b, identity, "memory"); err != nil {
			return nil, err
		}
		c = a
	}
	w.mu.Lock()
	w.carriers = append(w.carriers, c)
	w.mu.Unlock()
	return c, nil
}

// cut ends all carriers.
func (w *world) cut() {
	w.mu.Lock()
	list := w.carriers
	w.carriers = nil
	w.mu.Unlock()
	for _, c := range list {
		_ = c.Close(errors.New("cut by the test"))
	}
}

// away makes dialling fail with err; nil mends it.
func (w *world) away(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dialable = err
}

// addr returns where the client agent's i-th forward listens.
func (w *world) addr(i int) string {
	w.t.Helper()
	var addr string
	w.until("the forward's listener", func() bool {
		list := w.client.Status().Listeners
		if len(list) > i {
			addr = list[i].Addr
		}
		return addr != ""
	})
	return addr
}

// reverseAddr returns where the server agent's only reverse listener listens.
func (w *world) reverseAddr() string {
	w.t.Helper()
	var addr string
	w.until("the reverse listener", func() bool {
		if list := w.server.Status().Listeners; len(list) == 1 {
			addr = list[0].Addr
		}
		return addr != ""
	})
	return addr
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	until(w.t, what, ok)
}

// until polls ok.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come within %v", what, patience)
		}
	}
}

// logBook collects log lines and shows them when the test fails.
type logBook struct {
	t  *testing.T
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBook) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBook) logger(agent string) *slog.Logger {
	l.t.Cleanup(func() {
		if l.t.Failed() && agent == "client" {
			l.t.Log("log of both agents:\n" + l.text())
		}
	})
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug})).With("agent", agent)
}

func selfSigned(t *testing.T) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

var _ http.Handler = (*Server)(nil)

// std returns a standard logger that writes into the book.
func (l *logBook) std() *log.Logger { return log.New(l, "", 0) }
