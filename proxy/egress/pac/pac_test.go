//go:build !nopac

package pac

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

// The test program is its own helper, as the real one is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "pac-eval" {
		if err := Serve(os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // for helpers under the race detector
	goleak.VerifyTestMain(m)
}

// testFunctions know a few hosts, and that it is a Wednesday.
func testFunctions(t *testing.T) *functions {
	return &functions{
		now:      func() time.Time { return time.Date(2026, time.July, 15, 13, 30, 30, 0, time.FixedZone("EST", -5*3600)) },
		deadline: time.Now().Add(time.Minute),
		lookup: func(_ context.Context, _, host string) ([]netip.Addr, error) {
			switch host {
			case "www.example.com":
				return []netip.Addr{netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("198.51.100.7")}, nil
			case "six.example.com":
				return []netip.Addr{netip.MustParseAddr("2001:db8::6")}, nil
			}
			return nil, errors.New("no such host")
		},
	}
}

func TestFunctions(t *testing.T) {
	for expr, want := range map[string]string{
		`isPlainHostName("www")`: "true", `isPlainHostName("www.example.com")`: "false", `isPlainHostName("2001:db8::1")`: "false",
		`dnsDomainIs("www.Example.com", ".example.com")`: "true", `dnsDomainIs("www", ".example.com")`: "false",
		`localHostOrDomainIs("www.example.com", "www.example.com")`: "true", `localHostOrDomainIs("www", "www.example.com")`: "true",
		`localHostOrDomainIs("www.other.com", "www.example.com")`: "false", `localHostOrDomainIs("home.example.com", "www.example.com")`: "false",
		`dnsDomainLevels("www.example.com")`: "2", `dnsDomainLevels("www")`: "0",
		`shExpMatch("http://a.b/c", "*/c")`: "true", `shExpMatch("www.example.com", "*.example.com")`: "true", `shExpMatch("a.b", "a?b")`: "true",
		`shExpMatch("axb", "a.b")`: "false", `shExpMatch("", "*")`: "true", `shExpMatch("abc", "*b")`: "false", `shExpMatch("a+b", "a+*")`: "true",

		`isResolvable("www.example.com")`: "true", `isResolvable("six.example.com")`: "false", `isResolvableEx("six.example.com")`: "true", `isResolvable("x")`: "false",
		`dnsResolve("www.example.com")`: "198.51.100.7", `dnsResolve("x")`: "null", `dnsResolve("192.0.2.1")`: "192.0.2.1",
		`dnsResolveEx("www.example.com")`: "2001:db8::7;198.51.100.7", `dnsResolveEx("x")`: "",
		`isInNet("192.0.2.130", "192.0.2.128", "255.255.255.128")`: "true", `isInNet("192.0.2.13", "192.0.2.128", "255.255.255.128")`: "false",
		`isInNet("www.example.com", "198.51.0.0", "255.255.0.0")`: "true", `isInNet("x", "0.0.0.0", "0.0.0.0")`: "false", `isInNet("192.0.2.1", "a", "b")`: "false",
		`isInNet(dnsResolve("x"), "10.0.0.0", "255.0.0.0")`: "false",
		`isInNetEx("2001:db8::1", "2001:db8::/32")`:         "true", `isInNetEx("192.0.2.1", "198.51.100.0/24")`: "false", `isInNetEx("x", "y")`: "false",
		`convert_addr("192.0.2.1")`: "3221225985", `convert_addr("x")`: "0",
		`sortIpAddressList("10.2.3.9;2001:4898:28:3:201:2ff:feea:fc14;::1;127.0.0.1")`: "::1;2001:4898:28:3:201:2ff:feea:fc14;10.2.3.9;127.0.0.1",
		`sortIpAddressList("10.2.3.9;")`:                                               "", `getClientVersion()`: "1.0", `typeof myIpAddress()`: "string", `typeof myIpAddressEx()`: "string", `alert("x")`: "true",

		`weekdayRange("WED")`: "true", `weekdayRange("THU")`: "false", `weekdayRange("MON", "FRI")`: "true", `weekdayRange("SAT", "MON")`: "false",
		`weekdayRange("FRI", "WED")`: "true", `weekdayRange("wed", "GMT")`: "true", `weekdayRange("X")`: "false", `weekdayRange()`: "false",
		`timeRange(13)`: "true", `timeRange(12)`: "false", `timeRange(18, "GMT")`: "true", `timeRange(9, 17)`: "true", `timeRange(9, 13)`: "true", `timeRange(9, 12)`: "false",
		`timeRange(22, 6)`: "false", `timeRange(13, 6)`: "true", `timeRange(13, 30, 13, 31)`: "true", `timeRange(13, 31, 13, 40)`: "false", `timeRange(9, 30, 13, 30)`: "true",
		`timeRange(13, 30, 29, 13, 30, 31)`: "true", `timeRange(13, 30, 31, 13, 30, 40)`: "false", `timeRange(1, 2, 3)`: "false", `timeRange("x")`: "false",
		`dateRange(15)`: "true", `dateRange(14)`: "false", `dateRange("JUL")`: "true", `dateRange(2026)`: "true", `dateRange(2025)`: "false",
		`dateRange(1, 20)`: "true", `dateRange(20, 1)`: "false", `dateRange(10, 5)`: "true", `dateRange("JUN", "AUG")`: "true", `dateRange("DEC", "FEB")`: "false", `dateRange("OCT", "JUL")`: "true",
		`dateRange(2025, 2027)`: "true", `dateRange(2027, 2030)`: "false", `dateRange(15, "JUL")`: "true", `dateRange(16, "JUL")`: "false",
		`dateRange(1, "JUN", 15, "AUG")`: "true", `dateRange(16, "JUL", 15, "AUG")`: "false", `dateRange(24, "DEC", 15, "JUL")`: "true",
		`dateRange("MAR", 2026, "DEC", 2026)`: "true", `dateRange("AUG", 2025, "JUN", 2026)`: "false", `dateRange(15, "JUL", 2026)`: "true",
		`dateRange(1, "JAN", 2026, 14, "JUL", 2026)`: "false", `dateRange(31, "DEC", 2025, 1, "JAN", 2027, "GMT")`: "true",
		`dateRange("JUL", 15)`: "false", `dateRange(0)`: "false", `dateRange()`: "false", `dateRange(1,2,3,4,5,6,7)`: "false",
	} {
		a := evaluateWith(question{
			Script:  "function FindProxyForURL(url, host) { return String(" + expr + "); }",
			URL:     "https://www.example.com/",
			Host:    "www.example.com",
			Timeout: time.Minute,
		}, testFunctions(t))
		if a.Error != "" || a.Result != want {
			t.Errorf("%s: %q %s, want %q", expr, a.Result, a.Error, want)
		}
	}
}

