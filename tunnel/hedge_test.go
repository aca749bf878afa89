package tunnel

import (
	"bytes"
	"fmt"
	"io"
	"slices"
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

// TestHedgeBesideAsManyAsMayBe checks that a session all of whose carriers have
// gone silent gets another one though it has as many as it may have.
func TestHedgeBesideAsManyAsMayBe(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, first := newHedged(t, Options{})
		wires := []*wire{first}
		for len(wires) < maxCarriers {
			w := newWire(10*time.Millisecond, 0)
			h.join(w, "alice")
			wires = append(wires, w)
		}
		time.Sleep(time.Second)
		if n := h.client.Stats().Carriers; n != maxCarriers {
			t.Fatalf("%d carriers", n)
		}
		c, s := h.open()
		for _, w := range wires {
			w.hold(true)
		}
		start := time.Now()
		for _, a := range h.server.carriers() {
			h.server.mu.Lock()
			a.ping()
			h.server.mu.Unlock()
		}
		for _, a := range h.client.carriers() {
			h.client.mu.Lock()
			a.ping()
			h.client.mu.Unlock()
		}
		fmt.Fprint(c, "x")
		mustRead(t, s, "x")
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		if n := h.client.Stats().Carriers; n > maxCarriers {
			t.Errorf("%d carriers", n)
		}
	})
}

// carriers returns those that are attached.
func (s *Session) carriers() []*attachment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.attached)
}

// TestSilenceDoesNotCountAsRoundTrip checks that a silence is found as soon as
// ever after a carrier has been silent several times.
func TestSilenceDoesNotCountAsRoundTrip(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		w := newWire(10*time.Millisecond, 0)
		p.start(w)
		c, s := p.open()
		for range maxSilences {
			w.hold(true)
			fmt.Fprint(c, "x")
			time.Sleep(4 * time.Second)
			w.hold(false)
			mustRead(t, s, "x")
			time.Sleep(time.Second)
		}
		w.hold(true)
		fmt.Fprint(c, "x")
		time.Sleep(1100 * time.Millisecond)
		if p.client.Stats().Suspect != 1 {
			t.Errorf("it is not suspect after 1.1 s: a round trip counts as %v", p.client.Stats().RTT)
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

// TestSuspectIsLeftForOneThatRecovers checks that of two silent carriers the one
// that speaks again takes over what the other one has.
func TestSuspectIsLeftForOneThatRecovers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		wires := []*wire{newWire(10*time.Millisecond, 0), newWire(10*time.Millisecond, 0)}
		p.start(wires[0])
		p.join(wires[1], "alice")
		time.Sleep(time.Second)
		carriers := p.server.carriers()
		var from, to [2]*Stream
		for i, w := range wires {
			from[i], to[i] = p.open()
			p.server.mu.Lock()
			to[i].home = carriers[i]
			p.server.mu.Unlock()
			w.hold(true)
		}
		for i := range to {
			fmt.Fprint(to[i], "x")
		}
		time.Sleep(3 * time.Second)
		if n := p.server.Stats().Suspect; n != 2 {
			t.Fatalf("%d suspect", n)
		}
		wires[0].hold(false)
		start := time.Now()
		for i := range from {
			mustRead(t, from[i], "x")
		}
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

// TestWriterStuckInASilentCarrier checks that a stream's writer that sits in a
// carrier's write is freed when a hedge takes over: one of little, and one of
// the bulk that ReadFrom writes itself.
func TestWriterStuckInASilentCarrier(t *testing.T) {
	for name, data := range map[string][]byte{"little": []byte("some words"), "bulk": noise(8, 1<<20)} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				h, w := newHedged(t, Options{})
				c, s := h.open()
				time.Sleep(time.Second)
				w.hold(true)
				w.server.set(func() { w.server.stuck = true })
				start := time.Now()
				h.wg.Go(func() {
					half := len(data) / 2
					c.Write(data[:half])
					if _, err := c.ReadFrom(bytes.NewReader(data[half:])); err != nil {
						t.Errorf("ReadFrom: %v", err)
					}
					c.CloseWrite()
				})
				if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d of %d bytes arrived: %v", len(got), len(data), err)
				}
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}
