package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/tunnel"
)

// crowdedWorld is a client whose carriers are crowded by a megabyte a second, with a forward to a flood and one to an
// echo target.
func crowdedWorld(t *testing.T, change func(*ClientOptions)) *world {
	t.Helper()
	flood := target(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		for p := make([]byte, 64<<10); ; {
			if _, err := c.Write(p); err != nil {
				return
			}
		}
	})
	echoes := target(t, "tcp", "127.0.0.1:0", echo)
	w := newWorld(t, worldOptions{client: func(o *ClientOptions) {
		o.Session = tunnel.Options{CrowdRate: 1_000_000}
		o.SurplusAfter = 300 * time.Millisecond
		o.Forwards = []Forward{forward(t, "0:"+flood.String()), forward(t, "0:"+echoes.String())}
		change(o)
	}})
	w.run()
	w.ready()
	return w
}

// download reads from a flood until the connection is closed.
func (w *world) download(t *testing.T) net.Conn {
	t.Helper()
	c := dialTest(t, "tcp", w.addr(0))
	go func() { _, _ = io.Copy(io.Discard, c) }()
	return c
}

// carriersNow returns how many carriers the client's session has.
func (w *world) carriersNow() int {
	if sessions := w.client.Status().Sessions; len(sessions) == 1 {
		return sessions[0].Carriers
	}
	return 0
}

// TestCarriersOnDemand: a crowded session gets more carriers, and gives them up when it needs them no more, while its
// streams go on.
func TestCarriersOnDemand(t *testing.T) {
	w := crowdedWorld(t, func(o *ClientOptions) {})
	witness := dialTest(t, "tcp", w.addr(1))
	exchange := func() {
		mustWrite(t, witness, "ping")
		mustRead(t, witness, "ping")
	}
	var downloads []net.Conn
	for range 6 {
		downloads = append(downloads, w.download(t))
	}
	w.until("the fourth carrier", func() bool {
		exchange()
		return w.carriersNow() == maxClientCarriers
	})
	for range 200 {
		exchange()
		if n := w.carriersNow(); n > maxClientCarriers {
			t.Fatalf("%d carriers", n)
		}
	}
	for _, c := range downloads {
		_ = c.Close()
	}
	w.until("the end of surplus carriers", func() bool {
		exchange()
		return w.carriersNow() == 1
	})
	exchange()
	if c := w.client.Status().Counters; c.SessionsOpened != 1 || c.SessionsLost != 0 || c.Resumes != 0 {
		t.Errorf("counters: %+v", c)
	}
}

// TestMaxCarriers: no more than are allowed, however crowded they are, and while a lost one is being replaced.
func TestMaxCarriers(t *testing.T) {
	for _, most := range []int{1, 2} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			w := crowdedWorld(t, func(o *ClientOptions) { o.Carriers, o.MaxCarriers = most, most })
			for range 4 {
				w.download(t)
			}
			// There is nothing to wait for: it must not happen, in as long as many looks of the session's take.
			watch := func(d time.Duration) {
				for begin := time.Now(); time.Since(begin) < d; time.Sleep(time.Millisecond) {
					if n := w.carriersNow(); n > most {
						t.Fatalf("%d carriers", n)
					}
				}
			}
			watch(time.Second)
			if n := w.client.Status().Counters.CarriersOpened; n != uint64(most) {
				t.Errorf("%d carriers were opened", n)
			}
			w.cut()
			watch(time.Second)
			if n := w.client.Status().Counters.BytesReceived; n < 10_000_000 {
				t.Errorf("they were not crowded: %d bytes", n)
			}
		})
	}
}

// TestNoFurtherCarrier: a session that needs another carrier and cannot have one goes on with what it has, is not
// alarmed about it, and replaces a lost carrier as fast as ever.
func TestNoFurtherCarrier(t *testing.T) {
	for _, c := range []struct {
		name, cause, hint string
		prevent           func(w *world)
	}{
		{"no connection", "network", "", func(w *world) { w.away(errors.New("one connection is enough")) }},
		{"another server agent", "config", "balancer", func(w *world) { w.startServer(worldOptions{}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := crowdedWorld(t, func(o *ClientOptions) {})
			first := w.server
			c.prevent(w)
			witness := dialTest(t, "tcp", w.addr(1))
			for range 4 {
				w.download(t)
			}
			w.until("the failed attempt", func() bool { return w.client.Status().Counters.DialFailures[c.cause] > 0 })
			w.until("its log line", func() bool { return strings.Contains(w.log.text(), "no further carrier to be had") })
			w.away(nil)
			w.mu.Lock()
			w.server = first
			w.mu.Unlock()
			w.cut()
			mustWrite(t, witness, "ping")
			mustRead(t, witness, "ping")
			if n := w.client.Status().Counters; n.SessionsLost != 0 || n.DialFailures[c.cause] != 1 || len(n.DialFailures) != 1 {
				t.Errorf("counters: %+v", n)
			}
			if log := w.log.text(); strings.Contains(log, "trying again") || !strings.Contains(log, c.hint) {
				t.Errorf("what the client says of it does not fit")
			}
		})
	}
}

// TestSurplusOneAtATime: of two carriers that find at the same instant that one less would do, only one is given up.
func TestSurplusOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		host, session := tunnel.NewHost(tunnel.HostOptions{}), tunnel.NewSession(tunnel.Options{})
		wg.Go(func() { _ = host.Run(ctx) })
		wg.Go(func() { _ = session.Run(ctx) })
		for range 2 {
			a, b := memPair()
			wg.Go(func() { _ = session.Attach(ctx, a) })
			wg.Go(func() { _ = host.Serve(ctx, b, "alice") })
			synctest.Wait()
		}
		if n := session.Stats().Carriers; n != 2 {
			t.Fatalf("%d carriers", n)
		}
		l := &link{client: &Client{o: ClientOptions{Carriers: 1, SurplusAfter: 30 * time.Second}}, session: session}
		var given atomic.Int32
		for range 2 {
			wg.Go(func() { l.awaitSurplus(ctx, time.Now(), func(error) { given.Add(1) }) })
		}
		time.Sleep(41 * time.Second)
		synctest.Wait()
		if n := given.Load(); n != 1 {
			t.Errorf("%d of 2 carriers were given up at once", n)
		}
	})
}

// TestGrowthThatHarms: when carriers are lost soon after another was added, as where one connection is allowed, no more
// are added for a while.
func TestGrowthThatHarms(t *testing.T) {
	w := crowdedWorld(t, func(o *ClientOptions) {})
	for range 4 {
		w.download(t)
	}
	w.until("another carrier", func() bool { return w.carriersNow() > 1 })
	w.cut()
	w.until("the log line", func() bool { return strings.Contains(w.log.text(), "adding none for a while") })
	w.until("a carrier", func() bool { return w.carriersNow() == 1 })
	opened := w.client.Status().Counters.CarriersOpened
	for range 3 { // it is crowded, again and again
		if err := w.client.sessions.all()[0].Crowded(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.client.Status().Counters.CarriersOpened - opened; n > 0 {
		t.Errorf("%d carriers were added", n)
	}
}
