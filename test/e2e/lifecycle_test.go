//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sallyport/test/internal/faults"
	"sallyport/test/internal/payload"
)

// Acceptance 6: the server agent dies and comes back. The client agent says that streams were lost
// and why, and new connections work within 2 s.
func TestServerRestart(t *testing.T) {
	a := newAgents(t, sallyport(t))
	listen := loopback(freePort(t))
	s := a.server("--listen", listen)
	target := startEcho(t)
	c := a.client(s.url(), forwardTo(target)...)
	forward := c.forward(target)
	for round := range 2 {
		old := dial(t, forward)
		mustEcho(t, old, "before")
		s.kill()
		// Away long enough for the client agent's attempts to be spaced out.
		<-time.After(pick(3*time.Second, 15*time.Second))
		s = a.server("--listen", listen)
		back := time.Now()
		fresh := dial(t, forward)
		mustEcho(t, fresh, "after")
		fresh.Close() // so that the next round loses one stream again
		took := time.Since(back)
		t.Logf("round %d: a new connection works %v after the server agent is back", round, took.Round(time.Millisecond))
		if took > 2*time.Second {
			t.Errorf("a new connection took %v, want ≤ 2 s", took)
		}
		// The old stream is lost, and both the origin and the log are told.
		wantReset(t, old)
		eventually(t, patience, "the loss is logged", func() bool { return len(c.events(msgSessionLost)) > round })
	}
	for _, e := range c.events(msgSessionLost) {
		if !strings.Contains(e.str("msg")+e.str("error"), "restarted") || fmt.Sprint(e["streams_reset"]) != "1" {
			t.Errorf("the log does not say what was lost and why: %v", e)
		}
	}
}

// transfer starts a download of n bytes at a leisurely rate, and returns a function that waits for
// its end and checks it.
func transfer(t *testing.T, connect func(target string) net.Conn, n int64, rate int64) (finish func()) {
	t.Helper()
	const seed = 42
	began := make(chan struct{})
	target := startTarget(t, func(c *net.TCPConn) {
		const steps = 100
		source := payload.New(seed, n)
		tick := time.NewTicker(time.Duration(float64(n) / float64(rate) / steps * float64(time.Second)))
		defer tick.Stop()
		for i := range steps {
			if _, err := io.CopyN(c, source, n/steps); err != nil {
				t.Errorf("target: %v", err)
				return
			}
			if i == 5 {
				close(began)
			}
			<-tick.C
		}
		io.Copy(c, source)
		c.CloseWrite()
		io.Copy(io.Discard, c)
	})
	conn := connect(target)
	conn.SetDeadline(time.Now().Add(2 * patience))
	check := payload.NewChecker(seed, n)
	var reading sync.WaitGroup
	reading.Go(func() {
		_, err := io.Copy(check, struct{ io.Reader }{conn})
		if err = errors.Join(err, check.Done()); err != nil {
			t.Errorf("transfer, after %d of %d bytes: %v", check.Received(), n, err)
		}
		conn.Close()
	})
	select {
	case <-began:
	case <-time.After(patience):
		t.Error("the transfer does not begin")
	}
	return reading.Wait
}

// Acceptance 6: SIGTERM during a transfer: it completes, and the agent exits 0. New connections are
// not taken any more.
func TestDrain(t *testing.T) {
	for _, side := range []string{"server", "client"} {
		t.Run(side, func(t *testing.T) {
			a := newAgents(t, sallyport(t))
			s := a.server()
			var c *client
			finish := transfer(t, func(target string) net.Conn {
				c = a.client(s.url(), forwardTo(target)...)
				return dial(t, c.forward(target))
			}, 20_000_000, 8_000_000)
			agent := s.process
			if side == "client" {
				agent = c.process
			}
			agent.signal(syscall.SIGTERM)
			finish()
			if code := agent.wait(t, patience); code != 0 {
				t.Errorf("%s agent: exit %d after SIGTERM", side, code)
			}
		})
	}
}

// A drain also survives the loss of the carrier that the last streams are on.
func TestDrainAcrossCut(t *testing.T) {
	a := newAgents(t, sallyport(t))
	s := a.server()
	relay := startRelay(t, s.addr, faults.Options{})
	finish := transfer(t, func(target string) net.Conn {
		return dial(t, a.client("wss://"+relay.Addr()+"/tunnel", forwardTo(target)...).forward(target))
	}, 20_000_000, 8_000_000)
	s.signal(syscall.SIGTERM)
	if relay.Cut(faults.RST) == 0 {
		t.Error("no carrier to cut")
	}
	finish()
	if code := s.wait(t, patience); code != 0 {
		t.Errorf("exit %d after SIGTERM", code)
	}
}

