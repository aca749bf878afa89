package egress

import (
	"errors"
	"strings"
	"testing"
)

func TestRoute(t *testing.T) {
	const target = testTarget
	for _, c := range []struct {
		name         string
		proxy        string
		scheme       string
		env          []string
		target, want string
	}{
		{"nothing", "", "", nil, target, "direct (no proxy set)"},
		{"none", None, "", []string{"HTTPS_PROXY", "http://env:1"}, target, "direct (--proxy)"},
		{"explicit", "http://proxy:3128", "", []string{"HTTPS_PROXY", "http://env:1", "NO_PROXY", "*"}, target, "via http://proxy:3128 (--proxy)"},
		{"explicit, to loopback", "http://proxy:3128", "", nil, "127.0.0.1:443", "via http://proxy:3128 (--proxy)"},
		{"no user in it", "http://jane:s3cr@proxy:3128", "", nil, target, "via http://proxy:3128 (--proxy)"},
		{"default port of http", "http://proxy", "", nil, target, "via http://proxy:80 (--proxy)"},
		{"default port of https", "https://proxy/", "", nil, target, "via https://proxy:443 (--proxy)"},
		{"bare, in the environment", "", "", []string{"HTTPS_PROXY", "proxy"}, target, "via http://proxy:80 (HTTPS_PROXY)"},
		{"bare host and port", "proxy:3128", "", nil, target, "via http://proxy:3128 (--proxy)"},
		{"bare with user", "jane:s3cr@proxy:3128", "", nil, target, "via http://proxy:3128 (--proxy)"},
		{"IPv6", "http://[2001:db8::1]:3128", "", nil, target, "via http://[2001:db8::1]:3128 (--proxy)"},
		{"IPv6 zone", "http://[fe80::1%25eth0]:3128", "", nil, target, "via http://[fe80::1%eth0]:3128 (--proxy)"},
		{"IDN", "http://pröxy.example:3128", "", nil, target, "via http://xn--prxy-6qa.example:3128 (--proxy)"},
		{"underscore", "http://proxy_1:3128", "", nil, target, "via http://proxy_1:3128 (--proxy)"},
		{"upper-case scheme", "HTTP://proxy:3128", "", nil, target, "via http://proxy:3128 (--proxy)"},
		{"spaces around", " http://proxy:3128\n", "", nil, target, "via http://proxy:3128 (--proxy)"},

		{"HTTPS_PROXY", "", "", []string{"HTTPS_PROXY", "http://a:1", "ALL_PROXY", "http://b:2", "HTTP_PROXY", "http://c:3"}, target, "via http://a:1 (HTTPS_PROXY)"},
		{"lower case wins", "", "wss", []string{"HTTPS_PROXY", "http://a:1", "https_proxy", "http://b:2"}, target, "via http://b:2 (https_proxy)"},
		{"HTTPS_PROXY before all_proxy", "", "https", []string{"all_proxy", "http://a:1", "HTTPS_PROXY", "http://b:2"}, target, "via http://b:2 (HTTPS_PROXY)"},
		{"ALL_PROXY", "", "", []string{"ALL_PROXY", "a:1", "HTTP_PROXY", "http://c:3"}, target, "via http://a:1 (ALL_PROXY)"},
		{"ws", "", "ws", []string{"HTTPS_PROXY", "http://a:1", "HTTP_PROXY", "http://c:3"}, target, "via http://c:3 (HTTP_PROXY)"},
		{"ws, ALL_PROXY", "", "http", []string{"HTTPS_PROXY", "http://a:1", "all_proxy", "http://b:2"}, target, "via http://b:2 (all_proxy)"},
		{"loopback", "", "", []string{"HTTPS_PROXY", "http://a:1"}, "127.0.0.2:443", "direct (loopback target)"},
		{"localhost", "", "", []string{"ALL_PROXY", "http://a:1", "NO_PROXY", "*"}, "localhost:443", "direct (loopback target)"},
		{"NO_PROXY", "", "", []string{"ALL_PROXY", "http://a:1", "NO_PROXY", "other, .example.com"}, target, "direct (NO_PROXY)"},
		{"NO_PROXY does not match", "", "", []string{"ALL_PROXY", "http://a:1", "NO_PROXY", "ample.com,10.0.0.0/8"}, target, "via http://a:1 (ALL_PROXY)"},
		{"NO_PROXY in CIDR", "", "", []string{"ALL_PROXY", "http://a:1", "no_proxy", "10.0.0.0/8"}, "10.1.2.3:443", "direct (NO_PROXY)"},
		{"NO_PROXY by port", "", "", []string{"ALL_PROXY", "http://a:1", "no_proxy", "example.com:8443"}, target, "via http://a:1 (ALL_PROXY)"},
		{"NO_PROXY in upper case target", "", "", []string{"ALL_PROXY", "http://a:1", "no_proxy", "example.com"}, "TUNNEL.Example.COM:443", "direct (NO_PROXY)"},
		{"NO_PROXY and a broken proxy", "", "", []string{"ALL_PROXY", "socks4://a:1", "NO_PROXY", "*"}, target, "direct (NO_PROXY)"},
		{"unused broken proxy", "", "", []string{"ALL_PROXY", "socks4://a:1", "HTTPS_PROXY", "a:1"}, target, "via http://a:1 (HTTPS_PROXY)"},
		{"CGI, not the header's variable", "", "ws", []string{"http_proxy", "http://a:1", "REQUEST_METHOD", "GET"}, target, "via http://a:1 (http_proxy)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := testOptions(c.proxy)
			o.Scheme, o.Getenv = c.scheme, environment(c.env...)
			r, err := mustNew(t, o).Route(c.target)
			if err != nil || r.String() != c.want {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
}

func TestRouteErrors(t *testing.T) {
	for _, c := range []struct {
		name         string
		env          []string
		target, want string
	}{
		{"broken variable", []string{"HTTPS_PROXY", "http://a:1/x"}, testTarget, "HTTPS_PROXY"},
		{"socks", []string{"ALL_PROXY", "socks4://a:1"}, testTarget, `ALL_PROXY: unsupported proxy scheme "socks4": supported are http, https, socks5 and socks5h`},
		{"CGI", []string{"HTTP_PROXY", "http://a:1", "REQUEST_METHOD", "GET"}, testTarget, "CGI"},
		{"target without port", nil, "tunnel.example.com", "not host:port"},
		{"target with port 0", nil, "tunnel.example.com:0", "port between"},
		{"target with named port", nil, "tunnel.example.com:https", "port between"},
		{"target that injects", nil, "a\r\nX-Y:443", "not a valid host name"},
		{"target with space", nil, "a b:443", "not a valid host name"},
		{"no target", nil, ":443", "not a valid host name"},
		{"bad zone", nil, "[fe80::1%a b]:443", "zone"},
		{"bad IDN", nil, "\u200d.example:443", "not a valid"},
		{"long name", nil, strings.Repeat("a", 255) + ":443", "not a valid host name"},
	} {
		o := testOptions("")
		o.Scheme, o.Getenv = "ws", environment(c.env...)
		if c.name != "CGI" {
			o.Scheme = "wss"
		}
		d := mustNew(t, o)
		_, err := d.Route(c.target)
		e := asError(t, err)
		_, dialErr := dial(t, d, c.target)
		for _, e := range []*Error{e, dialErr} {
			if e == nil || e.Leg != LegSetting || !errors.Is(e, ErrConfig) || !e.Permanent() || !strings.Contains(e.Error(), c.want) {
				t.Errorf("%s: %v", c.name, e)
			}
		}
	}
}

func TestNewErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"socks4", func(o *Options) { o.Proxy = []string{"socks4://proxy:1080"} }, `unsupported proxy scheme "socks4": supported are http, https, socks5 and socks5h`},
		{"unknown scheme", func(o *Options) { o.Proxy = []string{"gopher://proxy:70"} }, "unknown proxy scheme"},
		{"a service of a realm", func(o *Options) { o.Kerberos.Service = "HTTP/proxy@CORP.EXAMPLE" }, "--proxy-service"},
		{"a service of no host", func(o *Options) { o.Kerberos.Service = "HTTP" }, "--proxy-service"},
		{"no port", func(o *Options) { o.Proxy = []string{"proxy"} }, "no scheme and no port"},
		{"no port behind a user", func(o *Options) { o.Proxy = []string{"jane:s3cr@proxy"} }, "no scheme and no port"},
		{"no port behind an address", func(o *Options) { o.Proxy = []string{"[2001:db8::1]"} }, "no scheme and no port"},
		{"path", func(o *Options) { o.Proxy = []string{"http://proxy:3128/proxy.pac"} }, "something behind host and port"},
		{"query", func(o *Options) { o.Proxy = []string{"http://proxy:3128?"} }, "something behind host and port"},
		{"fragment", func(o *Options) { o.Proxy = []string{"http://proxy:3128#"} }, "something behind host and port"},
		{"no host", func(o *Options) { o.Proxy = []string{"http://:3128"} }, "host name"},
		{"no name", func(o *Options) { o.Proxy = []string{"http://"} }, "host name"},
		{"port 0", func(o *Options) { o.Proxy = []string{"proxy:0"} }, "port"},
		{"port too high", func(o *Options) { o.Proxy = []string{"proxy:65536"} }, "port"},
		{"word for a port", func(o *Options) { o.Proxy = []string{"http://proxy:http"} }, "cannot be parsed"},
		{"password without user", func(o *Options) { o.Proxy, o.Password = []string{"proxy:1"}, testPassword }, "no user"},
		{"line break in password", func(o *Options) { o.Proxy, o.Username, o.Password = []string{"proxy:1"}, "jane", "s3cr\n" }, "control characters"},
		{"scheme of the target", func(o *Options) { o.Scheme = "ftp" }, "neither wss nor ws"},
		{"user agent", func(o *Options) { o.UserAgent = "a\r\nb: c" }, "control characters"},
	} {
		o := testOptions("")
		c.change(&o)
		_, err := New(o)
		if e := asError(t, err); e.Leg != LegSetting || !e.Permanent() || !strings.Contains(e.Error(), c.want) {
			t.Errorf("%s: %v", c.name, e)
		}
	}
	_, err := mustNew(t, testOptions("")).DialContext(t.Context(), "udp", testTarget)
	if e := asError(t, err); !errors.Is(e, ErrConfig) {
		t.Errorf("udp: %v", e)
	}
}

