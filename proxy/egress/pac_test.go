package egress

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/proxy/egress/pac"
)

func writePAC(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "proxy.pac")
	if err := os.WriteFile(path, []byte("function FindProxyForURL(url, host) {\n"+body+"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pacOptions(path string) Options {
	o := testOptions("")
	o.PAC = path
	return o
}

// Candidates are tried in order; those that are not reached are tried last for a while.
func TestPACFailOver(t *testing.T) {
	first, second := newFaultyProxy(t, func(c *proxyConn) { c.cut() }), newFaultyProxy(t, replies(ok200))
	path := writePAC(t, fmt.Sprintf(`if (url != "https://tunnel.example.com/" || host != "tunnel.example.com") return "DIRECT";
		return "SOCKS4 127.0.0.1:1; PROXY 127.0.0.1:1; PROXY %s; HTTP %s; DIRECT";`, first.Addr(), second.Addr()))
	d := mustNew(t, pacOptions(path))
	for _, target := range []string{testTarget, strings.ToUpper(testTarget), testTarget} {
		conn, e := dial(t, d, target)
		if e != nil {
			t.Fatal(e)
		}
		checkEcho(t, conn)
	}
	if first.connections() != 1 || second.connections() != 3 {
		t.Errorf("%d and %d connections", first.connections(), second.connections())
	}
	r, err := d.Route(testTarget)
	if err != nil || r.String() != "as the PAC script says (--pac "+path+")" || !r.Script {
		t.Errorf("%v %v", r, err)
	}
	// What a proxy answers is no reason to go past it.
	forbidding := newFaultyProxy(t, replies(status(403, "", "no")))
	d = mustNew(t, pacOptions(writePAC(t, fmt.Sprintf(`return "PROXY %s; PROXY %s";`, forbidding.Addr(), second.Addr()))))
	if _, e := dial(t, d, testTarget); !errors.Is(e, ErrForbidden) || second.connections() != 3 {
		t.Errorf("%v", e)
	}
	// When all fail, each is told.
	d = mustNew(t, pacOptions(writePAC(t, `return "PROXY 127.0.0.1:1; SOCKS 127.0.0.1:2";`)))
	_, e := dial(t, d, testTarget)
	if e == nil || e.Proxy != "127.0.0.1:2" || !strings.Contains(e.Error(), "before that: connect proxy 127.0.0.1:1: ") || !errors.Is(e, ErrRefused) {
		t.Errorf("%v", e)
	}
	if n := len(d.find.(*pacFinder).known); n != 0 {
		t.Errorf("%d answers are kept although they led nowhere", n)
	}
	if e := d.dead.last([]way{{source: "x"}}); len(e) != 1 {
		t.Errorf("%v", e)
	}
}

// Credentials are for proxies that the user named or allowed, not for what a script names.
func TestPACTrust(t *testing.T) {
	for _, c := range []struct {
		trust []string
		sent  bool
	}{
		{nil, false},
		{[]string{"proxy.example.com", "*.0.0.1:1"}, false},
		{[]string{"127.0.0.1"}, true},
		{[]string{"*"}, true},
		{[]string{"*.0.0.1"}, true},
	} {
		f := newFaultyProxy(t, replies(ask407, ok200))
		o := withCredentials(pacOptions(writePAC(t, fmt.Sprintf(`return "PROXY %s";`, f.Addr()))))
		o.Trust = c.trust
		_, e := dial(t, mustNew(t, o), testTarget)
		sent := f.authorizations()
		if c.sent != (e == nil) || c.sent != slices.Contains(sent, wantBasic) || !c.sent && (!errors.Is(e, ErrNotTrusted) || !strings.Contains(e.Hint, "--proxy-trust 127.0.0.1")) {
			t.Errorf("%v: %v, sent %q", c.trust, e, sent)
		}
	}
	asking := newFaultyProxy(t, (&socksProxy{user: testUser, password: testPassword}).conversation)
	d := mustNew(t, withCredentials(pacOptions(writePAC(t, fmt.Sprintf(`return "SOCKS5 %s";`, asking.Addr())))))
	if _, e := dial(t, d, testTarget); e == nil || !errors.Is(e, ErrNotTrusted) || e.Leg != LegProxyAuth {
		t.Errorf("SOCKS5: %v", e)
	}
	for _, bad := range []string{"*x.example", "a b", "", "*.", "host:99999", "http://host"} {
		o := testOptions("")
		o.Trust = []string{bad}
		if _, err := New(o); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestPACFailures(t *testing.T) {
	for _, c := range []struct {
		name, body string
		kind       error
		permanent  bool
	}{
		{"syntax", "return (", pac.ErrScript, false},
		{"exception", "throw 'no way'", pac.ErrScript, false},
		{"loop", "for (;;);", pac.ErrLimit, false},
		{"memory", "var a = []; for (;;) a.push({x: [1]})", pac.ErrLimit, false},
		{"nothing to use", "return 'SOCKS4 a:1; FTP b; PROXY'", ErrPAC, false},
		{"an attack", "return 'PROXY jane:s3cr@host:1; HTTPS a/b:1; PROXY a\\r\\nb:1'", ErrPAC, false},
	} {
		o := pacOptions(writePAC(t, c.body))
		d := mustNew(t, o)
		d.find.(*pacFinder).eval.Timeout = time.Second
		_, e := dial(t, d, testTarget)
		if e == nil || e.Leg != LegPAC || !errors.Is(e, c.kind) || e.Permanent() != c.permanent || e.Hint == "" || e.Target != testTarget {
			t.Errorf("%s: %v", c.name, e)
		}
	}
	_, e := dial(t, mustNew(t, pacOptions("/nonexistent/proxy.pac")), testTarget)
	if e == nil || e.Leg != LegPAC || !errors.Is(e, ErrConfig) || !e.Permanent() {
		t.Errorf("%v", e)
	}
	for _, bad := range []string{
		"ftp://host/x", "http://", "http://jane:s3cr@host/x", "http://%zz/", "jane:s3cr@host/x.pac", "http:/jane:s3cr@host/x",
	} {
		if _, err := New(pacOptions(bad)); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", bad, err)
		} else {
			asError(t, err)
		}
	}
	o := pacOptions("x")
	o.Proxy = []string{"a:1"}
	if _, err := New(o); !errors.Is(err, ErrConfig) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := mustNew(t, pacOptions(writePAC(t, "return 'DIRECT'"))).DialContext(ctx, "tcp", testTarget)
	if e := asError(t, err); !errors.Is(e, context.Canceled) {
		t.Errorf("%v", e)
	}
}

// A script from the network is read now and then, its answers are kept, and while it cannot be read the old one stays.
func TestPACFromURL(t *testing.T) {
	f := newFaultyProxy(t, replies(ok200))
	var reads, broken atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reads.Add(1)
		switch {
		case broken.Load() != 0:
			http.Error(w, "gone", http.StatusNotFound)
		case r.URL.Path == "/large":
			w.Write(make([]byte, pac.MaxScript+1))
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "/proxy.pac", http.StatusFound)
		default:
			fmt.Fprintf(w, "function FindProxyForURL() { return 'PROXY %s' }", f.Addr())
		}
	}))
	defer s.Close()
	d := mustNew(t, pacOptions(s.URL+"/moved?key=s3cr"))
	finder := d.find.(*pacFinder)
	for i := range 3 {
		if i == 2 {
			finder.script.until = time.Time{}
			broken.Store(1)
		}
		conn, e := dial(t, d, testTarget)
		if e != nil {
			t.Fatal(e)
		}
		checkEcho(t, conn)
	}
	if reads.Load() != 3 || len(finder.known) != 1 {
		t.Errorf("read %d times, %d answers", reads.Load(), len(finder.known))
	}
	_, e := dial(t, mustNew(t, pacOptions(s.URL+"/proxy.pac?key=s3cr")), testTarget)
	if e == nil || e.Leg != LegPAC || !strings.Contains(e.Error(), "404") {
		t.Errorf("%v", e)
	}
	broken.Store(0)
	if _, e = dial(t, mustNew(t, pacOptions(s.URL+"/large?key=s3cr")), testTarget); !errors.Is(e, ErrPAC) {
		t.Errorf("%v", e)
	}
	s.Close()
	if _, e = dial(t, mustNew(t, pacOptions(s.URL+"/proxy.pac?key=s3cr")), testTarget); !errors.Is(e, ErrRefused) || e.Permanent() {
		t.Errorf("%v", e)
	}
}

func FuzzPACResult(f *testing.F) {
	for _, s := range []string{"DIRECT", "PROXY a:1; SOCKS5 [::1]:2;; HTTPS b", "PROXY", "PROXY jane:s3cr@x:1", "proxy a:1\n", "SOCKS a:b"} {
		f.Add(s)
	}
	t0, err := newTrust(withCredentials(Options{Trust: []string{"trusted.example"}}))
	if err != nil {
		f.Fatal(err)
	}
	finder := &pacFinder{script: &pacScript{name: "x"}, source: "--pac", trust: t0}
	f.Fuzz(func(t *testing.T, text string) {
		ways, err := finder.read(text)
		if (len(ways) == 0) == (err == nil) || len(ways) > maxCandidates {
			t.Fatalf("%v %v", ways, err)
		}
		for _, w := range ways {
			for _, p := range w.hops {
				if _, _, err := splitTarget(p.addr); err != nil {
					t.Fatalf("%q: %v", text, err)
				}
				if p.cred != nil && p.host != "trusted.example" && !strings.EqualFold(p.host, "trusted.example") {
					t.Fatalf("%q: trusts %s", text, p)
				}
			}
		}
	})
}
