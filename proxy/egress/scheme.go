package egress

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// credential is a user and a password as they are, in no encoding.
type credential struct {
	user, password string
	bare           bool // no password was given, not even an empty one: the user only says whose Kerberos ticket to use
}

// String and GoString keep both out of what prints one.
func (credential) String() string   { return "(credential)" }
func (credential) GoString() string { return "(credential)" }

// scheme is a way to authenticate on a connection that we own. Its values are comparable: one scheme, one value.
type scheme interface {
	// name is the scheme's, as challenges spell it. Negotiate has two schemes, by what is inside.
	name() string
	// bound says that a handshake of several legs belongs to its connection, and authenticates that (RFC 4559 §6).
	bound() bool
	// usable returns nil, or why this proxy's challenge cannot be answered with what we have. Without a packet, and the
	// reason holds no secret.
	usable(p *proxy, ch challenge) error
	// start makes the exchange for one connection.
	start(p *proxy, target string) exchange
}

// exchange is one authentication on one connection. When the connection ends before the proxy has decided, the
// exchange is dropped and a new one starts on the next connection.
type exchange interface {
	// opening returns the Proxy-Authorization value to send before any challenge, or "" if one is needed first. It
	// is asked only of a scheme that the proxy has accepted before.
	opening(ctx context.Context) string
	// answer returns the value for the proxy's challenge. Its error matches errRefused when the challenge means that
	// what was sent before was wrong; any other error means that the scheme cannot go on, and another may be tried.
	answer(ctx context.Context, ch challenge) (string, error)
	// shown reports whether what was sent so far proves or shows a password.
	shown() bool
	// end gives back what the exchange holds.
	end()
}

// errRefused: a password is wrong, for this scheme and so for all.
var errRefused = errors.New("refused")

// errTicket: the proxy did not take a Kerberos ticket. That is no wrong password, so another scheme may be tried.
var errTicket = errors.New("the proxy refused the Kerberos ticket")

// The words of Options.Schemes, and the schemes that each allows, the strongest first. With NTLM inside, Negotiate is
// no stronger than NTLM and takes a leg more with proxies that know only Kerberos, so it comes behind.
func knownSchemes(words []string) ([]scheme, error) {
	all := []struct {
		word string
		scheme
	}{
		{"negotiate", kerberos{}},
		{"ntlm", ntlmScheme{}},
		{"negotiate", ntlmScheme{inNegotiate: true}},
		{"digest", digestScheme{}},
		{"basic", basic{}},
	}
	for _, s := range platformSchemes() {
		all = slices.Insert(all, 0, struct {
			word string
			scheme
		}{strings.ToLower(s.name()), s})
	}
	allowed := make(map[string]bool)
	for _, word := range words {
		word = strings.ToLower(strings.TrimSpace(word))
		switch word {
		case "negotiate", "ntlm", "digest", "basic":
			allowed[word] = true
		default:
			return nil, settingError("an authentication scheme for the proxy is unknown",
				"--proxy-auth takes negotiate, ntlm, digest and basic")
		}
	}
	var list []scheme
	for _, s := range all {
		if len(words) == 0 || allowed[s.word] {
			list = append(list, s.scheme)
		}
	}
	return list, nil
}

// setback is why a scheme was passed over or given up.
type setback struct {
	scheme scheme
	err    error
}

// choose returns the first of the known schemes that is offered and usable, with its challenge. Schemes that had a
// setback are passed over. When there is none, why says what kept the offered and known ones out.
func choose(known []scheme, offered []challenge, p *proxy, had []setback) (_ scheme, _ challenge, why []setback) {
	for _, s := range known {
		if slices.ContainsFunc(had, func(b setback) bool { return b.scheme == s }) {
			continue
		}
		ch, err := bestChallenge(s, offered, p)
		if err == nil {
			return s, ch, nil
		}
		if !errors.Is(err, errNotOffered) {
			why = append(why, setback{s, err})
		}
	}
	return nil, challenge{}, why
}

var errNotOffered = errors.New("not offered")

// bestChallenge returns the scheme's usable challenge, the strongest of several (RFC 7616 §3.7 has one for each
// algorithm).
func bestChallenge(s scheme, offered []challenge, p *proxy) (challenge, error) {
	best, found, err := challenge{}, false, errNotOffered
	for _, ch := range offered {
		if !strings.EqualFold(ch.scheme, s.name()) {
			continue
		}
		if e := s.usable(p, ch); e != nil {
			err = e
			continue
		}
		if !found || digestStrength(ch) > digestStrength(best) {
			best, found = ch, true
		}
	}
	if found {
		return best, nil
	}
	return challenge{}, err
}

// describe lists setbacks for a person, one for each name: with two schemes of one name the first says more.
func describe(setbacks []setback) string {
	var names, parts []string
	for _, b := range setbacks {
		if name := b.scheme.name(); !slices.Contains(names, name) {
			names = append(names, name)
			parts = append(parts, name+": "+b.err.Error())
		}
	}
	return strings.Join(parts, "; ")
}

// offeredNames lists the schemes for a person: known ones in their usual spelling, each once.
func offeredNames(offered []challenge) []string {
	var names []string
	for _, ch := range offered {
		name := clean(ch.scheme, maxReason)
		for _, known := range []string{"Basic", "Digest", "NTLM", "Negotiate", "Kerberos", "Bearer"} {
			if strings.EqualFold(name, known) {
				name = known
			}
		}
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