func TestCredentials(t *testing.T) {
	for _, c := range []struct {
		name, proxy, user, password string
		want                        *credential
	}{
		{"none", "http://proxy:1", "", "", nil},
		{"empty in the URL", "http://@proxy:1", "", "", nil},
		{"in the URL", "http://jane:pw@proxy:1", "", "", &credential{user: "jane", password: "pw"}},
		{"percent-encoded", "http://DOM%5Cjane:p%40s%2Fs%3Aw%25@proxy:1", "", "", &credential{user: `DOM\jane`, password: "p@s/s:w%"}},
		{"no password", "http://jane@proxy:1", "", "", &credential{user: "jane", bare: true}},
		{"separate", "http://proxy:1", `DOM\jane`, "p%40", &credential{user: `DOM\jane`, password: "p%40"}},
		{"separate wins whole", "http://jane:pw@proxy:1", "joe", "", &credential{user: "joe", bare: true}},
		{"password joins", "http://jane:old@proxy:1", "", "new", &credential{user: "jane", password: "new"}},
	} {
		o := testOptions(c.proxy)
		o.Username, o.Password = c.user, c.password
		got := firstProxy(mustNew(t, o)).cred
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: other credentials", c.name)
		}
		o.Proxy, o.Getenv = nil, environment("https_proxy", c.proxy)
		got = firstProxy(mustNew(t, o)).cred
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: other credentials from the environment", c.name)
		}
	}
}

// Whatever is given as an address, an error repeats none of it, and what is accepted can be dialled.
func FuzzProxyAddress(f *testing.F) {
	for _, s := range []string{"http://jane:pw@proxy:3128", "proxy", "[::1]:80", "http://jane:12/34@proxy", "socks5://x", "http://a:b#c@d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		const secret = "Xq9Zk7"
		for _, s := range []string{raw, secret + raw, raw + secret, strings.Replace(raw, ":", ":"+secret, 1), strings.Replace(raw, "@", secret+"@", 1)} {
			p, err := parseProxy(s, "--proxy")
			if err != nil {
				e, ok := errors.AsType[*Error](err)
				if !ok || strings.Contains(e.Error()+e.Hint, secret) {
					t.Fatalf("%q: %v", s, err)
				}
				continue
			}
			if _, _, err := splitTarget(p.addr); err != nil {
				t.Fatalf("%q: accepted, but %v", s, err)
			}
		}
	})
}
