package tunnel

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/tunnel/internal/frame"
)

// TestGoAwayLostWithOneOfTwo: a GOAWAY in flight on a carrier that is lost goes
// out over the other at once.
func TestGoAwayLostWithOneOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		w1 := newWire(time.Millisecond, 0)
		p.start(w1)
		w2 := newWire(time.Millisecond, 0)
		p.join(w2, "alice")
		time.Sleep(time.Second)
		synctest.Wait()
		s := p.server
		w1.hold(true)
		w2.hold(true)
		s.GoAway(testGoAway)
		time.Sleep(10 * time.Millisecond)
		s.mu.Lock()
		var on *attachment
		for _, a := range s.attached {
			if a.asks > 0 {
				on = a
			}
		}
		s.mu.Unlock()
		lost, kept := w1, w2
		if on.c == Carrier(w2.server) {
			lost, kept = w2, w1
		}
		lost.client.Close(errCut)
		lost.server.Close(errCut)
		kept.hold(false)
		start := time.Now()
		<-p.client.GoingAway()
		if d := time.Since(start); d > time.Second {
			t.Errorf("the GOAWAY came %v after its carrier was lost, although another one lived", d)
		}
	})
}

// TestMaxStreamsLostWithOneOfTwo: the same for MAX_STREAMS, for which Open waits.
func TestMaxStreamsLostWithOneOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{Options: Options{MaxStreams: 1}})
		w1 := newWire(time.Millisecond, 0)
		p.start(w1)
		w2 := newWire(time.Millisecond, 0)
		p.join(w2, "alice")
		time.Sleep(time.Second)
		c, s := p.open()
		c.Close()
		io.ReadAll(s)
		time.Sleep(time.Second)
		// the handler ends: FIN and, once that is acked, MAX_STREAMS go out; cut the carrier that has it
		s.Close()
		done := make(chan time.Duration, 1)
		ctx, cancel := context.WithTimeout(p.ctx, time.Hour)
		defer cancel()
		start := time.Now()
		go func() { _, err := p.client.Open(ctx); _ = err; done <- time.Since(start) }()
		// find when maxStreams was sent
		for {
			time.Sleep(100 * time.Microsecond)
			p.server.mu.Lock()
			var on *attachment
			for _, a := range p.server.attached {
				for i := range a.records.len() {
					if a.records.at(i).kind == recordMaxStreams {
						on = a
					}
				}
			}
			p.server.mu.Unlock()
			if on == nil {
				continue
			}
			lost := w1
			if on.c == Carrier(w2.server) {
				lost = w2
			}
			lost.client.Close(errCut)
			lost.server.Close(errCut)
			lost.client.set(func() { lost.client.inbox = nil })
			break
		}
		if d := <-done; d > 2*time.Second {
			t.Errorf("Open waited %v for a MAX_STREAMS that was lost with one of two carriers", d)
		}
	})
}

// TestHostileAckDelay: an ack that claims to have waited an hour must not make
// the round trip negative.
func TestHostileAckDelay(t *testing.T) {
	b := newBed(t, true, Options{})
	b.send(frame.AppendStream(nil, b.peerID(0), 0, []byte("x"), false, true))
	st, err := b.session.Accept(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	st.Write(make([]byte, 30000))
	b.expect(frame.TypeStream)
	b.send(frame.AppendCarrierAck(nil, 2, uint64(time.Hour/time.Microsecond)), frame.AppendPing(nil, 7))
	b.expect(frame.TypePong)
	if rtt := b.session.Stats().RTT; rtt < 0 {
		t.Errorf("the round trip is %v", rtt)
	}
}

// TestInlineFailureCause: with two carriers, one whose write fails in a stream's
// own writer is reported as what failed.
func TestInlineFailureCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		causes := make(chan error, 8)
		p := newPair(t, Options{Trace: &Trace{CarrierLost: func(err error) { causes <- err }}}, HostOptions{})
		fc := &failCarrier{}
		w1 := newWire(time.Millisecond, 0)
		p.wg.Go(func() { fc.Carrier = w1.client; p.client.Attach(p.ctx, fc) })
		p.wg.Go(func() { p.host.Serve(p.ctx, w1.server, "alice") })
		var err error
		if p.server, err = p.host.Accept(p.ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		c, _ := p.open() // its home is the first carrier
		w2 := newWire(time.Millisecond, 0)
		p.join(w2, "alice")
		time.Sleep(time.Second)
		fc.err = errors.New("broken pipe")
		c.Write([]byte("x"))
		if got := <-causes; errors.Is(got, ErrReplaced) {
			t.Errorf("the carrier's write failed with %q, the reported cause is %q", fc.err, got)
		}
	})
}

type failCarrier struct {
	Carrier
	err error
}

func (f *failCarrier) WriteMessages(m [][]byte) error {
	if f.err != nil {
		return f.err
	}
	return f.Carrier.WriteMessages(m)
}
