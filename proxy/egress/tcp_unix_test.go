//go:build unix

package egress

import (
	"net"
	"syscall"
	"testing"
	"time"
)

func TestKeepAlive(t *testing.T) {
	target := newFaultyProxy(t, func(c *proxyConn) { c.echo() })
	for _, keepAlive := range []time.Duration{-1, 0, time.Hour} {
		o := testOptions(None)
		o.KeepAlive = keepAlive
		conn, e := dial(t, mustNew(t, o), target.Addr().String())
		if e != nil {
			t.Fatal(e)
		}
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		checkKeepAlive(t, raw, keepAlive >= 0)
	}
}

func checkKeepAlive(t *testing.T, raw syscall.RawConn, want bool) {
	t.Helper()
	err := raw.Control(func(fd uintptr) {
		on, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
		if err != nil || (on != 0) != want {
			t.Errorf("keep-alive %d, %v", on, err)
		}
	})
	if err != nil {
		t.Error(err)
	}
}
