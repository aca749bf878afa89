//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/test/internal/faults"
)

// ends is a connection through the tunnel: the origin's socket and the target's.
type ends struct{ origin, target *net.TCPConn }

// newEnds returns a function that makes connections through a forward, and one through a reverse
// forward, of one pair of agents; and the relay between these.
func newEnds(t *testing.T) (ways map[string]func() ends, relay *faults.Relay) {
	t.Helper()
	target, accept := startAccepts(t)
	port := freePort(t)
	p := newPath(t, sallyport(t), faults.Options{}, []string{target}, "-R", fmt.Sprintf("127.0.0.1:%d:%s", port, target))
	forward := p.client.forward(target)
	// The probe that waits for the reverse listener is a connection too.
	probe := awaitDial(t, "tcp", loopback(port))
	accept().Close()
	probe.Close()
	through := func(addr string) func() ends {
		return func() ends {
			origin := dial(t, addr)
			return ends{origin, accept()}
		}
	}
	return map[string]func() ends{"forward": through(forward), "reverse": through(loopback(port))}, p.relay
}

// eachWay runs a test for forwards and reverse forwards, from the origin and from the target.
func eachWay(t *testing.T, test func(t *testing.T, relay *faults.Relay, near, far *net.TCPConn)) {
	ways, relay := newEnds(t)
	for name, connect := range ways {
		for _, from := range []string{"origin", "target"} {
			t.Run(name+" from "+from, func(t *testing.T) {
				e := connect()
				// Both ends are known to be connected before anything ends.
				for _, pair := range [][2]*net.TCPConn{{e.origin, e.target}, {e.target, e.origin}} {
					pair[0].Write([]byte("x"))
					if _, err := io.ReadFull(pair[1], make([]byte, 1)); err != nil {
						t.Fatal(err)
					}
				}
				if from == "target" {
					e.origin, e.target = e.target, e.origin
				}
				test(t, relay, e.origin, e.target)
			})
		}
	}
}

// Acceptance 4: half-close each way, also across a cut.
func TestHalfClose(t *testing.T) {
	eachWay(t, func(t *testing.T, relay *faults.Relay, near, far *net.TCPConn) {
		near.Write([]byte("last words"))
		near.CloseWrite()
		if got, err := io.ReadAll(far); err != nil || string(got) != "last words" {
			t.Fatalf("got %q, %v; want the words and a clean end", got, err)
		}
		// The other direction stays open, and survives the carrier.
		for i := range 3 {
			message := fmt.Sprintf("still open %d", i)
			far.Write([]byte(message))
			got := make([]byte, len(message))
			if _, err := io.ReadFull(near, got); err != nil || string(got) != message {
				t.Fatalf("got %q, %v; want %q", got, err, message)
			}
			relay.Cut([]faults.Mode{faults.RST, faults.FIN, faults.BlackHole}[i])
		}
		far.CloseWrite()
		if rest, err := io.ReadAll(near); err != nil || len(rest) != 0 {
			t.Errorf("at the end: %q, %v; want a clean end", rest, err)
		}
	})
}

// A FIN that is on its way when the carrier dies arrives all the same, after all bytes.
func TestHalfCloseDuringCut(t *testing.T) {
	eachWay(t, func(t *testing.T, relay *faults.Relay, near, far *net.TCPConn) {
		relay.Cut(faults.BlackHole)
		near.Write([]byte("into the dark"))
		near.CloseWrite()
		if got, err := io.ReadAll(far); err != nil || string(got) != "into the dark" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// Acceptance 4: an abort at one end arrives as an abort at the other.
func TestAbort(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *faults.Relay, near, far *net.TCPConn) {
		begin := time.Now()
		near.SetLinger(0)
		near.Close()
		wantReset(t, far)
		t.Logf("reset after %v", time.Since(begin).Round(time.Microsecond))
	})
}

// failingTargets are targets that cannot be reached, by what `connect` must call them.
func failingTargets(t *testing.T) map[string]string {
	t.Helper()
	refused := loopback(freePort(t))
	return map[string]string{
		"refused": refused,
		"dns":     "nowhere.invalid:80",
		"denied":  "192.0.2.1:80", // documentation address, not in the policy: never dialled
		"timeout": startDeaf(t),
	}
}

// Acceptance 4: on a raw forward, a failed target is a reset, and the log has the cause.
func TestFailedTargetsReset(t *testing.T) {
	a := newAgents(t, sallyport(t))
	s := a.server("--dial-timeout", "1s")
	targets := failingTargets(t)
	var args []string
	for _, target := range targets {
		args = append(args, forwardTo(target)...)
	}
	c := a.client(s.url(), args...)
	for cause, target := range targets {
		origin, err := net.DialTimeout("tcp", c.forward(target), patience)
		if err == nil {
			wantReset(t, limited(t, origin))
		} else if !errors.Is(err, syscall.ECONNRESET) { // so soon that the dial itself meets it
			t.Fatal(err)
		}
		c.awaitEvent(t, patience, msgStreamEnded, func(e event) bool {
			line := fmt.Sprint(e)
			return strings.Contains(line, target) && strings.Contains(line, cause)
		})
	}
}

// Acceptance 4: connect's exit code tells the causes apart, and its message says them.
func TestConnectExitCodes(t *testing.T) {
	a := newAgents(t, sallyport(t))
	s := a.server("--dial-timeout", "1s")
	echo := startEcho(t)
	stranger := writeFile(t, a.dir, "stranger", "spt_of-somebody-else", 0o600)
	down := "wss://" + loopback(freePort(t)) + "/tunnel"

	type attempt struct {
		url, target string
		extra       []string
	}
	attempts := map[string]attempt{
		"works":   {s.url(), echo, nil},
		"auth":    {s.url(), echo, []string{"--token-file", stranger}},
		"network": {down, echo, nil},
	}
	for cause, target := range failingTargets(t) {
		attempts[cause] = attempt{s.url(), target, nil}
	}
	codes := make(map[int]string)
	for cause, at := range attempts {
		cmd := a.connect(at.url, at.target, at.extra...)
		cmd.Stdin = strings.NewReader("")
		r := runToEnd(t, patience, cmd)
		t.Logf("%-8s exit %d  %s", cause, r.code, tail(r.stderr, 1))
		if (r.code == 0) != (cause == "works") {
			t.Errorf("%s: exit %d", cause, r.code)
		}
		if other, taken := codes[r.code]; taken {
			t.Errorf("%s and %s both exit %d", cause, other, r.code)
		}
		codes[r.code] = cause
		if cause != "works" && strings.TrimSpace(r.stderr) == "" {
			t.Errorf("%s: no message", cause)
		}
		if len(r.stdout) > 0 {
			t.Errorf("%s: standard output belongs to the target, got %q", cause, r.stdout)
		}
	}
}

// Acceptance 4: connect passes an end of file on, each way.
func TestConnectPassesEOF(t *testing.T) {
	a := newAgents(t, sallyport(t))
	s := a.server()
	// The target answers only after the end of file, so the answer proves that it came.
	target := startTarget(t, func(c *net.TCPConn) {
		got, err := io.ReadAll(c)
		if err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("target: %v", err)
		}
		fmt.Fprintf(c, "%d bytes and the end", len(got))
	})
	cmd := a.connect(s.url(), target)
	cmd.Stdin = strings.NewReader(strings.Repeat("x", 100_000))
	if r := runToEnd(t, patience, cmd); r.code != 0 || r.stdout != "100000 bytes and the end" {
		t.Errorf("exit %d, %q, %s", r.code, r.stdout, tail(r.stderr, 3))
	}
}
