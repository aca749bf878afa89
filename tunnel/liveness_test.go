package tunnel

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"sallyport/tunnel/internal/frame"
)

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
		time.Sleep(time.Until(start.Add(9900 * time.Millisecond)))
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
