package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// conclude turns every final reply but 407 and 401 into success or the error that it means.
func (a *attempt) conclude(ctx context.Context, l *link, r *reply) error {
	if r.status < 300 {
		if !loginPage(l, r) {
			if a.header != "" {
				a.proxy.mem.accept(a.scheme)
			}
			return nil
		}
		e := a.failStatus(LegCONNECT, r, reason(ErrCaptivePortal, "captive portal? the proxy answered with a web page instead of a tunnel"))
		e.Excerpt = a.excerpt(ctx, l, r)
		return e
	}
	kind := ErrNoTunnel
	what := "the proxy answered " + a.statusText(r)
	switch {
	case r.status == 511 || r.status < 400:
		kind = ErrCaptivePortal
		what = "captive portal? " + what
		if where := a.location(r); where != "" {
			what += ", to " + where
		}
	case r.status == 403 || r.status == 451:
		kind = ErrForbidden
	case r.status == 408 || r.status == 429 || r.status >= 500 && r.status != 501 && r.status != 505:
		kind = ErrUnavailable
	}
	e := a.failStatus(LegCONNECT, r, reason(kind, "%s", what))
	e.Excerpt = a.excerpt(ctx, l, r)
	return e
}

// loginPage recognises a 2xx that is a page and no tunnel. The content type alone is not enough: some proxies put one
// on every reply.
func loginPage(l *link, r *reply) bool {
	kind, _, _ := mime.ParseMediaType(r.get("content-type"))
	if kind != "text/html" && kind != "application/xhtml+xml" {
		return false
	}
	if l.h2 != nil {
		return r.length > 0
	}
	if r.length > 0 || r.has("transfer-encoding", "chunked") {
		return true
	}
	// A page may come a little later. No target speaks first, so a tunnel is only that much late.
	_ = l.conn.SetReadDeadline(time.Now().Add(portalWait))
	_, _ = l.br.Peek(1)
	_ = l.conn.SetReadDeadline(time.Time{})
	early, _ := l.br.Peek(l.br.Buffered())
	return strings.HasPrefix(strings.TrimSpace(string(early)), "<")
}

