//go:build linux

package e2e

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"sallyport/test/internal/faults"
)

// settled returns the resident set of an agent once it has stopped shrinking and growing.
func settled(t testing.TB, p *process) int64 {
	t.Helper()
	last, _ := p.memory(t)
	for range 20 {
		<-time.After(500 * time.Millisecond)
		now, _ := p.memory(t)
		if diff := now - last; diff < 256<<10 && diff > -(256<<10) {
			return now
		}
		last = now
	}
	return last
}

// Acceptance 8: what 5,000 idle streams of one session cost. Peers need 31 to 40 KB for each; the
// aim is 12.
func TestIdleStreamsMemory(t *testing.T) {
	const streams, limit = 5000, 40_000
	target := startEcho(t)
	p := newPath(t, sallyportPlain(t), faults.Options{}, []string{target})
	addr := p.client.forward(target)
	mustEcho(t, dial(t, addr), "the first stream sets things up")
	nearBefore, farBefore := settled(t, p.client.process), settled(t, p.server.process)

	begin := time.Now()
	conns := make([]net.Conn, streams)
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			for i := worker; i < streams; i += 16 {
				c := dialQuietly(addr)
				if c == nil {
					t.Errorf("stream %d: no connection", i)
					return
				}
				conns[i] = c
				if _, err := echoed(c, "x"); err != nil {
					t.Errorf("stream %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	opened := time.Since(begin)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	if t.Failed() {
		return
	}
	near := (settled(t, p.client.process) - nearBefore) / streams
	far := (settled(t, p.server.process) - farBefore) / streams
	t.Logf("%d idle streams, opened in %v: client agent %.1f KB a stream, server agent %.1f KB a stream (aim: 12)",
		streams, opened.Round(time.Millisecond), float64(near)/1000, float64(far)/1000)
	if near > limit || far > limit {
		t.Errorf("more than the %d KB of other tunnels", limit/1000)
	}
	for i := 0; i < streams; i += streams / 10 {
		mustEcho(t, conns[i], "still alive")
	}
}

// Bad input: half-open handshakes cost little, end by themselves, and keep nobody out.
func TestHalfOpenHandshakes(t *testing.T) {
	count := pick(2000, 10_000)
	target := startEcho(t)
	p := newPath(t, sallyportPlain(t), faults.Options{}, []string{target})
	before := settled(t, p.server.process)
	conns := make([]net.Conn, 0, count)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for i := range count {
		c := dialQuietly(p.server.addr)
		if c == nil {
			t.Fatalf("connection %d refused", i)
		}
		conns = append(conns, c)
		if i%2 == 0 {
			c.Write([]byte{0x16, 0x03, 0x01}) // a TLS record that never goes on
		}
	}
	held, _ := p.server.memory(t)
	each := (held - before) / int64(count)
	t.Logf("%d half-open handshakes: %.1f KB each", count, float64(each)/1000)
	if each > 32_000 {
		t.Errorf("each holds %d bytes before it is authenticated", each)
	}
	mustEcho(t, dial(t, p.client.forward(target)), "the session goes on")
	r := runToEnd(t, patience, p.agents.connect(p.server.url(), target))
	if r.code != 0 {
		t.Errorf("nobody else gets in: exit %d, %s", r.code, tail(r.stderr, 3))
	}
	// Each leg has a timeout: the last one made is closed by the server agent, too.
	last := conns[len(conns)-1]
	last.SetReadDeadline(time.Now().Add(2 * patience))
	if _, err := last.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("a half-open handshake is kept for longer than %v: %v", 2*patience, err)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
