package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// network is a scripted one: how long each address takes, and with what outcome.
type network struct {
	addrs map[string]outcome

	mu     sync.Mutex
	dialed []string
	open   int
}

type outcome struct {
	after time.Duration // negative: for ever
	err   error
}

type fakeConn struct {
	net.Conn
	addr  string
	close func()
}

func (c *fakeConn) Close() error { c.close(); return nil }

func (n *network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.dialed = append(n.dialed, addr)
	n.mu.Unlock()
	o, ok := n.addrs[addr]
	if !ok {
		o.err = errnosRefused[0]
	}
	wait := make(<-chan time.Time)
	if o.after >= 0 {
		wait = time.After(o.after)
	}
	select {
	case <-wait:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if o.err != nil {
		tcp, _ := net.ResolveTCPAddr("tcp", addr)
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: tcp, Err: os.NewSyscallError("connect", o.err)}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open++
	return &fakeConn{addr: addr, close: func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.open--
	}}, nil
}

func addresses(list ...string) func(context.Context, string, string) ([]netip.Addr, error) {
	return func(context.Context, string, string) (all []netip.Addr, _ error) {
		for _, a := range list {
			all = append(all, netip.MustParseAddr(a))
		}
		return all, nil
	}
}

func TestRace(t *testing.T) {
	const (
		a, b, c = "192.0.2.1", "192.0.2.2", "192.0.2.3"
		six     = "2001:db8::1"
	)
	fast, never, refused := outcome{after: 10 * time.Millisecond}, outcome{after: -1}, outcome{after: 10 * time.Millisecond, err: errnosRefused[0]}
	for _, test := range []struct {
		name   string
		addrs  []string
		net    map[string]outcome
		want   string // address, or the error's text
		kind   error
		took   time.Duration
		dialed int
	}{
		{"first", []string{a, b}, map[string]outcome{a: fast}, a, nil, 10 * time.Millisecond, 1},
		{"second at once after a failure", []string{a, b}, map[string]outcome{a: refused, b: fast}, b, nil, 20 * time.Millisecond, 2},
		{"second beside a silent first", []string{a, b}, map[string]outcome{a: never, b: fast}, b, nil, 260 * time.Millisecond, 2},
		{"third of one family", []string{a, b, c}, map[string]outcome{a: never, b: never, c: fast}, c, nil, 510 * time.Millisecond, 3},
		{"slow first still wins", []string{a, b}, map[string]outcome{a: {after: 300 * time.Millisecond}, b: never}, a, nil, 300 * time.Millisecond, 2},
		{"families alternate", []string{six, "2001:db8::2", a}, map[string]outcome{six: never, a: fast}, a, nil, 260 * time.Millisecond, 2},
		{"all refuse", []string{a, b}, map[string]outcome{a: refused, b: refused}, "192.0.2.1:443: " + root(errnosRefused[0]).Error(), ErrRefused, 20 * time.Millisecond, 2},
		{"unreachable", []string{six}, map[string]outcome{six: {err: errnosUnreachable[0]}}, "[2001:db8::1]:443: " + errnosUnreachable[0].Error(), ErrUnreachable, 0, 1},
		{"timed out by the system", []string{a}, map[string]outcome{a: {err: errnosTimeout[0]}}, "192.0.2.1:443: " + errnosTimeout[0].Error(), ErrTimeout, 0, 1},
		{"all silent", []string{a, b}, map[string]outcome{a: never, b: never}, "no answer within 10s", ErrTimeout, 10 * time.Second, 2},
		{"no addresses", nil, nil, "lookup tunnel.example.com: no addresses", ErrDNS, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := mustNew(t, Options{Getenv: environment()})
				n := &network{addrs: map[string]outcome{}}
				for addr, o := range test.net {
					n.addrs[net.JoinHostPort(addr, "443")] = o
				}
				d.lookup, d.dial = addresses(test.addrs...), n.dial
				start := time.Now()
				conn, err := d.DialContext(t.Context(), "tcp", testTarget)
				if took := time.Since(start); took != test.took {
					t.Errorf("took %v", took)
				}
				if len(n.dialed) != test.dialed {
					t.Errorf("dialled %v", n.dialed)
				}
				if err != nil {
					e := asError(t, err)
					if test.kind == nil || !errors.Is(e, test.kind) || e.Err.Error() != test.want || e.Permanent() {
						t.Errorf("%v", e)
					}
					if want := map[bool]Leg{true: LegResolve, false: LegConnect}[test.kind == ErrDNS]; e.Leg != want || e.Hint == "" {
						t.Errorf("leg %q, hint %q", e.Leg, e.Hint)
					}
					if n.open != 0 {
						t.Errorf("%d connections left open", n.open)
					}
					return
				}
				if got := conn.(*fakeConn).addr; got != net.JoinHostPort(test.want, "443") || n.open != 1 {
					t.Errorf("%s, %d open", got, n.open)
				}
			})
		})
	}
}

