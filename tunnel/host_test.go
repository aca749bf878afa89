package tunnel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/tunnel/internal/frame"
)

func TestHostAdmits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newHostBed(t, HostOptions{Admit: func(identity string, live int) error {
			if live >= 2 {
				return fmt.Errorf("%s has %d sessions, which is all it may", identity, live)
			}
			return nil
		}})
		var sessions []*Session
		for range 2 {
			b.dial(rawHello())
			b.reply()
			b.send(frame.AppendPing(nil, 1))
			s, err := b.host.Accept(b.ctx)
			if err != nil || s.Identity() != "alice" {
				t.Fatalf("accepted %v, %v", s, err)
			}
			sessions = append(sessions, s)
		}
		b.dial(rawHello())
		if f := b.expect(frame.TypeClose); CloseCode(f.Code) != CloseLimit || !strings.Contains(string(f.Reason), "alice has 2") {
			t.Errorf("told code %d, %q", f.Code, f.Reason)
		}
		mustCloseError(t, <-b.ended, CloseLimit)
		b.dialAs("bob", frame.AppendHello(nil, rawHello()))
		b.reply()
		sessions[0].Close(&CloseError{Code: CloseDone})
		time.Sleep(2 * time.Second)
		b.dial(rawHello())
		b.reply()
	})
}

func TestHostDrains(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		w := newWire(time.Millisecond, 0)
		p.start(w)
		c, s := p.open()
		p.host.GoAway(testGoAway)
		<-p.client.GoingAway()

		other := NewSession(Options{})
		ctx := runInTest(t, other.Run)
		nw := newWire(time.Millisecond, 0)
		go p.host.Serve(p.ctx, nw.server, "bob")
		err := other.Attach(ctx, nw.client)
		if ce := mustCloseError(t, err, CloseShutdown); ce.Reason != testGoAway.Reason {
			t.Errorf("refused with %q", ce.Reason)
		}
		if other.Err() != nil {
			t.Errorf("the refused session ended: %v", other.Err())
		}

		w.client.Close(errCut) // resuming is still welcome
		p.join(newWire(time.Millisecond, 0), "alice")
		exchange(t, c, s, 100_000)
	})
}

func TestHostStops(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := NewHost(HostOptions{})
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		ran := make(chan error, 1)
		wg.Go(func() { ran <- h.Run(ctx) })
		client := NewSession(Options{})
		wg.Go(func() { client.Run(t.Context()) })
		w := newWire(time.Millisecond, 0)
		wg.Go(func() { client.Attach(t.Context(), w.client) })
		wg.Go(func() { h.Serve(t.Context(), w.server, "alice") })
		if _, err := h.Accept(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		stop()
		if err := <-ran; err != nil {
			t.Errorf("run: %v", err)
		}
		<-client.Done()
		if ce := mustCloseError(t, client.Err(), CloseShutdown); !ce.Remote || ce.Reason == "" {
			t.Errorf("the client was told %v", ce)
		}
		wg.Wait()
		if _, err := h.Accept(t.Context()); !errors.Is(err, &CloseError{Code: CloseShutdown}) {
			t.Errorf("accept: %v", err)
		}
		nw := newWire(0, 0)
		peer := &rawPeer{t: t, end: nw.client}
		peer.send(frame.AppendHello(nil, rawHello()))
		mustCloseError(t, h.Serve(t.Context(), nw.server, "alice"), CloseShutdown)
		if f := peer.expect(frame.TypeClose); CloseCode(f.Code) != CloseShutdown {
			t.Errorf("told code %d", f.Code)
		}
		if n := len(h.Sessions()); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}

// TestHostForgetsSessionsThatEnd checks every way that a session ends.
func TestHostForgetsSessionsThatEnd(t *testing.T) {
	for name, end := range map[string]func(p *pair, w *wire){
		"client closes":  func(p *pair, w *wire) { p.client.Close(&CloseError{}) },
		"server closes":  func(p *pair, w *wire) { p.server.Close(&CloseError{}) },
		"expires":        func(p *pair, w *wire) { w.client.Close(errCut) },
		"breaks a rule":  func(p *pair, w *wire) { w.client.WriteMessages([][]byte{{0x3f}}) },
		"goes silent":    func(p *pair, w *wire) { w.hold(true) },
		"client drains":  func(p *pair, w *wire) { p.client.Drain(p.ctx) },
		"nobody accepts": func(p *pair, w *wire) {},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newPair(t, Options{}, HostOptions{})
				w := newWire(time.Millisecond, 0)
				if name == "nobody accepts" {
					p.join(w, "alice")
					time.Sleep(time.Second)
					p.client.Close(&CloseError{})
				} else {
					p.start(w)
				}
				end(p, w)
				time.Sleep(5 * time.Minute)
				if n := len(p.host.Sessions()); n != 0 {
					t.Errorf("%d sessions are left", n)
				}
				ctx, cancel := context.WithTimeout(p.ctx, time.Second)
				defer cancel()
				if _, err := p.host.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("accept: %v", err)
				}
			})
		})
	}
}

