package tunnel

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/tunnel/internal/frame"
)

// hedged is a pair whose client dials a new wire whenever the session asks.
type hedged struct {
	*pair
	mu     sync.Mutex
	wires  []*wire // what it dialled
	broken bool    // dialled wires are silent too
}

// hedges returns how often the session asked.
func (h *hedged) hedges() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.wires)
}

func (h *hedged) setBroken(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = on
}

func newHedged(t *testing.T, o Options) (h *hedged, first *wire) {
	h = &hedged{pair: newPair(t, o, HostOptions{Options: o})}
	first = newWire(10*time.Millisecond, 0)
	h.start(first)
	h.wg.Go(func() {
		for h.client.Hedge(h.ctx) == nil {
			w := newWire(10*time.Millisecond, 0)
			h.mu.Lock()
			w.hold(h.broken)
			h.wires = append(h.wires, w)
			h.mu.Unlock()
			h.join(w, "alice")
			time.Sleep(time.Second) // as an agent's dialling takes
		}
	})
	return h, first
}

func TestIdleCarrierIsPinged(t *testing.T) {
	bothSides(t, Options{KeepAlive: 10 * time.Second}, func(t *testing.T, b *bed) {
		b.ackAll()
		for range 5 {
			last := time.Now()
			f := b.expect(frame.TypePing)
			if idle := time.Since(last); idle < 9*time.Second || idle > 11*time.Second {
				t.Errorf("a ping after %v of idleness, want 10 s give or take a tenth", idle)
			}
			b.send(frame.AppendPong(nil, f.Count))
			b.ackAll()
		}
		if b.session.Stats().Suspect != 0 {
			t.Error("suspect although it answers")
		}
	})
}

func TestBusyCarrierIsNotPinged(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{KeepAlive: 10 * time.Second}, HostOptions{})
		p.start(newWire(time.Millisecond, 0))
		c, s := p.open()
		p.client.mu.Lock()
		before := p.client.attached[0].pingSeq
		p.client.mu.Unlock()
		for range 60 {
			fmt.Fprint(c, "x")
			mustRead(t, s, "x")
			time.Sleep(time.Second)
		}
		p.client.mu.Lock()
		defer p.client.mu.Unlock()
		if n := p.client.attached[0].pingSeq - before; n != 0 {
			t.Errorf("%d pings on a carrier that was never idle", n)
		}
	})
}

// TestSilence walks through the stages: suspect and hedge after a second, dead
// after ten.
func TestSilence(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, w := newHedged(t, Options{})
		c, s := h.open()
		time.Sleep(time.Second)
		start := time.Now()
		w.hold(true)
		fmt.Fprint(c, "anybody?")
		mustRead(t, s, "anybody?")
		if took := time.Since(start); took < suspectAfter || took > 1500*time.Millisecond {
			t.Errorf("the data took %v by way of a hedge", took)
		}
		if h.hedges() != 1 {
			t.Errorf("%d hedges", h.hedges())
		}
		fmt.Fprint(s, "here")
		mustRead(t, c, "here")
		time.Sleep(start.Add(9900 * time.Millisecond).Sub(time.Now()))
		if st := h.client.Stats(); st.Carriers != 2 || st.Suspect != 1 {
			t.Errorf("before it is dead: %+v", st)
		}
		time.Sleep(200 * time.Millisecond)
		if st := h.client.Stats(); st.Carriers != 1 || st.CarriersLost != 1 || st.Suspect != 0 {
			t.Errorf("after ten seconds: %+v", st)
		}
		if h.hedges() != 1 {
			t.Errorf("%d hedges", h.hedges())
		}
	})
}

func TestDeadCarrierSaysSo(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var lost []error
		o := Options{Trace: &Trace{CarrierLost: func(cause error) { lost = append(lost, cause) }}}
		p := newPair(t, o, HostOptions{})
		w := newWire(time.Millisecond, 0)
		attach, _ := p.start(w)
		time.Sleep(time.Second)
		w.hold(true)
		start := time.Now()
		p.wg.Go(func() { p.client.Ping(p.ctx) })
		if err := <-attach; !errors.Is(err, ErrDead) || time.Since(start) != 10*time.Second {
			t.Errorf("attach: %v after %v", err, time.Since(start))
		}
		if len(lost) != 1 || !errors.Is(lost[0], ErrDead) {
			t.Errorf("traced: %v", lost)
		}
	})
}

// TestSlowAnswersAreNotSuspect checks the 4 round trips of a long path.
func TestSlowAnswersAreNotSuspect(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		w := newWire(400*time.Millisecond, 0)
		p.start(w)
		c, s := p.open()
		time.Sleep(5 * time.Second)
		w.client.set(func() { w.client.latency = 2 * time.Second }) // 2.4 s in all: below 3.2
		w.server.set(func() { w.server.latency = 400 * time.Millisecond })
		fmt.Fprint(c, "x")
		mustRead(t, s, "x")
		for range 30 {
			time.Sleep(100 * time.Millisecond)
			if n := p.client.Stats().Suspect; n != 0 {
				t.Fatal("suspect within 4 round trips")
			}
		}
	})
}

