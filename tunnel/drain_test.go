package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/tunnel/internal/frame"
)

var testGoAway = GoAway{Code: CloseShutdown, Delay: 1500 * time.Millisecond, URL: "wss://elsewhere/tunnel", Reason: "moving house"}

func TestGoAway(t *testing.T) {
	for _, from := range []string{"client", "server"} {
		t.Run("from the "+from, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newPair(t, Options{}, HostOptions{})
				p.start(newWire(time.Millisecond, 0))
				leaving, staying := p.client, p.server
				if from == "server" {
					leaving, staying = p.server, p.client
				}
				c, s := p.open()
				if _, ok := staying.PeerGoAway(); ok {
					t.Error("PeerGoAway before there was one")
				}
				leaving.GoAway(testGoAway)
				leaving.GoAway(GoAway{Reason: "the second one does not count"})
				<-staying.GoingAway()
				if g, ok := staying.PeerGoAway(); !ok || g != testGoAway {
					t.Errorf("the peer got %+v, %v", g, ok)
				}
				<-leaving.GoingAway() // the echo
				for _, x := range []*Session{leaving, staying} {
					if _, err := x.Open(p.ctx); !errors.Is(err, ErrGoingAway) {
						t.Errorf("open: %v", err)
					}
				}
				exchange(t, c, s, 100_000) // what is under way goes on
				if leaving.Err() != nil || staying.Err() != nil {
					t.Errorf("%v, %v", leaving.Err(), staying.Err())
				}
			})
		})
	}
}

// TestGoAwayCrossesAnOpen checks that a stream opened before the GOAWAY was
// read is accepted.
func TestGoAwayCrossesAnOpen(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(50*time.Millisecond, 0))
		p.server.GoAway(testGoAway)
		st, err := p.client.Open(p.ctx)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(st, "in time")
		got, err := p.server.Accept(p.ctx)
		if err != nil {
			t.Fatal(err)
		}
		mustRead(t, got, "in time")
	})
}

func TestGoAwayWakesWaitingOpens(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{Options: Options{MaxStreams: 2}})
		p.start(newWire(time.Millisecond, 0))
		p.open()
		p.open()
		result := make(chan error, 1)
		go func() { _, err := p.client.Open(p.ctx); result <- err }()
		synctest.Wait()
		p.server.GoAway(testGoAway)
		if err := <-result; !errors.Is(err, ErrGoingAway) {
			t.Errorf("open: %v", err)
		}
	})
}

// TestGoAwaySurvivesLoss checks that a GOAWAY under way is sent again.
func TestGoAwaySurvivesLoss(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		w := newWire(time.Millisecond, 0)
		p.start(w)
		w.hold(true)
		p.server.GoAway(testGoAway)
		time.Sleep(100 * time.Millisecond)
		w.client.Close(errCut)
		w.server.Close(errCut)
		p.join(newWire(time.Millisecond, 0), "alice")
		<-p.client.GoingAway()
		<-p.server.GoingAway()
	})
}

func TestDrain(t *testing.T) {
	for _, who := range []string{"client", "server", "both"} {
		t.Run(who, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newPair(t, Options{}, HostOptions{})
				p.start(newWire(5*time.Millisecond, 1_000_000))
				c, s := p.open()
				drained := make(chan error, 2)
				n := 0
				for name, x := range map[string]*Session{"client": p.client, "server": p.server} {
					if who == name || who == "both" {
						n++
						go func() { drained <- x.Drain(p.ctx) }()
					}
				}
				time.Sleep(time.Second)
				if len(drained) != 0 {
					t.Fatal("drained while a stream is open")
				}
				exchange(t, c, s, 3<<20)
				c.Close()
				s.Close()
				for range n {
					if err := <-drained; err != nil {
						t.Error(err)
					}
				}
				<-p.client.Done()
				<-p.server.Done()
				mustCloseError(t, p.client.Err(), CloseDone)
				mustCloseError(t, p.server.Err(), CloseDone)
			})
		})
	}
}

