package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

// attempt is one DialContext through a proxy: CONNECT, and whatever the proxy wants to know before it says yes, on as
// few connections as it allows.
type attempt struct {
	d       *Dialer
	proxy   *proxy
	target  string
	secrets scrubber

	scheme   scheme     // being tried; nil while unauthenticated
	exchange exchange   // of scheme, on the present connection
	header   string     // Proxy-Authorization of the next request, or "" for none
	pending  *challenge // the last one that scheme answered or is to answer
	tried    []string   // schemes that gave up
	offered  []string   // for messages
}

// throughProxy returns a connection to target on which the tunnel has begun.
func (d *Dialer) throughProxy(ctx context.Context, p *proxy, target string) (net.Conn, error) {
	a := &attempt{d: d, proxy: p, target: target, secrets: newScrubber(p.cred)}
	if p.cred != nil {
		if err := p.mem.refused(); err != nil {
			return nil, a.fail(LegProxyAuth, err)
		}
		a.scheme = p.mem.winner()
	}
	for redials := 0; ; redials++ {
		l, err := d.dialProxy(ctx, p, target)
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
	if err := a.begin(); err != nil {
		return false, err
	}
	var release func()
	defer func() {
		if release != nil {
			release()
		}
	}()
	for leg := range maxLegs {
		stale := leg > 0 // may the proxy have closed the connection before it saw this request?
		if a.header != "" && release == nil {
			var waited bool
			var err error
			if release, waited, err = a.proxy.mem.admit(ctx); err != nil {
				return false, a.fail(LegProxyAuth, ended(ctx, err))
			}
			stale = stale || waited
		}
		r, err := a.ask(ctx, l)
		switch {
		case err != nil && stale && ctx.Err() == nil && errors.Is(err, errSilent):
			return true, err
		case err != nil:
			return false, a.fail(LegCONNECT, err)
		case r.status != 407 && r.status != 401:
			return false, a.conclude(ctx, l, r)
		}
		if err := a.answer(r); err != nil {
			err.Excerpt = a.excerpt(ctx, l, r)
			return false, err
		}
		if !a.drained(ctx, l, r) {
			return true, errUsedUp
		}
	}
	return false, a.fail(LegProxyAuth, reason(ErrBadReply, "the proxy still asks after %d requests", maxLegs))
}

// begin prepares the first request on a new connection.
func (a *attempt) begin() error {
	a.header, a.exchange = "", nil
	if a.scheme == nil {
		return nil
	}
	a.exchange = a.scheme.start(*a.proxy.cred, a.target)
	if a.pending == nil {
		a.header = a.exchange.opening()
		return nil
	}
	var err error
	if a.header, err = a.exchange.answer(*a.pending); err != nil {
		return a.fail(LegProxyAuth, reason(ErrSchemeUnsupported, "%s: %w", a.scheme.name(), err))
	}
	return nil
}

// ask sends one CONNECT and reads the reply's header.
func (a *attempt) ask(ctx context.Context, l *link) (r *reply, err error) {
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
	if err != nil {
		return nil, err
	}
	a.d.log.Debug("proxy answered CONNECT", "proxy", a.proxy.String(), "target", a.target,
		"status", r.status, "authorization_sent", a.header != "")
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
func (a *attempt) answer(r *reply) *Error {
	fields := append(r.values("proxy-authenticate"), r.values("www-authenticate")...)
	offered := parseChallenges(fields)
	a.offered = nil
	if !a.secrets.in(strings.Join(fields, " ")) {
		a.offered = offeredNames(offered)
	}
	if a.proxy.cred == nil {
		return a.failStatus(LegProxyAuth, r, ErrCredentialsMissing)
	}
	cred := *a.proxy.cred
	if a.header != "" {
		ch, ok := challengeOf(a.scheme, offered)
		var err error
		switch {
		case ok:
			a.pending = &ch
			if a.header, err = a.exchange.answer(ch); err == nil {
				return nil
			}
		case r.status == 401 || len(offered) == 0:
			err = errRefused
		}
		if errors.Is(err, errRefused) {
			a.proxy.mem.refuse()
			return a.failStatus(LegProxyAuth, r, ErrCredentialsRefused)
		}
		a.tried = append(a.tried, a.scheme.name())
	}
	for {
		s, ch, why := choose(a.d.schemes, offered, cred, a.tried)
		if s == nil {
			a.scheme = nil
			return a.noScheme(r, why)
		}
		a.scheme, a.pending, a.exchange = s, &ch, s.start(cred, a.target)
		var err error
		if a.header, err = a.exchange.answer(ch); err == nil {
			return nil
		}
		a.tried = append(a.tried, s.name())
	}
}

func (a *attempt) noScheme(r *reply, why []string) *Error {
	what := "the proxy asks for authentication, but by no scheme that this version knows"
	switch {
	case len(why) > 0:
		what = "no authentication scheme fits: " + strings.Join(why, "; ")
	case len(a.offered) == 0:
		what = "the proxy asks for authentication, but names no scheme"
	}
	return a.failStatus(LegProxyAuth, r, reason(ErrSchemeUnsupported, "%s", what))
}

// drained reads the rest of a reply and reports whether the connection can take the next request.
func (a *attempt) drained(ctx context.Context, l *link, r *reply) bool {
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