// TestFlowingDataThatStops checks that a client notices within 500 ms and a
// second that a download has stopped, and goes on within 3 s.
func TestFlowingDataThatStops(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, w := newHedged(t, Options{})
		c, s := h.open()
		h.wg.Go(func() {
			for h.ctx.Err() == nil {
				if _, err := s.Write(make([]byte, 20_000)); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
		buf := make([]byte, 64<<10)
		worst := time.Duration(0)
		for at := time.Now(); time.Since(at) < 5*time.Second; {
			if time.Since(at) > time.Second {
				w.hold(true)
			}
			turn := time.Now()
			if _, err := c.Read(buf); err != nil {
				t.Fatal(err)
			}
			worst = max(worst, time.Since(turn))
		}
		if worst < stallAfter || worst > 2*time.Second {
			t.Errorf("the download stood still for %v", worst)
		}
		if h.hedges() != 1 {
			t.Errorf("%d hedges", h.hedges())
		}
		s.Reset(1, "")
	})
}

// TestPauseIsNotSilence checks that a stream that simply stops for a while is
// asked about once, and not suspected.
func TestPauseIsNotSilence(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, _ := newHedged(t, Options{})
		c, s := h.open()
		for range 10 {
			for range 5 {
				fmt.Fprint(s, "x")
				mustRead(t, c, "x")
			}
			time.Sleep(5 * time.Second)
		}
		if h.hedges() != 0 || h.client.Stats().Suspect != 0 {
			t.Errorf("%d hedges", h.hedges())
		}
	})
}

// TestSuspectRecovers checks that a suspect carrier that speaks again is used
// again, and that what had moved to the hedge arrives once.
func TestSuspectRecovers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, w := newHedged(t, Options{})
		c, s := h.open()
		d, e := h.open()
		time.Sleep(time.Second)
		w.hold(true)
		h.wg.Go(func() { exchange(t, d, e, 500_000) })
		fmt.Fprint(c, "moved")
		mustRead(t, s, "moved")
		if n := h.client.Stats().Suspect; n != 1 {
			t.Errorf("%d suspect", n)
		}
		w.hold(false)
		time.Sleep(time.Second)
		if st := h.client.Stats(); st.Suspect != 0 || st.Carriers != 2 {
			t.Errorf("after it recovered: %+v", st)
		}
		if n := h.server.Stats().Suspect; n != 0 {
			t.Error("still suspect at the server")
		}
		h.wires[0].client.Close(errCut)
		fmt.Fprint(c, " and back")
		mustRead(t, s, " and back")
		if st := h.client.Stats(); st.Carriers != 1 || st.Resumes != 0 {
			t.Errorf("over the first carrier: %+v", st)
		}
		c.CloseWrite()
		if rest, err := io.ReadAll(s); len(rest) != 0 || err != nil {
			t.Errorf("something came twice: %q, %v", rest, err)
		}
	})
}

// TestServerMovesAwayFromSuspects checks that a carrier that the client's HELLO
// suspects is left by the server at once, without waiting for its own clock.
func TestServerMovesAwayFromSuspects(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, true, Options{})
		st, _ := b.session.Open(b.ctx)
		st.Write(noise(6, 30_000))
		time.Sleep(100 * time.Millisecond)
		h := rawHello()
		h.Session, h.Secret, h.Carrier, h.Suspects = b.hello.Session, b.hello.Secret, 2, []uint64{1}
		first := b.rawPeer
		b.dial(h)
		start := time.Now()
		b.reply()
		got := 0
		for got < 30_000 {
			got += len(b.expect(frame.TypeStream).Data)
		}
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("sent again after %v", took)
		}
		if n := b.session.Stats().Suspect; n != 1 {
			t.Errorf("%d suspect", n)
		}
		st.Write([]byte("new"))
		if f := b.expect(frame.TypeStream); string(f.Data) != "new" {
			t.Errorf("sent %d bytes over the hedge", len(f.Data))
		}
		synctest.Wait()
		first.send(frame.AppendPing(nil, 9))
		for first.expect(frame.TypePong).Count != 9 {
		}
		if n := b.session.Stats().Suspect; n != 0 {
			t.Error("still suspect after a sign of life")
		}
	})
}

// TestAcksOfTheSuspectStopRepeats checks that what a suspect carrier acks
// after all is not sent again.
func TestAcksOfTheSuspectStopRepeats(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, true, Options{})
		st, _ := b.session.Open(b.ctx)
		st.Write(noise(6, 30_000))
		time.Sleep(2 * time.Second)
		if n := b.session.Stats().Suspect; n != 1 {
			t.Fatalf("%d suspect", n)
		}
		b.ackAll()
		synctest.Wait()
		h := rawHello()
		h.Session, h.Secret, h.Carrier = b.hello.Session, b.hello.Secret, 2
		b.dial(h)
		b.reply()
		time.Sleep(time.Second)
		if n := b.count()[frame.TypeStream]; n != 0 {
			t.Errorf("%d frames were repeated", n)
		}
		if n := b.session.Stats().Replayed; n != 0 {
			t.Errorf("%d bytes replayed", n)
		}
	})
}

