package egress

import (
	"context"
	"net"
)

// DialContext connects to addr, a host:port, by the way that Route names. network is "tcp", or "tcp4" or "tcp6" to
// restrict a direct connection; to a proxy, both families are used. When it goes through a proxy, the proxy resolves
// addr's name.
//
// The connection is a *[net.TCPConn], or a *[tls.Conn] with an https:// proxy. Only when the target's first bytes came
// together with the proxy's reply it is another type, which has the methods NetConn and CloseWrite. Any error is an
// [*Error].
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if !validNetwork(network) {
		return nil, settingError("the network is neither tcp, tcp4 nor tcp6", "")
	}
	host, port, err := splitTarget(addr)
	if err != nil {
		return nil, targetError(err)
	}
	target := net.JoinHostPort(host, port)
	p, source, err := d.way.choose(target)
	if err != nil {
		return nil, err
	}
	if p != nil {
		d.log.Debug("dialling through a proxy", "target", target, "proxy", p.String(), "source", source)
		return d.throughProxy(ctx, p, target)
	}
	d.log.Debug("dialling directly", "target", target, "source", source)
	conn, resolved, err := d.connectTCP(ctx, network, host, port)
	if err != nil {
		e := &Error{Leg: LegConnect, Target: target, Err: err}
		if !resolved {
			e.Leg = LegResolve
		}
		e.Hint = hint(e)
		return nil, e
	}
	return conn, nil
}
