package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"sallyport/proxy/access"
)

// nextAddress is how long one of a target's addresses may keep the next from being tried (RFC 8305 §5).
const nextAddress = 250 * time.Millisecond

// dialTCP dials the addresses in their order, the next when one has failed or takes long, and returns the first
// connection. The error is that of the address that said most.
func dialTCP(ctx context.Context, addrs []netip.AddrPort) (net.Conn, netip.AddrPort, error) {
	if len(addrs) == 1 {
		conn, err := (&net.Dialer{}).DialContext(ctx, networkTCP, addrs[0].String())
		return conn, addrs[0], err
	}
	type result struct {
		conn net.Conn
		addr netip.AddrPort
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result)
	next, open := 0, 0
	start := func() {
		addr := addrs[next]
		next++
		open++
		go func() {
			conn, err := (&net.Dialer{}).DialContext(ctx, networkTCP, addr.String())
			results <- result{conn, addr, err}
		}()
	}
	defer func() { // whoever came second is not needed
		cancel()
		for ; open > 0; open-- {
			if r := <-results; r.conn != nil {
				_ = r.conn.Close()
			}
		}
	}()
	var best error
	for start(); ; {
		var late <-chan time.Time
		if next < len(addrs) {
			late = time.After(nextAddress)
		}
		select {
		case <-late:
			start()
		case r := <-results:
			open--
			if r.err == nil {
				return r.conn, r.addr, nil
			}
			if best == nil || tells(r.err) > tells(best) {
				best = r.err
			}
			if next < len(addrs) && ctx.Err() == nil {
				start()
			} else if open == 0 {
				return nil, netip.AddrPort{}, best
			}
		}
	}
}

// tells ranks errors by how much they say about a target: a refusal proves that the host is there.
func tells(err error) int {
	switch codeOf(err) {
	case CodeRefused:
		return 3
	case CodeTimeout:
		return 2
	case CodeUnreachable:
		return 1
	}
	return 0
}

// dialTarget dials what id asks for, if its policy allows: the very address that it allowed. allowed checks that again,
// after a change of the policy.
func (s *Server) dialTarget(ctx context.Context, id access.Identity, e Endpoint) (conn net.Conn, allowed func(access.Policy) error, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.o.DialTimeout, errDialTimeout)
	defer cancel()
	if e.Path != "" {
		if err := id.Policy.ConnectUnix(e.Path); err != nil {
			return nil, nil, err
		}
		conn, err = (&net.Dialer{}).DialContext(ctx, networkUnix, e.Path)
		allowed = func(p access.Policy) error { return p.ConnectUnix(e.Path) }
	} else {
		addrs, rerr := id.Policy.ResolveConnect(ctx, s.o.Resolver, e.Host, e.Port)
		if rerr != nil {
			return nil, nil, rerr
		}
		var addr netip.AddrPort
		conn, addr, err = dialTCP(ctx, addrs)
		allowed = func(p access.Policy) error { return p.CheckConnect(e.Host, addr) }
	}
	if err != nil && errors.Is(context.Cause(ctx), errDialTimeout) {
		err = errDialTimeout
	}
	if err != nil {
		return nil, nil, err
	}
	return conn, allowed, nil
}

// errDialTimeout is why a dial was given up.
var errDialTimeout = errors.New("no answer within the dial timeout")