// TestIdleSilenceIsFoundAtTheNextPing black-holes an idle session.
func TestIdleSilenceIsFoundAtTheNextPing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, w := newHedged(t, Options{})
		c, s := h.open()
		time.Sleep(time.Second)
		w.hold(true)
		time.Sleep(26 * time.Second)
		if h.hedges() == 0 || h.client.Stats().Carriers == 0 {
			t.Fatalf("nothing was dialled: %+v", h.client.Stats())
		}
		start := time.Now()
		fmt.Fprint(c, "x")
		mustRead(t, s, "x")
		if took := time.Since(start); took > 50*time.Millisecond {
			t.Errorf("after the hedge a byte took %v", took)
		}
		time.Sleep(5 * time.Minute)
		fmt.Fprint(s, "y")
		mustRead(t, c, "y")
		if h.client.Err() != nil || h.server.Err() != nil {
			t.Errorf("%v, %v", h.client.Err(), h.server.Err())
		}
	})
}

// TestHedgesAreLimited black-holes everything: hedges come one at a time, and
// dead carriers go.
func TestHedgesAreLimited(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, w := newHedged(t, Options{HandshakeTimeout: 2 * time.Second})
		c, s := h.open()
		h.setBroken(true)
		time.Sleep(time.Second)
		w.hold(true)
		fmt.Fprint(c, "x")
		for range 80 {
			time.Sleep(100 * time.Millisecond)
			if n := h.client.Stats().Carriers; n > maxCarriers {
				t.Fatalf("%d carriers", n)
			}
		}
		if n := h.hedges(); n < 2 || n > 8 {
			t.Errorf("%d hedges in 8 s", n)
		}
		h.setBroken(false)
		time.Sleep(time.Second)
		mustRead(t, s, "x")
		n := h.hedges()
		time.Sleep(time.Minute)
		if h.hedges() != n {
			t.Errorf("%d more hedges beside a carrier that answers", h.hedges()-n)
		}
	})
}

// TestNoHedgeBesideALiveCarrier checks that one silent carrier of two asks for nothing.
func TestNoHedgeBesideALiveCarrier(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, w := newHedged(t, Options{})
		h.join(newWire(10*time.Millisecond, 0), "alice")
		time.Sleep(time.Second)
		c, s := h.open()
		w.hold(true)
		for range 30 {
			fmt.Fprint(c, "x")
			mustRead(t, s, "x")
			time.Sleep(time.Second)
		}
		if h.hedges() != 0 {
			t.Errorf("%d hedges", h.hedges())
		}
	})
}

// TestOversleep checks that a machine that was suspended does not blame its
// peer: time jumps by an hour while an answer is due.
func TestOversleep(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, false, Options{})
		st, _ := b.session.Open(b.ctx)
		fmt.Fprint(st, "x") // an answer is due from now on
		time.Sleep(100 * time.Millisecond)
		s := b.session
		s.mu.Lock()
		defer s.mu.Unlock()
		a := s.attached[0]
		if a.askedAt.IsZero() {
			t.Fatal("no answer is due")
		}
		jump := time.Now().Add(time.Hour)
		s.tick(jump)
		if a.lost || a.suspect {
			t.Fatalf("after the jump: lost %v (%v), suspect %v", a.lost, a.cause, a.suspect)
		}
		s.tick(jump.Add(a.suspectAfter() - time.Millisecond))
		if a.suspect {
			t.Error("suspect before the peer had a second to answer")
		}
		s.tick(jump.Add(a.suspectAfter()))
		if !a.suspect || a.lost {
			t.Errorf("a second later: suspect %v, lost %v", a.suspect, a.lost)
		}
		for d := time.Second; d <= s.opt.DeadAfter; d += 400 * time.Millisecond {
			s.tick(jump.Add(d))
		}
		s.tick(jump.Add(s.opt.DeadAfter))
		if !a.lost || !errors.Is(a.cause, ErrDead) {
			t.Errorf("ten seconds later: lost %v, %v", a.lost, a.cause)
		}
	})
}

// TestWriterStuckInASilentCarrier checks that a stream's writer that sits in a
// carrier's write is freed when a hedge takes over.
func TestWriterStuckInASilentCarrier(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, w := newHedged(t, Options{})
		c, s := h.open()
		time.Sleep(time.Second)
		w.hold(true)
		w.server.set(func() { w.server.stuck = true })
		start := time.Now()
		for range 5 {
			fmt.Fprint(c, "word ")
		}
		mustRead(t, s, "word word word word word ")
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
