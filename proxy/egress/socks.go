package egress

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// throughSOCKS returns a connection to target through the last of the proxies, which speaks SOCKS5 (RFC 1928, 1929).
func (d *Dialer) throughSOCKS(ctx context.Context, hops []*proxy, target string) (net.Conn, error) {
	p := hops[len(hops)-1]
	fail := func(leg Leg, err error) *Error {
		e := &Error{Leg: leg, Proxy: p.addr, Target: target, Err: err}
		e.Hint = hint(e)
		return e
	}
	if err := p.mem.refused(); err != nil {
		return nil, fail(LegProxyAuth, err)
	}
	addr, err := d.socksAddr(ctx, p, target)
	if err != nil {
		return nil, err
	}
	conn, err := d.reach(ctx, hops, target)
	if err != nil {
		return nil, err
	}
	cred := p.login()
	if cred != nil {
		release, _, err := p.mem.admit(ctx)
		if err != nil {
			conn.Close()
			return nil, fail(LegProxyAuth, ended(ctx, err))
		}
		defer release()
	}
	s := &socksClient{conn: conn, cred: cred}
	leg := LegProxyAuth
	err = within(ctx, conn, d.replyTimeout, s.greet)
	if err == nil {
		leg = LegCONNECT
		if s.authenticated {
			p.mem.accept(nil)
		}
		err = within(ctx, conn, d.replyTimeout, func() error { return s.connect(addr) })
	}
	if err == nil {
		d.log.Debug("SOCKS proxy connected", "proxy", p.String(), "target", target, "authenticated", s.authenticated)
		return conn, nil
	}
	conn.Close()
	switch {
	case s.refused:
		p.mem.refuse()
	case errors.Is(err, ErrCredentialsMissing) && !p.trusted:
		err = ErrNotTrusted
	case leg == LegProxyAuth && !s.answered: // it failed before anybody was asked who he is
		leg = LegCONNECT
	}
	return nil, fail(leg, err)
}

// socksAddr is the target as the request carries it. socks5:// resolves names here, socks5h:// at the proxy.
func (d *Dialer) socksAddr(ctx context.Context, p *proxy, target string) ([]byte, error) {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return nil, targetError(err)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil && p.kind == "socks5" {
		addrs, err := d.resolve(ctx, "tcp", host, port)
		if err != nil {
			return nil, &Error{Leg: LegResolve, Target: target, Err: err, Hint: "write socks5h:// to have the proxy resolve names"}
		}
		first, err := netip.ParseAddrPort(addrs[0])
		if err != nil {
			return nil, targetError(err)
		}
		ip = first.Addr()
	}
	var b []byte
	switch ip = ip.Unmap(); {
	case ip.Is4():
		b = append([]byte{socksIPv4}, ip.AsSlice()...)
	case ip.Is6():
		b = append([]byte{socksIPv6}, ip.WithZone("").AsSlice()...)
	default:
		b = append([]byte{socksName, byte(len(host))}, host...)
	}
	n, _ := strconv.ParseUint(port, 10, 16) // splitTarget checked it
	return binary.BigEndian.AppendUint16(b, uint16(n)), nil
}

// Address types (RFC 1928 §5) and methods (§3).
const (
	socksIPv4 = 1
	socksName = 3
	socksIPv6 = 4

	socksNoAuth   = 0
	socksPassword = 2
	socksNoMethod = 0xff
)

// socksClient is one conversation. It reads not a byte more than the replies have, so that conn is the tunnel after it.
type socksClient struct {
	conn          net.Conn
	cred          *credential
	answered      bool // the proxy speaks SOCKS5
	authenticated bool
	refused       bool
}

