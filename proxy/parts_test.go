package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/proxy/access"
	"sallyport/proxy/egress"
	"sallyport/tunnel"
)

// TestBackoff: at once the first time, then within growing bounds, never above 30 s, and a flapping carrier is no
// success.
func TestBackoff(t *testing.T) {
	var b backoff
	if d := b.delay(); d != 0 {
		t.Errorf("first: %v", d)
	}
	limit := firstPause
	for i := range 80 {
		b.fail()
		for range 20 {
			if d := b.delay(); d < 0 || d > limit {
				t.Fatalf("after %d failures: %v, more than %v", i+1, d, limit)
			}
		}
		limit = min(2*limit, longestPause)
	}
	b.succeed()
	b.lost(true)
	if d := b.delay(); d != 0 {
		t.Errorf("after the loss of a healthy carrier: %v", d)
	}
	for range 5 {
		b.succeed()
		b.lost(false)
	}
	if b.failures != 5 {
		t.Errorf("5 carriers were lost at once, and %d count", b.failures)
	}
}

// TestPause: it ends with its context, and becomes short when somebody waits.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		if !pause(ctx, time.Minute, nil, nil) || time.Since(start) != time.Minute {
			t.Errorf("paused %v", time.Since(start))
		}
		wanted := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(wanted) })
		start = time.Now()
		if !pause(ctx, time.Minute, wanted, nil) || time.Since(start) > 2*time.Second {
			t.Errorf("paused %v though somebody waited", time.Since(start))
		}
		waiting := make(chan struct{}, 1)
		waiting <- struct{}{}
		start = time.Now()
		if !pause(ctx, time.Minute, nil, waiting) || time.Since(start) > time.Second {
			t.Errorf("paused %v though a stream had something to send", time.Since(start))
		}
		time.AfterFunc(time.Second, cancel)
		start = time.Now()
		if pause(ctx, time.Minute, nil, nil) || time.Since(start) != time.Second {
			t.Errorf("paused %v though its context ended", time.Since(start))
		}
	})
}

// flakyListener fails a number of times before it works.
type flakyListener struct {
	net.Listener
	failures int
	calls    int
}

func (l *flakyListener) Accept() (net.Conn, error) {
	l.calls++
	if l.calls <= l.failures {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	if l.calls == l.failures+1 {
		a, b := net.Pipe()
		_ = b.Close()
		return a, nil
	}
	return nil, net.ErrClosed
}

// TestAcceptLoop: temporary errors are waited out, longer each time, and nothing spins.
func TestAcceptLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &flakyListener{failures: 20}
		served, total := 0, time.Duration(0)
		start := time.Now()
		err := acceptLoop(l, func(c net.Conn) { served++; _ = c.Close() }, func(err error, wait time.Duration) {
			if !errors.Is(err, syscall.EMFILE) || wait <= 0 || wait > time.Second {
				t.Errorf("%v, wait %v", err, wait)
			}
			total += wait
		})
		if served != 1 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("%d served, %v", served, err)
		}
		if took := time.Since(start); took != total || took < 10*time.Second {
			t.Errorf("20 failures took %v", took)
		}
	})
}