func TestGlob(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.StringMatching(`[a-c.]{0,3}`), 1, 5).Draw(t, "parts")
		fill := rapid.StringMatching(`[a-c]{0,3}`)
		s := parts[0]
		for _, p := range parts[1:] {
			s += fill.Draw(t, "fill") + p
		}
		if !glob(s, strings.Join(parts, "*")) {
			t.Fatalf("%q does not match %q", s, strings.Join(parts, "*"))
		}
		if glob(s+"!", strings.Join(parts, "*")) && parts[len(parts)-1] != "" {
			t.Fatalf("%q! matches %q", s, strings.Join(parts, "*"))
		}
	})
	begin := time.Now()
	if glob(strings.Repeat("a", 5000), strings.Repeat("*a", 500)+"b") || time.Since(begin) > 5*time.Second {
		t.Errorf("after %v", time.Since(begin))
	}
}

func TestFind(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"host and URL", `function FindProxyForURL(url, host) { return "PROXY " + host + ":" + url.length; }`, "PROXY www.example.com:24"},
		{"modern", "const f = (h) => `PROXY ${h.replace(/^www\\./, 'proxy.')}:8080; DIRECT`; var FindProxyForURL = (url, host) => f(host);", "PROXY proxy.example.com:8080; DIRECT"},
		{"Ex", `function FindProxyForURL() { return "DIRECT"; } function FindProxyForURLEx() { return "PROXY six:1"; }`, "PROXY six:1"},
		{"null", `function FindProxyForURL() { return null; }`, "DIRECT"},
		{"nothing", `function FindProxyForURL() {}`, "DIRECT"},
		{"BOM and comments", "\ufeff// x\nfunction FindProxyForURL() { return 'DIRECT' }", "DIRECT"},
	} {
		got, err := Evaluator{}.Find(t.Context(), c.script, "https://www.example.com/", "www.example.com")
		if err != nil || got != c.want {
			t.Errorf("%s: %q %v", c.name, got, err)
		}
	}
}