func (a *attempt) statusText(r *reply) string {
	text := a.secrets.text(r.reason, maxReason)
	if text == "" {
		text = http.StatusText(r.status)
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", r.status, text))
}

// location is the host that a redirect leads to. Path and query may identify somebody.
func (a *attempt) location(r *reply) string {
	u, err := url.Parse(r.get("location"))
	if err != nil || u.Host == "" {
		return ""
	}
	return a.secrets.text(u.Scheme+"://"+u.Host, maxExcerpt)
}

func (a *attempt) excerpt(ctx context.Context, l *link, r *reply) (text string) {
	defer r.discard()
	_ = l.within(ctx, min(excerptTimeout, a.d.replyTimeout), func() error { // without an excerpt the status still speaks
		text = r.excerpt(l.br, a.secrets)
		return nil
	})
	return text
}

// fail builds the error of this attempt, with a hint by its cause.
func (a *attempt) fail(leg Leg, err error) *Error {
	e := &Error{Leg: leg, Proxy: a.proxy.addr, Target: a.target, Err: err}
	if leg == LegProxyAuth {
		e.Offered, e.Tried = a.offered, a.tried
	}
	e.Hint = hint(e)
	return e
}

func (a *attempt) failStatus(leg Leg, r *reply, err error) *Error {
	e := a.fail(leg, err)
	e.Status = r.status
	e.Hint = hint(e)
	return e
}

// hint says what to try.
func hint(e *Error) string {
	is := func(kind error) bool { return errors.Is(e.Err, kind) }
	switch {
	case is(context.Canceled):
		return ""
	case is(ErrCredentialsMissing):
		return "give them with --proxy-user and --proxy-password-file, or get a Kerberos ticket with kinit if the proxy takes Negotiate"
	case is(ErrNoKDC):
		return "Kerberos servers are named in krb5.conf or by DNS, and many are reached only inside the company's network or VPN"
	case is(ErrNotTrusted):
		return "if it is your company's proxy, allow it with --proxy-trust " + hostOf(e.Proxy) + ", or name it with --proxy"
	case is(ErrCredentialsRefused):
		return "check --proxy-user and the password file; a domain is written DOMAIN\\user; see that the account is not locked"
	case is(ErrSchemeUnsupported) && e.Status != 0 && len(e.Offered) == 0:
		return "the proxy's challenge is incomplete: ask its administrator, or try another proxy"
	case is(ErrSchemeUnsupported):
		return "see that --proxy-auth allows what the proxy offers, and that what it needs is set (--proxy-user user@REALM and kinit for Kerberos)"
	case is(ErrForbidden):
		return "many proxies allow CONNECT to port 443 only, and only to known hosts: have the server listen there, or ask for " + e.Target + " to be allowed"
	case is(ErrCaptivePortal):
		return portalHint
	case is(ErrUnavailable):
		return "the proxy may be unable to resolve or reach " + e.Target + ": check the server's address, and that the server is up"
	case is(ErrNoTunnel):
		return "check the proxy's address and port: what answers there may be a web server, or a proxy with CONNECT switched off"
	case is(ErrBadReply) && !is(errNotHTTP):
		return "the proxy, or a device in front of it, breaks the protocol: try another proxy, or ask its administrator"
	case is(ErrBadReply):
		return "check the proxy's address, port and scheme (http://, https:// or socks5h://): what answers there speaks something else"
	case e.Leg == LegCONNECT && is(ErrTimeout):
		return "the proxy accepted the connection but not the request: it may be unable to reach " + e.Target + ", or is another kind of proxy than its scheme says"
	case e.Leg == LegCONNECT:
		return "check the proxy's scheme (http://, https:// or socks5h://); some proxies cut connections that their rules forbid"
	}
	return networkHint(e)
}

// networkHint is for the legs before anything was said.
func networkHint(e *Error) string {
	switch e.Leg {
	case LegResolveProxy:
		return "check the proxy's name; many resolve only inside the company's network or VPN"
	case LegConnectProxy:
		return "check the proxy's host and port, and that this machine may reach it"
	case LegResolve:
		return "check the server's name; where only a proxy can resolve it, set --proxy or HTTPS_PROXY"
	case LegConnect:
		return "check the server's address and port; where the way out leads through a proxy, set --proxy or HTTPS_PROXY"
	}
	return ""
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

const portalHint = "open a web page in a browser and log in to the network, then try again"

// isUntrusted reports whether a certificate was issued by a CA that is not known.
func isUntrusted(err error) bool {
	_, ok := errors.AsType[x509.UnknownAuthorityError](err)
	return ok
}

const tlsHint = "check that this port of the proxy speaks TLS; most proxies are http://"

// explainTLS gives a failed handshake with who its hint. Names in a certificate are peer text.
func explainTLS(who string, err error) (hint string, _ error) {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "write its address with http://", &textError{who + " does not speak TLS on this port", err}
	}
	op, ok := errors.AsType[*net.OpError](err)
	if errors.Is(err, io.EOF) || ok && (op.Op == "read" || op.Op == "write") {
		return tlsHint, &textError{who + " closed the connection during the handshake" + unlessEOF(err), err}
	}
	failed, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok {
		return tlsHint, err
	}
	issuer := ""
	if len(failed.UnverifiedCertificates) > 0 {
		issuer = clean(failed.UnverifiedCertificates[0].Issuer.String(), maxReason)
	}
	if isUntrusted(err) {
		return "add the certificate of the CA that issued it, with --proxy-ca-file",
			&textError{fmt.Sprintf("%s's certificate is not trusted (issuer %q)", who, issuer), err}
	}
	return "check the name in its address, and its certificate", &textError{clean(err.Error(), maxExcerpt), err}
}
