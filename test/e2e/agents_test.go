//go:build linux

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/test/internal/faults"
)

// The agents' log messages that the tests wait for.
const (
	msgServerListening  = "listening"         // attr addr
	msgForwardListening = "forward listening" // attr addr
	msgSessionAttached  = "session attached"
	msgSessionLost      = "session lost"
	msgCarrierLost      = "carrier lost"
	msgStreamEnded      = "stream ended"
)

// patience is how long a test waits for what should take a moment, on a busy machine and under the
// race detector.
const patience = 30 * time.Second

// agents makes agents that know each other: one token, one CA.
type agents struct {
	t      testing.TB
	bin    string
	certs  *authority
	dir    string
	secret string
	tokens string // the server agent's tokens file
	token  string // the client agent's token file
}

// newAgents prepares agents of the program bin. The identity may reach loopback and *.invalid, the
// sockets in dir, and listen on loopback.
func newAgents(t testing.TB, bin string) *agents {
	t.Helper()
	a := &agents{t: t, bin: bin, certs: newAuthority(t), dir: tempDir(t), secret: "spt_e2e-secret-of-nobody-7f3a"}
	sum := sha256.Sum256([]byte(a.secret))
	a.tokens = writeFile(t, a.dir, "tokens.yaml", fmt.Sprintf(`
- name: e2e
  sha256: %s
  policy:
    connect: ["127.0.0.0/8:*", "localhost:*", "*.invalid:*", "unix:%s/*"]
    listen: ["127.0.0.1:*", "localhost:*", "unix:%s/*"]
`, hex.EncodeToString(sum[:]), a.dir, a.dir), 0o600)
	a.token = writeFile(t, a.dir, "token", a.secret+"\n", 0o600)
	return a
}

// command returns a command of the program with nothing of our environment that could matter.
func (a *agents) command(args ...string) *exec.Cmd {
	cmd := exec.Command(a.bin, args...)
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(strings.ToUpper(entry), "=")
		if !strings.HasPrefix(name, "SALLYPORT_") && !strings.HasSuffix(name, "_PROXY") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
	cmd.Env = append(cmd.Env, "SALLYPORT_LOG_FORMAT=json", "SALLYPORT_LOG_LEVEL=debug", "HOME="+a.dir)
	return cmd
}

// server is a running server agent.
type server struct {
	*process
	addr string // host:port
}

// url returns where clients connect.
func (s *server) url() string { return "wss://" + s.addr + "/tunnel" }

// server starts a server agent on a free port, unless extra says which.
func (a *agents) server(extra ...string) *server {
	a.t.Helper()
	args := []string{"server", "--tokens", a.tokens}
	if !has(extra, "--listen") {
		args = append(args, "--listen", "127.0.0.1:0")
	}
	if !has(extra, "--plaintext") {
		args = append(args, "--tls-cert", a.certs.cert, "--tls-key", a.certs.key)
	}
	p := start(a.t, "server agent", a.command(append(args, extra...)...))
	return &server{p, p.awaitEvent(a.t, patience, msgServerListening, nil).str("addr")}
}

// client is a running client agent.
type client struct {
	*process
	t testing.TB
}

// clientArgs returns the arguments that client and connect share.
func (a *agents) clientArgs(url string, extra []string) []string {
	args := []string{"--server", url, "--ca-file", a.certs.ca}
	if !has(extra, "--token-file") {
		args = append(args, "--token-file", a.token)
	}
	if !has(extra, "--proxy") {
		args = append(args, "--proxy", "none")
	}
	return append(args, extra...)
}

// client starts a client agent and waits until its session is attached.
func (a *agents) client(url string, extra ...string) *client {
	a.t.Helper()
	c := a.detachedClient(url, extra...)
	c.awaitEvent(a.t, patience, msgSessionAttached, nil)
	return c
}

// detachedClient starts a client agent.
func (a *agents) detachedClient(url string, extra ...string) *client {
	a.t.Helper()
	args := append([]string{"client"}, a.clientArgs(url, extra)...)
	return &client{start(a.t, "client agent", a.command(args...)), a.t}
}

// connect returns the command `sallyport connect` for a target.
func (a *agents) connect(url, target string, extra ...string) *exec.Cmd {
	args := append([]string{"connect"}, a.clientArgs(url, extra)...)
	return a.command(append(args, target)...)
}

// forward returns where the forward to a target listens. The client agent must have been started
// with one to that target.
func (c *client) forward(target string) string {
	c.t.Helper()
	return c.awaitEvent(c.t, patience, msgForwardListening, func(e event) bool {
		for _, value := range e {
			if s, ok := value.(string); ok && strings.Contains(s, target) {
				return true
			}
		}
		return false
	}).str("addr")
}

// forwardTo returns the arguments of a forward from a free port to a target.
func forwardTo(target string) []string { return []string{"-L", "127.0.0.1:0:" + target} }

func has(args []string, flag string) bool {
	for _, arg := range args {
		if name, _, _ := strings.Cut(arg, "="); name == flag {
			return true
		}
	}
	return false
}

// path is the usual arrangement: a forward, the client agent, a bad network, the server agent.
type path struct {
	agents *agents
	server *server
	relay  *faults.Relay
	client *client
}

// newPath builds it for agents of the program bin, with forwards to the targets.
func newPath(t testing.TB, bin string, o faults.Options, targets []string, extra ...string) *path {
	t.Helper()
	a := newAgents(t, bin)
	p := &path{agents: a, server: a.server()}
	p.relay = startRelay(t, p.server.addr, o)
	for _, target := range targets {
		extra = append(extra, forwardTo(target)...)
	}
	p.client = a.client("wss://"+p.relay.Addr()+"/tunnel", extra...)
	return p
}

// startRelay runs a relay to a target until the test ends.
func startRelay(t testing.TB, target string, o faults.Options) *faults.Relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Target = target
	r := faults.NewRelay(ln, o)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("relay: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return r
}

// noSecrets fails the test if a log holds one of the secrets in use.
func (a *agents) noSecrets(logs ...*process) {
	a.t.Helper()
	for _, p := range logs {
		for _, secret := range []string{a.secret, strings.TrimPrefix(a.secret, "spt_"), proxyPassword} {
			if strings.Contains(p.output(), secret) {
				a.t.Errorf("the log of %s holds a secret", p.name)
			}
		}
	}
}

// socket returns the path of a unix socket that the identity may use.
func (a *agents) socket(name string) string { return filepath.Join(a.dir, name) }
