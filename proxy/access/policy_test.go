package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var zone = map[string][]string{
	"db.example.com":   {"10.0.0.5", "2001:db8::5"},
	"web.example.com":  {"203.0.113.7", "203.0.113.7", "::ffff:203.0.113.7"},
	"evil.example.com": {"127.0.0.1"},
	"meta.example.com": {"169.254.169.254"},
	"v6.example.com":   {"fd00:ec2::254", "64:ff9b::7f00:1", "2002:7f00:1::", "::7f00:1", "fe80::5efe:a9fe:a9fe"},
	"mixed.example":    {"127.0.0.1", "198.51.100.1"},
	"db.example.":      {"198.51.100.9"},
	"nothing.example":  nil,
	"bind.example":     {"0.0.0.0", "192.0.2.1"},
	"xn--bcher-kva.de": {"198.51.100.3"},
}

func TestResolveConnect(t *testing.T) {
	tests := []struct {
		rules, host string
		port        uint16
		want        string // addresses, or the beginning of an error
	}{
		{"db.example.com:5432", "db.example.com", 5432, "10.0.0.5:5432 [2001:db8::5]:5432"},
		{"db.example.com:5432", "DB.example.COM", 5432, "10.0.0.5:5432 [2001:db8::5]:5432"},
		{"db.example.com:5432", "db.example.com", 5433, "denied"},
		{"db.example.com:5432", "10.0.0.5", 5432, "denied"},
		{"db.example:1", "db.example.", 1, "198.51.100.9:1"},
		{"*.example.com:*", "web.example.com", 80, "203.0.113.7:80"},
		{"*.example.com:*", "example.com", 80, "denied"},
		{"*.example.com:*", "badexample.com", 80, "denied"},
		{"example.com:*", "web.example.com", 80, "denied"},
		{"*:80", "db.example.com", 80, "10.0.0.5:80 [2001:db8::5]:80"},
		{"*:80", "93.184.216.34", 80, "93.184.216.34:80"},
		{"*:80", "93.184.216.34", 81, "denied"},
		{"10.0.0.0/8:5432", "db.example.com", 5432, "10.0.0.5:5432"},
		{"10.0.0.0/8:5432", "10.255.0.1", 5432, "10.255.0.1:5432"},
		{"10.0.0.0/8:5432", "11.0.0.1", 5432, "denied"},
		{"10.0.0.0/8:5432", "::ffff:10.0.0.1", 5432, "10.0.0.1:5432"},
		{"[2001:db8::/32]:1", "db.example.com", 1, "[2001:db8::5]:1"},
		{"bücher.de:1", "BÜCHER.de", 1, "198.51.100.3:1"},
		{"bücher.de:1", "xn--bcher-kva.de", 1, "198.51.100.3:1"},

		// Special addresses: only by their own rule, never by a name's.
		{"evil.example.com:80 *:80 *.example.com:80 0.0.0.0/0:80", "evil.example.com", 80, "denied 127.0.0.1 loopback"},
		{"evil.example.com:80 127.0.0.1:80", "evil.example.com", 80, "127.0.0.1:80"},
		{"*:80", "127.0.0.1", 80, "denied 127.0.0.1 loopback"},
		{"*:80", "127.8.9.1", 80, "denied 127.8.9.1 loopback"},
		{"*:80", "::ffff:127.0.0.1", 80, "denied 127.0.0.1 loopback"},
		{"*:80", "::1", 80, "denied ::1 loopback"},
		{"*:80 [::/0]:80 [::/8]:80", "::", 80, "denied :: unspecified"},
		{"*:80 0.0.0.0/0:80", "0.0.0.0", 80, "denied 0.0.0.0 unspecified"},
		{"*:80 0.0.0.0/0:80", "169.254.1.1", 80, "denied 169.254.1.1 link-local"},
		{"*:80", "fe80::1%eth0", 80, "denied fe80::1%eth0 link-local"},
		{"[fe80::/10]:80", "fe80::1%eth0", 80, "[fe80::1%eth0]:80"},
		{"[fe80::1]:80", "fe80::1", 80, "[fe80::1]:80"},
		{"*:80", "224.0.0.1", 80, "denied 224.0.0.1 multicast"},
		{"*:80", "255.255.255.255", 80, "denied 255.255.255.255 broadcast"},
		{"*:80 169.254.0.0/16:80", "169.254.169.254", 80, "denied 169.254.169.254 cloud metadata"},
		{"*:80", "meta.example.com", 80, "denied 169.254.169.254 cloud metadata"},
		{"169.254.169.254:80", "meta.example.com", 80, "169.254.169.254:80"},
		{"169.254.0.0/16:80", "169.254.1.1", 80, "169.254.1.1:80"},
		{"100.64.0.0/10:80", "100.100.100.200", 80, "denied 100.100.100.200 cloud metadata"},
		{"100.64.0.0/10:80", "100.100.100.201", 80, "100.100.100.201:80"},
		{"*:80", "168.63.129.16", 80, "denied 168.63.129.16 cloud metadata"},
		{"*:80 *.example.com:80", "v6.example.com", 80, "denied fd00:ec2::254 cloud metadata"},
		{"[64:ff9b::/96]:80 *:80", "64:ff9b::7f00:1", 80, "denied 64:ff9b::7f00:1 NAT64 form of 127.0.0.1, loopback"},
		{"[64:ff9b::7f00:1]:80", "64:ff9b::7f00:1", 80, "[64:ff9b::7f00:1]:80"},
		{"*:80", "64:ff9b::808:808", 80, "[64:ff9b::808:808]:80"},
		{"*:80", "2002:a9fe:a9fe::1", 80, "denied 2002:a9fe:a9fe::1 6to4 form of 169.254.169.254, cloud metadata"},
		{"127.0.0.0/8:80", "127.1.2.3", 80, "127.1.2.3:80"},
		{"126.0.0.0/7:80", "127.1.2.3", 80, "denied 127.1.2.3 loopback"},
		{"*:80", "mixed.example", 80, "198.51.100.1:80"},

		// localhost is never looked up, and is its own exception.
		{"localhost:80", "localhost", 80, "127.0.0.1:80 [::1]:80"},
		{"localhost:80", "LocalHost.", 80, "127.0.0.1:80 [::1]:80"},
		{"localhost:80", "127.0.0.1", 80, "127.0.0.1:80"},
		{"localhost:80", "::1", 80, "[::1]:80"},
		{"localhost:80", "127.0.0.2", 80, "denied"},
		{"localhost:80 evil.example.com:80", "evil.example.com", 80, "denied 127.0.0.1 loopback"},
		{"127.0.0.1:80", "localhost", 80, "127.0.0.1:80"},
		{"*:80", "localhost", 80, "denied 127.0.0.1 loopback"},

		{"", "db.example.com", 80, "denied"},
		{"*:80", "nothing.example", 80, "resolve"},
		{"*:*", "", 80, "bad"},
		{"*:*", "db.example.com", 0, "bad"},
		{"*:*", "[::1]", 80, "bad"},
		{"*:*", "0177.0.0.1", 80, "bad"},
		{"*:*", "2130706433", 80, "bad"},
		{"*:*", "127.1", 80, "bad"},
		{"*:*", "127.0.0.1.", 80, "bad"},
		{"*:*", "0x7f.0.0.1", 80, "bad"},
		{"*:*", "::1%lo", 80, "bad"},
		{"*:*", "::ffff:127.0.0.1%lo", 80, "bad"},
		{"*:*", "2001:db8::1%eth0", 80, "bad"},
		{"*:*", "a b", 80, "bad"},
		{"*:*", "a\x00b", 80, "bad"},
		{"*:*", ".", 80, "bad"},
		{"*:*", "*", 80, "bad"},
		{"*:*", "１２７.0.0.1", 80, "bad"},
		{"*:*", "127。0。0。1", 80, "bad"},
	}
	for _, tt := range tests {
		p := Policy{Connect: mustRules(t, strings.Fields(tt.rules)...), Listen: mustRules(t, "*:*")}
		got, err := p.ResolveConnect(t.Context(), &names{answers: zone}, tt.host, tt.port)
		if s := outcome(got, err); !strings.HasPrefix(s, tt.want) || err == nil && s != tt.want {
			t.Errorf("rules %q, connect to %q port %d: %s, want %s (%v)", tt.rules, tt.host, tt.port, s, tt.want, err)
		}
		for _, addr := range got {
			if err := p.CheckConnect(tt.host, addr); err != nil {
				t.Errorf("rules %q: %q was allowed %v, then: %v", tt.rules, tt.host, addr, err)
			}
			if (Policy{}).CheckConnect(tt.host, addr) == nil {
				t.Errorf("an empty policy allows %q at %v", tt.host, addr)
			}
		}
	}
}

