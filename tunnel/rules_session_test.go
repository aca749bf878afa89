package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
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

func TestRule8(t *testing.T) {
	resume := func(b *bed, identity string, change func(h *frame.Hello)) {
		h := rawHello()
		h.Session, h.Secret, h.Carrier = b.hello.Session, b.hello.Secret, 2
		change(h)
		b.dialAs(identity, frame.AppendHello(nil, h))
	}
	for name, c := range map[string]struct {
		identity string
		change   func(h *frame.Hello)
		code     CloseCode
	}{
		"wrong secret":   {"alice", func(h *frame.Hello) { h.Secret[31] ^= 1 }, CloseRefused},
		"wrong identity": {"mallory", func(h *frame.Hello) {}, CloseRefused},
		"both wrong":     {"mallory", func(h *frame.Hello) { h.Secret[0] ^= 1 }, CloseRefused},
		"wrong session":  {"alice", func(h *frame.Hello) { h.Session[0] ^= 1 }, CloseUnknownSession},
	} {
		t.Run(name+" ends only that carrier", func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				b := newBed(t, true, Options{})
				first, hello := b.rawPeer, b.hello
				resume(b, c.identity, c.change)
				f := b.expect(frame.TypeClose)
				if CloseCode(f.Code) != c.code || strings.Contains(string(f.Reason), "alice") {
					t.Errorf("told %v, %q", CloseCode(f.Code), f.Reason)
				}
				if bytes.Contains(f.Reason, hello.Secret[:]) {
					t.Error("the reason holds the secret")
				}
				mustCloseError(t, <-b.ended, c.code)
				first.send(frame.AppendPing(nil, 7))
				for first.expect(frame.TypePong).Count != 7 {
				}
				if b.session.Err() != nil {
					t.Errorf("the session ended: %v", b.session.Err())
				}
			})
		})
	}
	t.Run("right secret and identity resume", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			b := newBed(t, true, Options{})
			b.end.Close(nil)
			<-b.ended
			hello := b.hello
			resume(b, "alice", func(*frame.Hello) {})
			if h := b.reply(); h.Session != hello.Session || h.Secret != hello.Secret || len(h.Received) != 1 {
				t.Errorf("the reply: %+v", h)
			}
			synctest.Wait() // the reply goes out before the carrier joins
			if st := b.session.Stats(); st.Resumes != 1 || st.Carriers != 1 {
				t.Errorf("%+v", st)
			}
		})
	})
	t.Run("unknown session beside a live carrier ends only that attach", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := newPair(t, Options{}, HostOptions{})
			p.start(newWire(time.Millisecond, 0))
			other := newHostBed(t, HostOptions{}) // another replica behind the same name
			w := newWire(time.Millisecond, 0)
			go other.host.Serve(other.ctx, w.server, "alice")
			mustCloseError(t, p.client.Attach(p.ctx, w.client), CloseUnknownSession)
			if p.client.Err() != nil {
				t.Fatalf("the session ended: %v", p.client.Err())
			}
			p.open()
		})
	})
	for name, reply := range map[string][]byte{
		"shutting down": frame.AppendClose(nil, uint64(CloseShutdown), "later"),
		"limit":         frame.AppendClose(nil, uint64(CloseLimit), "full"),
		"nonsense":      {0xff},
	} {
		t.Run("a failed attach without a carrier keeps the session/"+name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				b := newBed(t, false, Options{})
				st, _ := b.session.Open(b.ctx)
				b.end.Close(nil)
				<-b.ended
				fmt.Fprint(st, "waits")
				b.accept()
				b.reply()
				b.send(reply)
				if err := <-b.ended; err == nil || b.session.Err() != nil {
					t.Fatalf("attach: %v; session: %v", err, b.session.Err())
				}
				b.accept()
				b.reply()
				h := rawHello()
				h.Session, h.Secret = frame.SessionID{1}, frame.Secret{2}
				b.send(frame.AppendHello(nil, h))
				if f := b.expect(frame.TypeStream); string(f.Data) != "waits" {
					t.Fatalf("sent %q", f.Data)
				}
			})
		})
	}
	t.Run("a session that was never used dies with its carrier", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			b := newHostBed(t, HostOptions{})
			b.dial(rawHello())
			b.reply()
			b.end.Close(nil)
			<-b.ended
			synctest.Wait()
			if n := len(b.host.Sessions()); n != 0 {
				t.Fatalf("%d sessions are left", n)
			}
		})
	})
	t.Run("a resume proves that the session is used", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			b := newHostBed(t, HostOptions{})
			b.dial(rawHello())
			b.hello = b.reply() // the client loses this carrier before it said more
			hello := b.hello
			resume(b, "alice", func(h *frame.Hello) { h.Received = []frame.Received{{Carrier: 1}} })
			if h := b.reply(); h.Session != hello.Session {
				t.Fatalf("the reply: %+v", h)
			}
			b.send(frame.AppendPing(nil, 3))
			b.expect(frame.TypePong)
		})
	})
	t.Run("what had arrived is not sent again", func(t *testing.T) {
		inBubble(t, testResumeCounts)
	})
}

