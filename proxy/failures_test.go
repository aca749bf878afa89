package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/proxy/access"
	"sallyport/tunnel"
)

// book is a resolver that knows a few names.
type book map[string]netip.Addr

func (b book) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	if host == "slow.test" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if a, ok := b[host]; ok {
		return []netip.Addr{a}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// closedPort returns a loopback address at which nobody listens.
func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// impatient makes a server agent impatient, with a resolver of its own.
func impatient() func(*ServerOptions) {
	return func(o *ServerOptions) {
		o.Resolver = book{"known.test": netip.MustParseAddr("127.0.0.2")}
		o.DialTimeout = 100 * time.Millisecond
	}
}

// TestFailedTargets: rule 3, each cause is told apart by Connect's error, and a raw origin sees a reset.
func TestFailedTargets(t *testing.T) {
	closed := closedPort(t)
	_, port, _ := net.SplitHostPort(closed)
	cases := []struct {
		name, target string
		want         error
		code         Code
	}{
		{"refused", closed, ErrRefused, CodeRefused},
		{"name of a loopback address", "known.test:" + port, ErrDenied, CodeDenied},
		{"dns", "nowhere.test:80", ErrDNS, CodeDNS},
		{"slow dns", "slow.test:80", ErrDNS, CodeDNS},
		{"denied", "127.0.0.1:1", ErrDenied, CodeDenied},
		{"missing socket", "unix:/nonexistent/socket", ErrRefused, CodeRefused},
	}
	allow := []string{"127.0.0.1:1024-65535", "*.test:*", "unix:/nonexistent/*"}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			transports(t, func(t *testing.T, real bool) {
				to, err := ParseTarget(tc.target)
				if err != nil {
					t.Fatal(err)
				}
				w := newWorld(t, worldOptions{real: real, connect: allow, server: impatient()})
				err = w.client.Connect(t.Context(), to, strings.NewReader("hello"), io.Discard)
				open, ok := errors.AsType[*OpenError](err)
				if !ok || open.Code != tc.code || !errors.Is(err, tc.want) {
					t.Fatalf("got %v; want %v", err, tc.want)
				}
				if open.Hint() == "" {
					t.Error("no hint")
				}
				if n := w.client.Status().Counters.OpenFailures[tc.code.String()]; n != 1 {
					t.Errorf("%d failures counted", n)
				}
			})
			to, _ := ParseTarget(tc.target)
			f := Forward{Listen: Endpoint{Host: defaultBind}, Target: to}
			w := newWorld(t, worldOptions{connect: allow, server: impatient(), client: withForwards(f)})
			w.run()
			mustRefuse(t, w.addr(0))
		})
	}
}

// mustRefuse connects, and sees a reset: at once, or after a byte was sent.
func mustRefuse(t testing.TB, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if isReset(err) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = c.Write([]byte("hello"))
	mustReset(t, c)
}

func TestDialTimeout(t *testing.T) {
	w := newWorld(t, worldOptions{connect: []string{"*:*"}, server: impatient()})
	// TEST-NET-1 (RFC 5737): silence, or no route where there is none at all.
	err := w.client.Connect(t.Context(), Endpoint{Host: "192.0.2.1", Port: 9}, strings.NewReader(""), io.Discard)
	if !errors.Is(err, ErrTimeout) && !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrRefused) {
		t.Fatalf("got %v", err)
	}
}

// TestConnect: bytes and ends of file pass both ways.
func TestConnect(t *testing.T) {
	transports(t, func(t *testing.T, real bool) {
		addr := target(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
			b, _ := io.ReadAll(c)
			_, _ = c.Write(append([]byte("got "), b...))
			_ = c.Close()
		})
		to, _ := ParseTarget(addr.String())
		w := newWorld(t, worldOptions{real: real})
		var out closableBuffer
		big := strings.Repeat("x", 300_000)
		if err := w.client.Connect(t.Context(), to, strings.NewReader(big), &out); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); got != "got "+big || !out.closed {
			t.Errorf("%d bytes came back, closed %v", len(got), out.closed)
		}
	})
}

