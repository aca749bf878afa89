package egress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// proxy is one proxy and what is known about it. It is always handled by pointer, so that printing what refers to it
// prints an address and no password.
type proxy struct {
	kind string // http, https, socks5 or socks5h
	host string // ASCII name or IP literal without brackets
	addr string // host:port
	cred *credential
	mem  *memory

	// trusted says that the user named this proxy, or allowed it: it may see credentials.
	trusted  bool
	kerberos Kerberos
	getenv   func(string) string

	lookupCNAME func(ctx context.Context, host string) (string, error) // nil: the system's
}

// String is the proxy without its user and password.
func (p *proxy) String() string { return p.kind + "://" + p.addr }

func (p *proxy) tls() bool   { return p.kind == "https" }
func (p *proxy) socks() bool { return strings.HasPrefix(p.kind, "socks") }

// defaultPorts are those of the kinds of proxy: what browsers take.
func defaultPort(kind string) string {
	switch kind {
	case "https":
		return "443"
	case "socks5", "socks5h":
		return "1080"
	}
	return "80"
}

const urlHint = `write http://host:port, https://host:port, socks5://host:port or socks5h://host:port; in a user or ` +
	`password within the URL, percent-encode special characters (@ %40, : %3A, / %2F, \ %5C, # %23, % %25), or give ` +
	`them with --proxy-user and --proxy-password-file`

const supportedKinds = "supported are http, https, socks5 and socks5h"

// parseProxy reads a proxy's URL. source names the setting in errors. Nothing of raw gets into an error: any part of it
// may turn out to be a password that was not percent-encoded (even "host" and "port" of http://user:12/34@proxy).
func parseProxy(raw, source string) (*proxy, error) {
	bad := func(format string, args ...any) (*proxy, error) {
		return nil, settingError(source+": "+fmt.Sprintf(format, args...), urlHint)
	}
	raw = strings.TrimSpace(raw)
	bare := !strings.Contains(raw, "://")
	if bare {
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return bad("the proxy's address cannot be parsed")
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
	case "socks", "socks4", "socks4a", "ftp", "ws", "wss", "quic", "ssh", "h2", "direct":
		return bad("unsupported proxy scheme %q: %s", u.Scheme, supportedKinds)
	default:
		return bad("unknown proxy scheme: %s", supportedKinds)
	}
	if (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(raw, "#") {
		return bad("the proxy's address has something behind host and port")
	}
	p := &proxy{kind: u.Scheme, mem: newMemory()}
	if p.host, err = asciiHost(u.Hostname()); err != nil {
		return bad("the proxy's host name is not valid")
	}
	if _, err := netip.ParseAddr(p.host); err != nil {
		p.host = strings.ToLower(p.host) // so that one proxy is remembered once
	}
	port := u.Port()
	switch {
	case port == "" && bare && source == sourceFlag:
		return nil, settingError(source+": the proxy is written with no scheme and no port",
			"write host:port, mostly with 3128 or 8080 (curl would take 1080 here, and browsers 80), or http://host for port 80")
	case port == "":
		port = defaultPort(p.kind)
	}
	if !validPort(port) {
		return bad("the proxy's port is not between 1 and 65535")
	}
	p.addr = net.JoinHostPort(p.host, port)
	if u.User != nil && u.User.String() != "" {
		password, given := u.User.Password()
		p.cred = &credential{u.User.Username(), password, !given}
	}
	return p, nil
}

// trust gives the proxy what it may use to tell who we are, the separately set user and password among it.
func (p *proxy) trust(o Options) {
	p.trusted, p.kerberos, p.getenv = true, o.Kerberos, getenv(o)
	switch {
	case o.Username != "":
		p.cred = &credential{o.Username, o.Password, o.Password == ""}
	case o.Password != "" && p.cred != nil:
		p.cred = &credential{p.cred.user, o.Password, false}
	}
}

// login returns the user and the password, nil unless there are both. An empty password that nobody wrote is not tried:
// it would count against the account.
func (p *proxy) login() *credential {
	if p.cred == nil || p.cred.bare {
		return nil
	}
	return p.cred
}

// checkCredentials finds what no proxy could be told.
func (p *proxy) checkCredentials(source string) error {
	if p.cred == nil {
		return nil
	}
	if hasControl(p.cred.user) || hasControl(p.cred.password) {
		return settingError(source+": the proxy's user or password has control characters",
			"look for a stray line break or tab in it")
	}
	if p.socks() && (len(p.cred.user) > 255 || len(p.cred.password) > 255) {
		return settingError(source+": the proxy's user or password is longer than SOCKS5 can carry", "")
	}
	return nil
}

// splitTarget checks a target's host:port and returns it in the form that goes on the wire: ASCII, IPv6 in brackets.
func splitTarget(addr string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(addr)
	if err != nil {
		return "", "", fmt.Errorf("%q is not host:port", clean(addr, maxReason))
	}
	if !validPort(port) {
		return "", "", fmt.Errorf("%q has no port between 1 and 65535", clean(addr, maxReason))
	}
	if host, err = asciiHost(host); err != nil {
		return "", "", fmt.Errorf("%q: %w", clean(addr, maxReason), err)
	}
	return host, port, nil
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// asciiHost returns an IP literal or a name fit for DNS and for a request line; names beyond ASCII become their A-labels.
func asciiHost(host string) (string, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		if hasControl(ip.Zone()) || strings.ContainsAny(ip.Zone(), " []/\\@") {
			return "", fmt.Errorf("invalid IPv6 zone")
		}
		return host, nil
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) {
		var err error
		if host, err = idna.Lookup.ToASCII(host); err != nil {
			return "", fmt.Errorf("not a valid international host name")
		}
	}
	for _, c := range []byte(host) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			return "", fmt.Errorf("not a valid host name")
		}
	}
	if host == "" || len(host) > 254 { // 253 and a final dot
		return "", fmt.Errorf("not a valid host name")
	}
	return host, nil
}

// hasControl reports bytes that may not stand in a header, nor in a user or password (RFC 7617 §2).
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}
