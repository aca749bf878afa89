package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/tunnel/internal/frame"
)

// The tests TestRule1 to TestRule10 are named after the rules of the protocol
// that must never break; 5 and 10 are in rules_memory_test.go, 6 and 7 in
// rules_session_test.go, 8 and 9 in rules_resume_test.go.

// noise returns n bytes that look random, the same for the same seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// eventually waits until ok, for as long as that may take.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// mustRead reads exactly what it wants to see.
func mustRead(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

// mustStreamError checks that err is a reset or stop of the peer's.
func mustStreamError(t *testing.T, err error, code uint64, reason string) {
	t.Helper()
	var se *StreamError
	if !errors.As(err, &se) || se.Code != code || se.Reason != reason || !se.Remote || !errors.Is(err, net.ErrClosed) {
		t.Fatalf("got %v (%#v), want code %d, %q of the peer's", err, err, code, reason)
	}
}

func mustCloseError(t *testing.T, err error, code CloseCode) *CloseError {
	t.Helper()
	var ce *CloseError
	if !errors.As(err, &ce) || ce.Code != code || !errors.Is(err, net.ErrClosed) {
		t.Fatalf("got %v, want a CloseError with %v", err, code)
	}
	return ce
}

func TestRule1(t *testing.T) {
	t.Run("every byte once and in order over many cuts", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := newPair(t, Options{}, HostOptions{})
			w := newWire(3*time.Millisecond, 20_000_000)
			p.start(w)
			c, s := p.open()
			done := make(chan struct{})
			go func() { defer close(done); exchange(t, c, s, 4<<20) }()
			rng, cuts := rand.New(rand.NewPCG(1, 2)), 0
			for {
				select {
				case <-done:
					if cuts < 5 {
						t.Errorf("only %d cuts", cuts)
					}
					return
				case <-time.After(time.Duration(rng.IntN(40)) * time.Millisecond):
				}
				w.client.Close(errCut)
				w.server.Close(errCut)
				cuts++
				w = newWire(3*time.Millisecond, 20_000_000)
				p.join(w, "alice")
			}
		})
	})
	for name, end := range map[string]func(p *pair, w *wire){
		"session closed here":  func(p *pair, w *wire) { p.server.Close(&CloseError{Code: CloseRevoked}) },
		"session closed there": func(p *pair, w *wire) { p.client.Close(&CloseError{Code: CloseDone}) },
		"no carrier comes":     func(p *pair, w *wire) { w.client.Close(errCut) },
		"agent stops":          func(p *pair, w *wire) { p.stop() },
	} {
		t.Run("never silently short/"+name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newPair(t, Options{}, HostOptions{})
				w := newWire(time.Millisecond, 0)
				p.start(w)
				c, s := p.open()
				fmt.Fprint(c, "half of it")
				fmt.Fprint(s, "half of it")
				time.Sleep(time.Second)
				end(p, w)
				for side, st := range map[string]*Stream{"client": c, "server": s} {
					got, err := io.ReadAll(st)
					if string(got) != "half of it" || !errors.Is(err, net.ErrClosed) {
						t.Errorf("%s read %q, %v: want what had come, then an error", side, got, err)
					}
					if _, err := st.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
						t.Errorf("%s wrote: %v", side, err)
					}
					<-st.Done()
				}
			})
		})
	}
	t.Run("a lost session is never replayed", func(t *testing.T) {
		inBubble(t, testLostSessionNotReplayed)
	})
}

