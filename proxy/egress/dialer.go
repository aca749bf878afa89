package egress

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// DialContext connects to addr, a host:port, by the way that Route names. network is "tcp", or "tcp4" or "tcp6" to
// restrict a direct connection; to a proxy, both families are used. When it goes through an HTTP or a socks5h:// proxy,
// the proxy resolves addr's name.
//
// The connection is a *[net.TCPConn], or a *[tls.Conn] with an https:// proxy. Only when the target's first bytes came
// together with the proxy's reply, or the proxy speaks HTTP/2, it is another type, which has the methods NetConn and
// CloseWrite. Any error is an [*Error].
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if !validNetwork(network) {
		return nil, settingError("the network is neither tcp, tcp4 nor tcp6", "")
	}
	host, port, err := splitTarget(addr)
	if err != nil {
		return nil, targetError(err)
	}
	target := net.JoinHostPort(host, port)
	ways, err := d.find.ways(ctx, d, target)
	if err != nil {
		return nil, err
	}
	var failed []*Error
	for _, w := range d.dead.last(ways) {
		conn, err := d.by(ctx, w, network, host, port)
		if err == nil {
			d.dead.alive(w)
			return conn, nil
		}
		e, ok := errors.AsType[*Error](err)
		if !ok || ctx.Err() != nil || !e.nextMayHelp() {
			return nil, err
		}
		d.dead.died(w)
		failed = append(failed, e)
		if len(ways) > 1 {
			d.log.Debug("this way failed", "way", w.String(), "error", e)
		}
	}
	d.find.failed(target)
	return nil, allFailed(failed)
}

// by goes one way.
func (d *Dialer) by(ctx context.Context, w way, network, host, port string) (net.Conn, error) {
	target := net.JoinHostPort(host, port)
	if len(w.hops) > 0 {
		d.log.Debug("dialling through a proxy", "target", target, "proxy", w.String(), "source", w.source)
		return d.through(ctx, w.hops, target)
	}
	d.log.Debug("dialling directly", "target", target, "source", w.source)
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

// nextMayHelp reports whether another candidate should be tried: this one was not reached, or did not answer. What a
// proxy says about us or the target is an answer.
func (e *Error) nextMayHelp() bool {
	switch e.Leg {
	case LegResolveProxy, LegConnectProxy, LegProxyTLS, LegResolve, LegConnect:
		return true
	case LegCONNECT:
		return e.Status == 0
	}
	return false
}

// allFailed is the last candidate's error, which says what happened to those before it.
func allFailed(failed []*Error) *Error {
	last := *failed[len(failed)-1]
	var before []string
	for _, e := range failed[:len(failed)-1] {
		before = append(before, e.Error())
	}
	if len(before) > 0 {
		last.Err = &textError{last.Err.Error() + " (before that: " + strings.Join(before, "; ") + ")", last.Err}
	}
	return &last
}

// deadList remembers for a short time which ways led nowhere.
type deadList struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func newDeadList() *deadList { return &deadList{until: make(map[string]time.Time)} }

// last returns the ways with the dead ones behind the others: if all are dead, all are tried.
func (l *deadList) last(ways []way) []way {
	if len(ways) < 2 {
		return ways
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	dead := func(w way) bool { return time.Now().Before(l.until[w.String()]) }
	var alive, others []way
	for _, w := range ways {
		if dead(w) {
			others = append(others, w)
		} else {
			alive = append(alive, w)
		}
	}
	return slices.Concat(alive, others)
}

func (l *deadList) died(w way) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.until) >= maxRemembered {
		clear(l.until)
	}
	l.until[w.String()] = time.Now().Add(deadFor)
}

func (l *deadList) alive(w way) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.until, w.String())
}
