package egress

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// show writes challenges in one normal form.
func show(all []challenge) string {
	var parts []string
	for _, ch := range all {
		s := ch.scheme
		if ch.token68 != "" {
			s += " " + ch.token68
		}
		for i, p := range ch.params {
			s += fmt.Sprintf("%s%s=%q", map[bool]string{true: " ", false: ","}[i == 0], p.name, p.value)
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " | ")
}

var challengeCases = []struct {
	fields []string
	want   string
}{
	{[]string{`Basic realm="a"`}, `Basic realm="a"`},
	{[]string{`Basic`}, `Basic`},
	{[]string{`basic realm=a`}, `basic realm="a"`},
	{[]string{`Basic Realm = "a" , charset = UTF-8`}, `Basic realm="a",charset="UTF-8"`},
	{[]string{`Negotiate`, `NTLM`, `Basic realm="x"`}, `Negotiate | NTLM | Basic realm="x"`},
	{[]string{`Negotiate, NTLM, Basic realm="x"`}, `Negotiate | NTLM | Basic realm="x"`},
	{
		[]string{`Digest realm="a, Basic realm=b", qop="auth,auth-int", nonce=abc, Basic realm="c"`},
		`Digest realm="a, Basic realm=b",qop="auth,auth-int",nonce="abc" | Basic realm="c"`,
	},
	{[]string{`NTLM TlRMTVNTUAACAAAA==`}, `NTLM TlRMTVNTUAACAAAA==`},
	{[]string{`Negotiate oYG2MIGzoAMKAQ+/a=, Basic realm="b"`}, `Negotiate oYG2MIGzoAMKAQ+/a= | Basic realm="b"`},
	{[]string{`Basic realm="a \"quoted\" \\ one"`}, `Basic realm="a \"quoted\" \\ one"`},
	{[]string{`Basic realm="no end, Digest x=y`}, `Basic realm="no end, Digest x=y"`},
	{[]string{`Basic realm="ends in \`}, `Basic realm="ends in \\"`},
	{[]string{`Basic realm=""`}, `Basic realm=""`},
	{[]string{`Basic realm=`}, `Basic realm=`},
	{[]string{`Digest realm=two words, nonce=x`}, `Digest realm="two words",nonce="x"`},
	{[]string{`Digest realm="a" junk, nonce=x`}, `Digest realm="a",nonce="x"`},
	{[]string{`realm="nobody's", Basic realm="b"`}, `Basic realm="b"`},
	{[]string{`@@@, Basic realm="b"`, `"x", NTLM`}, `Basic realm="b" | NTLM`},
	{[]string{`,, ,Basic,,`}, `Basic`},
	{[]string{``, ` `, `,`}, ``},
	{nil, ``},
	{[]string{"Basic\trealm=a"}, `Basic realm="a"`},
}

func TestParseChallenges(t *testing.T) {
	for _, c := range challengeCases {
		if got := show(parseChallenges(c.fields)); got != c.want {
			t.Errorf("%q: %s\nwant %s", c.fields, got, c.want)
		}
	}
	if ch := parseChallenges([]string{`Basic realm="a", realm="b"`})[0]; true {
		if v, ok := ch.param("realm"); v != "a" || !ok {
			t.Errorf("first parameter: %q %v", v, ok)
		}
		if v, ok := ch.param("nonce"); v != "" || ok {
			t.Errorf("absent parameter: %q %v", v, ok)
		}
	}
}

func TestChallengesAreBounded(t *testing.T) {
	many := parseChallenges([]string{strings.Repeat("Basic a=b, ", 10000), strings.Repeat("NTLM, ", 10000)})
	if len(many) != maxChallenges {
		t.Errorf("%d challenges", len(many))
	}
	many = parseChallenges([]string{"Digest " + strings.Repeat("a=b, ", 10000)})
	if len(many) != 1 || len(many[0].params) != maxParams {
		t.Errorf("%d challenges, %d parameters", len(many), len(many[0].params))
	}
}

// Whatever the form of writing, what was written is read.
func TestChallengesRoundTrip(t *testing.T) {
	token := rapid.StringMatching(`[A-Za-z][A-Za-z0-9_.-]{0,8}`)
	rapid.Check(t, func(t *rapid.T) {
		var want []challenge
		var items []string
		for range rapid.IntRange(0, 5).Draw(t, "challenges") {
			ch := challenge{scheme: token.Draw(t, "scheme")}
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				items = append(items, ch.scheme)
			case 1:
				ch.token68 = rapid.StringMatching(`[A-Za-z0-9+/]{1,20}={0,2}`).Draw(t, "token68")
				items = append(items, ch.scheme+" "+ch.token68)
			case 2:
				for i := range rapid.IntRange(1, 4).Draw(t, "params") {
					p := param{strings.ToLower(token.Draw(t, "name")), rapid.StringMatching(`[ -~é]{0,12}`).Draw(t, "value")}
					ch.params = append(ch.params, p)
					s := p.name + rapid.SampledFrom([]string{"=", " = "}).Draw(t, "eq") +
						`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(p.value) + `"`
					if i == 0 {
						s = ch.scheme + " " + s
					}
					items = append(items, s)
				}
			}
			want = append(want, ch)
		}
		field := strings.Join(items, rapid.SampledFrom([]string{",", ", ", " ,, "}).Draw(t, "comma"))
		if got := parseChallenges([]string{field}); !slices.EqualFunc(got, want, func(a, b challenge) bool { return reflect.DeepEqual(a, b) }) {
			t.Fatalf("%s\ngot  %s\nwant %s", field, show(got), show(want))
		}
	})
}

func FuzzChallenges(f *testing.F) {
	for _, c := range challengeCases {
		f.Add(strings.Join(c.fields, "\n"))
	}
	f.Fuzz(func(t *testing.T, text string) {
		all := parseChallenges(strings.Split(text, "\n"))
		if len(all) > maxChallenges {
			t.Fatal(len(all))
		}
		for _, ch := range all {
			if ch.scheme == "" || strings.ContainsFunc(ch.scheme, func(r rune) bool { return r > 0x7e || !isTokenByte(byte(r)) }) {
				t.Fatalf("scheme %q", ch.scheme)
			}
			if len(ch.params) > maxParams || ch.token68 != "" && len(ch.params) > 0 && !strings.Contains(text, ",") {
				t.Fatalf("%+v", ch)
			}
		}
		offeredNames(all)
	})
}
