//go:build linux

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/test/internal/payload"
)

// talk is one stream to an echo, whose bytes are checked for as long as it lasts.
type talk struct {
	client *client
	conn   net.Conn
	source io.Reader
	check  *payload.Checker
}

// newTalk opens a stream to an echo through a client agent.
func newTalk(t testing.TB, c *client, echo string) *talk {
	t.Helper()
	const seed = 7
	return &talk{c, dial(t, c.forward(echo)), payload.New(seed, math.MaxInt64), payload.NewChecker(seed, math.MaxInt64)}
}

// say sends the next n bytes and waits until they are back.
func (k *talk) say(t testing.TB, n int64) {
	t.Helper()
	k.conn.SetDeadline(time.Now().Add(patience))
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(k.conn, k.source, n)
		sent <- err
	}()
	_, err := io.CopyN(k.check, k.conn, n)
	if err = errors.Join(err, <-sent); err != nil {
		t.Fatalf("after %d bytes: %v", k.check.Received(), err)
	}
}

// cuts counts the carriers that the client agent has lost.
func (c *client) cuts() int { return len(c.events(msgCarrierLost)) }

// awaitCut waits until the client agent has lost more carriers than n.
func (c *client) awaitCut(t testing.TB, n int) {
	t.Helper()
	eventually(t, patience, "the balancer cuts the carrier", func() bool { return c.cuts() > n })
}

// keptSession fails the test if the client agent has lost its session.
func (c *client) keptSession(t testing.TB) {
	t.Helper()
	if lost := c.events(msgSessionLost); len(lost) > 0 {
		t.Errorf("the session was lost: %v", lost)
	}
}

// A balancer cuts what is idle for too long: a stream goes on over the next carrier, and nothing is cut of an agent that
// pings more often than that.
func TestBalancerIdle(t *testing.T) {
	eachBalancer(t, func(t *testing.T, start startBalancer) {
		t.Parallel() // the time goes by in silence
		const idle, keepalive = 3 * time.Second, time.Second
		a := newAgents(t, sallyport(t))
		echo := startEcho(t)
		b := start(t, a.certs, balancing{agents: []string{a.server("--plaintext").addr}, idle: idle})
		args := forwardTo(echo)
		quiet := newTalk(t, a.client(b.url(), append(args, "--keepalive", "10m")...), echo)
		kept := newTalk(t, a.client(b.url(), append(args, "--keepalive", keepalive.String())...), echo)

		kept.say(t, 10_000) // and no more until the end
		for cuts := range pick(3, 10) {
			quiet.say(t, 100_000)
			quiet.client.awaitCut(t, cuts)
		}
		quiet.say(t, 100_000)
		kept.say(t, 10_000)
		quiet.client.keptSession(t)
		if n := kept.client.cuts(); n > 0 {
			t.Errorf("%d carriers were cut though they were pinged every %v", n, keepalive)
		}
	})
}

// flow is one direction of a transfer that goes on until it is told to stop.
type flow struct {
	arrived atomic.Int64
	err     error
	sum     string // of what arrived
}

// run sends a seed's bytes from one end to the other until ctx ends, and compares.
func (f *flow) run(ctx context.Context, from, to *net.TCPConn, seed uint64) {
	sent := sha256.New()
	var sending sync.WaitGroup
	var sendErr error
	sending.Go(func() {
		source := io.TeeReader(payload.New(seed, math.MaxInt64), sent)
		for sendErr == nil && ctx.Err() == nil {
			_, sendErr = io.CopyN(from, source, 64<<10)
		}
		sendErr = errors.Join(sendErr, from.CloseWrite())
	})
	check := payload.NewChecker(seed, math.MaxInt64)
	_, err := io.Copy(io.MultiWriter(check, counting{&f.arrived}), struct{ io.Reader }{to})
	if err != nil {
		to.Close() // ends the sender
	}
	sending.Wait()
	f.sum = check.Sum()
	if want := hex.EncodeToString(sent.Sum(nil)); err == nil && f.sum != want {
		err = fmt.Errorf("SHA-256 %s, want %s", f.sum, want)
	}
	if f.err = errors.Join(err, sendErr); f.err != nil {
		f.err = fmt.Errorf("after %d bytes: %w", check.Received(), f.err)
	}
}

// counting is an io.Writer that only counts.
type counting struct{ n *atomic.Int64 }

