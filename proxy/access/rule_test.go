package access

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseRule(t *testing.T) {
	tests := []struct{ in, want string }{
		{"db.example.com:5432", "db.example.com:5432"},
		{"DB.Example.com.:5432", "db.example.com:5432"},
		{"my_db:1", "my_db:1"},
		{"bücher.example:443", "xn--bcher-kva.example:443"},
		{"*.Example.com:22,443", "*.example.com:22,443"},
		{"*:*", "*:*"},
		{"*:443,22,23,24-30,8000-8100,8050-8200", "*:22-30,443,8000-8200"},
		{"10.1.2.3:22", "10.1.2.3:22"},
		{"10.1.2.3/32:22", "10.1.2.3:22"},
		{"10.0.0.0/8:22", "10.0.0.0/8:22"},
		{"0.0.0.0/0:1-65535", "0.0.0.0/0:1-65535"},
		{"[2001:DB8::1]:22", "[2001:db8::1]:22"},
		{"[2001:db8::/32]:22", "[2001:db8::/32]:22"},
		{"[::ffff:10.1.2.3]:22", "10.1.2.3:22"},
		{"localhost:1", "localhost:1"},
		{"unix.:1", "unix.:1"},
		{"unix:/run/app.sock", "unix:/run/app.sock"},
		{"unix:/run/a b*c", "unix:/run/a b*c"},
		{"unix:/run/app/*", "unix:/run/app/*"},
		{"unix:/*", "unix:/*"},
		{`unix:C:\app\sock`, `unix:C:\app\sock`},
		{`unix:c:/app/*`, `unix:c:/app/*`},
	}
	for _, tt := range tests {
		r, err := ParseRule(tt.in)
		if err != nil {
			t.Errorf("ParseRule(%q): %v", tt.in, err)
			continue
		}
		if got := r.String(); got != tt.want {
			t.Errorf("ParseRule(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestParseRuleErrors(t *testing.T) {
	tests := []struct {
		in     string
		column int
		want   string
	}{
		{"", 1, "rule is empty"},
		{"db", 3, "the port is missing"},
		{"db:", 4, "port is empty"},
		{":22", 1, "host is empty"},
		{"db:22a", 4, `port "22a" is not a number`},
		{"db:22,", 7, "a port is missing"},
		{"db:22,,23", 7, "a port is missing"},
		{"db:22-", 7, "a port is missing"},
		{"db:22-23-24", 7, `port "23-24" is not a number`},
		{"db:22, 443", 7, `port " 443" is not a number`},
		{"db:22,*", 7, "* stands for every port"},
		{"db:0", 4, "port 0 can't be named"},
		{"db:022", 4, `write "22"`},
		{"db:65536", 4, "above 65535"},
		{"db:99999999999999999999", 4, "above 65535"},
		{"db:8100-8000", 4, "write 8000-8100"},
		{"bücher:x", 8, "is not a number"},
		{"::1:22", 1, "in brackets"},
		{"[::1:22", 1, "not closed"},
		{"[::1]22", 6, "a colon and ports must follow"},
		{"[::1]", 6, "a colon and ports must follow"},
		{"[db]:22", 1, "brackets are for IPv6"},
		{"[10.0.0.1]:22", 1, "brackets are for IPv6"},
		{"[1:2]:22", 1, "not an IP address"},
		{"[fe80::1%eth0]:22", 1, "write fe80::1"},
		{"a*.example.com:22", 1, "* stands alone"},
		{"*.*.com:22", 1, "has the character '*'"},
		{"*.10.0.0.1:22", 1, "not an address"},
		{"10.0.0.1/8:22", 1, "write 10.0.0.0/8"},
		{"10.0.0.0/33:22", 1, "is not a network"},
		{"[::ffff:10.0.0.0/104]:22", 1, "as IPv4"},
		{"010.0.0.1:22", 1, "looks like an IP address"},
		{"0177.0.0.1:22", 1, "looks like an IP address"},
		{"2130706433:22", 1, "looks like an IP address"},
		{"127.1:22", 1, "looks like an IP address"},
		{"0x7f000001:22", 1, "looks like an IP address"},
		{"127.0.0.0x1:22", 1, "looks like an IP address"},
		{"１２７.0.0.1:22", 1, "looks like an IP address"},
		{"a..b:22", 1, "a part between dots is empty"},
		{"..:22", 1, "a part between dots is empty"},
		{"-a:22", 1, "hyphen"},
		{"a b:22", 1, "has the character ' '"},
		{"K.example:22\x00", 11, "is not a number"}, // KELVIN SIGN is an international k
		{strings.Repeat("a", 64) + ":22", 1, "longer than 63"},
		{strings.Repeat("a.", 127) + "a:22", 1, "longer than 253"},
		{strings.Repeat("1", maxRule+1), maxRule + 1, "longer than"},
		{"unix:", 6, "not absolute"},
		{"unix:22", 6, "not absolute"},
		{"unix:@abstract", 6, "not absolute"},
		{"unix:/run/../x", 6, "contains .."},
		{"unix:/run//x", 6, "an empty part"},
		{"unix:/run/", 6, "an empty part"},
		{"unix:/", 6, "an empty part"},
		{"unix:/run/a*", 6, "every name in a directory"},
		{"unix://*", 6, "an empty part"},
		{"unix:/run/\x00", 6, "control characters"},
		{"unix:/run/\xff", 6, "not UTF-8"},
		{`unix:/run\x`, 6, "backslash"},
	}
	for _, tt := range tests {
		_, err := ParseRule(tt.in)
		var re *RuleError
		if !errors.As(err, &re) {
			t.Errorf("ParseRule(%q): %v, want a RuleError", tt.in, err)
			continue
		}
		if re.Column != tt.column || !strings.Contains(re.Error(), tt.want) {
			t.Errorf("ParseRule(%q): column %d: %v, want column %d: %s", tt.in, re.Column, re, tt.column, tt.want)
		}
	}
}

func TestRuleErrorIsShort(t *testing.T) {
	_, err := ParseRule(strings.Repeat("ä", 4000) + ":22")
	if err == nil || len(err.Error()) > 400 {
		t.Errorf("message of %d bytes: %v", len(err.Error()), err)
	}
}

func TestParseRulesReportsAll(t *testing.T) {
	_, err := ParseRules([]string{"a:1", "b:x", "c:2", "d:"})
	if err == nil || strings.Count(err.Error(), "\n") != 1 || !strings.Contains(err.Error(), `"b:x"`) || !strings.Contains(err.Error(), `"d:"`) {
		t.Errorf("got %v", err)
	}
}

func TestZeroRuleCoversNothing(t *testing.T) {
	p := Policy{Connect: []Rule{{}}, Listen: []Rule{{}}}
	if p.CheckConnect("8.8.8.8", netip.MustParseAddrPort("8.8.8.8:53")) == nil ||
		p.CheckListen("", netip.MustParseAddrPort("0.0.0.0:53")) == nil || p.ConnectUnix("/x") == nil {
		t.Error("the zero Rule covers something")
	}
}

// ruleText generates rules of every kind, in any spelling that is allowed.
func ruleText() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		label := rapid.StringMatching(`[a-zA-Z]([a-zA-Z0-9_-]{0,8}[a-zA-Z0-9])?`)
		name := strings.Join(rapid.SliceOfN(label, 1, 4).Draw(t, "labels"), ".")
		hosts := []string{
			"*", name, name + ".", "*." + name,
			netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4"))).String(),
			netip.PrefixFrom(netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "net4"))), rapid.IntRange(0, 32).Draw(t, "bits4")).Masked().String(),
			"[" + netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "v6"))).String() + "]",
			"[" + netip.PrefixFrom(netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "net6"))), rapid.IntRange(0, 80).Draw(t, "bits6")).Masked().String() + "]",
		}
		var ports []string
		for range rapid.IntRange(0, 5).Draw(t, "ports") {
			a, b := rapid.Uint16Min(1).Draw(t, "port"), rapid.Uint16Min(1).Draw(t, "port")
			ports = append(ports, rapid.SampledFrom([]string{fmt.Sprint(a), fmt.Sprintf("%d-%d", min(a, b), max(a, b))}).Draw(t, "form"))
		}
		if ports == nil {
			ports = []string{"*"}
		}
		path := "/" + strings.Join(rapid.SliceOfN(rapid.StringMatching(`[a-zA-Z0-9 ä*._-]{3,8}`), 1, 4).Draw(t, "path"), "/")
		texts := []string{"unix:" + strings.TrimRight(path, "*") + "x", "unix:" + strings.TrimRight(path, "*") + "x/*"}
		for _, h := range hosts {
			texts = append(texts, h+":"+strings.Join(ports, ","))
		}
		return rapid.SampledFrom(texts).Draw(t, "rule")
	})
}

func TestRuleRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := ruleText().Draw(t, "text")
		r, err := ParseRule(text)
		if err != nil {
			t.Fatalf("ParseRule(%q): %v", text, err)
		}
		again, err := ParseRule(r.String())
		if err != nil {
			t.Fatalf("ParseRule(%q), from %q: %v", r.String(), text, err)
		}
		if again.String() != r.String() || fmt.Sprint(again) != fmt.Sprint(r) {
			t.Fatalf("%q became %q, then %q", text, r, again)
		}
		marshalled, _ := r.MarshalText()
		var un Rule
		if err := un.UnmarshalText(marshalled); err != nil || un.String() != r.String() {
			t.Fatalf("text form of %q: %v, %v", r, un, err)
		}
	})
}

func TestPortsProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := map[uint16]bool{}
		var items []string
		for range rapid.IntRange(1, 8).Draw(t, "n") {
			a := rapid.Uint16Range(1, 60).Draw(t, "a")
			b := rapid.Uint16Range(a, 60).Draw(t, "b")
			items = append(items, fmt.Sprintf("%d-%d", a, b))
			for p := a; p <= b; p++ {
				want[p] = true
			}
		}
		p, _, err := parsePorts(strings.Join(items, ","))
		if err != nil {
			t.Fatal(err)
		}
		for port := range uint16(64) {
			if p.contains(port) != want[port] {
				t.Fatalf("%v (%s): port %d: %v", items, p, port, p.contains(port))
			}
		}
	})
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{
		"db.example.com:5432", "*.example.com:22,443", "*:*", "10.0.0.0/8:1-65535", "[2001:db8::/32]:22",
		"unix:/run/app.sock", "unix:/run/app/*", `unix:C:\a\*`, "unix.:1", "bücher.example:443", "0x7f.1:80", "[::ffff:1.2.3.4]:1", "",
		strings.Repeat("\x91", 228) + ":1", // each byte takes four when quoted
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRule(s)
		if err != nil {
			var re *RuleError
			if !errors.As(err, &re) || re.Column < 1 || re.Error() == "" || len(re.Error()) > 1000 {
				t.Fatalf("bad error for %q: %#v", s, err)
			}
			return
		}
		again, err := ParseRule(r.String())
		if err != nil || again.String() != r.String() {
			t.Fatalf("%q became %q, then %q, %v", s, r, again, err)
		}
	})
}