type closableBuffer struct {
	bytes.Buffer
	closed bool
}

func (b *closableBuffer) Close() error {
	b.closed = true
	return nil
}

// TestConnectLeavesStdin: a reset ends Connect although stdin still blocks.
func TestConnectLeavesStdin(t *testing.T) {
	addr := target(t, "tcp", "127.0.0.1:0", func(c net.Conn) { abortTest(c.(*net.TCPConn)) })
	to, _ := ParseTarget(addr.String())
	w := newWorld(t, worldOptions{})
	in, writer := io.Pipe()
	defer writer.Close()
	err := w.client.Connect(t.Context(), to, in, io.Discard)
	if !errors.Is(err, ErrAborted) {
		t.Fatalf("got %v", err)
	}
}

// TestConnectServerAway: the first failure is final for Connect, and told as what it is.
func TestConnectServerAway(t *testing.T) {
	for _, cause := range []error{
		&CarrierError{Cause: CauseAuth, Permanent: true, Err: errors.New("no")},
		errors.New("connection refused"),
	} {
		w := newWorld(t, worldOptions{})
		w.away(cause)
		err := w.client.Connect(t.Context(), Endpoint{Host: "h", Port: 1}, strings.NewReader(""), io.Discard)
		ce, ok := errors.AsType[*CarrierError](err)
		if !ok || ce.Err != cause && error(ce) != cause {
			t.Errorf("got %v; want %v", err, cause)
		}
	}
}

// TestPermanentFailure: at the start it ends Run; later it does not, for the configuration at the other end may be
// mended.
func TestPermanentFailure(t *testing.T) {
	denied := &CarrierError{Cause: CauseAuth, Permanent: true, Err: errors.New("401"), Advice: "check the token"}
	w := newWorld(t, worldOptions{})
	w.away(denied)
	if err := w.client.Run(t.Context()); !errors.Is(err, denied) {
		t.Fatalf("got %v", err)
	}

	w = newWorld(t, worldOptions{})
	w.run()
	w.ready()
	w.away(denied)
	w.cut()
	w.until("a failure", func() bool { return w.client.Status().Counters.DialFailures["auth"] > 0 })
	w.away(nil)
	w.ready()
}

