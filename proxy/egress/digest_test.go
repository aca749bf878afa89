package egress

import (
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"testing"
)

// digestProxy checks Digest by RFC 7616 §3.4, computed here from the text of the standard.
type digestProxy struct {
	t         *testing.T
	challenge string // without nonce
	password  string
	nonces    map[string]int // the counts seen
}

func (p *digestProxy) hash(name string) func(...string) string {
	var sum func() hash.Hash
	switch strings.TrimSuffix(strings.ToUpper(name), "-SESS") {
	case "SHA-256":
		sum = sha256.New
	case "SHA-512-256":
		sum = sha512.New512_256
	default:
		sum = md5.New
	}
	return func(parts ...string) string {
		h := sum()
		io.WriteString(h, strings.Join(parts, ":"))
		return hex.EncodeToString(h.Sum(nil))
	}
}

func (p *digestProxy) accepts(r *http.Request) bool {
	all := parseChallenges([]string{r.Header.Get("Proxy-Authorization")})
	if len(all) != 1 || all[0].scheme != "Digest" {
		p.t.Errorf("sent %q", r.Header)
		return false
	}
	get := func(name string) string { v, _ := all[0].param(name); return v }
	h := p.hash(get("algorithm"))
	a1 := h(testUser, get("realm"), p.password)
	if strings.HasSuffix(strings.ToLower(get("algorithm")), "-sess") {
		a1 = h(a1, get("nonce"), get("cnonce"))
	}
	a2 := h("CONNECT", testTarget)
	want := h(a1, get("nonce"), a2)
	if get("qop") != "" {
		want = h(a1, get("nonce"), get("nc"), get("cnonce"), get("qop"), a2)
		p.nonces[get("nonce")]++
		if get("nc") != fmt.Sprintf("%08x", p.nonces[get("nonce")]) {
			p.t.Errorf("nc=%s at use %d", get("nc"), p.nonces[get("nonce")])
		}
	}
	user := testUser
	if get("userhash") == "true" {
		user = h(testUser, get("realm"))
	}
	if get("uri") != testTarget || get("username") != user || get("realm") != "the, realm" || get("opaque") != "o=p" {
		p.t.Errorf("sent %+v", all[0])
	}
	return want == get("response")
}

func (p *digestProxy) ask(nonce string, stale bool) string {
	extra := ""
	if stale {
		extra = ", stale=TRUE"
	}
	return status(407, `Proxy-Authenticate: Digest realm="the, realm", opaque="o=p", nonce="`+nonce+`", `+p.challenge+extra+"\r\n", "?")
}

func (p *digestProxy) conversation(nonce string, staleFirst bool) conversation {
	return func(c *proxyConn) {
		for i := 0; ; i++ {
			r := c.request()
			switch {
			case r == nil:
				return
			case r.Header.Get("Proxy-Authorization") == "":
				c.say(p.ask(nonce, false))
			case p.accepts(r) && staleFirst:
				staleFirst = false
				nonce += "-new"
				c.say(p.ask(nonce, true))
			case p.accepts2(r):
				c.say("HTTP/1.1 200 OK\r\n\r\n")
				c.echo()
				return
			default:
				c.say(p.ask(fmt.Sprint(nonce, "-", i), false))
			}
		}
	}
}

// accepts2 is accepts for a request that was counted already.
func (p *digestProxy) accepts2(r *http.Request) bool {
	ch := parseChallenges([]string{r.Header.Get("Proxy-Authorization")})[0]
	nonce, _ := ch.param("nonce")
	if _, ok := ch.param("qop"); ok {
		p.nonces[nonce]--
	}
	return p.accepts(r)
}

func TestDigest(t *testing.T) {
	for _, challenge := range []string{
		`qop="auth"`, `qop="auth-int, auth", algorithm=MD5`, `algorithm=MD5`, ``,
		`qop=auth, algorithm=SHA-256`, `qop="auth", algorithm="SHA-512-256", userhash=true`,
		`qop="auth", algorithm=MD5-sess`, `qop="auth", algorithm=SHA-256-sess`, `qop="auth", algorithm=sha-512-256-SESS`,
	} {
		t.Run(challenge, func(t *testing.T) {
			p := &digestProxy{t: t, challenge: challenge, password: testPassword, nonces: map[string]int{}}
			f := newFaultyProxy(t, p.conversation("n1", false), p.conversation("n2", false), p.conversation("n3", true))
			d := mustNew(t, withCredentials(testOptions(f.url())))
			for range 3 {
				conn, e := dial(t, d, testTarget)
				if e != nil {
					t.Fatal(e)
				}
				checkEcho(t, conn)
			}
			// A challenge, then its nonce twice more; the third time it is stale.
			if got := len(f.authorizations()); got != 2+1+2 || f.connections() != 3 {
				t.Errorf("%d requests on %d connections", got, f.connections())
			}
		})
	}
}

func TestDigestRefused(t *testing.T) {
	p := &digestProxy{t: t, challenge: `qop="auth"`, password: "another", nonces: map[string]int{}}
	f := newFaultyProxy(t, p.conversation("n", false))
	d := mustNew(t, withCredentials(testOptions(f.url())))
	for range 3 {
		if _, e := dial(t, d, testTarget); !errors.Is(e, ErrCredentialsRefused) {
			t.Fatal(e)
		}
	}
	if got := f.authorizations(); len(got) != 2 {
		t.Errorf("sent %d times", len(got))
	}
}