// TestDialTCP: the next address is tried when one fails, and the error that says most is returned.
func TestDialTCP(t *testing.T) {
	good := netip.MustParseAddrPort(target(t, "tcp", "127.0.0.1:0", echo).String())
	closed := netip.MustParseAddrPort(closedPort(t))
	conn, addr, err := dialTCP(t.Context(), []netip.AddrPort{closed, good})
	if err != nil || addr != good {
		t.Fatalf("%v, %v", addr, err)
	}
	_ = conn.Close()
	if _, _, err = dialTCP(t.Context(), []netip.AddrPort{closed, closed}); codeOf(err) != CodeRefused {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err = dialTCP(ctx, []netip.AddrPort{good, closed}); err == nil {
		t.Error("dialled although its context had ended")
	}
}

func TestCodeOf(t *testing.T) {
	op := func(errno error) error {
		return fmt.Errorf("dial: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)})
	}
	for _, tc := range []struct {
		err  error
		want Code
	}{
		{nil, CodeOK},
		{op(syscall.ECONNREFUSED), CodeRefused},
		{op(syscall.EHOSTUNREACH), CodeUnreachable},
		{op(syscall.ENETUNREACH), CodeUnreachable},
		{op(syscall.ETIMEDOUT), CodeTimeout},
		{op(syscall.ECONNRESET), CodeAborted},
		{op(syscall.EADDRINUSE), CodeInUse},
		{&ListenError{Address: "x", Err: op(syscall.EADDRINUSE)}, CodeInUse},
		{context.DeadlineExceeded, CodeTimeout},
		{errDialTimeout, CodeTimeout},
		{&access.DeniedError{}, CodeDenied},
		{&access.TargetError{Err: errors.New("x")}, CodeBadRequest},
		{&access.ResolveError{Err: &net.DNSError{IsTimeout: true}}, CodeDNS},
		{&OpenError{Code: CodeLimit}, CodeLimit},
		{recordError("x"), CodeBadRequest},
		{errors.New("x"), CodeInternal},
	} {
		if got := codeOf(tc.err); got != tc.want {
			t.Errorf("%v: %v; want %v", tc.err, got, tc.want)
		}
	}
	for code := CodeDenied; code <= CodeTakenOver; code++ {
		if err := (&OpenError{Code: code}).Unwrap(); err == ErrInternal && code != CodeInternal || code.String() == "" {
			t.Errorf("code %d has no error or name of its own", code)
		}
	}
	if s := Code(99).String(); s != "code_99" {
		t.Error(s)
	}
}

// TestPublicReason: the peer learns nothing of the policy, nor where a name points.
func TestPublicReason(t *testing.T) {
	denied := &access.DeniedError{Target: "db:5432", Addr: netip.MustParseAddr("10.1.2.3"), Missing: "10.1.2.3:5432"}
	dial := &net.OpError{
		Op: "dial", Addr: &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 1}, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
	}
	for _, err := range []error{denied, dial, fmt.Errorf("dial: %w", dial)} {
		if s := publicReason(err); strings.Contains(s, "10.1.2.3") || s == "" {
			t.Error(s)
		}
	}
}

// TestCarrierError sorts what a server agent, or something in its place, answers.
func TestCarrierError(t *testing.T) {
	status := 0
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
	}))
	defer web.Close()
	dial := func() error {
		_, err := WebSocket{URL: strings.Replace(web.URL, "http", "ws", 1) + "/tunnel"}.Dial(t.Context(), false)
		return err
	}
	for _, tc := range []struct {
		status    int
		cause     Cause
		permanent bool
	}{
		{401, CauseAuth, true},
		{403, CauseAuth, true},
		{407, CauseAuth, true},
		{404, CauseConfig, true},
		{400, CauseConfig, true},
		{426, CauseConfig, true},
		{503, CauseLimit, false},
		{429, CauseLimit, false},
		{502, CauseNetwork, false},
		{302, CauseNetwork, false},
		{200, CauseNetwork, false},
		{511, CauseNetwork, false},
	} {
		status = tc.status
		ce, ok := errors.AsType[*CarrierError](dial())
		if !ok || ce.Cause != tc.cause || ce.Permanent != tc.permanent || tc.permanent && ce.Hint() == "" {
			t.Errorf("%d: %+v", tc.status, ce)
		}
	}
}

