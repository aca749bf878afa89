package egress

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"sallyport/proxy/egress/pac"
)

// A script behind https:// is trusted by the same CAs as a proxy: a company's is seldom known to the system.
func TestPACOverTLS(t *testing.T) {
	f := newFaultyProxy(t, replies(ok200))
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "function FindProxyForURL() { return 'PROXY %s' }", f.Addr())
	}))
	defer s.Close()
	o := pacOptions(s.URL + "/proxy.pac")
	_, e := dial(t, mustNew(t, o), testTarget)
	if e == nil || e.Leg != LegPAC || !strings.Contains(e.Error(), `issuer "O=Acme Co"`) || !strings.Contains(e.Hint, "--proxy-ca-file") || !e.Permanent() {
		t.Errorf("without the CA: %v; %s", e, e.Hint)
	}
	asked := make(chan string, 9)
	o.TLS = func(host string) *tls.Config {
		asked <- host
		return s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	}
	conn, e := dial(t, mustNew(t, o), testTarget)
	if e != nil {
		t.Fatal(e)
	}
	checkEcho(t, conn)
	if host := <-asked; host != "127.0.0.1" {
		t.Errorf("asked for the CAs of %s", host)
	}
}

// What a captive portal puts in a script's place is said to be that, and is gone as soon as somebody has logged in; a
// script that was there before is used meanwhile.
func TestPACBehindACaptivePortal(t *testing.T) {
	f := newFaultyProxy(t, replies(ok200))
	var mode atomic.Value
	mode.Store("page")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch mode.Load() {
		case "page":
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, "\r\n<!DOCTYPE html><html><title>Hotel</title>")
		case "broken":
			fmt.Fprint(w, "function FindProxyForURL( {")
		default:
			fmt.Fprintf(w, "function FindProxyForURL() { return 'PROXY %s' }", f.Addr())
		}
	}))
	defer s.Close()
	d := mustNew(t, pacOptions(s.URL))
	for range 2 {
		_, e := dial(t, d, testTarget)
		if e == nil || e.Leg != LegPAC || !errors.Is(e, ErrCaptivePortal) || e.Permanent() || !strings.Contains(e.Hint, "log in") {
			t.Errorf("%v", e)
		}
	}
	mode.Store("broken")
	if _, e := dial(t, d, testTarget); e == nil || !errors.Is(e, pac.ErrScript) {
		t.Errorf("%v", e)
	}
	mode.Store("good")
	for range 2 {
		if _, e := dial(t, d, testTarget); e != nil {
			t.Fatal(e)
		}
		mode.Store("page")
	}
	// In another network, where no way leads anywhere, the script is asked for anew.
	f.Close()
	mode.Store("good")
	f2 := newFaultyProxy(t, replies(ok200))
	if _, e := dial(t, d, testTarget); e == nil || !errors.Is(e, ErrRefused) {
		t.Errorf("%v", e)
	}
	f.Listener = f2.Listener
	if _, e := dial(t, d, testTarget); e != nil {
		t.Errorf("with the script from before: %v", e)
	}
}

// A pattern may be written in any script, as the proxy may.
func TestInternationalTrust(t *testing.T) {
	trust, err := newTrust(withCredentials(Options{Trust: []string{"*.B\u00fcro.example", "pr\u00f6xy.example:8080"}}))
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{
		"http://a.b\u00fcro.example:1": true, "http://a.xn--bro-hoa.example:1": true, "http://xn--prxy-6qa.example:8080": true,
		"http://b\u00fcro.example:1": false, "http://pr\u00f6xy.example:8081": false,
	} {
		p, err := trust.proxy(addr, "--pac", false)
		if err != nil || (p.cred != nil) != want {
			t.Errorf("%s: %v, %v", addr, p, err)
		}
	}
}

// Scripts are written by hand: white space of any kind and number, and any case.
func TestPACSpelling(t *testing.T) {
	for text, want := range map[string]string{
		"PROXY a:1": "http a:1",
		"proxy\ta:1;\r\n\tHTTPS  b:2 ;SOCKS5\u00a0c:3": "http a:1|https b:2| SOCKS5\u00a0c:3",
		" ; DIRECT;;":   "direct ",
		"DIRECT now":    " DIRECT",
		"PROXY a:1 b:2": " PROXY",
		"PROXY":         " PROXY",
		"SOCKS4 a:1":    " SOCKS4",
	} {
		var got []string
		for _, c := range parsePAC(text) {
			if c.kind == "" {
				c.addr = c.word
			}
			got = append(got, c.kind+" "+c.addr)
		}
		if strings.Join(got, "|") != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}