func (c counting) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// A balancer is reloaded, again and again, and its old workers cut the carriers that they hold: bulk both ways and an
// interactive stream go on through the new ones, byte for byte.
func TestBalancerReload(t *testing.T) {
	eachBalancer(t, func(t *testing.T, start startBalancer) {
		a := newAgents(t, sallyport(t))
		echo := startEcho(t)
		target, accept := startAccepts(t)
		b := start(t, a.certs, balancing{agents: []string{a.server("--plaintext").addr}})
		c := a.client(b.url(), append(forwardTo(echo), forwardTo(target)...)...)

		near := dial(t, c.forward(target))
		far := accept()
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		var up, down flow
		for _, conn := range []net.Conn{near, far} {
			conn.SetDeadline(time.Now().Add(transferLimit()))
		}
		running.Go(func() { up.run(ctx, near, far, 1) })
		running.Go(func() { down.run(ctx, far, near, 2) })
		typing := dial(t, c.forward(echo))
		for _, conn := range []net.Conn{near, far, typing} {
			defer conn.Close() // ends whoever still waits, before it is waited for
		}
		var typed atomic.Int64
		var worst time.Duration
		var typingErr error
		running.Go(func() {
			for typingErr == nil && ctx.Err() == nil {
				var took time.Duration
				took, typingErr = echoed(typing, fmt.Sprintf("%06d", typed.Add(1)))
				worst = max(worst, took)
			}
		})
		flowing := func(when string) {
			before := []int64{up.arrived.Load(), down.arrived.Load(), typed.Load()}
			eventually(t, patience, "all streams flow "+when, func() bool {
				return up.arrived.Load() > before[0]+1<<20 && down.arrived.Load() > before[1]+1<<20 && typed.Load() > before[2]+1
			})
		}
		flowing("at first")
		for range pick(3, 10) {
			cuts := c.cuts()
			b.reload(t)
			c.awaitCut(t, cuts)
			flowing("through the new workers")
		}
		stop()
		running.Wait()

		for way, f := range map[string]*flow{"up": &up, "down": &down} {
			if f.err != nil {
				t.Errorf("%s: %v", way, f.err)
			}
			t.Logf("%s: %d MiB, SHA-256 %s at both ends", way, f.arrived.Load()>>20, f.sum)
		}
		if typingErr != nil {
			t.Errorf("echo: %v", typingErr)
		}
		t.Logf("%d carriers cut; echo: %d round trips, the longest %v", c.cuts(), typed.Load(), worst.Round(time.Millisecond))
		c.keptSession(t)
	})
}

// Two server agents behind one balancer: with the page's configuration each client finds its own again, and without the
// line that says so it does not, which is told.
func TestBalancerSticky(t *testing.T) {
	eachBalancer(t, func(t *testing.T, start startBalancer) {
		a := newAgents(t, sallyport(t))
		echo := startEcho(t)
		tokens := a.moreTokens(16)
		servers := []*server{a.server("--plaintext"), a.server("--plaintext")}
		addrs := []string{servers[0].addr, servers[1].addr}

		const idle = 2 * time.Second
		sticky := start(t, a.certs, balancing{agents: addrs, idle: idle})
		opened := func(s *server) int { return len(s.events("session opened")) }
		var talks []*talk
		for _, token := range tokens {
			c := a.client(sticky.url(), append(forwardTo(echo), "--token-file", token, "--keepalive", "10m")...)
			talks = append(talks, newTalk(t, c, echo))
			talks[len(talks)-1].say(t, 1000)
			// In turn, an odd number cannot all find their own again.
			if opened(servers[0]) > 0 && opened(servers[1]) > 0 && len(talks)%2 == 1 {
				break
			}
		}
		t.Logf("%d clients: %d and %d sessions", len(talks), opened(servers[0]), opened(servers[1]))
		if opened(servers[0]) == 0 || opened(servers[1]) == 0 {
			t.Fatal("a server agent got no client")
		}
		for _, cut := range []func(testing.TB){func(testing.TB) {}, sticky.reload} { // by silence; by a reload
			cuts := make([]int, len(talks))
			for i, k := range talks {
				cuts[i] = k.client.cuts()
			}
			cut(t)
			for i, k := range talks {
				k.client.awaitCut(t, cuts[i])
				k.say(t, 1000)
				k.client.keptSession(t)
			}
		}

		inTurn := start(t, a.certs, balancing{agents: addrs, roundRobin: true, idle: idle})
		c := a.client(inTurn.url(), append(forwardTo(echo), "--keepalive", "10m")...)
		k := newTalk(t, c, echo)
		k.say(t, 1000)
		c.awaitCut(t, 0)
		wantReset(t, k.conn)
		c.awaitEvent(t, patience, msgSessionLost, nil)
	})
}

// moreTokens lets n further clients in, each with an identity of its own, and returns their token files. It is for before
// the server agents start.
func (a *agents) moreTokens(n int) (files []string) {
	a.t.Helper()
	first, err := os.ReadFile(a.tokens)
	if err != nil {
		a.t.Fatal(err)
	}
	hash := func(secret string) string {
		sum := sha256.Sum256([]byte(secret))
		return hex.EncodeToString(sum[:])
	}
	all := string(first)
	for i := range n {
		secret := fmt.Sprintf("%s-%d", a.secret, i)
		entry := strings.Replace(string(first), "name: e2e", fmt.Sprintf("name: e2e-%d", i), 1)
		all += strings.Replace(entry, hash(a.secret), hash(secret), 1)
		files = append(files, writeFile(a.t, a.dir, fmt.Sprintf("token-%d", i), secret+"\n", 0o600))
	}
	if err := os.WriteFile(a.tokens, []byte(all), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return files
}
