//go:build linux

package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/test/internal/faults"
)

// Acceptance 3: an ssh session that prints a counter every 0.1 s shows no gap and no repeat over 20
// cuts of the connection to the proxy.
func TestCutsSSHCounter(t *testing.T) {
	const cuts = 20
	sshd := startSSHD(t)
	squid, _ := startSquid(t)
	a := newAgents(t, sallyport(t))
	s := a.server()
	relay := startRelay(t, squid, faults.Options{})
	target := loopback(sshd.port)
	password := writeFile(t, a.dir, "proxy-password", proxyPassword, 0o600)
	c := a.client(s.url(), append(forwardTo(target),
		"--proxy", "http://"+relay.Addr(), "--proxy-user", proxyUser, "--proxy-password-file", password)...)
	_, port, err := net.SplitHostPort(c.forward(target))
	if err != nil {
		t.Fatal(err)
	}

	stop := filepath.Join(sshd.dir, "stop")
	cmd := sshd.command([]string{"-p", port},
		fmt.Sprintf("i=0; while [ ! -e %s ]; do echo $i; i=$((i+1)); sleep 0.1; done", stop))
	out, in := io.Pipe()
	cmd.Stdout = in
	p := start(t, "ssh", cmd)
	var lines atomic.Int64
	var reading sync.WaitGroup
	reading.Go(func() {
		scanLines(out, func(line string) {
			if n, err := strconv.ParseInt(line, 10, 64); err != nil || n != lines.Load() {
				t.Errorf("the counter shows %q, want %d", line, lines.Load())
			}
			lines.Add(1)
		})
	})
	defer reading.Wait()
	defer in.Close()

	advance := func(why string) {
		t.Helper()
		was := lines.Load()
		eventually(t, patience, why, func() bool { return lines.Load() > was || !p.running() })
	}
	advance("the counter starts")
	modes := []faults.Mode{faults.RST, faults.FIN, faults.RST, faults.BlackHole, faults.FIN, faults.Swallow}
	var gaps []time.Duration
	for i := range cuts {
		advance("the counter runs before a cut")
		// At any point between two lines.
		<-time.After(rand.N(100 * time.Millisecond))
		begin := time.Now()
		if relay.Cut(modes[i%len(modes)]) == 0 {
			t.Fatalf("no carrier to cut at cut %d", i)
		}
		advance(fmt.Sprintf("the counter goes on after cut %d (%v)", i, modes[i%len(modes)]))
		gaps = append(gaps, time.Since(begin).Round(time.Millisecond))
	}
	advance("the counter runs on")
	if err := os.WriteFile(stop, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(t, patience); code != 0 {
		t.Errorf("ssh: exit %d", code)
	}
	if worst := slices.Max(gaps); worst > 3*time.Second {
		t.Errorf("the counter stood still for %v after a cut, want ≤ 3 s even when nothing was closed", worst)
	}
	t.Logf("%d lines over %d cuts %v; next line after each cut: %v", lines.Load(), cuts, relay.Stats().Cuts, gaps)
}

// Acceptance 3: an idle session whose carrier falls silent while new connections pass stays alive.
func TestIdleSessionBlackHoled(t *testing.T) {
	silence := pick(20*time.Second, 5*time.Minute)
	target := startEcho(t)
	p := newPath(t, sallyport(t), faults.Options{}, []string{target}, "--keepalive", pick("4s", "20s"))
	c := dial(t, p.client.forward(target))
	mustEcho(t, c, "before the silence")
	if p.relay.Cut(faults.BlackHole) == 0 {
		t.Fatal("no carrier to silence")
	}
	<-time.After(silence)
	c.SetDeadline(time.Now().Add(patience))
	took := mustEcho(t, c, "after the silence")
	t.Logf("after %v of silence: echo in %v, %d carriers used", silence, took, p.relay.Stats().Accepted)
	if lost := p.client.events(msgSessionLost); len(lost) > 0 {
		t.Errorf("the session was lost: %v", lost)
	}
}
