package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// Resolver turns a name into addresses. *net.Resolver is one.
type Resolver interface {
	// LookupNetIP returns the addresses of host in the order in which to try them; network is "ip".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// ResolveError says that a name has no address: it is not a matter of policy.
type ResolveError struct {
	Host string
	Err  error // from the resolver, often a *net.DNSError; wraps the context's error when that ended the query
}

// Error implements error. The resolver's own text is left out where it repeats the name.
func (e *ResolveError) Error() string {
	var dns *net.DNSError
	if errors.As(e.Err, &dns) {
		return fmt.Sprintf("resolve %s: %s", quote(e.Host), dns.Err)
	}
	return fmt.Sprintf("resolve %s: %v", quote(e.Host), e.Err)
}

// Unwrap returns the resolver's error.
func (e *ResolveError) Unwrap() error { return e.Err }

// maxAddrs bounds how many of a name's addresses are used; a dialler gets through no more in its time.
const maxAddrs = 16

const localhost = "localhost"

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

func isLocalhost(a netip.Addr) bool { return a == loopback4 || a == loopback6 }

// ResolveConnect returns the addresses at which host and port may be dialled, in the order to try them, at least one and
// at most 16. host is a name or an IP address; IPv6 without brackets. Dial what is returned and never host, which may
// resolve differently the next time. A name that no rule could admit is not looked up. A nil resolver is
// net.DefaultResolver.
//
// Errors: *TargetError (host or port can't be one), *DeniedError, *ResolveError.
func (p Policy) ResolveConnect(ctx context.Context, r Resolver, host string, port uint16) ([]netip.AddrPort, error) {
	if port == 0 {
		return nil, badTarget(host, port, errors.New("port is 0; write 1 to 65535"))
	}
	h, err := parseHost(host)
	if err != nil {
		return nil, badTarget(host, port, err)
	}
	return decide(ctx, r, question{Connect, p.Connect, h, port})
}

// ResolveListen returns the addresses to bind for host and port. host is a name, an IP address, or "" or "*" for all
// interfaces; port 0 is an ephemeral one, which takes a rule with every port. All interfaces come as [::], which binds
// IPv4 as well, then 0.0.0.0 for machines without IPv6: bind the first that can be bound; localhost comes as 127.0.0.1, then ::1.
// A nil resolver is net.DefaultResolver.
//
// Errors: *TargetError, *DeniedError, *ResolveError.
func (p Policy) ResolveListen(ctx context.Context, r Resolver, host string, port uint16) ([]netip.AddrPort, error) {
	if host == "" || host == "*" {
		return p.listenEverywhere(port)
	}
	h, err := parseHost(host)
	if err != nil {
		return nil, badTarget(host, port, err)
	}
	return decide(ctx, r, question{Listen, p.Listen, h, port})
}

func (p Policy) listenEverywhere(port uint16) ([]netip.AddrPort, error) {
	var allowed []netip.AddrPort
	for _, addr := range []netip.Addr{netip.IPv6Unspecified(), netip.IPv4Unspecified()} {
		if err := p.CheckListen("", netip.AddrPortFrom(addr, port)); err == nil {
			allowed = append(allowed, netip.AddrPortFrom(addr, port))
		}
	}
	if len(allowed) == 0 {
		e := denied(Listen, host{name: "*"}, port, nil)
		return nil, e
	}
	return allowed, nil
}

// CheckConnect decides again on what ResolveConnect has allowed once: whether a stream to addr, asked for as host, may live on
// under this policy. Errors: *TargetError, *DeniedError.
func (p Policy) CheckConnect(host string, addr netip.AddrPort) error {
	h, err := parseHost(host)
	if err != nil {
		return badTarget(host, addr.Port(), err)
	}
	return question{Connect, p.Connect, h, addr.Port()}.check(addr.Addr())
}

// CheckListen is CheckConnect for a listener. Its port is the one that was asked for: 0 if ephemeral. Errors: *TargetError,
// *DeniedError.
func (p Policy) CheckListen(bind string, addr netip.AddrPort) error {
	h := host{addr: addr.Addr()}
	if bind != "" && bind != "*" {
		var err error
		if h, err = parseHost(bind); err != nil {
			return badTarget(bind, addr.Port(), err)
		}
	}
	return question{Listen, p.Listen, h, addr.Port()}.check(addr.Addr())
}

// question is what a policy is asked.
type question struct {
	action Action
	rules  []Rule
	host   host
	port   uint16
}

func (q question) check(addr netip.Addr) error {
	covers := Rule.coversConnect
	if q.action == Listen {
		covers = Rule.coversListen
	}
	for _, r := range q.rules {
		if r.ports.contains(q.port) && covers(r, q.host, addr.Unmap().WithZone("")) {
			return nil
		}
	}
	return denied(q.action, q.host, q.port, []netip.Addr{addr})
}

// decide answers q, resolving its host if need be.
func decide(ctx context.Context, r Resolver, q question) ([]netip.AddrPort, error) {
	if !slices.ContainsFunc(q.rules, func(r Rule) bool { return r.mayCover(q.host, q.port) }) {
		var known []netip.Addr
		if q.host.addr.IsValid() {
			known = append(known, q.host.addr)
		}
		return nil, denied(q.action, q.host, q.port, known)
	}
	addrs, err := resolve(ctx, r, q.host)
	if err != nil {
		return nil, err
	}
	var allowed []netip.AddrPort
	for _, addr := range addrs {
		if q.check(addr) == nil {
			allowed = append(allowed, netip.AddrPortFrom(addr, q.port))
		}
	}
	if len(allowed) == 0 {
		return nil, denied(q.action, q.host, q.port, addrs)
	}
	return allowed[:min(len(allowed), maxAddrs)], nil
}

// resolve returns h's addresses without repeats, never none.
func resolve(ctx context.Context, r Resolver, h host) ([]netip.Addr, error) {
	switch {
	case h.addr.IsValid():
		return []netip.Addr{h.addr}, nil
	case h.name == localhost:
		return []netip.Addr{loopback4, loopback6}, nil
	case r == nil:
		r = net.DefaultResolver
	}
	found, err := r.LookupNetIP(ctx, "ip", h.lookup())
	if err != nil {
		// A resolver's error need not wrap the context's: whether time ran out decides what the peer is told.
		if ctxErr := ctx.Err(); ctxErr != nil && !errors.Is(err, ctxErr) {
			err = fmt.Errorf("%w: %w", ctxErr, err)
		}
		return nil, &ResolveError{Host: h.name, Err: err}
	}
	var addrs []netip.Addr
	for _, addr := range found {
		addr = addr.Unmap()
		if addr.IsValid() && !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	if len(addrs) == 0 {
		return nil, &ResolveError{Host: h.name, Err: errors.New("the name has no address")}
	}
	return addrs, nil
}

func badTarget(host string, port uint16, err error) *TargetError {
	return &TargetError{Target: quote(host + ":" + strconv.Itoa(int(port))), Err: err}
}
