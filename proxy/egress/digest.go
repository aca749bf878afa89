package egress

import (
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"

	"github.com/icholy/digest"
)

// digestScheme is RFC 7616, and RFC 2617 for proxies that know only that: MD5, SHA-256 and SHA-512-256, each also as
// a session algorithm, with qop=auth or none. The nonce that a proxy accepted is used again on later connections,
// with its count, so that these need no challenge; a proxy that wants another one (nextnonce) says stale.
type digestScheme struct{}

func (digestScheme) name() string { return "Digest" }
func (digestScheme) bound() bool  { return false }

var errNoPassword = errors.New("needs a user and a password")

// digestAlgorithm is what a challenge's algorithm parameter means. Strength 0: unknown.
type digestAlgorithm struct {
	strength int
	base     string // without -sess, as the library spells it
	session  bool
	new      func() hash.Hash
}

func algorithmOf(ch challenge) digestAlgorithm {
	name, _ := ch.param("algorithm")
	base, session := strings.CutSuffix(strings.ToUpper(name), "-SESS")
	switch base {
	case "", "MD5":
		return digestAlgorithm{1, "MD5", session, md5.New}
	case "SHA-256":
		return digestAlgorithm{2, base, session, sha256.New}
	case "SHA-512-256":
		return digestAlgorithm{3, base, session, sha512.New512_256}
	}
	return digestAlgorithm{}
}

func digestStrength(ch challenge) int {
	if !strings.EqualFold(ch.scheme, "Digest") {
		return 0
	}
	return algorithmOf(ch).strength
}

// digestQOP returns the qop to use, "" for none (RFC 2069), or an error when only others are offered.
func digestQOP(ch challenge) (string, error) {
	list, ok := ch.param("qop")
	if !ok || strings.TrimSpace(list) == "" {
		return "", nil
	}
	for item := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.TrimSpace(item), "auth") {
			return "auth", nil
		}
	}
	return "", errors.New("the proxy wants a quality of protection that a tunnel cannot have")
}

func (digestScheme) usable(p *proxy, ch challenge) error {
	if p.login() == nil {
		return errNoPassword
	}
	if algorithmOf(ch).strength == 0 {
		return errors.New("the proxy wants an unknown hash algorithm")
	}
	for _, name := range []string{"nonce", "realm"} {
		if _, ok := ch.param(name); !ok {
			return fmt.Errorf("the proxy's challenge has no %s", name)
		}
	}
	for _, param := range ch.params {
		if hasControl(param.value) {
			return errors.New("the proxy's challenge has odd characters")
		}
	}
	qop, err := digestQOP(ch)
	if err == nil && qop == "" && algorithmOf(ch).session {
		return errors.New("the proxy wants a session algorithm, but no quality of protection")
	}
	return err
}

func (digestScheme) start(p *proxy, target string) exchange {
	return &digestExchange{cred: *p.cred, mem: p.mem, target: target}
}

type digestExchange struct {
	cred   credential
	mem    *memory
	target string

	nonce    string // of what was sent last
	sent     bool
	recalled bool // what was sent last used a nonce from memory
	fresh    int  // answers to a challenge on this connection
}

// opening uses the nonce that was good on the connection before.
func (x *digestExchange) opening(context.Context) string {
	ch, count, ok := x.mem.recallNonce()
	if !ok {
		return ""
	}
	value, err := x.respond(ch, count)
	if err != nil {
		return ""
	}
	x.recalled = true
	return value
}

// answer treats a challenge after an answer as a refusal, unless only the nonce was at fault: the proxy says so
// (stale), or does not speak of it and has another one than that of an earlier connection, which it may have forgotten.
func (x *digestExchange) answer(_ context.Context, ch challenge) (string, error) {
	nonce, _ := ch.param("nonce")
	verdict, told := ch.param("stale")
	stale := strings.EqualFold(verdict, "true")
	if x.sent && (nonce == x.nonce || !stale && (told || !x.recalled) || x.fresh == 2) {
		x.mem.forgetNonce()
		return "", errRefused
	}
	x.fresh++
	x.recalled = false
	return x.respond(ch, x.mem.newNonce(ch))
}

func (x *digestExchange) shown() bool { return x.sent }
func (x *digestExchange) end()        {}

// respond makes the header's value. The library does not know the session algorithms, but takes their A1 ready-made
// (RFC 7616 §3.4.2).
func (x *digestExchange) respond(ch challenge, count int) (string, error) {
	alg := algorithmOf(ch)
	qop, err := digestQOP(ch)
	if err != nil {
		return "", err
	}
	c := digest.Challenge{Algorithm: alg.base}
	c.Realm, _ = ch.param("realm")
	c.Nonce, _ = ch.param("nonce")
	if userhash, _ := ch.param("userhash"); strings.EqualFold(userhash, "true") {
		c.Userhash = true
	}
	if qop != "" {
		c.QOP = []string{qop}
	}
	o := digest.Options{
		Method: "CONNECT", URI: x.target, Count: count,
		Username: x.cred.user, Password: x.cred.password, Cnonce: rand.Text(),
	}
	if alg.session {
		h := func(parts ...string) string {
			sum := alg.new()
			sum.Write([]byte(strings.Join(parts, ":")))
			return hex.EncodeToString(sum.Sum(nil))
		}
		o.A1 = h(h(o.Username, c.Realm, o.Password), c.Nonce, o.Cnonce)
	}
	credentials, err := digest.Digest(&c, o)
	if err != nil {
		return "", err
	}
	x.sent, x.nonce = true, c.Nonce
	return digestHeader(credentials, ch), nil
}

// digestHeader writes the header's value. The library's own way escapes what is not printable ASCII or UTF-8, as Go
// does; HTTP knows no such escapes, and what the proxy sent has to come back as it was (RFC 7616 §3.4).
func digestHeader(c *digest.Credentials, ch challenge) string {
	quoted := func(name, value string) string {
		return name + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
	}
	parts := []string{
		quoted("username", c.Username), quoted("realm", c.Realm), quoted("nonce", c.Nonce), quoted("uri", c.URI),
	}
	if algorithm, ok := ch.param("algorithm"); ok { // as sent; without one it stays away, as RFC 2069 proxies want it
		parts = append(parts, "algorithm="+algorithm)
	}
	if opaque, ok := ch.param("opaque"); ok {
		parts = append(parts, quoted("opaque", opaque))
	}
	if c.QOP != "" {
		parts = append(parts, "qop="+c.QOP, fmt.Sprintf("nc=%08x", c.Nc), quoted("cnonce", c.Cnonce))
	}
	if c.Userhash {
		parts = append(parts, "userhash=true")
	}
	return "Digest " + strings.Join(append(parts, quoted("response", c.Response)), ", ")
}