// A proxy that lost its nonces and does not say stale gets one answer to the new one; a changed password is told.
func TestDigestForgottenNonce(t *testing.T) {
	for _, changed := range []bool{false, true} {
		p := &digestProxy{t: t, challenge: `qop="auth"`, password: testPassword, nonces: map[string]int{}}
		forgetful := func(c *proxyConn) {
			c.request()
			c.say(p.ask("fresh", false))
			if r := c.request(); r == nil || !p.accepts(r) || changed {
				c.say(p.ask("fresher", false))
				c.request()
				return
			}
			c.say("HTTP/1.1 200 OK\r\n\r\n")
			c.echo()
		}
		f := newFaultyProxy(t, p.conversation("n", false), forgetful)
		d := mustNew(t, withCredentials(testOptions(f.url())))
		if _, e := dial(t, d, testTarget); e != nil {
			t.Fatal(e)
		}
		_, e := dial(t, d, testTarget)
		if changed != (e != nil) || changed && !errors.Is(e, ErrCredentialsRefused) {
			t.Errorf("changed %v: %v", changed, e)
		}
		if got := f.authorizations(); len(got) != 4 {
			t.Errorf("%d requests", len(got))
		}
	}
}

func TestDigestChallenges(t *testing.T) {
	p := &proxy{cred: &credential{user: testUser, password: testPassword}}
	for _, c := range []struct{ challenges, want string }{
		{`Digest realm=r, nonce=weak, algorithm=MD5, qop=auth|Digest realm=r, nonce=strong, algorithm=SHA-256, qop=auth`, "strong"},
		{`Digest realm=r, nonce=sha, algorithm=SHA-256, qop=auth|Digest realm=r, nonce=md5`, "sha"},
		{`Digest realm=r, nonce=odd, algorithm=BLAKE3, qop=auth|Digest realm=r, nonce=md5`, "md5"},
		{`Digest realm=r, nonce=odd, qop="auth-int"`, "quality of protection"},
		{`Digest realm=r, nonce=odd, algorithm=MD5-sess`, "session algorithm"},
		{`Digest realm=r, algorithm=MD5`, "no nonce"},
		{`Digest nonce=x`, "no realm"},
		{`Digest realm=r, nonce=x, algorithm=crc32`, "unknown hash"},
		{"Digest realm=\"a\x01\", nonce=x", "odd characters"},
		{`Basic realm=r`, "not offered"},
	} {
		ch, err := bestChallenge(digestScheme{}, parseChallenges(strings.Split(c.challenges, "|")), p)
		got, _ := ch.param("nonce")
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %s", c.challenges, got)
		}
	}
}

// What the proxy sent goes back byte by byte: realms are in Latin-1 here and there, and quotes need their escapes.
func TestDigestEchoesBytes(t *testing.T) {
	for _, c := range []struct{ header, realm, opaque string }{
		{"realm=\"Zugang f\xfcr \\\"uns\\\"\", nonce=\"a\\\\b\", opaque=\"\"", "Zugang f\xfcr \"uns\"", ""},
		{"realm=\"\u200bzero\", nonce=n, opaque=\"\xff\"", "\u200bzero", "\xff"},
		{"realm=\"\", nonce=n, opaque=x", "", "x"},
	} {
		f := newFaultyProxy(t, replies(status(407, "Proxy-Authenticate: Digest "+c.header+"\r\n", ""), ok200))
		o := testOptions(f.url())
		o.Username, o.Password = "J\u00fcr\\\"gen\u200b", testPassword
		if _, e := dial(t, mustNew(t, o), testTarget); e != nil {
			t.Fatal(e)
		}
		ch := parseChallenges(f.authorizations()[1:])[0]
		get := func(name string) string { v, _ := ch.param(name); return v }
		h := (&digestProxy{}).hash("MD5")
		want := h(h(o.Username, c.realm, testPassword), get("nonce"), h("CONNECT", testTarget))
		opaque, echoed := ch.param("opaque")
		if get("realm") != c.realm || get("username") != o.Username || opaque != c.opaque || !echoed || get("response") != want {
			t.Errorf("%+q", ch.params)
		}
	}
}

// A proxy that says in so many words that the nonce is good has refused the password.
func TestDigestNotStale(t *testing.T) {
	p := &digestProxy{t: t, challenge: `qop="auth"`, password: testPassword, nonces: map[string]int{}}
	f := newFaultyProxy(t, p.conversation("n", false), func(c *proxyConn) {
		for i := 0; c.request() != nil; i++ {
			c.say(status(407, fmt.Sprintf("Proxy-Authenticate: Digest realm=x, nonce=%d, stale=false\r\n", i), ""))
		}
	})
	d := mustNew(t, withCredentials(testOptions(f.url())))
	if _, e := dial(t, d, testTarget); e != nil {
		t.Fatal(e)
	}
	if _, e := dial(t, d, testTarget); e == nil || !errors.Is(e, ErrCredentialsRefused) || f.proofs() != 2 {
		t.Errorf("%d proofs: %v", f.proofs(), e)
	}
}
