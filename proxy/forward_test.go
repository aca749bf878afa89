package proxy

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseForward(t *testing.T) {
	tcp := func(host string, port uint16) Endpoint { return Endpoint{Host: host, Port: port} }
	path := func(p string) Endpoint { return Endpoint{Path: p} }
	cases := []struct {
		in             string
		listen, target Endpoint
		out            string // "" means like in
	}{
		{"8080:db:5432", tcp("localhost", 8080), tcp("db", 5432), ""},
		{"0:db:5432", tcp("localhost", 0), tcp("db", 5432), ""},
		{"127.0.0.1:8080:db:5432", tcp("127.0.0.1", 8080), tcp("db", 5432), ""},
		{"localhost:8080:db:5432", tcp("localhost", 8080), tcp("db", 5432), "8080:db:5432"},
		{"*:8080:db:5432", tcp("*", 8080), tcp("db", 5432), ""},
		{":8080:db:5432", tcp("*", 8080), tcp("db", 5432), "*:8080:db:5432"},
		{"[::1]:8080:[2001:db8::7]:22", tcp("::1", 8080), tcp("2001:db8::7", 22), ""},
		{"[fe80::1%eth0]:8080:h:1", tcp("fe80::1%eth0", 8080), tcp("h", 1), ""},
		{"8080:/run/app.sock", tcp("localhost", 8080), path("/run/app.sock"), ""},
		{"[::1]:8080:/run/app.sock", tcp("::1", 8080), path("/run/app.sock"), ""},
		{"/tmp/in.sock:db:5432", path("/tmp/in.sock"), tcp("db", 5432), ""},
		{"/tmp/in.sock:[::1]:5432", path("/tmp/in.sock"), tcp("::1", 5432), ""},
		{"/tmp/in:/tmp/out", path("/tmp/in"), path("/tmp/out"), ""},
		{`/tmp/a\:b:/tmp/c\:d`, path("/tmp/a:b"), path("/tmp/c:d"), ""},
		{`8080:C:\run\x.sock`, tcp("localhost", 8080), path(`C:\run\x.sock`), ""},
		{`C:/run/x.sock:db:5432`, path(`C:/run/x.sock`), tcp("db", 5432), ""},
		{`C:\in:D:\out`, path(`C:\in`), path(`D:\out`), ""},
	}
	for _, tc := range cases {
		f, err := ParseForward(tc.in)
		if err != nil || f.Listen != tc.listen || f.Target != tc.target {
			t.Errorf("%s: %+v, %v", tc.in, f, err)
			continue
		}
		if want := tc.out; f.String() != want && (want != "" || f.String() != tc.in) {
			t.Errorf("%s is written as %s", tc.in, f)
		}
	}
}