// outcome is a result in one line.
func outcome(addrs []netip.AddrPort, err error) string {
	var (
		denied *DeniedError
		target *TargetError
		failed *ResolveError
	)
	switch {
	case err == nil:
		var parts []string
		for _, a := range addrs {
			parts = append(parts, a.String())
		}
		return strings.Join(parts, " ")
	case errors.As(err, &denied) && denied.Special != "":
		return "denied " + denied.Addr.String() + " " + denied.Special
	case errors.As(err, &denied):
		return "denied"
	case errors.As(err, &target):
		return "bad"
	case errors.As(err, &failed):
		return "resolve"
	}
	return "unexpected " + err.Error()
}

func TestResolveListen(t *testing.T) {
	tests := []struct {
		rules, host string
		port        uint16
		want        string
	}{
		{"localhost:8080", "localhost", 8080, "127.0.0.1:8080 [::1]:8080"},
		{"localhost:8080", "127.0.0.1", 8080, "127.0.0.1:8080"},
		{"127.0.0.1:8080", "localhost", 8080, "127.0.0.1:8080"},
		{"127.0.0.0/8:8080", "127.0.0.1", 8080, "127.0.0.1:8080"},
		{"localhost:8080", "", 8080, "denied"},
		{"localhost:8080", "0.0.0.0", 8080, "denied"},
		{"localhost:8080", "localhost", 0, "denied"},
		{"localhost:1-65535", "localhost", 0, "denied"},
		{"localhost:*", "localhost", 0, "127.0.0.1:0 [::1]:0"},
		{"*:8080", "", 8080, "[::]:8080 0.0.0.0:8080"},
		{"*:8080", "*", 8080, "[::]:8080 0.0.0.0:8080"},
		{"*:8080", "::", 8080, "[::]:8080"},
		{"*:8080", "127.0.0.1", 8080, "127.0.0.1:8080"},
		{"0.0.0.0:8080", "*", 8080, "0.0.0.0:8080"},
		{"[::]:8080", "", 8080, "[::]:8080"},
		{"10.0.0.0/8:8080", "*", 8080, "denied"},
		{"*:8080", "bind.example", 8080, "192.0.2.1:8080"},
		{"bind.example:8080 0.0.0.0:8080", "bind.example", 8080, "192.0.2.1:8080"},
		{"bind.example:8080", "evil.example.com", 8080, "denied"},
		{"*:8080", "010.0.0.1", 8080, "bad"},
		{"*:8080", "nothing.example", 8080, "resolve"},
	}
	for _, tt := range tests {
		p := Policy{Listen: mustRules(t, strings.Fields(tt.rules)...), Connect: mustRules(t, "*:*")}
		got, err := p.ResolveListen(t.Context(), &names{answers: zone}, tt.host, tt.port)
		if s := outcome(got, err); s != tt.want {
			t.Errorf("rules %q, listen on %q port %d: %s, want %s (%v)", tt.rules, tt.host, tt.port, s, tt.want, err)
		}
		for _, addr := range got {
			if err := p.CheckListen(tt.host, addr); err != nil {
				t.Errorf("rules %q: %q was allowed %v, then: %v", tt.rules, tt.host, addr, err)
			}
			if (Policy{}).CheckListen(tt.host, addr) == nil {
				t.Errorf("an empty policy lets %q listen at %v", tt.host, addr)
			}
		}
	}
}

