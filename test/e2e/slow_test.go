//go:build linux

package e2e

import (
	"bufio"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/test/internal/faults"
)

// startFlood starts a target that sends zeros for as long as anybody reads.
func startFlood(t testing.TB) string {
	t.Helper()
	return startTarget(t, func(c *net.TCPConn) {
		pour(c)
	})
}

// pour sends zeros for as long as anybody reads.
func pour(c net.Conn) {
	for p := make([]byte, 256<<10); ; {
		if _, err := c.Write(p); err != nil {
			return
		}
	}
}

// startSink starts a target that reads and throws away.
func startSink(t testing.TB) string {
	t.Helper()
	return startTarget(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
}

// openFlood opens a stream to a flood, which it asks for with ask, and reads the first byte: whoever reads no
// more stalls it.
func openFlood(t testing.TB, addr, ask string) net.Conn {
	t.Helper()
	c := dial(t, addr)
	if _, err := io.WriteString(c, ask); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return c
}

// bulkRate is what one fresh stream from a flood gets a second, after a moment to get going.
func bulkRate(t testing.TB, addr string, d time.Duration) float64 {
	t.Helper()
	c := dial(t, addr)
	defer c.Close()
	if _, err := rate(c, d/4); err != nil {
		t.Fatal(err)
	}
	r, err := rate(c, d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// startEither starts a target that is a flood for who sends F first, and an echo otherwise.
func startEither(t testing.TB) string {
	t.Helper()
	return startTarget(t, func(c *net.TCPConn) {
		var first [1]byte
		if _, err := io.ReadFull(c, first[:]); err != nil {
			return
		}
		if first[0] == 'F' {
			pour(c)
			return
		}
		c.Write(first[:])
		io.Copy(c, c)
	})
}

// underBulk returns the round trips of a byte while bulk flows.
func underBulk(t testing.TB, addr string, rounds int) []time.Duration {
	t.Helper()
	bulk, c := openFlood(t, addr, "F"), dial(t, addr)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer bulk.Close()
	reading.Go(func() {
		bulk.SetDeadline(time.Time{})
		io.Copy(io.Discard, bulk)
	})
	return echoes(t, c, rounds)
}

// medianEcho returns the median round trip of a byte on a connection.
func medianEcho(t testing.TB, c net.Conn, rounds int) time.Duration {
	t.Helper()
	return median(echoes(t, c, rounds))
}

// echoes returns the round trips of a byte on a connection, after a few to get going.
func echoes(t testing.TB, c net.Conn, rounds int) (times []time.Duration) {
	t.Helper()
	for i := range rounds + 10 {
		d := mustEcho(t, c, "x")
		if i >= 10 {
			times = append(times, d)
		}
	}
	return times
}

// bareRelay runs the reference pair to a target and returns where it accepts.
func bareRelay(t testing.TB, certs *authority, target string) string {
	t.Helper()
	bin := build(t, "sallyport/test/internal/barerelay", false)
	half := func(args ...string) string {
		cmd := exec.Command(bin, args...)
		if _, err := cmd.StdinPipe(); err != nil { // held open until the process ends
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		start(t, "bare relay "+args[0], cmd)
		addr, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatalf("bare relay %s says no address: %v", args[0], err)
		}
		return strings.TrimSpace(addr)
	}
	return half("client", certs.ca, half("server", certs.cert, certs.key, target))
}

// Acceptance 5, throughput: a stream whose reader stops leaves another ≥ 90 % of what it has alone.
func TestSlowConsumerThroughput(t *testing.T) {
	flood := startFlood(t)
	p := newPath(t, sallyportPlain(t), faults.Options{}, []string{flood}, "--keepalive", "2s", "--max-carriers", "1")
	addr := p.client.forward(flood)
	d := pick(400*time.Millisecond, 2*time.Second)
	tries(t, "throughput beside a stalled stream", func() (float64, bool) {
		var ratios []float64
		for range pick(7, 11) {
			alone := bulkRate(t, addr, d)
			slow := openFlood(t, addr, "")
			beside := bulkRate(t, addr, d)
			slow.Close()
			ratios = append(ratios, beside/alone)
			t.Logf("alone %.0f MB/s, beside a stalled stream %.0f MB/s: %.2f", alone/1e6, beside/1e6, beside/alone)
		}
		return median(ratios), median(ratios) >= 0.9
	})

	// The stall goes on, far longer than pings may be late: the carrier must not be found dead.
	carriers := p.relay.Stats().Accepted
	slow := openFlood(t, addr, "")
	reportMemory(t, p)
	<-time.After(pick(12*time.Second, time.Minute))
	if now := p.relay.Stats().Accepted; now != carriers {
		t.Errorf("%d carriers were lost during the stall", now-carriers)
	}
	if r := bulkRate(t, addr, d); r < 1e6 {
		t.Errorf("after the stall another stream gets %.0f bytes/s", r)
	}
	slow.SetDeadline(time.Now().Add(patience))
	if r, err := rate(slow, d); err != nil || r < 1e6 {
		t.Errorf("after the stall the stalled stream gets %.0f bytes/s, %v", r, err)
	}
}

// reportMemory prints what the agents hold.
func reportMemory(t testing.TB, p *path) {
	t.Helper()
	near, _ := p.client.memory(t)
	far, _ := p.server.memory(t)
	t.Logf("RSS: client agent %d MiB, server agent %d MiB", near>>20, far>>20)
}

// Acceptance 5, latency on loopback: beside a stalled stream, another's 1-byte echo stays within 1.2 ×
// of what a bare TLS relay gives in the same run. Beside bulk as well, where everybody competes for the
// processors, the mean does: the session is crowded and gets a carrier that is kept clear of bulk. The median
// there, and both with one carrier, are only told: the relay, which has no queue but the kernel's, is fast or
// starves.
// So is everything beside bulk under the race detector, which makes origin and target the bottleneck.
func TestSlowConsumerEcho(t *testing.T) {
	target := startEither(t)
	a := newAgents(t, sallyportPlain(t))
	s := a.server()
	ways := []string{bareRelay(t, a.certs, target)}
	for _, most := range []string{"1", "4"} {
		ways = append(ways, a.client(s.url(), append(forwardTo(target), "--max-carriers", most)...).forward(target))
	}
	for name, measure := range map[string]func(addr string) []time.Duration{
		"quiet": func(addr string) []time.Duration { return echoes(t, dial(t, addr), pick(500, 2000)) },
		"bulk":  func(addr string) []time.Duration { return underBulk(t, addr, pick(500, 2000)) },
	} {
		t.Run(name, func(t *testing.T) {
			tries(t, "echo against a bare TLS relay", func() (float64, bool) {
				medians, means := make([][]float64, len(ways)), make([][]float64, len(ways))
				var bareMedian, bareMean time.Duration
				for range pick(7, 15) {
					for i, addr := range ways {
						slow := openFlood(t, addr, "F")
						took := measure(addr)
						slow.Close()
						if i == 0 {
							bareMedian, bareMean = median(took), mean(took)
						}
						medians[i] = append(medians[i], float64(median(took))/float64(bareMedian))
						means[i] = append(means[i], float64(mean(took))/float64(bareMean))
					}
				}
				t.Logf("median echo %.2f with one carrier, %.2f with more on demand; mean %.2f and %.2f",
					median(medians[1]), median(medians[2]), median(means[1]), median(means[2]))
				figure := median(medians[1])
				if name == "bulk" {
					figure = median(means[2])
				}
				return figure, figure <= 1.2 || name == "bulk" && raceEnabled
			})
		})
	}
}

// mean returns the average.
func mean(times []time.Duration) (m time.Duration) {
	for _, d := range times {
		m += d
	}
	return m / time.Duration(len(times))
}

// tries fails the test only if three measurements in a row break the bound: another program on the
// machine spoils one, a fault of ours all.
func tries(t *testing.T, what string, measure func() (figure float64, ok bool)) {
	t.Helper()
	var figures []float64
	for range 3 {
		figure, ok := measure()
		if ok {
			return
		}
		figures = append(figures, figure)
	}
	t.Errorf("%s: medians %.2f, none within the bound", what, figures)
}

// Acceptance 5, latency on a long link: while bulk fills 20 MB/s at 40 ms, either way, the echo stays
// within 1.15 × of its quiet value, and the link stays full.
func TestSlowConsumerEchoLongLink(t *testing.T) {
	flood, echo, sink := startFlood(t), startEcho(t), startSink(t)
	link := faults.Link{Delay: 20 * time.Millisecond, Rate: 20_000_000, Queue: 256 << 10}
	p := newPath(t, sallyportPlain(t), faults.Options{Link: link}, []string{flood, echo, sink})
	c := dial(t, p.client.forward(echo))
	rounds := pick(30, 200)
	quiet := medianEcho(t, c, rounds)

	for name, open := range map[string]func() (net.Conn, func(net.Conn)){
		"download": func() (net.Conn, func(net.Conn)) {
			return dial(t, p.client.forward(flood)), func(c net.Conn) { io.Copy(io.Discard, c) }
		},
		"upload": func() (net.Conn, func(net.Conn)) {
			return dial(t, p.client.forward(sink)), func(c net.Conn) { io.Copy(c, zeros{}) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			slow := openFlood(t, p.client.forward(flood), "")
			defer slow.Close()
			bulk, run := open()
			bulk.SetDeadline(time.Time{})
			var running sync.WaitGroup
			running.Go(func() { run(bulk) })
			defer running.Wait()
			defer bulk.Close()
			<-time.After(2 * time.Second) // the in-flight limit finds its level
			tries(t, "echo on the full link against the quiet one", func() (float64, bool) {
				begin, before := time.Now(), p.relay.Stats()
				full := medianEcho(t, c, rounds)
				after := p.relay.Stats()
				moved := after.Up + after.Down - before.Up - before.Down
				share := float64(moved) / time.Since(begin).Seconds() / float64(link.Rate)
				ratio := float64(full) / float64(quiet)
				t.Logf("echo %v quiet, %v on the full link: %.2f; link used to %.0f %%", quiet, full, ratio, 100*share)
				return ratio, ratio <= 1.15 && share >= 0.9
			})
		})
	}
}

// zeros is an endless source.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