// What a hostile script tries ends within its limits, and this process is none the worse.
func TestHostileScripts(t *testing.T) {
	const head = "function FindProxyForURL(url, host) {"
	for _, c := range []struct {
		name, script string
		want         error
	}{
		{"syntax", "function (", ErrScript},
		{"no function", "var x = 1", ErrScript},
		{"exception", head + "throw new Error('no\\nway\\x1b[2J\\u009b2J\\u202e') }", ErrScript},
		{"unknown name", head + "return frobnicate(host) }", ErrScript},
		{"a number", head + "return 7 }", ErrScript},
		{"long result", head + "return 'x'.repeat(20000) }", ErrScript},
		{"large script", strings.Repeat(" ", MaxScript+1), ErrScript},
		{"loop", head + "for (;;) {} }", ErrLimit},
		{"loop outside", "while (true);", ErrLimit},
		{"loop in a getter", "Object.defineProperty(globalThis, 'FindProxyForURL', {get() { for (;;); }})", ErrLimit},
		{"recursion", head + "return FindProxyForURL(url, host) }", ErrLimit},
		{"native recursion", head + "var a = []; for (var i = 0; i < 1e6; i++) a = [a]; return JSON.stringify(a) }", ErrLimit},
		{"many small", head + "var a = []; for (;;) a.push({x: [1, 2, 3]}) }", ErrLimit},
		{"doubling", head + "var s = 'xx'; for (;;) s += s }", ErrLimit},
		{"one large", head + "return 'x'.repeat(500000000).length + '' }", ErrLimit},
		{"large buffer", head + "var b = new ArrayBuffer(2000000000); return '' + new Uint8Array(b).fill(1).length }", ErrLimit},
		{"backtracking", head + "return /^(?=(a+)+b)/.test('a'.repeat(60)) ? 'x' : 'y' }", ErrLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			got, err := Evaluator{Timeout: time.Second}.Find(t.Context(), c.script, "https://h/", "h")
			if !errors.Is(err, c.want) || strings.ContainsAny(err.Error(), "\n\x1b\u009b\u202e") || strings.Count(err.Error(), "SyntaxError") > 1 {
				t.Errorf("%q %v", got, err)
			}
			if took := time.Since(begin); took > 9*time.Second {
				t.Errorf("after %v", took)
			}
		})
	}
}

func TestHelperFailures(t *testing.T) {
	for _, command := range [][]string{{"/nonexistent/helper"}, {"true"}} {
		if _, err := (Evaluator{Command: command}).Find(t.Context(), "x", "u", "h"); !errors.Is(err, ErrHelper) {
			t.Errorf("%v: %v", command, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (Evaluator{}).Find(ctx, "x", "u", "h"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := Serve(strings.NewReader("{"), &strings.Builder{}); err == nil {
		t.Error("half a question")
	}
}