// TestHostServesManyAtOnce makes and resumes sessions side by side.
func TestHostServesManyAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newHostBed(t, HostOptions{})
		go func() {
			for {
				s, err := b.host.Accept(b.ctx)
				if err != nil {
					return
				}
				go func() {
					st, err := s.Accept(b.ctx)
					if err != nil {
						return
					}
					st.ReadFrom(st)
					st.Close()
				}()
			}
		}()
		var wg sync.WaitGroup
		for i := range 50 {
			client := NewSession(Options{})
			ctx := runInTest(t, client.Run)
			attach := func() *wire {
				w := newWire(time.Duration(i)*time.Millisecond, 0)
				go b.host.Serve(b.ctx, w.server, fmt.Sprint("user ", i))
				go client.Attach(ctx, w.client)
				return w
			}
			w := attach()
			wg.Go(func() {
				st, err := client.Open(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				for n := range 5 {
					word := fmt.Sprint(i, " says ", n, ".")
					fmt.Fprint(st, word)
					got := make([]byte, len(word))
					if _, err := readFull(st, got); err != nil || string(got) != word {
						t.Errorf("echo of %q: %q, %v", word, got, err)
						return
					}
					w.client.Close(errCut)
					w = attach()
				}
				st.Close()
				client.Close(&CloseError{Code: CloseDone})
			})
		}
		wg.Wait()
		synctest.Wait()
	})
}

func readFull(st *Stream, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = st.Read(p[n:])
		n += k
	}
	return n, err
}

// TestLimitMakesRoom: at an identity's limit, a session whose client has left
// gives way to a new one; an attached one does not.
func TestLimitMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("one session only")
		p := newPair(t, Options{}, HostOptions{Admit: func(_ string, live int) error {
			if live >= 1 {
				return full
			}
			return nil
		}})
		l := p.connect()
		if _, err := p.client.Ping(p.ctx); err != nil {
			t.Fatal(err)
		}
		attach := func() (*Session, error) {
			other := NewSession(Options{})
			p.wg.Go(func() { other.Run(p.ctx) })
			link := newWire(time.Millisecond, 0) // it delivers what was written before a close
			p.wg.Go(func() { p.host.Serve(p.ctx, link.server, "alice") })
			failed := make(chan error, 1)
			p.wg.Go(func() { failed <- other.Attach(p.ctx, link.client) })
			time.Sleep(time.Second)
			select {
			case err := <-failed:
				return other, err
			default:
				return other, nil
			}
		}
		if _, err := attach(); !errors.Is(err, &CloseError{Code: CloseLimit, Reason: ""}) {
			t.Fatalf("beside an attached session: %v", err)
		}
		l.cut()
		synctest.Wait()
		if _, err := attach(); err != nil {
			t.Fatalf("beside a session without a carrier: %v", err)
		}
		if !errors.Is(p.server.Err(), &CloseError{Code: CloseExpired}) {
			t.Errorf("the session that was left: %v", p.server.Err())
		}
	})
}
