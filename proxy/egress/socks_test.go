package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// socksProxy is a SOCKS5 server that asks for a user and a password if it has any, answers with code, and echoes.
type socksProxy struct {
	user, password string
	code           byte
	bound          []byte // type and address in the reply; nil: IPv4
	early          string // from the target, in the same segment as the reply

	mu     sync.Mutex
	asked  string // the last target
	logins int
}

func (p *socksProxy) target() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *socksProxy) conversation(c *proxyConn) {
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(c.br, b); err != nil {
			return make([]byte, n)
		}
		return b
	}
	methods := read(int(read(2)[1]))
	method := byte(0xff)
	for _, m := range methods {
		if m == 0 && p.user == "" || m == 2 && p.user != "" {
			method = m
		}
	}
	c.Write([]byte{5, method})
	if method == 0xff {
		return
	}
	if method == 2 {
		p.mu.Lock()
		p.logins++
		p.mu.Unlock()
		user := read(int(read(2)[1]))
		password := read(int(read(1)[0]))
		if string(user) != p.user || string(password) != p.password {
			c.Write([]byte{1, 1})
			return
		}
		c.Write([]byte{1, 0})
	}
	var host string
	switch read(4)[3] {
	case 1:
		host = netip.AddrFrom4([4]byte(read(4))).String()
	case 4:
		host = netip.AddrFrom16([16]byte(read(16))).String()
	case 3:
		host = string(read(int(read(1)[0])))
	}
	port := binary.BigEndian.Uint16(read(2))
	p.mu.Lock()
	p.asked = net.JoinHostPort(host, fmt.Sprint(port))
	p.mu.Unlock()
	bound := p.bound
	if bound == nil {
		bound = []byte{1, 127, 0, 0, 1}
	}
	c.Write(append(append(append([]byte{5, p.code, 0}, bound...), 0, 80), p.early...))
	if p.code == 0 {
		c.echo()
	}
}

func TestSOCKS(t *testing.T) {
	for _, c := range []struct {
		name, scheme, target, asked string
		proxy                       *socksProxy
	}{
		{"name for the proxy to resolve", "socks5h", testTarget, testTarget, &socksProxy{}},
		{"name resolved here", "socks5", testTarget, "192.0.2.7:443", &socksProxy{}},
		{"IPv4", "socks5h", "192.0.2.1:443", "192.0.2.1:443", &socksProxy{}},
		{"IPv6", "socks5", "[2001:db8::1]:443", "[2001:db8::1]:443", &socksProxy{bound: append([]byte{4}, make([]byte, 16)...)}},
		{"password", "socks5h", testTarget, testTarget, &socksProxy{user: testUser, password: testPassword, bound: append([]byte{3, 4}, "name"...)}},
		{"early bytes", "socks5h", testTarget, testTarget, &socksProxy{early: "hello"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFaultyProxy(t, c.proxy.conversation)
			o := withCredentials(testOptions(c.scheme + "://" + f.Addr().String()))
			d := mustNew(t, o)
			d.lookup = addresses("192.0.2.7", "192.0.2.8")
			for range 2 {
				conn, e := dial(t, d, c.target)
				if e != nil {
					t.Fatal(e)
				}
				if _, raw := conn.(*net.TCPConn); !raw {
					t.Errorf("a %T", conn)
				}
				early := make([]byte, len(c.proxy.early))
				if _, err := io.ReadFull(conn, early); err != nil || string(early) != c.proxy.early {
					t.Errorf("%q %v", early, err)
				}
				checkEcho(t, conn)
				if c.proxy.target() != c.asked {
					t.Errorf("asked for %s", c.proxy.target())
				}
			}
		})
	}
}

func TestSOCKSFailures(t *testing.T) {
	says := func(s string) conversation { return func(c *proxyConn) { c.br.Peek(3); c.say(s) } }
	forbidding, unreachable := &socksProxy{code: 2}, &socksProxy{code: 4}
	asking := &socksProxy{user: testUser, password: "another"}
	for _, c := range []struct {
		name        string
		script      conversation
		credentials bool
		leg         Leg
		kind        error
		permanent   bool
	}{
		{"rules", forbidding.conversation, false, LegCONNECT, ErrForbidden, true},
		{"unreachable", unreachable.conversation, false, LegCONNECT, ErrUnavailable, false},
		{"no credentials", asking.conversation, false, LegProxyAuth, ErrCredentialsMissing, true},
		{"wrong credentials", asking.conversation, true, LegProxyAuth, ErrCredentialsRefused, true},
		{"only GSSAPI", says("\x05\x01"), false, LegProxyAuth, ErrSchemeUnsupported, true},
		{"an HTTP proxy", says("HTTP/1.1 400 Bad Request\r\n\r\n"), false, LegCONNECT, ErrBadReply, true},
		{"odd address", says("\x05\x00\x05\x00\x00\x09"), false, LegCONNECT, ErrBadReply, true},
		{"cut", func(c *proxyConn) { c.br.Peek(3) }, false, LegCONNECT, nil, false},
		{"cut in the reply", says("\x05\x00\x05\x00\x00\x01"), false, LegCONNECT, nil, false},
		{"stall", func(c *proxyConn) { c.stall() }, false, LegCONNECT, ErrTimeout, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFaultyProxy(t, c.script)
			o := testOptions("socks5h://" + f.Addr().String())
			if c.credentials {
				o = withCredentials(o)
			}
			if c.kind == ErrTimeout {
				o.ReplyTimeout = 100 * time.Millisecond
			}
			d := mustNew(t, o)
			for range 2 {
				_, e := dial(t, d, testTarget)
				if e == nil || e.Leg != c.leg || c.kind != nil && !errors.Is(e, c.kind) || e.Permanent() != c.permanent || e.Hint == "" {
					t.Fatalf("%v %+v", e, e)
				}
			}
		})
	}
	asking.mu.Lock()
	defer asking.mu.Unlock()
	if n := asking.logins; n != 1 {
		t.Errorf("a wrong password was sent %d times", n)
	}
	o := testOptions("socks5://proxy")
	o.Username = strings.Repeat("x", 256)
	if _, err := New(o); !errors.Is(err, ErrConfig) {
		t.Errorf("long user: %v", err)
	}
}

func FuzzSOCKSReply(f *testing.F) {
	f.Add([]byte("\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50rest"))
	f.Add([]byte("\x05\x02\x01\x00\x05\x00\x00\x03\x01x\x00\x50"))
	f.Add([]byte("\x05\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			go io.Copy(io.Discard, far)
			far.Write(b)
			far.Close()
		}()
		s := &socksClient{conn: near, cred: &credential{user: testUser, password: testPassword}}
		err := s.greet()
		if err == nil {
			err = s.connect([]byte{socksIPv4, 1, 2, 3, 4, 0, 80})
		}
		if err != nil {
			leaks(t, err.Error())
		}
		near.Close()
		<-done
	})
}
