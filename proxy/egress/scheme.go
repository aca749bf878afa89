package egress

import (
	"errors"
	"slices"
	"strings"
)

// credential is a user and a password as they are, in no encoding.
type credential struct{ user, password string }

// String and GoString keep both out of what prints one.
func (credential) String() string   { return "(credential)" }
func (credential) GoString() string { return "(credential)" }

// scheme is a way to authenticate on a connection that we own.
type scheme interface {
	// name is the scheme's, as challenges spell it.
	name() string
	// usable returns nil, or why these credentials cannot go by this scheme. The reason holds no secret.
	usable(credential) error
	// start makes the exchange for one connection.
	start(c credential, target string) exchange
}

// exchange is one authentication on one connection. When the connection ends before the proxy has decided, the
// exchange is dropped and a new one starts on the next connection.
type exchange interface {
	// opening returns the Proxy-Authorization value to send before any challenge, or "" if one is needed first. It
	// is asked only of a scheme that the proxy has accepted before.
	opening() string
	// answer returns the value for the proxy's challenge. Its error is errRefused when the challenge means that what
	// was sent before was wrong; any other error means that the scheme cannot go on, and another may be tried.
	answer(challenge) (string, error)
}

var errRefused = errors.New("refused")

// knownSchemes are all that this version knows, the strongest first.
func knownSchemes() []scheme { return []scheme{basic{}} }

// choose returns the first known scheme that is offered and can use the credentials, with its challenge. Schemes in
// tried are passed over. When there is none, why says what kept the offered and known ones out.
func choose(known []scheme, offered []challenge, c credential, tried []string) (_ scheme, _ challenge, why []string) {
	for _, s := range known {
		ch, ok := challengeOf(s, offered)
		if !ok || slices.Contains(tried, s.name()) {
			continue
		}
		if err := s.usable(c); err != nil {
			why = append(why, s.name()+": "+err.Error())
			continue
		}
		return s, ch, nil
	}
	return nil, challenge{}, why
}

func challengeOf(s scheme, offered []challenge) (challenge, bool) {
	i := slices.IndexFunc(offered, func(ch challenge) bool { return strings.EqualFold(ch.scheme, s.name()) })
	if i < 0 {
		return challenge{}, false
	}
	return offered[i], true
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