// testLostSessionNotReplayed restarts the server while a request is on its way:
// the client's stream must fail, and the new server must never see it.
func testLostSessionNotReplayed(t *testing.T) {
	p := newPair(t, Options{}, HostOptions{})
	w := newWire(time.Millisecond, 0)
	p.start(w)
	st, err := p.client.Open(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.hold(true)
	fmt.Fprint(st, "DELETE everything")
	w.client.Close(errCut)
	w.server.Close(errCut)
	synctest.Wait()

	restarted := newHostBed(t, HostOptions{})
	w = newWire(time.Millisecond, 0)
	ended := make(chan error, 1)
	p.wg.Go(func() { ended <- restarted.host.Serve(restarted.ctx, w.server, "alice") })
	mustCloseError(t, p.client.Attach(p.ctx, w.client), CloseUnknownSession)
	mustCloseError(t, <-ended, CloseUnknownSession)
	_, err = st.Read(make([]byte, 1))
	if ce := mustCloseError(t, err, CloseUnknownSession); !ce.Remote || !strings.Contains(ce.Error(), "restarted") {
		t.Errorf("the stream ended with %v", ce)
	}
	mustCloseError(t, p.client.Err(), CloseUnknownSession)
	if _, err := p.client.Open(p.ctx); !errors.Is(err, net.ErrClosed) {
		t.Errorf("open on a lost session: %v", err)
	}
	if n := len(restarted.host.Sessions()); n != 0 {
		t.Errorf("the restarted server has %d sessions", n)
	}

	// The client starts anew, without a restart; only new work arrives.
	fresh := NewSession(Options{})
	ctx := runInTest(t, fresh.Run)
	w = newWire(time.Millisecond, 0)
	p.wg.Go(func() { fresh.Attach(p.ctx, w.client) })
	p.wg.Go(func() { restarted.host.Serve(restarted.ctx, w.server, "alice") })
	server, err := restarted.host.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	openPair(ctx, t, fresh, server)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := server.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the new session got another stream: %v", err)
	}
}

func TestRule2(t *testing.T) {
	// lose cuts the carrier so that what is under way is lost, and attaches another.
	lose := func(p *pair, w **wire, under func()) {
		(*w).hold(true)
		under()
		time.Sleep(100 * time.Millisecond)
		(*w).client.Close(errCut)
		(*w).server.Close(errCut)
		*w = newWire(time.Millisecond, 0)
		p.join(*w, "alice")
	}
	both := func(name string, f func(t *testing.T, p *pair, w *wire, from, to *Stream)) {
		for _, way := range []string{"client to server", "server to client"} {
			t.Run(name+"/"+way, func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					p := newPair(t, Options{}, HostOptions{})
					w := newWire(time.Millisecond, 0)
					p.start(w)
					from, to := p.open()
					if way != "client to server" {
						from, to = to, from
					}
					f(t, p, w, from, to)
				})
			})
		}
	}
	both("FIN leaves the other direction open", func(t *testing.T, p *pair, w *wire, from, to *Stream) {
		fmt.Fprint(from, "question")
		from.CloseWrite()
		if got, err := io.ReadAll(to); string(got) != "question" || err != nil {
			t.Fatalf("read %q, %v", got, err)
		}
		time.Sleep(time.Hour)
		fmt.Fprint(to, "answer")
		mustRead(t, from, "answer")
		if _, err := from.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after CloseWrite: %v", err)
		}
	})
	both("FIN under way when the carrier dies", func(t *testing.T, p *pair, w *wire, from, to *Stream) {
		lose(p, &w, func() { fmt.Fprint(from, "question"); from.CloseWrite() })
		if got, err := io.ReadAll(to); string(got) != "question" || err != nil {
			t.Fatalf("read %q, %v", got, err)
		}
		lose(p, &w, func() { fmt.Fprint(to, "answer") })
		mustRead(t, from, "answer")
		lose(p, &w, func() { to.CloseWrite() })
		if _, err := from.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("read: %v", err)
		}
	})
	both("FIN while there is no carrier", func(t *testing.T, p *pair, w *wire, from, to *Stream) {
		w.client.Close(errCut)
		synctest.Wait()
		fmt.Fprint(from, "question")
		from.CloseWrite()
		p.join(newWire(time.Millisecond, 0), "alice")
		if got, err := io.ReadAll(to); string(got) != "question" || err != nil {
			t.Fatalf("read %q, %v", got, err)
		}
	})
	both("abort arrives as abort", func(t *testing.T, p *pair, w *wire, from, to *Stream) {
		from.Reset(42, "gone")
		_, err := to.Read(make([]byte, 1))
		mustStreamError(t, err, 42, "gone")
		_, err = to.Write([]byte("x"))
		mustStreamError(t, err, 42, "gone")
	})
	both("abort under way when the carrier dies", func(t *testing.T, p *pair, w *wire, from, to *Stream) {
		lose(p, &w, func() { fmt.Fprint(from, "data"); from.Reset(42, "gone") })
		_, err := io.ReadAll(to)
		mustStreamError(t, err, 42, "gone")
		<-to.Done()
		to.Close()
		eventually(t, time.Minute, "both ends forget the stream", func() bool {
			return p.client.Stats().Streams+p.server.Stats().Streams == 0
		})
	})
	both("stop under way when the carrier dies", func(t *testing.T, p *pair, w *wire, from, to *Stream) {
		lose(p, &w, func() { to.CloseRead(43, "enough") })
		eventually(t, time.Minute, "the writer is stopped", func() bool {
			_, err := from.Write(make([]byte, 1000))
			if err != nil {
				mustStreamError(t, err, 43, "enough")
			}
			return err != nil
		})
		fmt.Fprint(to, "still open")
		mustRead(t, from, "still open")
	})
	both("close after half-close is not an abort", func(t *testing.T, p *pair, w *wire, from, to *Stream) {
		big := noise(1, 300_000)
		var wg sync.WaitGroup
		wg.Go(func() {
			from.Write(big)
			from.CloseWrite()
		})
		got, err := io.ReadAll(to)
		if !bytes.Equal(got, big) || err != nil {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		wg.Wait()
		to.Close()
		if _, err := from.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("after the acceptor's Close: %v", err)
		}
	})
}