func TestDeniedNameIsNotLookedUp(t *testing.T) {
	r := &names{answers: zone}
	p := Policy{Connect: mustRules(t, "db.example.com:5432", "10.0.0.0/8:22")}
	for _, port := range []uint16{80, 5432} {
		if _, err := p.ResolveConnect(t.Context(), r, "secret-data.attacker.example", port); err == nil {
			t.Error("allowed")
		}
	}
	if len(r.asked) != 0 {
		t.Errorf("asked the resolver for %q", r.asked)
	}
	_, _ = p.ResolveConnect(t.Context(), r, "web.example.com", 22)
	if !slices.Equal(r.asked, []string{"web.example.com"}) {
		t.Errorf("asked the resolver for %q; a network rule needs the address", r.asked)
	}
}

func TestSocketPolicy(t *testing.T) {
	p := Policy{
		Connect: mustRules(t, "unix:/run/app.sock", "unix:/run/dir/*", `unix:C:\app\*`, "*:*"),
		Listen:  mustRules(t, "unix:/tmp/listen/*"),
	}
	tests := []struct {
		path            string
		connect, listen string // "" is allowed
	}{
		{"/run/app.sock", "", "denied"},
		{"/run/app.sock2", "denied", "denied"},
		{"/run/dir/a", "", "denied"},
		{"/run/dir/sub/a", "denied", "denied"},
		{"/run/dir", "denied", "denied"},
		{"/tmp/listen/x", "denied", ""},
		{`C:\app\x`, "", "denied"},
		{`C:\app\x\y`, "denied", "denied"},
		{"/run/dir/", "bad", "bad"},
		{"/run/dir/..", "bad", "bad"},
		{"/run/dir/../app.sock", "bad", "bad"},
		{`/run/dir/x\..\..\y`, "bad", "bad"},
		{"/run/dir/*", "", "denied"},
		{"run/app.sock", "bad", "bad"},
		{"@app", "bad", "bad"},
		{"", "bad", "bad"},
		{"/run/dir/\x00", "bad", "bad"},
	}
	for _, tt := range tests {
		for _, c := range []struct {
			action string
			err    error
			want   string
		}{{"connect", p.ConnectUnix(tt.path), tt.connect}, {"listen", p.ListenUnix(tt.path), tt.listen}} {
			got := ""
			if c.err != nil {
				got = outcome(nil, c.err)
			}
			if got != c.want {
				t.Errorf("%s %q: %v, want %q", c.action, tt.path, c.err, c.want)
			}
		}
	}
}

func TestErrorTexts(t *testing.T) {
	p := Policy{Connect: mustRules(t, "evil.example.com:80", "10.0.0.0/8:443")}
	dnsErr := &names{err: &net.DNSError{Err: "no such host", Name: "x", Server: "10.9.9.9:53", IsNotFound: true}}
	tests := []struct {
		err          error
		want, public string
	}{
		{
			second(p.ResolveConnect(t.Context(), &names{answers: zone}, "evil.example.com", 80)),
			`connect evil.example.com:80 is denied by policy; to allow it add "127.0.0.1:80" to the identity's connect rules: 127.0.0.1 (loopback) must be named by a rule of its own`,
			"connect evil.example.com:80 is denied by policy",
		},
		{
			second(p.ResolveConnect(t.Context(), &names{answers: zone}, "web.example.com", 443)),
			`connect web.example.com:443 is denied by policy; to allow it add "web.example.com:443" to the identity's connect rules: no rule covers it or its address 203.0.113.7`,
			"connect web.example.com:443 is denied by policy",
		},
		{
			second(p.ResolveConnect(t.Context(), nil, "web.example.com", 22)),
			`connect web.example.com:22 is denied by policy; to allow it add "web.example.com:22" to the identity's connect rules: no rule covers it`,
			"connect web.example.com:22 is denied by policy",
		},
		{
			second(p.ResolveConnect(t.Context(), nil, "fe80::1%eth0", 22)),
			`connect [fe80::1%eth0]:22 is denied by policy; to allow it add "[fe80::1]:22" to the identity's connect rules: fe80::1%eth0 (link-local) must be named by a rule of its own`,
			"connect [fe80::1%eth0]:22 is denied by policy",
		},
		{
			second(p.ResolveListen(t.Context(), nil, "", 0)),
			`listen *:0 is denied by policy; to allow it add "*:*" to the identity's listen rules: no rule covers it`,
			"listen *:0 is denied by policy",
		},
		{
			p.ListenUnix("/run/x"),
			`listen unix:/run/x is denied by policy; to allow it add "unix:/run/x" to the identity's listen rules: no rule covers it`,
			"listen unix:/run/x is denied by policy",
		},
		{
			second(p.ResolveConnect(t.Context(), nil, "a b", 22)),
			`bad target "a b:22": "a b" is not a host name: it has the character ' '`, "",
		},
		{
			second(p.ResolveConnect(t.Context(), dnsErr, "x.example", 443)),
			`resolve "x.example": no such host`, "",
		},
	}
	for _, tt := range tests {
		if tt.err == nil || tt.err.Error() != tt.want {
			t.Errorf("got  %v\nwant %s", tt.err, tt.want)
		}
		var denied *DeniedError
		if errors.As(tt.err, &denied) && denied.Public() != tt.public {
			t.Errorf("public: %s, want %s", denied.Public(), tt.public)
		}
		if denied != nil {
			if _, err := ParseRule(denied.Missing); err != nil {
				t.Errorf("the rule to add can't be parsed: %v", err)
			}
		}
	}
	var dns *net.DNSError
	if !errors.As(tests[len(tests)-1].err, &dns) || !dns.IsNotFound {
		t.Error("the resolver's error can't be unwrapped")
	}
}

