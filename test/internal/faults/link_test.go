package faults

import (
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pingOver returns the median round trip of a byte.
func pingOver(t *testing.T, client, server net.Conn, rounds int) time.Duration {
	t.Helper()
	var times []time.Duration
	for range rounds {
		begin := time.Now()
		echo(t, client, server)
		times = append(times, time.Since(begin))
	}
	return median(times)
}

func median(d []time.Duration) time.Duration {
	for i := range d {
		for j := i; j > 0 && d[j] < d[j-1]; j-- {
			d[j], d[j-1] = d[j-1], d[j]
		}
	}
	return d[len(d)/2]
}

func TestLinkRoundTrip(t *testing.T) {
	link := Link{Delay: 20 * time.Millisecond, Rate: 20 << 20}
	r, target := start(t, Options{Link: link})
	begin := time.Now()
	client, server := pair(t, r, target)
	echo(t, client, server)
	// Handshake, then one way each.
	if first := time.Since(begin); first < 2*link.RTT() {
		t.Errorf("first round trip took %v, less than two of %v", first, link.RTT())
	}
	if rtt := pingOver(t, client, server, 9); rtt < link.RTT() || rtt > link.RTT()*3/2 {
		t.Errorf("round trip %v, want %v", rtt, link.RTT())
	}
}

// measure returns the rate at which conn delivers while something sends, over d.
func measure(t *testing.T, conn net.Conn, d time.Duration) float64 {
	t.Helper()
	buf := make([]byte, 1<<20)
	n, begin := 0, time.Now()
	for time.Since(begin) < d {
		k, err := conn.Read(buf)
		if err != nil {
			t.Error(err)
			break
		}
		n += k
	}
	return float64(n) / time.Since(begin).Seconds()
}

// flood writes until the connection is closed.
func flood(wg *sync.WaitGroup, c net.Conn) {
	wg.Go(func() {
		for p := make([]byte, 64<<10); ; {
			if _, err := c.Write(p); err != nil {
				return
			}
		}
	})
}

func TestLinkRate(t *testing.T) {
	const rate = 10 << 20
	r, target := start(t, Options{Link: Link{Delay: 10 * time.Millisecond, Rate: rate}})
	client, server := pair(t, r, target)
	var wg sync.WaitGroup
	flood(&wg, client)
	defer wg.Wait()
	defer client.Close()
	measure(t, server, 200*time.Millisecond) // fills the pipe
	if got := measure(t, server, 600*time.Millisecond) / rate; got < 0.85 || got > 1.15 {
		t.Errorf("%.2f of the rate", got)
	}
	r.SetLink(Link{Delay: 10 * time.Millisecond, Rate: rate / 4})
	measure(t, server, 300*time.Millisecond)
	if got := measure(t, server, 600*time.Millisecond) / (rate / 4); got < 0.8 || got > 1.2 {
		t.Errorf("%.2f of the rate after it changed", got)
	}
}

// While one connection fills the queue, a byte of another waits behind it.
func TestLinkQueueDelays(t *testing.T) {
	link := Link{Delay: 10 * time.Millisecond, Rate: 4 << 20, Queue: 128 << 10}
	r, target := start(t, Options{Link: link})
	bulk, sink := pair(t, r, target)
	client, server := pair(t, r, target)
	quiet := pingOver(t, client, server, 5)
	var wg sync.WaitGroup
	flood(&wg, bulk)
	wg.Go(func() { io.Copy(io.Discard, sink) })
	defer wg.Wait()
	defer sink.Close()
	defer bulk.Close()
	eventually(t, "the link is full", func() bool { return r.Stats().Up > 2*int64(link.Queue) })
	full := pingOver(t, client, server, 5)
	wait := time.Duration(float64(link.Queue) / float64(link.Rate) * float64(time.Second))
	if full-quiet < wait/2 || full-quiet > 2*wait {
		t.Errorf("round trip %v quiet, %v full: want about %v more", quiet, full, wait)
	}
}

func TestLinkShared(t *testing.T) {
	const rate = 8 << 20
	r, target := start(t, Options{Link: Link{Delay: 5 * time.Millisecond, Rate: rate}})
	var wg sync.WaitGroup
	defer wg.Wait()
	var sinks []net.Conn
	var clients []net.Conn
	for range 2 {
		client, server := pair(t, r, target)
		flood(&wg, client)
		clients, sinks = append(clients, client), append(sinks, server)
	}
	defer clients[0].Close()
	defer clients[1].Close()
	var rates [2]float64
	var readers sync.WaitGroup
	for i, c := range sinks {
		readers.Go(func() {
			measure(t, c, 300*time.Millisecond)
			rates[i] = measure(t, c, 700*time.Millisecond)
		})
	}
	readers.Wait()
	if sum := (rates[0] + rates[1]) / rate; sum < 0.8 || sum > 1.2 {
		t.Errorf("together %.2f of the rate", sum)
	}
	if share := rates[0] / (rates[0] + rates[1]); share < 0.3 || share > 0.7 {
		t.Errorf("the first has a share of %.2f", share)
	}
}

// The arithmetic of a lane, in virtual time.
func TestLaneBooking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lane
		l.set(Link{Delay: 20 * time.Millisecond, Rate: 1 << 20, Queue: 64 << 10})
		over := make(chan struct{})
		begin := time.Now()
		// 16 KiB take 1/64 s to send.
		const each = time.Second / 64
		for i := range 4 {
			at, ok := l.book(16<<10, begin, over)
			if want := begin.Add(time.Duration(i+1)*each + 20*time.Millisecond); !ok || at != want {
				t.Errorf("chunk %d arrives at %v, want %v", i, at.Sub(begin), want.Sub(begin))
			}
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("waited %v although the queue had room", waited)
		}
		if _, ok := l.book(16<<10, begin, over); !ok || time.Since(begin) != each {
			t.Errorf("the fifth chunk waited %v for room, want %v", time.Since(begin), each)
		}
		floor := time.Now().Add(time.Hour)
		if at, ok := l.book(1, floor, over); !ok || at != floor.Add(20*time.Millisecond) {
			t.Errorf("floor not kept: %v", at)
		}
		close(over)
		if _, ok := l.book(64<<10, begin, over); ok {
			t.Error("booked although over")
		}
	})
}

// The relay must not be what a measurement measures: this is its own rate, without a link and on a
// fast one.
func BenchmarkThroughput(b *testing.B) {
	for name, link := range map[string]Link{
		"plain":     {},
		"100MBps":   {Delay: 20 * time.Millisecond, Rate: 100 << 20},
		"unlimited": {Delay: 20 * time.Millisecond},
	} {
		b.Run(name, func(b *testing.B) {
			r, target := start(b, Options{Link: link})
			client, server := pair(b, r, target)
			echo(b, client, server)
			client.SetDeadline(time.Time{})
			server.SetDeadline(time.Time{})
			var wg sync.WaitGroup
			flood(&wg, client)
			buf := make([]byte, 1<<20)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if _, err := io.ReadFull(server, buf); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			client.Close()
			wg.Wait()
		})
	}
}