// TestRule3 checks the tunnel's part: a refusal arrives as it was given,
// whatever happens to the carrier. The causes themselves are package proxy's.
func TestRule3(t *testing.T) {
	long := strings.Repeat("ü", 127) + "!!"
	for code, reason := range map[uint64]string{16: "denied", 17: "no such host", 18: "refused", 1 << 40: "", 99: long} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newPair(t, Options{}, HostOptions{})
				w := newWire(time.Millisecond, 0)
				p.start(w)
				c, s := p.open()
				w.hold(true)
				s.Reset(code, reason)
				time.Sleep(100 * time.Millisecond)
				w.server.Close(errCut)
				p.join(newWire(time.Millisecond, 0), "alice")
				_, err := c.Read(make([]byte, 1))
				mustStreamError(t, err, code, reason)
				_, err = c.Write([]byte("x"))
				mustStreamError(t, err, code, reason)
			})
		})
	}
	t.Run("a reason too long is cut at a character", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := newPair(t, Options{}, HostOptions{})
			p.start(newWire(0, 0))
			c, s := p.open()
			s.Reset(16, strings.Repeat("ü", 500))
			_, err := c.Read(make([]byte, 1))
			mustStreamError(t, err, 16, strings.Repeat("ü", frame.MaxReason/2))
		})
	})
}

func TestRule4(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{KeepAlive: time.Second}, HostOptions{Options: Options{KeepAlive: time.Second}})
		p.start(newWire(5*time.Millisecond, 20_000_000))
		slow, stalled := p.open()
		fast, reader := p.open()
		echo, echoed := p.open()
		var wg sync.WaitGroup
		wg.Go(func() { slow.ReadFrom(neverEnding{}) })
		wg.Go(func() { echoed.ReadFrom(echoed) })

		time.Sleep(10 * time.Second)
		before := stalled.Stats().Received
		data := noise(2, 10<<20)
		sum := make(chan [32]byte, 1)
		wg.Go(func() { fast.Write(data); fast.CloseWrite() })
		wg.Go(func() {
			h := sha256.New()
			reader.WriteTo(h)
			sum <- [32]byte(h.Sum(nil))
		})
		start := time.Now()
		for range 50 {
			turn := time.Now()
			fmt.Fprint(echo, "x")
			mustRead(t, echo, "x")
			if took := time.Since(turn); took > 40*time.Millisecond {
				t.Errorf("an echo took %v beside a stalled and a bulk stream", took)
			}
			if rtt, err := p.client.Ping(p.ctx); err != nil || rtt > 40*time.Millisecond {
				t.Errorf("a ping took %v, %v", rtt, err)
			}
		}
		if got := <-sum; got != sha256.Sum256(data) {
			t.Error("the fast stream's bytes differ")
		}
		if took := time.Since(start); took > 1500*time.Millisecond {
			t.Errorf("10 MiB at 20 MB/s took %v beside a stalled stream", took)
		}
		if stalled.Stats().Received != before {
			t.Error("the stalled stream moved")
		}
		if st := p.client.Stats(); st.CarriersLost != 0 || st.Suspect != 0 {
			t.Errorf("carriers suffered: %+v", st)
		}
		for _, st := range []*Stream{slow, stalled, echo, echoed} {
			st.Reset(1, "over")
		}
		wg.Wait()
	})
}

// neverEnding is a source without an end.
type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }
