package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/tunnel/internal/frame"
)

func TestRule6(t *testing.T) {
	t.Run("bulk over carriers of different speed that come and go", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := newPair(t, Options{}, HostOptions{})
			var wires []*wire
			add := func(n int) *wire {
				w := newWire(time.Duration(1+7*(n%5))*time.Millisecond, 5_000_000)
				wires = append(wires, w)
				return w
			}
			p.start(add(0))
			for n := range 3 {
				p.join(add(n+1), "alice")
			}
			c, s := p.open()
			var wg sync.WaitGroup
			for range 5 {
				a, b := p.open()
				wg.Go(func() { exchange(t, a, b, 300_000) })
			}
			done := make(chan struct{})
			go func() { defer close(done); exchange(t, c, s, 3<<20); wg.Wait() }()
			for n := 4; ; n++ {
				select {
				case <-done:
					return
				case <-time.After(31 * time.Millisecond):
				}
				wires[0].client.Close(errCut)
				if n%2 == 0 {
					wires[0].server.Close(errCut)
				}
				wires = wires[1:]
				p.join(add(n), "alice")
			}
		})
	})
	t.Run("frames in any order, overlapping and repeated", func(t *testing.T) {
		bothSides(t, Options{}, func(t *testing.T, b *bed) {
			source := noise(3, 60_000)
			id := b.peerID(0)
			for _, at := range []int{59_000, 10, 30_000, 0, 5, 20_000, 29_000, 10_000, 0, 40_000, 50_000, 45_000} {
				to := min(len(source), at+12_000)
				b.send(frame.AppendStream(nil, id, uint64(at), source[at:to], to == len(source), true))
			}
			st, err := b.session.Accept(b.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(st); err != nil || !bytes.Equal(got, source) {
				t.Fatalf("read %d bytes, %v", len(got), err)
			}
		})
	})
	t.Run("at most eight carriers", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := newPair(t, Options{}, HostOptions{})
			p.start(newWire(0, 0))
			for range maxCarriers - 1 {
				p.join(newWire(0, 0), "alice")
			}
			synctest.Wait()
			attach, _ := p.join(newWire(0, 0), "alice")
			if err := <-attach; !errors.Is(err, ErrTooManyCarriers) {
				t.Fatalf("the ninth: %v", err)
			}
			if n := p.client.Stats().Carriers; n != maxCarriers {
				t.Fatalf("%d carriers", n)
			}
			a, b := p.open()
			exchange(t, a, b, 1<<20)
		})
	})
}

