package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
)

// attempt is one way through an HTTP proxy: CONNECT, and whatever the proxy wants to know before it says yes, on as few
// connections as it allows.
type attempt struct {
	d       *Dialer
	proxy   *proxy
	target  string
	secrets scrubber

	scheme    scheme     // being tried; nil while unauthenticated
	exchange  exchange   // of scheme, on the present connection
	header    string     // Proxy-Authorization of the next request, or "" for none
	pending   *challenge // the last one that scheme answered or is to answer
	setbacks  []setback  // schemes passed over or given up
	offered   []string   // for messages, as is tried
	tried     []string
	release   func() // gives back the turn to authenticate; nil without one
	waited    bool   // for that turn, while the connection was idle
	renew     bool   // the next request needs a new connection
	onlyHTTP1 bool   // the scheme cannot do with HTTP/2
	hung      bool   // a connection that was kept open went silent, once
	lost      bool   // a request that showed a password got no answer, once
}

// throughHTTP returns a connection to target on which the tunnel has begun.
func (d *Dialer) throughHTTP(ctx context.Context, hops []*proxy, p *proxy, target string) (net.Conn, error) {
	a := &attempt{d: d, proxy: p, target: target, secrets: newScrubber(p.cred)}
	if err := p.mem.refused(); err != nil {
		return nil, a.fail(LegProxyAuth, err)
	}
	a.scheme = p.mem.winner()
	a.onlyHTTP1 = a.scheme != nil && a.scheme.bound()
	for redials := 0; ; redials++ {
		l, err := d.dialHTTP(ctx, hops, target, a.onlyHTTP1)
		if err != nil {
			return nil, err
		}
		again, err := a.handshake(ctx, l)
		if err == nil {
			return l.take(), nil
		}
		l.conn.Close()
		if !again {
			return nil, err
		}
		if redials == maxRedials {
			return nil, a.fail(LegCONNECT, fmt.Errorf("gave up after %d connections: %w", redials+1, err))
		}
		d.log.Debug("connecting to the proxy again", "proxy", p.String(), "cause", err)
	}
}

// handshake speaks on one connection until the tunnel stands or cannot. Its error is an *Error, unless again says that
// only this connection is used up and a new one may go on.
func (a *attempt) handshake(ctx context.Context, l *link) (again bool, _ error) {
	defer a.finish()
	if err := a.begin(ctx); err != nil {
		return false, err
	}
	for leg := range maxLegs {
		if a.header != "" {
			if err := a.proxy.mem.refused(); err != nil { // another connection has just found out
				return false, a.fail(LegProxyAuth, err)
			}
		}
		r, err := a.ask(ctx, l)
		switch {
		case err != nil && ctx.Err() == nil && a.worthRedialling(err, leg):
			return true, err
		case err != nil:
			return false, a.fail(LegCONNECT, err)
		case r.status != 407 && r.status != 401:
			return false, a.conclude(ctx, l, r)
		}
		if err := a.answer(ctx, l, r); err != nil {
			err.Excerpt = a.excerpt(ctx, l, r)
			return false, err
		}
		if !a.drained(ctx, l, r) {
			a.interrupted()
			return true, errUsedUp
		}
		if a.renew {
			return true, errFreshStart
		}
	}
	return false, a.fail(LegProxyAuth, reason(ErrBadReply, "the proxy still asks after %d requests", maxLegs))
}

// worthRedialling reports whether the proxy may have closed the connection, or stopped reading from it, before it saw the
// request that got no answer.
func (a *attempt) worthRedialling(err error, leg int) bool {
	shown := a.exchange != nil && a.exchange.shown()
	switch {
	case shown && a.lost:
		return false // this may be how it refuses a password, and each try counts against the account
	case errors.Is(err, errSilent) && (leg > 0 || a.waited):
	case errors.Is(err, ErrTimeout) && leg == 1 && !a.hung:
		a.hung = true // mitmproxy keeps a connection open after its 407, but does not read on
	default:
		return false
	}
	a.lost = a.lost || shown
	return true
}

// errFreshStart: another scheme is tried, and what came before has left its mark on this connection.
var errFreshStart = errors.New("another authentication scheme starts on a new connection")

// finish gives back what one connection's handshake held.
func (a *attempt) finish() {
	a.drop()
	if a.release != nil {
		a.release()
	}
	a.release, a.waited, a.renew = nil, false, false
}

