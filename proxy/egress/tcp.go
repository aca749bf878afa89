package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// connectTCP resolves host and connects to the first address that answers, each under its own deadline. Its errors say
// which of the two failed.
func (d *Dialer) connectTCP(ctx context.Context, network, host, port string) (_ net.Conn, resolved bool, _ error) {
	addrs, err := d.resolve(ctx, network, host, port)
	if err != nil {
		return nil, false, err
	}
	legCtx, cancel := context.WithTimeoutCause(ctx, d.connectTimeout, noAnswer(d.connectTimeout))
	defer cancel()
	conn, err := d.race(legCtx, network, addrs)
	if err != nil {
		return nil, true, ended(legCtx, plainDialError(err, net.JoinHostPort(host, port)))
	}
	return conn, true, nil
}

func (d *Dialer) resolve(ctx context.Context, network, host, port string) ([]string, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{net.JoinHostPort(host, port)}, nil
	}
	legCtx, cancel := context.WithTimeoutCause(ctx, d.resolveTimeout, noAnswer(d.resolveTimeout))
	defer cancel()
	ips, err := d.lookup(legCtx, "ip"+network[len("tcp"):], host)
	if err == nil && len(ips) == 0 {
		err = &net.DNSError{Err: "no addresses", Name: host, IsNotFound: true}
	}
	if err != nil {
		err = ended(legCtx, err)
		if legCtx.Err() != nil && ctx.Err() == nil {
			err = &kindError{ErrDNS, err} // our deadline: the name server's silence
		}
		return nil, err
	}
	return interleave(ips, port), nil
}

// interleave alternates the families, beginning with the first address's (RFC 8305 §4).
func interleave(ips []netip.Addr, port string) []string {
	var families [2][]string
	for _, ip := range ips {
		ip = ip.Unmap()
		i := 0
		if ip.Is4() != ips[0].Unmap().Is4() {
			i = 1
		}
		families[i] = append(families[i], net.JoinHostPort(ip.String(), port))
	}
	var all []string
	for i := range max(len(families[0]), len(families[1])) {
		for _, family := range families {
			if i < len(family) {
				all = append(all, family[i])
			}
		}
	}
	return all
}

// race tries the addresses in order, the next when one has failed or is silent for attemptDelay, and returns the first
// connection (RFC 8305 §5). All attempts have ended when it returns. Go's own Dialer races only one family against the
// other and splits the time among the addresses of each.
func (d *Dialer) race(ctx context.Context, network string, addrs []string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	var (
		results  = make(chan result)
		running  int
		winner   net.Conn
		firstErr error
		delay    = time.NewTimer(0) // fires when the next attempt is due
	)
	defer delay.Stop()
	for {
		due := delay.C
		if winner != nil || len(addrs) == 0 || ctx.Err() != nil {
			if running == 0 {
				break
			}
			due = nil
		}
		select {
		case <-due:
			addr := addrs[0]
			addrs = addrs[1:]
			running++
			go func() {
				conn, err := d.dial(ctx, network, addr)
				results <- result{conn, err}
			}()
			delay.Reset(attemptDelay)
		case r := <-results:
			running--
			switch {
			case r.err != nil && firstErr == nil:
				firstErr = r.err
			case r.err == nil && winner == nil:
				winner = r.conn
				cancel()
			case r.err == nil:
				r.conn.Close()
			}
			if r.err != nil {
				delay.Reset(0)
			}
		}
	}
	switch {
	case winner != nil:
		return winner, nil
	case firstErr == nil:
		return nil, context.Cause(ctx)
	}
	return nil, firstErr
}

// plainDialError keeps what the leg does not tell: the cause, and the address if it is not the one that was asked for.
func plainDialError(err error, asked string) error {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Addr == nil {
		return err
	}
	if addr := op.Addr.String(); addr != asked {
		return &textError{addr + ": " + root(err).Error(), err}
	}
	return &textError{root(err).Error(), err}
}

func validNetwork(network string) bool {
	return network == "tcp" || network == "tcp4" || network == "tcp6"
}