// TestDrainLosesNothing reads the last bytes after the session is over.
func TestDrainLosesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(5*time.Millisecond, 0))
		c, s := p.open()
		fmt.Fprint(s, "last words")
		s.Close()
		c.CloseWrite()
		if err := p.server.Drain(p.ctx); err != nil {
			t.Fatal(err)
		}
		<-p.client.Done()
		if got, err := io.ReadAll(c); string(got) != "last words" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func TestDrainDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(5*time.Millisecond, 0))
		c, s := p.open()
		ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
		defer cancel()
		start := time.Now()
		if err := p.server.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 30*time.Second {
			t.Fatalf("drain: %v after %v", err, time.Since(start))
		}
		for _, st := range []*Stream{c, s} {
			_, err := st.Read(make([]byte, 1))
			if ce := mustCloseError(t, err, CloseShutdown); ce.Reason == "" {
				t.Error("no reason")
			}
		}
	})
}

func TestDrainWithoutPeer(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		fresh := NewSession(Options{})
		if err := fresh.Drain(t.Context()); err != nil {
			t.Errorf("a session that was never made: %v", err)
		}
		p := newPair(t, Options{}, HostOptions{})
		w := newWire(time.Millisecond, 0)
		p.start(w)
		w.client.Close(errCut)
		synctest.Wait()
		if err := p.client.Drain(p.ctx); err != nil {
			t.Errorf("a detached session without streams: %v", err)
		}
	})
}

// TestCloseIsHeard checks that a CLOSE reaches the peer with code and reason,
// and that Run returns nil only when that was the plan.
func TestCloseIsHeard(t *testing.T) {
	for code := CloseDone; code <= CloseRevoked; code++ {
		t.Run(code.String(), func(t *testing.T) {
			bothSides(t, Options{}, func(t *testing.T, b *bed) {
				ran := make(chan error, 1)
				go func() { ran <- b.session.Run(b.ctx) }()
				b.session.Close(&CloseError{Code: code, Reason: "because"})
				if f := b.expect(frame.TypeClose); CloseCode(f.Code) != code || string(f.Reason) != "because" {
					t.Errorf("told code %d, %q", f.Code, f.Reason)
				}
				if _, err := b.next(); err == nil {
					t.Error("something comes after CLOSE")
				}
				if err := <-ran; (err == nil) != (code == CloseDone) {
					t.Errorf("run: %v", err)
				}
			})
		})
	}
}

// TestCloseDoesNotWaitLong checks that a peer that takes nothing does not keep
// a session that is over.
func TestCloseDoesNotWaitLong(t *testing.T) {
	bothSides(t, Options{}, func(t *testing.T, b *bed) {
		b.end.set(func() { b.end.stuck = true })
		start := time.Now()
		b.session.Close(&CloseError{Code: CloseShutdown})
		<-b.ended
		if took := time.Since(start); took > closeLinger {
			t.Errorf("took %v", took)
		}
	})
}

// TestPeerCloses checks what a CLOSE of the peer's does to calls and Run.
func TestPeerCloses(t *testing.T) {
	bothSides(t, Options{}, func(t *testing.T, b *bed) {
		st, _ := b.session.Open(b.ctx)
		b.send(frame.AppendStream(nil, st.ID(), 0, []byte("before"), false, false), frame.AppendClose(nil, uint64(CloseShutdown), "night"))
		err := <-b.ended
		if ce := mustCloseError(t, err, CloseShutdown); !ce.Remote || ce.Reason != "night" {
			t.Errorf("%#v", ce)
		}
		mustRead(t, st, "before")
		_, err = st.Read(make([]byte, 1))
		mustCloseError(t, err, CloseShutdown)
		if n := b.count()[frame.TypeClose]; n != 0 {
			t.Error("a CLOSE was answered")
		}
	})
}
