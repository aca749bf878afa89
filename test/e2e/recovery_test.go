//go:build linux

package e2e

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"sallyport/test/internal/faults"
)

// afterCut cuts the carriers and measures, from the cut on: how long a stream in use takes to flow
// again, and how long a new stream takes to be opened and used.
func afterCut(t *testing.T, p *path, mode faults.Mode, forward string, used net.Conn) (flowing, fresh time.Duration) {
	t.Helper()
	mustEcho(t, used, "in use")
	begin := time.Now()
	if p.relay.Cut(mode) == 0 {
		t.Fatal("no carrier to cut")
	}
	opened := make(chan error, 1)
	go func() {
		c, err := net.DialTimeout("tcp", forward, patience)
		if err == nil {
			_, err = echoed(c, "new")
			c.Close()
		}
		fresh = time.Since(begin)
		opened <- err
	}()
	mustEcho(t, used, "goes on")
	flowing = time.Since(begin)
	if err := <-opened; err != nil {
		t.Fatalf("new stream: %v", err)
	}
	return flowing, fresh
}

// summary formats durations for people.
func summary(times []time.Duration) string {
	slices.Sort(times)
	round := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	return fmt.Sprintf("median %v, worst %v of %d", round(times[len(times)/2]), round(times[len(times)-1]), len(times))
}

// withinAllButOne says whether all times but the worst keep the limit: one in a run may fall on a
// moment when the machine was busy with something else.
func withinAllButOne(times []time.Duration, limit time.Duration) bool {
	slices.Sort(times)
	return times[max(len(times)-2, 0)] <= limit
}

// Acceptance 9: after a reset of the carrier a stream flows again within 50 ms, and a new one opens
// in as long.
func TestRecoveryAfterReset(t *testing.T) {
	const limit = 50 * time.Millisecond
	for _, mode := range []faults.Mode{faults.RST, faults.FIN} {
		t.Run(mode.String(), func(t *testing.T) {
			target := startEcho(t)
			p := newPath(t, sallyportPlain(t), faults.Options{}, []string{target})
			forward := p.client.forward(target)
			c := dial(t, forward)
			var flowing, fresh []time.Duration
			for range pick(15, 50) {
				f, n := afterCut(t, p, mode, forward, c)
				flowing, fresh = append(flowing, f), append(fresh, n)
			}
			t.Logf("flows again: %s; new stream: %s", summary(flowing), summary(fresh))
			if !withinAllButOne(flowing, limit) || !withinAllButOne(fresh, limit) {
				t.Errorf("over %v", limit)
			}
		})
	}
}

// Acceptance 9: with the carrier gone silent, streams in use and new ones go on within 3 s.
func TestRecoveryAfterSilence(t *testing.T) {
	const limit = 3 * time.Second
	for _, mode := range []faults.Mode{faults.BlackHole, faults.Swallow} {
		t.Run(mode.String(), func(t *testing.T) {
			target := startEcho(t)
			p := newPath(t, sallyportPlain(t), faults.Options{}, []string{target})
			forward := p.client.forward(target)
			c := dial(t, forward)
			var flowing, fresh []time.Duration
			for range pick(3, 10) {
				f, n := afterCut(t, p, mode, forward, c)
				flowing, fresh = append(flowing, f), append(fresh, n)
			}
			t.Logf("flows again: %s; new stream: %s", summary(flowing), summary(fresh))
			if slices.Max(flowing) > limit || slices.Max(fresh) > limit {
				t.Errorf("over %v", limit)
			}
			// One hedge for a silence: a second one would be one more to find silent the next time.
			if n, most := len(p.client.events("dialling directly")), 1+len(flowing)+1; n > most {
				t.Errorf("%d carriers dialled for %d cuts, want at most %d", n, len(flowing), most)
			}
		})
	}
}

// Acceptance 9: data that flows towards the client agent goes on within 3 s of silence, too, though
// nothing is sent that could stay unanswered.
func TestRecoveryOfDownload(t *testing.T) {
	const limit = 3 * time.Second
	flood := startFlood(t)
	p := newPath(t, sallyportPlain(t), faults.Options{}, []string{flood})
	c := dial(t, p.client.forward(flood))
	var gaps []time.Duration
	for range pick(3, 10) {
		if _, err := rate(c, 300*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if p.relay.Cut(faults.Swallow) == 0 {
			t.Fatal("no carrier to silence")
		}
		gaps = append(gaps, longestGap(t, c, limit+2*time.Second))
	}
	t.Logf("longest gap in the data: %s", summary(gaps))
	if slices.Max(gaps) > limit {
		t.Errorf("over %v", limit)
	}
}

// longestGap reads for d, or longer if nothing comes, and returns the longest time between two reads.
func longestGap(t testing.TB, c net.Conn, d time.Duration) (longest time.Duration) {
	t.Helper()
	buf := make([]byte, 256<<10)
	c.SetReadDeadline(time.Now().Add(d + patience))
	for begin, last := time.Now(), time.Now(); time.Since(begin) < d; {
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
		longest = max(longest, time.Since(last))
		last = time.Now()
	}
	return longest
}

// Acceptance 9: an idle session finds out within its ping interval + 3 s.
func TestRecoveryWhileIdle(t *testing.T) {
	const interval = 3 * time.Second
	target := startEcho(t)
	p := newPath(t, sallyportPlain(t), faults.Options{}, []string{target}, "--keepalive", interval.String())
	c := dial(t, p.client.forward(target))
	mustEcho(t, c, "then silence")
	carriers := p.relay.Stats().Accepted
	begin := time.Now()
	if p.relay.Cut(faults.Swallow) == 0 {
		t.Fatal("no carrier to silence")
	}
	eventually(t, patience, "a new carrier comes", func() bool { return p.relay.Stats().Accepted > carriers })
	took := time.Since(begin)
	t.Logf("ping interval %v: a new carrier after %v, echo after it in %v", interval, took.Round(time.Millisecond), mustEcho(t, c, "alive"))
	if took > interval+3*time.Second {
		t.Errorf("found after %v, want at most the interval + 3 s", took)
	}
}