func TestForwardMistakes(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "write [bind:]port:host:hostport",
		"8080":                "write [bind:]port:host:hostport",
		"8080:db":             "the target needs a host and a port",
		"8080:db:":            `port "": write a number`,
		"8080:db:http":        `port "http": write a number`,
		"8080:db:0":           "port 0 cannot be dialled",
		"8080:db:65536":       `port "65536"`,
		"8080:db:022":         `port "022"`,
		"8080:db:+22":         `port "+22"`,
		"8080:*:22":           "name one",
		"8080::22":            "the host is missing",
		"x:db:22":             `port "x"`,
		"1:2:3:4:5":           "IPv6 address in brackets",
		"::1:8080:db:22":      "IPv6 address in brackets",
		"[::1:8080:db:22":     "a bracket does not close",
		"[::1]x:8080:db:22":   "a bracket does not close",
		"[db]:8080:h:22":      "only an IPv6 address stands in brackets",
		"8080:[127.0.0.1]:22": "only an IPv6 address stands in brackets",
		"8080:d b:22":         "cannot be in a host name",
		"8080:bücher.test:22": "xn--",
		"8080:rel/path":       "the target needs a host and a port",
		"8080:/run/../etc/x":  "without empty, . and .. elements",
		"8080:/":              "without empty, . and .. elements",
		"8080:/run//x":        "without empty, . and .. elements",
		"8080:/run/x/":        "without empty, . and .. elements",
		"8080:/run/x\n":       "without control characters",
		"/a:8080:/b":          "write [bind:]port:host:hostport",
		"/a:/b:/c":            "write [bind:]port:host:hostport",
		"[::1]:/run/x":        "write [bind:]port:host:hostport",
		"8080:h:[::1]":        "write [bind:]port:host:hostport",
		"8080:/a:22":          "write [bind:]port:host:hostport",
		`8080:/run/x\`:        "ends in a backslash",
		"8080:" + strings.Repeat("h", 300) + ":1": "at most 255",
	} {
		f, err := ParseForward(in)
		if err == nil {
			t.Errorf("%q was read as %+v", in, f)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q in it", in, err, want)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		"db:5432": "db:5432", "[::1]:22": "[::1]:22", "/run/x": "/run/x", "unix:/run/x": "/run/x", "10.0.0.1:1": "10.0.0.1:1",
	} {
		if e, err := ParseTarget(in); err != nil || e.String() != want {
			t.Errorf("%s: %v, %v", in, e, err)
		}
	}
	for _, in := range []string{"", "db", "db:", ":22", "*:22", "db:0", "unix:x", "unix:", "::1:22", "[db]:22", "http://db:22", "u@db:22"} {
		if e, err := ParseTarget(in); err == nil {
			t.Errorf("%q was read as %v", in, e)
		}
	}
}

// TestForwardRoundTrip: what String writes, ParseForward reads back.
func TestForwardRoundTrip(t *testing.T) {
	host := rapid.OneOf(
		rapid.StringMatching(`[a-zA-Z0-9_.-]{1,20}`),
		rapid.SampledFrom([]string{"127.0.0.1", "::1", "2001:db8::1", "fe80::1%lo0", "localhost", "::ffff:1.2.3.4"}),
	)
	path := rapid.Custom(func(t *rapid.T) Endpoint {
		p := rapid.StringMatching(`(/[a-z:\\.]{0,3}[a-z:]){1,4}`).Draw(t, "path")
		return Endpoint{Path: rapid.SampledFrom([]string{"", "C:", "z:"}).Draw(t, "drive") + p}
	})
	tcp := rapid.Custom(func(t *rapid.T) Endpoint {
		return Endpoint{Host: host.Draw(t, "host"), Port: rapid.Uint16Min(1).Draw(t, "port")}
	})
	listen := rapid.Custom(func(t *rapid.T) Endpoint {
		e := tcp.Draw(t, "listen")
		if rapid.Bool().Draw(t, "all") {
			e.Host = wildcard
		}
		e.Port *= rapid.Uint16Range(0, 1).Draw(t, "fixed")
		return e
	})
	rapid.Check(t, func(t *rapid.T) {
		f := Forward{
			Listen: rapid.OneOf(listen, path).Draw(t, "l"),
			Target: rapid.OneOf(tcp, path).Draw(t, "t"),
		}
		if _, err := parsePath(f.Listen.Path); f.Listen.Path != "" && err != nil {
			t.Skip("no path")
		}
		if _, err := parsePath(f.Target.Path); f.Target.Path != "" && err != nil {
			t.Skip("no path")
		}
		got, err := ParseForward(f.String())
		if err != nil || got != f {
			t.Fatalf("%+v was written as %s and read as %+v, %v", f, f, got, err)
		}
	})
}

func FuzzForward(f *testing.F) {
	for _, s := range []string{
		"8080:db:5432", "[::1]:8080:[::1]:22", "/a:/b", `/a\:b:h:1`, `C:\x:1:h:2`, "*:0:/x", "::1:2", "[", "]:", `\:`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fwd, err := ParseForward(s)
		if err != nil {
			return
		}
		again, err := ParseForward(fwd.String())
		if err != nil || again != fwd {
			t.Fatalf("%q: %+v was written as %s and read as %+v, %v", s, fwd, fwd, again, err)
		}
		for _, e := range []Endpoint{fwd.Listen, fwd.Target} {
			if got, err := parseEndpoint(e.Network(), e.String()); err != nil || got != e {
				t.Fatalf("%+v travels as %s and arrives as %+v, %v", e, e, got, err)
			}
		}
	})
}