// A drain also waits for who takes the last bytes slowly: they have long arrived, and the stream is over for the session.
func TestDrainSlowReader(t *testing.T) {
	for _, side := range []string{"server", "client"} {
		t.Run(side, func(t *testing.T) {
			const size, seed = 8 << 20, 3 // more than the kernel takes for the two sockets
			a := newAgents(t, sallyport(t))
			s := a.server()
			target, accept := startAccepts(t)
			c := a.client(s.url(), forwardTo(target)...)
			near := dial(t, c.forward(target))
			far := accept()
			agent, from, to := s.process, near, far
			if side == "client" {
				agent, from, to = c.process, far, near
			}
			to.SetReadBuffer(128 << 10)
			to.CloseWrite()
			var sending sync.WaitGroup
			defer sending.Wait()
			sending.Go(func() {
				if err := send(from, seed, size); err != nil {
					t.Error(err)
				}
			})
			check := payload.NewChecker(seed, size)
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ {
				if i == 8 {
					agent.signal(syscall.SIGTERM)
				}
				_, err := io.CopyN(check, to, 128<<10)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("after %d of %d bytes: %v", check.Received(), size, err)
				}
				<-tick.C
			}
			if err := check.Done(); err != nil {
				t.Error(err)
			}
			if code := agent.wait(t, patience); code != 0 {
				t.Errorf("%s agent: exit %d after SIGTERM", side, code)
			}
			for _, p := range []*process{s.process, c.process} {
				for _, e := range p.events(msgStreamEnded) {
					if e.str("cause") != "eof" {
						t.Errorf("%s: %v", p.name, e)
					}
				}
			}
			c.keptSession(t)
		})
	}
}

// A carrier's loss is told in words for a person, once, and not in those of a library.
func TestCarrierLossWords(t *testing.T) {
	echo := startEcho(t)
	p := newPath(t, sallyport(t), faults.Options{}, []string{echo})
	c := dial(t, p.client.forward(echo))
	for i, cut := range []struct {
		mode faults.Mode
		want string
	}{ // a writer that meets the reset first leaves an end of file to the reader
		{faults.RST, "connection "},
		{faults.FIN, "connection closed without a WebSocket close"},
	} {
		mustEcho(t, c, "before")
		if p.relay.Cut(cut.mode) == 0 {
			t.Fatal("no carrier to cut")
		}
		mustEcho(t, c, "after")
		eventually(t, patience, "the loss is logged", func() bool { return len(p.client.events(msgCarrierLost)) > i })
		text := p.client.events(msgCarrierLost)[i].str("error")
		if !strings.HasPrefix(text, cut.want) || strings.Contains(text, "failed to") || strings.Contains(text, msgCarrierLost) {
			t.Errorf("%v: %q", cut.mode, text)
		}
	}
}

// A second signal ends an agent at once, whatever still flows.
func TestSecondSignal(t *testing.T) {
	target := startFlood(t)
	p := newPath(t, sallyport(t), faults.Options{}, []string{target})
	c := dial(t, p.client.forward(target))
	if _, err := io.ReadFull(c, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	p.server.signal(syscall.SIGTERM)
	p.client.signal(syscall.SIGTERM)
	// Draining closes the listener: that shows the first signal has been seen.
	eventually(t, patience, "the client agent drains", func() bool {
		probe, err := net.DialTimeout("tcp", c.RemoteAddr().String(), time.Second)
		if err == nil {
			probe.Close()
		}
		return err != nil
	})
	begin := time.Now()
	p.client.signal(syscall.SIGTERM)
	p.client.wait(t, patience)
	p.server.signal(syscall.SIGTERM)
	p.server.wait(t, patience)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("both ended %v after their second signal", took)
	}
}

// SIGHUP with a changed tokens file: an identity that is still there keeps its streams, one that was
// removed loses them; a file with a mistake changes nothing.
func TestReloadTokens(t *testing.T) {
	a := newAgents(t, sallyport(t))
	s := a.server()
	target := startEcho(t)
	c := a.client(s.url(), forwardTo(target)...)
	conn := dial(t, c.forward(target))
	mustEcho(t, conn, "before any reload")
	good, err := os.ReadFile(a.tokens)
	if err != nil {
		t.Fatal(err)
	}
	reload := func(content, expect string) {
		t.Helper()
		before := len(s.output())
		if err := os.WriteFile(a.tokens, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		s.signal(syscall.SIGHUP)
		eventually(t, patience, "the server agent says "+expect, func() bool {
			return strings.Contains(strings.ToLower(s.output()[before:]), expect)
		})
	}
	reload(string(good)+"\n# a comment\n", "reload")
	mustEcho(t, conn, "the same identities")
	reload(strings.Replace(string(good), "name:", "called:", 1), "tokens.yaml:2")
	mustEcho(t, conn, "a mistake changes nothing")
	reload(strings.Replace(string(good), "name: e2e", "name: somebody-else", 1), "reload")
	wantReset(t, conn)
}

// A port in use is a clear error at start, not a retry.
func TestPortInUse(t *testing.T) {
	a := newAgents(t, sallyport(t))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := ln.Addr().String()
	s := a.server()
	for name, args := range map[string][]string{
		"server": {"server", "--tokens", a.tokens, "--tls-cert", a.certs.cert, "--tls-key", a.certs.key, "--listen", taken},
		"client": append([]string{"client", "-L", taken + ":127.0.0.1:1"}, a.clientArgs(s.url(), nil)...),
	} {
		r := runToEnd(t, patience, a.command(args...))
		if r.code == 0 || !strings.Contains(r.stderr, taken) {
			t.Errorf("%s: exit %d, does not name %s: %s", name, r.code, taken, r.stderr)
		}
	}
}
