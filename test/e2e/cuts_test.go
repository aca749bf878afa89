//go:build linux

package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"sallyport/test/internal/faults"
	"sallyport/test/internal/payload"
)

// transferLimit bounds one test's transfer.
func transferLimit() time.Duration { return pick(5*time.Minute, 40*time.Minute) }

// peakLimit is the most that an agent may hold at its peak during the cut tests: the default budget
// of a session for each direction, twice over for the collector; the race detector multiplies it.
func peakLimit() int64 {
	if raceEnabled {
		return 1536 << 20
	}
	return 320 << 20
}

// chaos returns relay options that cut about n connections over the given number of bytes, and the
// seed, which it also logs.
func chaos(t *testing.T, cuts int, bytes int64, modes ...faults.Mode) faults.Options {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed of the cuts: %d", seed)
	// Somewhat sooner than evenly, so that all cuts fall before the end.
	return faults.Options{Plan: faults.Random(seed, bytes*6/10/int64(cuts), modes...), MaxCuts: cuts}
}

// send writes n bytes of a seed, then a FIN.
func send(c *net.TCPConn, seed uint64, n int64) error {
	if _, err := io.Copy(c, payload.New(seed, n)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return c.CloseWrite()
}

// receive reads until the FIN and checks every byte. It returns the SHA-256.
func receive(c *net.TCPConn, seed uint64, n int64) (string, error) {
	check := payload.NewChecker(seed, n)
	// Plain io.Copy, without the checker's connection splicing past it.
	if _, err := io.Copy(check, struct{ io.Reader }{c}); err != nil {
		return "", fmt.Errorf("receive, after %d of %d bytes: %w", check.Received(), n, err)
	}
	return check.Sum(), check.Done()
}

// reportCuts prints the figures of a cut test, and fails it if too little was cut or too much held.
func reportCuts(t *testing.T, p *path, cuts int, took time.Duration) {
	t.Helper()
	stats := p.relay.Stats()
	_, clientPeak := p.client.memory(t)
	_, serverPeak := p.server.memory(t)
	t.Logf("%d cuts %v in %v; %d carriers; peak RSS: client agent %d MiB, server agent %d MiB (race detector: %v)",
		stats.Total(), stats.Cuts, took.Round(time.Millisecond), stats.Accepted, clientPeak>>20, serverPeak>>20, raceEnabled)
	if stats.Total() < cuts {
		t.Errorf("only %d of %d cuts fell into the transfer", stats.Total(), cuts)
	}
	if limit := peakLimit(); clientPeak > limit || serverPeak > limit {
		t.Errorf("an agent held more than %d MiB", limit>>20)
	}
	if lost := p.client.events(msgSessionLost); len(lost) > 0 {
		t.Errorf("the session was lost: %v", lost)
	}
}

// Acceptance 3: one stream, both ways at once, over cuts at random bytes.
func TestCutsOneStream(t *testing.T) {
	size := pick[int64](64<<20, 1<<30)
	cuts := pick(20, 200)
	target, accept := startAccepts(t)
	p := newPath(t, sallyport(t), chaos(t, cuts, 2*size), []string{target})
	begin := time.Now()
	origin := dial(t, p.client.forward(target))
	far := accept()
	for _, c := range []net.Conn{origin, far} {
		c.SetDeadline(begin.Add(transferLimit()))
	}
	const seedUp, seedDown = 1, 2
	var wg sync.WaitGroup
	run := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				t.Error(err)
			}
		})
	}
	received := func(c *net.TCPConn, way string, seed uint64) func() error {
		return func() error {
			sum, err := receive(c, seed, size)
			if want := payload.Sum(seed, size); err == nil && sum != want {
				err = fmt.Errorf("SHA-256 %s, want %s", sum, want)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", way, err)
			}
			t.Logf("%s: %d MiB, SHA-256 %s at both ends", way, size>>20, sum)
			return nil
		}
	}
	run(func() error { return send(origin, seedUp, size) })
	run(func() error { return send(far, seedDown, size) })
	run(received(far, "up", seedUp))
	run(received(origin, "down", seedDown))
	wg.Wait()
	reportCuts(t, p, cuts, time.Since(begin))
}

// Acceptance 3: many streams at once over three carriers, likewise.
func TestCutsManyStreams(t *testing.T) {
	const size = 1 << 20
	streams := pick(60, 200)
	cuts := pick(30, 200)
	target := startEcho(t)
	p := newPath(t, sallyport(t), chaos(t, cuts, 2*size*int64(streams)), []string{target}, "--carriers", "3")
	addr := p.client.forward(target)
	begin := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex
	whole := 0
	for i := range streams {
		wg.Go(func() {
			c := dialQuietly(addr)
			if c == nil {
				t.Errorf("stream %d: no connection", i)
				return
			}
			defer c.Close()
			c.SetDeadline(begin.Add(transferLimit()))
			seed := uint64(100 + i)
			var sending sync.WaitGroup
			defer sending.Wait()
			sending.Go(func() {
				if err := send(c, seed, size); err != nil {
					t.Errorf("stream %d: %v", i, err)
				}
			})
			if _, err := receive(c, seed, size); err != nil {
				t.Errorf("stream %d: %v", i, err)
				c.Close() // ends the sender
				return
			}
			mu.Lock()
			whole++
			mu.Unlock()
		})
	}
	wg.Wait()
	t.Logf("%d of %d streams of %d KiB whole", whole, streams, size>>10)
	reportCuts(t, p, cuts, time.Since(begin))
}

// dialQuietly connects from a goroutine that must not end the test; nil if it cannot.
func dialQuietly(addr string) *net.TCPConn {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil
	}
	return c.(*net.TCPConn)
}