// testResumeCounts lets a carrier die that had delivered, without an ack, one
// of two messages: only the other comes again.
func testResumeCounts(t *testing.T) {
	b := newBed(t, true, Options{})
	st, _ := b.session.Open(b.ctx)
	fmt.Fprint(st, "arrived")
	if f := b.expect(frame.TypeStream); string(f.Data) != "arrived" {
		t.Fatalf("sent %q", f.Data)
	}
	synctest.Wait()
	b.session.mu.Lock()
	arrived := b.session.attached[0].sentCount
	b.session.mu.Unlock()
	fmt.Fprint(st, "lost")
	synctest.Wait()
	b.end.Close(nil)
	<-b.ended
	h := rawHello()
	h.Session, h.Secret, h.Carrier = b.hello.Session, b.hello.Secret, 2
	h.Received = []frame.Received{{Carrier: 1, Count: arrived}}
	b.dial(h)
	b.reply()
	if f := b.expect(frame.TypeStream); string(f.Data) != "lost" || f.Offset != 7 {
		t.Fatalf("sent again: %q at %d", f.Data, f.Offset)
	}
	if n := b.session.Stats().Replayed; n != 4 {
		t.Errorf("%d bytes replayed, want 4", n)
	}
	h.Carrier, h.Received = 3, []frame.Received{{Carrier: 2, Count: 1000}}
	b.dial(h)
	if f := b.expect(frame.TypeClose); CloseCode(f.Code) != CloseProtocol {
		t.Errorf("a count beyond what was sent: code %d", f.Code)
	}
}

func TestRule9(t *testing.T) {
	t.Run("a detached session ends after the server's timeout", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := newPair(t, Options{}, HostOptions{Options: Options{ResumeTimeout: time.Minute}})
			w := newWire(time.Millisecond, 0)
			p.start(w)
			c, s := p.open()
			start := time.Now()
			w.client.Close(errCut)
			_, err := s.Read(make([]byte, 1))
			mustCloseError(t, err, CloseExpired)
			if took := time.Since(start); took < time.Minute || took > 62*time.Second {
				t.Errorf("the server kept it for %v", took)
			}
			_, err = c.Read(make([]byte, 1))
			if ce := mustCloseError(t, err, CloseExpired); ce.Reason == "" {
				t.Error("no reason")
			}
			if took := time.Since(start); took < 90*time.Second || took > 92*time.Second {
				t.Errorf("the client tried for %v, want the server's minute and 30 s", took)
			}
			if n := len(p.host.Sessions()); n != 0 {
				t.Errorf("%d sessions are left", n)
			}
		})
	})
	t.Run("within the timeout it resumes, and the clock starts anew", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := newPair(t, Options{}, HostOptions{Options: Options{ResumeTimeout: time.Minute}})
			w := newWire(time.Millisecond, 0)
			p.start(w)
			c, s := p.open()
			for range 5 {
				w.client.Close(errCut)
				time.Sleep(59 * time.Second)
				w = newWire(time.Millisecond, 0)
				p.join(w, "alice")
				fmt.Fprint(c, "alive")
				mustRead(t, s, "alive")
			}
		})
	})
	t.Run("after it, the server answers unknown", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := newPair(t, Options{}, HostOptions{Options: Options{ResumeTimeout: time.Minute}})
			w := newWire(time.Millisecond, 0)
			p.start(w)
			w.client.Close(errCut)
			time.Sleep(70 * time.Second)
			attach, _ := p.join(newWire(time.Millisecond, 0), "alice")
			if ce := mustCloseError(t, <-attach, CloseUnknownSession); !strings.Contains(ce.Reason, "expired") {
				t.Errorf("reason %q", ce.Reason)
			}
			mustCloseError(t, p.client.Err(), CloseUnknownSession)
		})
	})
	t.Run("number of detached sessions", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			b := newHostBed(t, HostOptions{MaxDetached: 2})
			first := b.detachOne(t)
			time.Sleep(10 * time.Millisecond)
			rest := []*Session{b.detachOne(t), b.detachOne(t)}
			time.Sleep(3 * time.Second)
			if ce := mustCloseError(t, first.Err(), CloseExpired); !strings.Contains(ce.Reason, "keeps no more") {
				t.Errorf("reason %q", ce.Reason)
			}
			for _, s := range rest {
				if s.Err() != nil {
					t.Errorf("a younger one ended: %v", s.Err())
				}
			}
		})
	})
	t.Run("bytes of detached sessions", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			b := newHostBed(t, HostOptions{MaxDetachedBytes: 100 << 10})
			b.dial(rawHello())
			b.reply()
			b.send(frame.AppendStream(nil, 0, 0, make([]byte, 60_000), false, true))
			s, err := b.host.Accept(b.ctx)
			if err != nil {
				t.Fatal(err)
			}
			st, err := s.Accept(b.ctx)
			if err != nil {
				t.Fatal(err)
			}
			b.end.Close(nil)
			time.Sleep(3500 * time.Millisecond) // between two sweeps
			if s.Err() != nil {
				t.Fatalf("ended below the bound: %v", s.Err())
			}
			if _, err := st.Write(make([]byte, 64<<10)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
			mustCloseError(t, s.Err(), CloseExpired)
			st.Close()
			if n := b.host.opt.Memory.Used(); n != 0 {
				t.Errorf("%d bytes are still held", n)
			}
		})
	})
	t.Run("a removed identity", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := newPair(t, Options{}, HostOptions{})
			p.start(newWire(time.Millisecond, 0))
			c, s := p.open()
			for _, live := range p.host.Sessions() {
				if live.Identity() == "alice" {
					live.Close(&CloseError{Code: CloseRevoked, Reason: "alice is not welcome any more"})
				}
			}
			for _, st := range []*Stream{c, s} {
				_, err := st.Read(make([]byte, 1))
				if ce := mustCloseError(t, err, CloseRevoked); !strings.Contains(ce.Reason, "not welcome") {
					t.Errorf("reason %q", ce.Reason)
				}
			}
		})
	})
}

// detachOne makes a session that is used and then loses its carrier.
func (b *bed) detachOne(t *testing.T) *Session {
	t.Helper()
	b.dial(rawHello())
	b.reply()
	b.send(frame.AppendPing(nil, 1))
	b.expect(frame.TypePong)
	s, err := b.host.Accept(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	b.end.Close(nil)
	<-b.ended
	return s
}
