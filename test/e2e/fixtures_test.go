//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The tests in this file use no Sallyport: they prove that the servers which the others rely on do
// what those expect of them.

// startWeb starts a web page and returns its host:port and what it says.
func startWeb(t testing.TB) (addr, page string) {
	t.Helper()
	page = "the page behind the gate\n"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, page) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), page
}

// curl runs curl with a limit and no settings but the arguments.
func curl(t testing.TB, args ...string) result {
	t.Helper()
	cmd := exec.Command("curl", append([]string{"-q", "-sS", "--max-time", "30"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // no proxies of ours
	return runToEnd(t, time.Minute, cmd)
}

func TestFixtureSquid(t *testing.T) {
	web, page := startWeb(t)
	squid, accessLog := startSquid(t)
	for name, c := range map[string]struct {
		user string
		code int
	}{
		"right":  {proxyUser + ":" + proxyPassword, 0},
		"wrong":  {proxyUser + ":nonsense", 56},
		"nobody": {"", 56},
	} {
		args := []string{"-p", "-x", "http://" + squid, "http://" + web}
		if c.user != "" {
			args = append(args, "-U", c.user)
		}
		r := curl(t, args...)
		if c.code == 0 && (r.code != 0 || r.stdout != page) || c.code != 0 && !strings.Contains(r.stderr, "407") {
			t.Errorf("%s: exit %d, %q, %q", name, r.code, r.stdout, r.stderr)
		}
	}
	_, port, err := net.SplitHostPort(web)
	if err != nil {
		t.Fatal(err)
	}
	byName := "http://" + net.JoinHostPort(gateName, port)
	if r := curl(t, "-p", "-x", "http://"+squid, "-U", proxyUser+":"+proxyPassword, byName); r.stdout != page {
		t.Errorf("by the name that squid alone knows: exit %d, %s", r.code, r.stderr)
	}
	eventually(t, 10*time.Second, "squid logs the CONNECT", func() bool {
		log, _ := os.ReadFile(accessLog)
		return strings.Contains(string(log), "CONNECT "+web)
	})
}

func TestFixtureSSHD(t *testing.T) {
	s := startSSHD(t)
	r := runToEnd(t, 30*time.Second, s.command([]string{"-p", fmt.Sprint(s.port)}, "echo", "let in"))
	if r.code != 0 || r.stdout != "let in\n" {
		t.Fatalf("exit %d, %q, %q", r.code, r.stdout, r.stderr)
	}
}

func TestFixtureRedis(t *testing.T) {
	if got := redisCLI(t, startRedis(t), "", "PING"); got != "PONG" {
		t.Fatalf("got %q", got)
	}
}

func TestFixtureNginx(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		kind, message, err := c.Read(r.Context())
		if err == nil {
			c.Write(r.Context(), kind, message)
		}
	}))
	defer backend.Close()
	certs := newAuthority(t)
	nginx := startNginx(t, certs, balancing{agents: []string{backend.Listener.Addr().String()}})

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: certs.pool}}
	defer transport.CloseIdleConnections()
	c, resp, err := websocket.Dial(ctx, nginx.url(),
		&websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if server := resp.Header.Get("Server"); !strings.HasPrefix(server, "nginx") {
		t.Errorf("answered by %q", server)
	}
	if err := c.Write(ctx, websocket.MessageBinary, []byte("echo")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(ctx); err != nil || string(got) != "echo" {
		t.Fatalf("got %q, %v", got, err)
	}
}

// Ports are free when they are given, and not all the same.
func TestFixturePorts(t *testing.T) {
	seen := make(map[int]bool)
	for range 20 {
		port := freePort(t)
		ln, err := net.Listen("tcp", loopback(port))
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		seen[port] = true
	}
	if len(seen) < 10 {
		t.Errorf("20 ports, %d different", len(seen))
	}
}

func TestFixtureTargets(t *testing.T) {
	c := dial(t, startEcho(t))
	mustEcho(t, c, "there and back")
	c.CloseWrite()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after a FIN the echo target sends %d bytes, %v", n, err)
	}
	deaf := startDeaf(t)
	if c, err := net.DialTimeout("tcp", deaf, 100*time.Millisecond); err == nil {
		c.Close()
		t.Error("the deaf target answers")
	}
}

func TestFixtureBareRelay(t *testing.T) {
	c := dial(t, bareRelay(t, newAuthority(t), startEcho(t)))
	mustEcho(t, c, "through the reference")
}
