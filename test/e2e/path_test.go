//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"sallyport/test/internal/faults"
)

// Acceptance 2: through a real squid with Basic; curl and redis as clients.
func TestThroughSquid(t *testing.T) {
	web, page := startWeb(t)
	redis := startRedis(t)
	squid, accessLog := startSquid(t)
	a := newAgents(t, sallyport(t))
	s := a.server()
	password := writeFile(t, a.dir, "proxy-password", proxyPassword+"\n", 0o600)
	args := append(forwardTo(web), forwardTo(loopback(redis))...)
	c := a.client(s.url(), append(args,
		"--proxy", "http://"+squid, "--proxy-user", proxyUser, "--proxy-password-file", password)...)

	if r := curl(t, "http://"+c.forward(web)+"/"); r.code != 0 || r.stdout != page {
		t.Errorf("curl: exit %d, %q, %q", r.code, r.stdout, r.stderr)
	}
	_, port, err := net.SplitHostPort(c.forward(loopback(redis)))
	if err != nil {
		t.Fatal(err)
	}
	checkRedis(t, port)
	// squid logs a CONNECT when it ends.
	c.stop()
	eventually(t, patience, "squid has seen the tunnel", func() bool {
		log, _ := os.ReadFile(accessLog)
		return strings.Contains(string(log), "CONNECT "+s.addr)
	})
	a.noSecrets(c.process, s.process)
}

// checkRedis has redis-cli do small and large things through a port.
func checkRedis(t *testing.T, port string) {
	t.Helper()
	var n int
	fmt.Sscan(port, &n)
	if got := redisCLI(t, n, "", "SET", "gate", "open"); got != "OK" {
		t.Errorf("SET: %q", got)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	if got := redisCLI(t, n, big, "-x", "SET", "big"); got != "OK" {
		t.Errorf("SET of 1 MiB: %q", got)
	}
	if got := redisCLI(t, n, "", "GET", "big"); got != big {
		t.Errorf("GET returned %d bytes, want %d", len(got), len(big))
	}
	var pipeline strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&pipeline, "INCR counter%d\r\n", i%100)
	}
	if got := redisCLI(t, n, pipeline.String(), "--pipe"); !strings.Contains(got, "errors: 0, replies: 20000") {
		t.Errorf("pipeline: %q", got)
	}
	if got := redisCLI(t, n, "", "GET", "counter99"); got != "200" {
		t.Errorf("counter: %q, want 200", got)
	}
}

// The proxy from the environment, and what is said when its password is wrong.
func TestSquidFromEnvironment(t *testing.T) {
	squid, _ := startSquid(t)
	a := newAgents(t, sallyport(t))
	_, port, err := net.SplitHostPort(a.server().addr)
	if err != nil {
		t.Fatal(err)
	}
	// Proxies from the environment are not for loopback addresses.
	url := "wss://" + net.JoinHostPort(gateName, port) + "/tunnel"
	target := startEcho(t)
	for _, c := range []struct {
		password string
		works    bool
	}{{proxyPassword, true}, {"not-" + proxyPassword, false}} {
		args := []string{"connect", "--server", url, "--token-file", a.token, "--ca-file", a.certs.ca, target}
		cmd := a.command(args...)
		cmd.Env = append(cmd.Env, "HTTPS_PROXY=http://"+proxyUser+":"+c.password+"@"+squid, "NO_PROXY=")
		cmd.Stdin = strings.NewReader("hello")
		r := runToEnd(t, patience, cmd)
		switch {
		case c.works && (r.code != 0 || r.stdout != "hello"):
			t.Errorf("exit %d, %q, %s", r.code, r.stdout, r.stderr)
		case !c.works && (r.code == 0 || !strings.Contains(r.stderr, "407")):
			t.Errorf("wrong proxy password: exit %d, does not say 407: %s", r.code, r.stderr)
		}
		if strings.Contains(r.stderr, c.password) {
			t.Errorf("the password is in the output: %s", r.stderr)
		}
	}
}

// Acceptance 2: nginx terminates TLS in front of a server agent that speaks plain WebSocket.
func TestNginxInFront(t *testing.T) {
	web, page := startWeb(t)
	a := newAgents(t, sallyport(t))
	s := a.server("--plaintext")
	c := a.client(startNginx(t, a.certs, balancing{agents: []string{s.addr}}).url(), forwardTo(web)...)
	for range 3 {
		if r := curl(t, "http://"+c.forward(web)+"/"); r.code != 0 || r.stdout != page {
			t.Errorf("curl: exit %d, %q, %q", r.code, r.stdout, r.stderr)
		}
	}
}