func (a *attempt) drop() {
	if a.exchange != nil {
		a.exchange.end()
		a.exchange = nil
	}
}

// interrupted gives a scheme up whose handshake the proxy cut off in the middle: a new connection would only lead there
// again.
func (a *attempt) interrupted() {
	if a.scheme != nil && a.scheme.bound() && a.pending != nil && a.pending.token68 != "" {
		a.setbacks = append(a.setbacks, setback{a.scheme, errors.New("the proxy closes the connection in the middle of the handshake")})
		a.scheme, a.pending = nil, nil
	}
}

// admit waits for the turn to authenticate, once a connection.
func (a *attempt) admit(ctx context.Context) *Error {
	if a.release != nil {
		return nil
	}
	release, waited, err := a.proxy.mem.admit(ctx)
	if err != nil {
		return a.fail(LegProxyAuth, ended(ctx, err))
	}
	a.release, a.waited = release, waited
	return nil
}

// begin prepares the first request on a new connection.
func (a *attempt) begin(ctx context.Context) error {
	a.header = ""
	if a.scheme == nil {
		return nil
	}
	if err := a.admit(ctx); err != nil {
		return err
	}
	a.exchange = a.scheme.start(a.proxy, a.target)
	if a.pending == nil {
		a.header = a.exchange.opening(ctx)
		return nil
	}
	var err error
	if a.header, err = a.exchange.answer(ctx, *a.pending); err == nil {
		return nil
	}
	if err := a.giveUp(ctx, nil, err); err != nil {
		return err
	}
	a.scheme, a.pending = nil, nil // ask anew what else there is
	a.drop()
	return nil
}

// giveUp notes why the scheme cannot go on. Its error means that none can.
func (a *attempt) giveUp(ctx context.Context, r *reply, err error) *Error {
	switch {
	case errors.Is(err, errRefused):
		return a.refused(r, err)
	case ctx.Err() != nil:
		return a.fail(LegProxyAuth, ended(ctx, err))
	}
	a.setbacks = append(a.setbacks, setback{a.scheme, err})
	return nil
}