// TestSessionLimit: an identity's sessions are bounded; the refused agent tries on and comes in when there is room.
func TestSessionLimit(t *testing.T) {
	w := newWorld(t, worldOptions{limits: access.Limits{Sessions: 1}})
	w.run()
	w.ready()
	other, err := NewClient(ClientOptions{Dial: w.dial, Logger: w.log.logger("other")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- other.Run(ctx) }()
	w.until("a refusal", func() bool { return other.Status().Counters.DialFailures["limit"] > 0 })
	w.stopClient()
	w.until("the other's session", func() bool { return isReady(other) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestStreamLimit: an identity's streams are bounded, and a place comes back when its stream has ended.
func TestStreamLimit(t *testing.T) {
	addr := target(t, "tcp", "127.0.0.1:0", echo)
	w := newWorld(t, worldOptions{
		limits: access.Limits{Streams: 2}, client: withForwards(forward(t, "0:"+addr.String())),
	})
	w.run()
	var open []net.Conn
	for range 2 {
		c := dialTest(t, "tcp", w.addr(0))
		mustWrite(t, c, "a")
		mustRead(t, c, "a")
		open = append(open, c)
	}
	mustRefuse(t, w.addr(0))
	w.until("its count", func() bool { return w.client.Status().Counters.OpenFailures["limit"] == 1 })
	_ = open[0].Close()
	w.until("a place", func() bool { return len(w.server.streams()) == 1 })
	c := dialTest(t, "tcp", w.addr(0))
	mustWrite(t, c, "b")
	mustRead(t, c, "b")
}

// TestAbortWhileDialling: nobody waits for the target of a stream that was reset, and its place comes back.
func TestAbortWhileDialling(t *testing.T) {
	w := newWorld(t, worldOptions{
		connect: []string{"*.test:*"}, client: withForwards(forward(t, "0:slow.test:80")),
		server: func(o *ServerOptions) { o.Resolver = book{}; o.DialTimeout = time.Hour },
	})
	w.run()
	c := dialTest(t, "tcp", w.addr(0)).(*net.TCPConn)
	w.until("the stream", func() bool { return len(w.server.streams()) == 1 })
	abortTest(c)
	w.until("its end", func() bool { return w.server.Status().Counters.OpenFailures["aborted"] == 1 })
}

// TestBadRequests: whatever stands where a request should, the answer is a reply, and other streams go on.
func TestBadRequests(t *testing.T) {
	addr := target(t, "tcp", "127.0.0.1:0", echo)
	w := newWorld(t, worldOptions{client: withForwards(forward(t, "0:"+addr.String()))})
	w.run()
	w.ready()
	good := dialTest(t, "tcp", w.addr(0))
	mustWrite(t, good, "a")
	mustRead(t, good, "a")
	l, _ := w.client.gate.current()
	for name, bytes := range map[string]string{
		"too long":       "\x7f\xff",
		"empty":          "\x00",
		"unknown action": "\x02\x09\x01",
		"nonsense":       "GET / HTTP/1.1\r\n\r\n" + strings.Repeat("x", 2000),
		"port 0":         string((&request{action: actionConnect, address: Endpoint{Host: "127.0.0.1"}}).append(nil)),
		"wildcard":       string((&request{action: actionConnect, address: Endpoint{Host: "*", Port: 1}}).append(nil)),
	} {
		st, err := l.session.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = st.Write([]byte(bytes))
		rep, err := readReply(st)
		if err != nil || rep.code != CodeBadRequest {
			t.Errorf("%s: %+v, %v", name, rep, err)
		}
		_ = st.Close()
	}
	mustWrite(t, good, "b")
	mustRead(t, good, "b")
}

// TestServerCannotChoose: a server agent cannot make the client agent dial what no reverse forward names.
func TestServerCannotChoose(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.run()
	w.ready()
	var sess *tunnel.Session
	w.until("the session", func() bool {
		if all := w.server.sessions.all(); len(all) == 1 {
			sess = all[0]
		}
		return sess != nil
	})
	for _, req := range []*request{
		{action: actionConnect, address: Endpoint{Host: "127.0.0.1", Port: 22}},
		{action: actionConnect, address: Endpoint{Host: "127.0.0.1", Port: 22}, forward: "0123456789abcdef"},
		{action: actionListen, address: Endpoint{Host: "127.0.0.1", Port: 2222}},
	} {
		st, err := sess.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = st.Write(req.append(nil))
		if rep, err := readReply(st); err != nil || rep.code != CodeDenied {
			t.Errorf("%+v, %v", rep, err)
		}
		_ = st.Close()
	}
}

// TestManyAtOnce: streams do not disturb one another.
func TestManyAtOnce(t *testing.T) {
	addr := target(t, "tcp", "127.0.0.1:0", echo)
	w := newWorld(t, worldOptions{real: true, client: func(o *ClientOptions) {
		o.Forwards = []Forward{forward(t, "0:"+addr.String())}
		o.Carriers = 2
	}})
	w.run()
	w.ready()
	near := w.addr(0)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			c := dialTest(t, "tcp", near)
			defer c.Close()
			data := bytes.Repeat([]byte{byte(i)}, 100_000+i)
			go func() {
				_, _ = c.Write(data)
				_ = c.(*net.TCPConn).CloseWrite()
			}()
			back, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(back, data) {
				t.Errorf("stream %d: %d bytes of %d, %v", i, len(back), len(data), err)
			}
		})
	}
	for range 3 {
		w.until("two carriers", func() bool {
			s := w.client.Status().Sessions
			return len(s) == 1 && s[0].Carriers == 2
		})
		w.cut()
	}
	wg.Wait()
}