// Acceptance 2: sshd behind ProxyCommand and behind -L, both through squid.
func TestSSH(t *testing.T) {
	sshd := startSSHD(t)
	squid, _ := startSquid(t)
	a := newAgents(t, sallyport(t))
	s := a.server()
	password := writeFile(t, a.dir, "proxy-password", proxyPassword, 0o600)
	proxied := []string{"--proxy", "http://" + squid, "--proxy-user", proxyUser, "--proxy-password-file", password}
	target := loopback(sshd.port)
	input := bytes.Repeat([]byte("all the way and back\n"), 50_000)

	check := func(name string, options []string) {
		cmd := sshd.command(options, "cat; echo done >&2; exit 7")
		cmd.Env = a.command().Env
		cmd.Stdin = bytes.NewReader(input)
		r := runToEnd(t, 2*patience, cmd)
		if r.code != 7 || r.stdout != string(input) || !strings.Contains(r.stderr, "done") {
			t.Errorf("%s: exit %d, %d of %d bytes back, %s", name, r.code, len(r.stdout), len(input), tail(r.stderr, 5))
		}
	}
	connect := strings.Join(a.connect(s.url(), "%h:%p", proxied...).Args, " ")
	check("ProxyCommand", []string{"-o", "ProxyCommand=" + connect, "-p", fmt.Sprint(sshd.port)})

	c := a.client(s.url(), append(forwardTo(target), proxied...)...)
	_, port, err := net.SplitHostPort(c.forward(target))
	if err != nil {
		t.Fatal(err)
	}
	check("-L", []string{"-p", port})
}

// Unix sockets at either end, forward and reverse.
func TestUnixSockets(t *testing.T) {
	a := newAgents(t, sallyport(t))
	s := a.server()
	targetSocket := a.socket("target.sock")
	ln, err := net.Listen("unix", targetSocket)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, ln, func(c net.Conn) {
		io.Copy(c, c)
		c.(*net.UnixConn).CloseWrite()
	})
	tcpTarget := startEcho(t)
	port := freePort(t)
	local, remote := a.socket("local.sock"), a.socket("remote.sock")
	a.client(s.url(),
		"-L", local+":"+tcpTarget,
		"-L", fmt.Sprintf("%d:%s", port, targetSocket),
		"-R", remote+":"+targetSocket,
	)
	for _, way := range [][2]string{{"unix", local}, {"tcp", loopback(port)}, {"unix", remote}} {
		c := awaitDial(t, way[0], way[1])
		mustEcho(t, c, "through "+way[1])
		c.(interface{ CloseWrite() error }).CloseWrite()
		if rest, err := io.ReadAll(c); err != nil || len(rest) != 0 {
			t.Errorf("%s: after half-close: %q, %v", way[1], rest, err)
		}
	}
}

// awaitDial connects as soon as somebody listens.
func awaitDial(t testing.TB, network, addr string) (c net.Conn) {
	t.Helper()
	eventually(t, patience, "somebody listens at "+addr, func() (ok bool) {
		var err error
		c, err = net.DialTimeout(network, addr, time.Second)
		return err == nil
	})
	return limited(t, c)
}

// A reverse forward serves, survives its carrier's death, and is released with its session.
func TestReverseForward(t *testing.T) {
	a := newAgents(t, sallyport(t))
	s := a.server()
	relay := startRelay(t, s.addr, faults.Options{})
	target := startEcho(t)
	port := freePort(t)
	c := a.client("wss://"+relay.Addr()+"/tunnel", "-R", fmt.Sprintf("127.0.0.1:%d:%s", port, target))
	conn := awaitDial(t, "tcp", loopback(port))
	mustEcho(t, conn, "before the cut")
	if relay.Cut(faults.RST) == 0 {
		t.Fatal("no carrier to cut")
	}
	mustEcho(t, conn, "after the cut")
	mustEcho(t, dial(t, loopback(port)), "and a new one")
	c.stop()
	eventually(t, patience, "the listener is released", func() bool {
		ln, err := net.Listen("tcp", loopback(port))
		if err == nil {
			ln.Close()
		}
		return err == nil
	})
}
