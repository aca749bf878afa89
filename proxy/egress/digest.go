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
	"strconv"
	"strings"

	"github.com/icholy/digest"
)

// digestScheme is RFC 7616, and RFC 2617 for proxies that know only that: MD5, SHA-256 and SHA-512-256, each also as
// a session algorithm, with qop=auth or none. The nonce that a proxy accepted is used again on later connections,
// with its count, so that these need no challenge.
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
		if !quotable(param.value) {
			return errors.New("the proxy's challenge has odd characters")
		}
	}
	if !quotable(p.cred.user) {
		return errors.New("cannot carry this user name's characters")
	}
	qop, err := digestQOP(ch)
	if err == nil && qop == "" && algorithmOf(ch).session {
		return errors.New("the proxy wants a session algorithm, but no quality of protection")
	}
	return err
}

// quotable reports whether the library writes s as the quoted-string that it has to be: it escapes as Go does.
func quotable(s string) bool {
	return strconv.Quote(s) == `"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)+`"`
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
// (stale), or has another one than that of an earlier connection, which it may have forgotten.
func (x *digestExchange) answer(_ context.Context, ch challenge) (string, error) {
	nonce, _ := ch.param("nonce")
	stale, _ := ch.param("stale")
	if x.sent && (nonce == x.nonce || !strings.EqualFold(stale, "true") && !x.recalled || x.fresh == 2) {
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
	c.Opaque, _ = ch.param("opaque")
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
	credentials.Algorithm, _ = ch.param("algorithm") // as sent; "" stays away, as RFC 2069 proxies want it
	x.sent, x.nonce = true, c.Nonce
	return credentials.String(), nil
}