// TestCarrierErrorTLS: certificates and protocols that do not fit are permanent, cut connections are not.
func TestCarrierErrorTLS(t *testing.T) {
	web := httptest.NewTLSServer(http.NotFoundHandler())
	defer web.Close()
	plain := target(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		_, _ = io.WriteString(c, "SSH-2.0-x\r\n")
		_ = c.Close()
	})
	cut := target(t, "tcp", "127.0.0.1:0", func(c net.Conn) { _ = c.Close() })
	wantsCert := httptest.NewUnstartedServer(http.NotFoundHandler())
	wantsCert.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	wantsCert.Config.ErrorLog = (&logBook{t: t}).std()
	wantsCert.StartTLS()
	defer wantsCert.Close()
	insecure := func() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }
	for name, tc := range map[string]struct {
		w         WebSocket
		cause     Cause
		permanent bool
	}{
		"unknown authority":  {WebSocket{URL: "wss" + strings.TrimPrefix(web.URL, "https") + "/"}, CauseTLS, true},
		"not TLS":            {WebSocket{URL: "wss://" + plain.String() + "/"}, CauseTLS, true},
		"cut":                {WebSocket{URL: "wss://" + cut.String() + "/"}, CauseNetwork, false},
		"client certificate": {WebSocket{URL: "wss" + strings.TrimPrefix(wantsCert.URL, "https") + "/", TLS: insecure}, CauseTLS, true},
		"refused":            {WebSocket{URL: "ws://" + closedPort(t) + "/"}, CauseNetwork, false},
		"bad URL":            {WebSocket{URL: "wss://user:secret@host/"}, CauseConfig, true},
		"token file": {
			WebSocket{URL: "ws://127.0.0.1:1/", Token: func() (string, error) { return "", os.ErrNotExist }},
			CauseConfig, true,
		},
	} {
		_, err := tc.w.Dial(t.Context(), false)
		ce, ok := errors.AsType[*CarrierError](err)
		if !ok || ce.Cause != tc.cause || ce.Permanent != tc.permanent {
			t.Errorf("%s: %+v", name, ce)
		}
		if strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCarrierErrorEgress: what the way out says is taken over.
func TestCarrierErrorEgress(t *testing.T) {
	for _, tc := range []struct {
		err  *egress.Error
		want Cause
	}{
		{&egress.Error{Leg: egress.LegProxyAuth, Err: egress.ErrCredentialsRefused, Hint: "try another"}, CauseAuth},
		{&egress.Error{Leg: egress.LegCONNECT, Err: egress.ErrForbidden, Hint: "ask"}, CauseConfig},
		{&egress.Error{Leg: egress.LegConnectProxy, Err: egress.ErrRefused, Hint: "start it"}, CauseNetwork},
	} {
		w := WebSocket{URL: "ws://h/", DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, tc.err }}
		_, err := w.Dial(t.Context(), false)
		ce, _ := errors.AsType[*CarrierError](err)
		if ce == nil || ce.Cause != tc.want || ce.Permanent != (tc.want != CauseNetwork) || ce.Hint() != tc.err.Hint {
			t.Errorf("%v: %+v", tc.err, ce)
		}
	}
}

// TestServeHTTP: what a server agent answers to those who are not client agents.
func TestServeHTTP(t *testing.T) {
	w := newWorld(t, worldOptions{server: func(o *ServerOptions) {
		o.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	}})
	base := strings.TrimSuffix(strings.Replace(w.server.url, "wss", "http", 1), DefaultPath)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path, token, resume string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "GET", base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		if resume != "" {
			r.Header.Set(resumeHeader, resume)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if strings.Contains(w.log.text(), "spt_") {
			t.Error("the log has a token")
		}
		return resp.StatusCode
	}
	check := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d; want %d", what, got, want)
		}
	}
	check("another path", get("/", testToken, ""), 418)
	check("no token", get("/tunnel", "", ""), 401)
	check("wrong token", get("/tunnel", "spt_wrong-token-0123456789", ""), 401)
	check("no WebSocket", get("/tunnel", testToken, ""), 426)
	if n := w.server.Status().Counters.AuthFailures; n != 2 {
		t.Errorf("%d failures counted", n)
	}
	if err := w.server.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("a new session while draining", get("/tunnel", testToken, ""), 503)
	check("a resumed one", get("/tunnel", testToken, "1"), 426)
}

func TestOptionsAreChecked(t *testing.T) {
	store, err := access.NewStore(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []ServerOptions{{}, {Access: store, Path: "tunnel"}, {Access: store, Path: "/a{b}"}} {
		if _, err := NewServer(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	dial := func(context.Context, bool) (tunnel.Carrier, error) { return nil, io.EOF }
	for _, o := range []ClientOptions{
		{},
		{Dial: dial, Carriers: 99},
		{Dial: dial, Carriers: -1},
		{Dial: dial, Forwards: []Forward{{}}},
		{Dial: dial, Reverse: []Forward{forward(t, "1:h:1"), forward(t, "1:h:2")}},
	} {
		if _, err := NewClient(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	c, err := NewClient(ClientOptions{Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context(), Endpoint{Host: "h"}, strings.NewReader(""), io.Discard); err == nil {
		t.Error("port 0 was accepted")
	}
	if s := fmt.Sprintf("%+v", WebSocket{Header: http.Header{"X": {"secret"}}}); strings.Contains(s, "secret") {
		t.Error(s)
	}
}