func second[T any](_ T, err error) error { return err }

func TestResolveEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := Policy{Connect: mustRules(t, "*:*")}
	_, err := p.ResolveConnect(ctx, &names{err: &net.DNSError{Err: "operation was canceled"}}, "x.example", 1)
	if !errors.Is(err, context.Canceled) || outcome(nil, err) != "resolve" {
		t.Errorf("got %v", err)
	}
}

func TestResolveBoundsAddresses(t *testing.T) {
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("198.51.100.%d", i))
	}
	p := Policy{Connect: mustRules(t, "*:*")}
	got, err := p.ResolveConnect(t.Context(), &names{answers: map[string][]string{"x": many}}, "x", 1)
	if err != nil || len(got) != maxAddrs || got[0].Addr().String() != many[0] {
		t.Errorf("got %v, %v", got, err)
	}
}

// Whatever the rules, nothing special comes out unless a rule for addresses names it; and following the advice in the
// error always makes the action allowed.
func TestSpecialNeedsItsRule(t *testing.T) {
	specials := []string{
		"127.0.0.1", "127.255.255.254", "::1", "0.0.0.0", "::", "169.254.169.254", "169.254.7.7", "fe80::1", "ff02::1", "224.0.0.251",
		"fd00:ec2::254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::1", "100.100.100.200", "168.63.129.16", "::ffff:0:7f00:1",
		"64:ff9b:1::7f00:1", "2001:0:1::1", "::10.0.0.1", "fe80::200:5efe:7f00:1", "2001:db8::5efe:127.0.0.1",
	}
	rapid.Check(t, func(t *rapid.T) {
		addr := netip.MustParseAddr(rapid.SampledFrom(specials).Draw(t, "addr"))
		if _, ok := special(addr); !ok {
			t.Fatalf("%v is not special", addr)
		}
		name := rapid.SampledFrom([]string{"a.example.com", "example.com", "localhost.example.com"}).Draw(t, "name")
		texts := rapid.SliceOf(rapid.SampledFrom([]string{"*:*", "*.example.com:*", "a.example.com:80", "example.com:*", "0.0.0.0/0:*", "[::/0]:*", "localhost:*"})).Draw(t, "rules")
		rules, err := ParseRules(texts)
		if err != nil {
			t.Fatal(err)
		}
		p := Policy{Connect: rules}
		r := &names{answers: map[string][]string{name: {addr.String()}}}
		got, err := p.ResolveConnect(context.Background(), r, name, 80)
		var d *DeniedError
		if !errors.As(err, &d) {
			t.Fatalf("rules %q: %s at %v: %v, %v", texts, name, addr, got, err)
		}
		for range 2 { // the name first, when no rule covered it; then the address
			more, err := ParseRule(d.Missing)
			if err != nil {
				t.Fatal(err)
			}
			p.Connect = append(p.Connect, more)
			if _, err = p.ResolveConnect(context.Background(), r, name, 80); err == nil {
				return
			}
			if !errors.As(err, &d) {
				t.Fatal(err)
			}
		}
		t.Fatalf("rules %q: still denied after the advice: %v", p.Connect, d)
	})
}

func FuzzHost(f *testing.F) {
	for _, s := range []string{"db.example.com", "127.0.0.1", "::ffff:127.0.0.1", "fe80::1%eth0", "0x7f.1", "2130706433", "bücher.de", "a..b", "127。0。0。1", ""} {
		f.Add(s, uint16(80))
	}
	p := Policy{Connect: []Rule{{kind: ruleAny, ports: ports{any: true}}}, Listen: []Rule{{kind: ruleAny, ports: ports{any: true}}}}
	f.Fuzz(func(t *testing.T, s string, port uint16) {
		r := &names{answers: map[string][]string{}}
		got, err := p.ResolveConnect(context.Background(), r, s, port)
		for _, a := range got {
			if _, isSpecial := special(a.Addr()); isSpecial {
				t.Fatalf("%q gave %v", s, a)
			}
		}
		for _, asked := range r.asked {
			if strings.Trim(asked, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || net.ParseIP(asked) != nil {
				t.Fatalf("%q asked the resolver for %q", s, asked)
			}
		}
		if err != nil && strings.HasPrefix(outcome(nil, err), "unexpected") {
			t.Fatalf("%q: %v", s, err)
		}
		_, _ = p.ResolveListen(context.Background(), r, s, port)
		_ = p.ConnectUnix(s)
	})
}
