//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// confined is a network from which one address can be reached and no other: that of a proxy.
type confined struct{ name, proxyHost string }

// newConfined makes one, with a pair of virtual interfaces; both ends are this machine's own.
func newConfined(t *testing.T) *confined {
	t.Helper()
	c := &confined{name: fmt.Sprintf("sp%d", os.Getpid()), proxyHost: "10.231.77.1"}
	near, far := c.name+"a", c.name+"b"
	run := func(args ...string) { mustRun(t, nil, "", "ip", args...) }
	run("netns", "add", c.name)
	t.Cleanup(func() { // deleting a namespace deletes its interfaces, and so their peers
		_ = exec.Command("ip", "netns", "del", c.name).Run()
		_ = exec.Command("ip", "link", "del", near).Run()
	})
	run("link", "add", near, "type", "veth", "peer", "name", far, "netns", c.name)
	run("addr", "add", c.proxyHost+"/30", "dev", near)
	run("link", "set", near, "up")
	run("-n", c.name, "addr", "add", "10.231.77.2/30", "dev", far)
	run("-n", c.name, "link", "set", far, "up")
	run("-n", c.name, "link", "set", "lo", "up")
	return c
}

// within runs a command there.
func (c *confined) within(cmd *exec.Cmd) *exec.Cmd {
	confined := exec.Command("ip", append([]string{"netns", "exec", c.name}, cmd.Args...)...)
	confined.Env, confined.Stdin = cmd.Env, cmd.Stdin
	return confined
}

// A client that can reach nothing but the proxy gets through, and does not without.
func TestOnlyTheProxyReachable(t *testing.T) {
	c := newConfined(t)
	a := newAgents(t, sallyport(t))
	s := a.server()
	target := startEcho(t)
	port := startSquidWith(t, "http_port "+c.proxyHost+":%[1]d\nhttp_port 127.0.0.1:%[1]d", squidDigest(t)+squidAuthenticated)
	args := proxyArgs(t, fmt.Sprintf("http://%s:%d", c.proxyHost, port), proxyUser, proxyPassword)
	for _, through := range []bool{true, false} {
		if !through {
			args = nil
		}
		cmd := a.connect(s.url(), target, args...)
		cmd.Stdin = strings.NewReader("hello")
		r := runToEnd(t, patience, c.within(cmd))
		if through && (r.code != 0 || r.stdout != "hello") || !through && r.code != 4 {
			t.Errorf("through the proxy %v: exit %d, %q\n%s", through, r.code, r.stdout, tail(r.stderr, 8))
		}
	}
}