// ask sends one CONNECT and reads the reply's header.
func (a *attempt) ask(ctx context.Context, l *link) (r *reply, err error) {
	a.secrets = a.secrets.with(a.header)
	if l.h2 != nil {
		header := http.Header{"User-Agent": {a.d.userAgent}}
		if a.header != "" {
			header.Set("Proxy-Authorization", a.header)
		}
		r, err = l.h2.ask(ctx, a.d.replyTimeout, a.target, header)
	} else {
		err = l.within(ctx, a.d.replyTimeout, func() error {
			if _, err := io.WriteString(l.conn, a.request()); err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					return err
				}
				return &textError{"the proxy cut the connection before the request: " + root(err).Error(), &kindError{errSilent, err}}
			}
			r, err = readReply(l.br, a.secrets)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	sent := "none"
	if a.header != "" {
		if sent = a.scheme.name(); !slices.Contains(a.tried, sent) {
			a.tried = append(a.tried, sent)
		}
	}
	a.d.log.Debug("proxy answered CONNECT", "proxy", a.proxy.String(), "target", a.target,
		"status", r.status, "authorization_sent", sent)
	return r, nil
}

func (a *attempt) request() string {
	s := "CONNECT " + a.target + " HTTP/1.1\r\n" +
		"Host: " + a.target + "\r\n" +
		"User-Agent: " + a.d.userAgent + "\r\n" +
		"Proxy-Connection: keep-alive\r\n" // HTTP/1.0 proxies keep a connection only when asked
	if a.header != "" {
		s += "Proxy-Authorization: " + a.header + "\r\n"
	}
	return s + "\r\n"
}

// answer prepares the reply to a challenge, or says why there is none. A 401 is treated as a 407: tinyproxy answers
// wrong credentials with it.
func (a *attempt) answer(ctx context.Context, l *link, r *reply) *Error {
	fields := append(r.values("proxy-authenticate"), r.values("www-authenticate")...)
	offered := parseChallenges(fields)
	if len(offered) > 0 && !a.secrets.in(strings.Join(fields, " ")) {
		a.offered = offeredNames(offered)
	}
	if a.header != "" {
		goesOn, err := a.proceed(ctx, r, offered)
		if goesOn || err != nil {
			return err
		}
	}
	return a.next(ctx, l, r, offered)
}

// proceed goes on with the scheme that sent something. Neither result: it was given up.
func (a *attempt) proceed(ctx context.Context, r *reply, offered []challenge) (goesOn bool, _ *Error) {
	ch, err := bestChallenge(a.scheme, offered, a.proxy)
	switch {
	case err == nil:
		a.pending = &ch
		if a.header, err = a.exchange.answer(ctx, ch); err == nil {
			return true, nil
		}
	case a.exchange.shown() && (a.pending != nil || r.status == 401 || len(offered) == 0):
		err = errRefused // the scheme is not offered again to who failed; what memory opened with may just be outdated
	}
	if errors.Is(err, errNotOffered) {
		err = errors.New("the proxy no longer offers it")
	}
	a.renew = a.scheme.bound() || ch.token68 != "" // the proxy is in the middle of something
	return false, a.giveUp(ctx, r, err)
}

// next begins with the strongest scheme that has not had a setback.
func (a *attempt) next(ctx context.Context, l *link, r *reply, offered []challenge) *Error {
	for {
		a.drop()
		a.header = ""
		s, ch, why := choose(a.d.schemes, offered, a.proxy, a.setbacks)
		if s == nil {
			a.scheme = nil
			return a.noScheme(r, slices.Concat(a.setbacks, why), len(offered) > 0)
		}
		if err := a.admit(ctx); err != nil {
			return err
		}
		a.scheme, a.pending, a.exchange = s, &ch, s.start(a.proxy, a.target)
		if s.bound() && l.h2 != nil {
			a.renew, a.onlyHTTP1 = true, true
		}
		if a.renew { // begin answers, on the new connection
			return nil
		}
		var err error
		if a.header, err = a.exchange.answer(ctx, ch); err == nil {
			return nil
		}
		if err := a.giveUp(ctx, r, err); err != nil {
			return err
		}
	}
}

// refused is the end of all schemes: a wrong password is wrong for each.
func (a *attempt) refused(r *reply, err error) *Error {
	a.proxy.mem.refuse()
	if errors.Is(err, errTicket) || err == errRefused { //nolint:errorlint // bare: it has no text of its own
		err = ErrCredentialsRefused
	} else {
		err = reason(ErrCredentialsRefused, "%w", err)
	}
	if r == nil {
		return a.fail(LegProxyAuth, err)
	}
	return a.failStatus(LegProxyAuth, r, err)
}

func (a *attempt) noScheme(r *reply, had []setback, named bool) *Error {
	why := describe(had)
	switch {
	case !named:
		return a.failStatus(LegProxyAuth, r, reason(ErrSchemeUnsupported, "the proxy asks for authentication, but names no scheme"))
	case slices.ContainsFunc(had, func(s setback) bool { return errors.Is(s.err, ErrNoKDC) }):
		return a.failStatus(LegProxyAuth, r, reason(ErrNoKDC, "no authentication scheme fits: %s", why))
	case slices.ContainsFunc(had, func(s setback) bool { return errors.Is(s.err, errTicket) }):
		return a.failStatus(LegProxyAuth, r, reason(ErrCredentialsRefused, "%s", why))
	case a.proxy.cred == nil && !a.proxy.trusted:
		return a.failStatus(LegProxyAuth, r, ErrNotTrusted)
	case a.proxy.login() == nil:
		text := ErrCredentialsMissing.Error()
		if a.proxy.cred != nil {
			text = "the proxy wants credentials, and there is no password for the user"
		}
		had = slices.DeleteFunc(had, func(s setback) bool { return errors.Is(s.err, errNoPassword) })
		if why = describe(had); why != "" {
			text += " (" + why + ")"
		}
		return a.failStatus(LegProxyAuth, r, reason(ErrCredentialsMissing, "%s", text))
	case why == "":
		return a.failStatus(LegProxyAuth, r, reason(ErrSchemeUnsupported, "the proxy asks for authentication, but by no scheme that is known and allowed"))
	}
	return a.failStatus(LegProxyAuth, r, reason(ErrSchemeUnsupported, "no authentication scheme fits: %s", why))
}

// drained reads the rest of a reply and reports whether the connection can take the next request.
func (a *attempt) drained(ctx context.Context, l *link, r *reply) bool {
	if l.h2 != nil {
		r.discard()
		return true
	}
	if !r.keepAlive() {
		return false
	}
	ok := false
	err := l.within(ctx, a.d.replyTimeout, func() error {
		ok = r.drain(l.br)
		return nil
	})
	return ok && err == nil
}