// greet agrees on a method and authenticates by it.
func (s *socksClient) greet() error {
	hello := []byte{5, 1, socksNoAuth}
	if s.cred != nil {
		hello = []byte{5, 2, socksNoAuth, socksPassword}
	}
	if _, err := s.conn.Write(hello); err != nil {
		return s.lost(err)
	}
	var b [2]byte
	if _, err := io.ReadFull(s.conn, b[:1]); err != nil {
		return s.lost(err)
	}
	if b[0] != 5 {
		return &kindError{errNotHTTP, reason(ErrBadReply, "this is not a SOCKS5 proxy")}
	}
	if _, err := io.ReadFull(s.conn, b[1:]); err != nil {
		return s.lost(err)
	}
	s.answered = true
	switch {
	case b[1] == socksNoAuth:
		return nil
	case b[1] == socksPassword && s.cred != nil:
		return s.authenticate()
	case b[1] == socksNoMethod && s.cred == nil:
		return ErrCredentialsMissing
	}
	return reason(ErrSchemeUnsupported, "the SOCKS5 proxy accepts neither no authentication nor user and password")
}

// authenticate is RFC 1929.
func (s *socksClient) authenticate() error {
	b := append([]byte{1, byte(len(s.cred.user))}, s.cred.user...)
	b = append(append(b, byte(len(s.cred.password))), s.cred.password...)
	if _, err := s.conn.Write(b); err != nil {
		return s.lost(err)
	}
	var reply [2]byte
	if _, err := io.ReadFull(s.conn, reply[:]); err != nil {
		return s.lost(err)
	}
	if reply[1] != 0 {
		s.refused = true
		return ErrCredentialsRefused
	}
	s.authenticated = true
	return nil
}

// connect asks for the tunnel (RFC 1928 §4, §6).
func (s *socksClient) connect(addr []byte) error {
	if _, err := s.conn.Write(append([]byte{5, 1, 0}, addr...)); err != nil {
		return s.lost(err)
	}
	var b [4]byte
	if _, err := io.ReadFull(s.conn, b[:]); err != nil {
		return s.lost(err)
	}
	if b[0] != 5 {
		return reason(ErrBadReply, "the SOCKS5 proxy's reply is malformed")
	}
	if b[1] != 0 {
		return socksReply(b[1])
	}
	rest := 2
	switch b[3] {
	case socksIPv4:
		rest += 4
	case socksIPv6:
		rest += 16
	case socksName:
		var n [1]byte
		if _, err := io.ReadFull(s.conn, n[:]); err != nil {
			return s.lost(err)
		}
		rest += int(n[0])
	default:
		return reason(ErrBadReply, "the SOCKS5 proxy's reply is malformed")
	}
	if _, err := io.ReadFull(s.conn, make([]byte, rest)); err != nil {
		return s.lost(err)
	}
	return nil
}

// socksReply is what the reply codes mean.
func socksReply(code byte) error {
	switch code {
	case 2:
		return reason(ErrForbidden, "the SOCKS5 proxy's rules do not allow the connection")
	case 3:
		return reason(ErrUnavailable, "the SOCKS5 proxy says: network unreachable")
	case 4:
		return reason(ErrUnavailable, "the SOCKS5 proxy says: host unreachable")
	case 5:
		return reason(ErrUnavailable, "the SOCKS5 proxy says: connection refused")
	case 6:
		return reason(ErrUnavailable, "the SOCKS5 proxy says: timed out on the way")
	case 7:
		return reason(ErrNoTunnel, "the SOCKS5 proxy does not know how to connect")
	case 8:
		return reason(ErrNoTunnel, "the SOCKS5 proxy does not know this kind of address")
	}
	return reason(ErrUnavailable, "the SOCKS5 proxy failed (code %d)", code)
}

// lost says in which of its words a connection's end is told; a deadline stays itself.
func (s *socksClient) lost(err error) error {
	if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // the connection's own
		return err
	}
	what := "the SOCKS5 proxy cut the connection"
	if s.answered {
		what = "the SOCKS5 proxy cut the connection in the middle of the handshake"
	}
	return &textError{what + unlessEOF(err), err}
}

// within is link's, for a connection without a reader.
func within(ctx context.Context, conn net.Conn, timeout time.Duration, f func() error) error {
	return (&link{conn: conn}).within(ctx, timeout, f)
}