// The loser of a dead heat is closed.
func TestRaceClosesLosers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := mustNew(t, Options{Getenv: environment()})
		n := &network{addrs: map[string]outcome{"192.0.2.1:443": {}, "192.0.2.2:443": {}}}
		d.lookup = addresses("192.0.2.1", "192.0.2.2")
		d.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == "192.0.2.1:443" { // connects just as it is told to stop
				<-ctx.Done()
				return n.dial(context.WithoutCancel(ctx), network, addr)
			}
			return n.dial(ctx, network, addr)
		}
		conn, err := d.DialContext(t.Context(), "tcp", testTarget)
		if err != nil || conn.(*fakeConn).addr != "192.0.2.2:443" || n.open != 1 {
			t.Errorf("%v %v, %d open", conn, err, n.open)
		}
	})
}

func TestResolveLeg(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := mustNew(t, Options{Proxy: []string{"http://proxy.example:3128"}, ResolveTimeout: 3 * time.Second})
		d.lookup = func(ctx context.Context, network, host string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, &net.DNSError{Err: ctx.Err().Error(), Name: host, IsTimeout: true}
		}
		start := time.Now()
		_, e := dial(t, d, testTarget)
		if took := time.Since(start); took != 3*time.Second || e.Leg != LegResolveProxy || !errors.Is(e, ErrDNS) || !errors.Is(e, ErrTimeout) ||
			!errors.Is(e, os.ErrDeadlineExceeded) || e.Proxy != "proxy.example:3128" {
			t.Errorf("after %v: %v", took, e)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := d.DialContext(ctx, "tcp", testTarget)
		if e := asError(t, err); !errors.Is(e, context.DeadlineExceeded) || !errors.Is(e, ErrTimeout) {
			t.Errorf("caller's deadline: %v", e)
		}
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		_, err = d.DialContext(ctx, "tcp", testTarget)
		if e := asError(t, err); !errors.Is(e, context.Canceled) || e.Permanent() {
			t.Errorf("cancelled: %v", e)
		}
		d.lookup = func(_ context.Context, network, host string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "no such host", Name: host + "/" + network, IsNotFound: true}
		}
		_, e = dial(t, d, testTarget)
		if dns, ok := errors.AsType[*net.DNSError](e); !ok || !dns.IsNotFound || dns.Name != "proxy.example/ip" || !errors.Is(e, ErrDNS) {
			t.Errorf("%v", e)
		}
		d = mustNew(t, Options{Proxy: []string{None}})
		d.lookup = func(_ context.Context, network, host string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "no such host", Name: network}
		}
		_, err = d.DialContext(t.Context(), "tcp6", testTarget)
		if dns, ok := errors.AsType[*net.DNSError](err); !ok || dns.Name != "ip6" {
			t.Errorf("tcp6: %v", err)
		}
	})
}

func TestInterleave(t *testing.T) {
	ips, _ := addresses("::ffff:192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3", "fe80::1%eth0")(nil, "", "")
	want := []string{"192.0.2.1:1", "[2001:db8::1]:1", "192.0.2.2:1", "[fe80::1%eth0]:1", "192.0.2.3:1"}
	if got := interleave(ips, "1"); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestDirectOverRealSockets(t *testing.T) {
	target := newFaultyProxy(t, func(c *proxyConn) { c.echo() })
	d := mustNew(t, testOptions(None))
	_, port, _ := net.SplitHostPort(target.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost"} {
		conn, e := dial(t, d, net.JoinHostPort(host, port))
		if e != nil {
			t.Fatal(e)
		}
		if _, ok := conn.(*net.TCPConn); !ok {
			t.Errorf("a %T", conn)
		}
		checkEcho(t, conn)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	_, e := dial(t, d, addr)
	if e == nil || !errors.Is(e, ErrRefused) || !errors.Is(e, errnosRefused[0]) || e.Leg != LegConnect ||
		e.Error() != fmt.Sprintf("connect %s: %v", addr, errnosRefused[0]) {
		t.Errorf("%v", e)
	}
}