func TestRule7(t *testing.T) {
	t.Run("placeholders are withheld until their own first frame", func(t *testing.T) {
		bothSides(t, Options{}, func(t *testing.T, b *bed) {
			accept := func(want uint64) {
				t.Helper()
				st, err := b.session.Accept(b.ctx)
				if err != nil || st.ID() != want {
					t.Fatalf("accepted %v, %v; want stream %d", st, err, want)
				}
			}
			none := func() {
				t.Helper()
				ctx, cancel := context.WithTimeout(b.ctx, time.Second)
				defer cancel()
				if st, err := b.session.Accept(ctx); err == nil {
					t.Fatalf("accepted stream %d", st.ID())
				}
			}
			b.send(frame.AppendStream(nil, b.peerID(4), 0, []byte("x"), false, true))
			accept(b.peerID(4))
			none()
			if n := b.session.Stats().Streams; n != 5 {
				t.Fatalf("%d streams are open, want 5", n)
			}
			b.send(frame.AppendCredit(nil, b.peerID(3), 1<<20)) // not a sign of the application's
			none()
			b.send(frame.AppendStream(nil, b.peerID(1), 0, nil, true, true))
			accept(b.peerID(1))
			b.send(frame.AppendResetStream(nil, b.peerID(0), 9, 0, ""))
			accept(b.peerID(0))
			b.send(frame.AppendStream(nil, b.peerID(2), 5, []byte("later"), false, true))
			accept(b.peerID(2))
			none()
		})
	})
	t.Run("a frame for a forgotten stream is ignored", func(t *testing.T) {
		bothSides(t, Options{}, func(t *testing.T, b *bed) {
			id := b.peerID(0)
			b.send(frame.AppendStream(nil, id, 0, []byte("x"), true, true))
			st, err := b.session.Accept(b.ctx)
			if err != nil {
				t.Fatal(err)
			}
			st.Close()
			b.ackAll()
			eventually(t, time.Second, "forgotten", func() bool { return b.session.Stats().Streams == 0 })
			b.send(frame.AppendStream(nil, id, 100, []byte("y"), false, true))
			b.send(frame.AppendResetStream(nil, id, 1, 0, ""))
			b.send(frame.AppendStopSending(nil, id, 1, ""))
			b.send(frame.AppendCredit(nil, id, 1<<40))
			b.send(frame.AppendDatagram(nil, id, []byte("z")))
			b.send(frame.AppendPing(nil, 9))
			for b.expect(frame.TypePong).Count != 9 {
			}
			if b.session.Err() != nil || b.session.Stats().Streams != 0 {
				t.Fatalf("%v, %d streams", b.session.Err(), b.session.Stats().Streams)
			}
		})
	})
	t.Run("ids are used in order", func(t *testing.T) {
		bothSides(t, Options{}, func(t *testing.T, b *bed) {
			for n := range uint64(5) {
				st, err := b.session.Open(b.ctx)
				if err != nil || st.ID() != b.ownID(n) {
					t.Fatalf("stream %d: %v, %v", n, st, err)
				}
			}
		})
	})
	t.Run("a stream stays until all is acked", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			b := newBed(t, true, Options{})
			st, _ := b.session.Open(b.ctx)
			st.Close()
			b.send(frame.AppendStream(nil, st.ID(), 0, nil, true, true))
			time.Sleep(time.Second)
			if n := b.session.Stats().Streams; n != 1 {
				t.Fatalf("%d streams before the FIN is acked", n)
			}
			b.ackAll()
			eventually(t, time.Second, "forgotten", func() bool { return b.session.Stats().Streams == 0 })
		})
	})
	for _, limit := range []uint64{1, 2, 3, 4, 16} {
		t.Run(fmt.Sprintf("slots come back when the handler has ended, %d at a time", limit), func(t *testing.T) {
			inBubble(t, func(t *testing.T) { testSlots(t, limit) })
		})
	}
}

// TestRule7SlotsAreTold opens, ends and holds streams so that slots come back
// long before the last one that the peer knows of is used.
func TestRule7SlotsAreTold(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{Options: Options{MaxStreams: 4}})
		p.start(newWire(time.Millisecond, 0))
		for range 2 {
			c, s := p.open()
			c.Close()
			s.Close()
		}
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
		defer cancel()
		for n := range 4 {
			c, err := p.client.Open(ctx)
			if err != nil {
				t.Fatalf("open with %d of 4 streams: %v", n, err)
			}
			fmt.Fprint(c, "x")
		}
	})
}

// ackAll acks everything that the session has sent on the raw peer's carrier.
func (b *bed) ackAll() {
	synctest.Wait()
	b.session.mu.Lock()
	n := b.session.attached[len(b.session.attached)-1].sentCount
	b.session.mu.Unlock()
	b.send(frame.AppendCarrierAck(nil, n, 0))
}

// testSlots opens as many streams as a server allows. Neither end of a stream
// frees its slot, only the end of its handler does.
func testSlots(t *testing.T, limit uint64) {
	p := newPair(t, Options{}, HostOptions{Options: Options{MaxStreams: limit}})
	p.start(newWire(time.Millisecond, 0))
	tryOpen := func() (*Stream, error) {
		ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
		defer cancel()
		return p.client.Open(ctx)
	}
	var live []*Stream // the server's ends
	for round := range 20 {
		for uint64(len(live)) < limit {
			c, err := tryOpen()
			if err != nil {
				t.Fatalf("round %d: open with %d of %d streams: %v", round, len(live), limit, err)
			}
			c.Reset(20, "rapid") // over at once, as far as the opener is concerned
			s, err := p.server.Accept(p.ctx)
			if err != nil {
				t.Fatal(err)
			}
			live = append(live, s)
		}
		if _, err := tryOpen(); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("round %d: a stream beyond the limit of %d: %v", round, limit, err)
		}
		for range 1 + round%len(live) { // some handlers end, others go on
			live[0].Close()
			live = live[1:]
		}
	}
}
