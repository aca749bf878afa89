package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

// TestStreamIsANetConn runs the conformance tests of x/net over a stream's two ends.
func TestStreamIsANetConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(0, 0))
		a, b := p.open()
		return a, b, func() { a.Close(); b.Close(); p.close() }, nil
	})
}

func TestDeadlines(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(time.Millisecond, 0))
		c, s := p.open()
		expired := func(what string, want time.Duration, f func() error) {
			t.Helper()
			start := time.Now()
			err := f()
			var ne net.Error
			if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
				t.Errorf("%s: %v", what, err)
			}
			if took := time.Since(start); took != want {
				t.Errorf("%s: took %v, want %v", what, took, want)
			}
		}
		buf := make([]byte, 10)
		read := func() error { _, err := c.Read(buf); return err }
		c.SetReadDeadline(time.Now().Add(time.Second))
		expired("read", time.Second, read)
		expired("read again", 0, read)
		expired("WriteTo", 0, func() error { _, err := c.WriteTo(io.Discard); return err })
		fmt.Fprint(s, "data")
		time.Sleep(time.Second)
		expired("read with data there", 0, read)
		c.SetReadDeadline(time.Time{})
		mustRead(t, c, "data")

		c.SetReadDeadline(time.Now().Add(time.Hour))
		time.AfterFunc(time.Second, func() { c.SetReadDeadline(time.Now()) })
		expired("deadline moved forward while reading", time.Second, read)
		c.SetReadDeadline(time.Now().Add(time.Second))
		time.AfterFunc(500*time.Millisecond, func() { c.SetReadDeadline(time.Now().Add(time.Second)) })
		expired("deadline moved back while reading", 1500*time.Millisecond, read)

		c.SetWriteDeadline(time.Now().Add(time.Second))
		var n int
		big := noise(5, 1<<20)
		expired("write", time.Second, func() (err error) { n, err = c.Write(big); return err })
		if n == 0 || n == len(big) {
			t.Fatalf("wrote %d bytes", n)
		}
		expired("write again", 0, func() error { _, err := c.Write(big); return err })
		expired("ReadFrom", 0, func() error { _, err := c.ReadFrom(neverEnding{}); return err })
		c.SetDeadline(time.Time{})
		go func() { c.Write(big[n:]); c.CloseWrite() }()
		if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, big) {
			t.Fatalf("after a timeout in the middle: %d bytes, equal %v, %v", len(got), bytes.Equal(got, big), err)
		}
	})
}

func TestContextsOfOpenAcceptPingHedge(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		cause := errors.New("changed my mind")
		fresh := NewSession(Options{})
		runInTest(t, fresh.Run)
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(time.Millisecond, 0))
		for name, call := range map[string]func(ctx context.Context) error{
			"open":        func(ctx context.Context) error { _, err := fresh.Open(ctx); return err },
			"accept":      func(ctx context.Context) error { _, err := p.server.Accept(ctx); return err },
			"ping":        func(ctx context.Context) error { _, err := fresh.Ping(ctx); return err },
			"hedge":       func(ctx context.Context) error { return p.client.Hedge(ctx) },
			"host accept": func(ctx context.Context) error { _, err := p.host.Accept(ctx); return err },
		} {
			ctx, cancel := context.WithCancelCause(context.Background())
			time.AfterFunc(time.Second, func() { cancel(cause) })
			if err := call(ctx); !errors.Is(err, cause) {
				t.Errorf("%s: %v", name, err)
			}
			if err := call(ctx); !errors.Is(err, cause) {
				t.Errorf("%s, ended before: %v", name, err)
			}
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		w := newWire(time.Millisecond, 0)
		go p.host.Serve(p.ctx, w.server, "alice")
		if err := p.client.Attach(ctx, w.client); !errors.Is(err, cause) {
			t.Errorf("attach: %v", err)
		}
		if !w.client.isClosed() {
			t.Error("the carrier is not closed")
		}
		p.open() // over the other carrier
	})
}

func TestCallsAfterTheSession(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(time.Millisecond, 0))
		c, _ := p.open()
		p.client.Close(&CloseError{Code: CloseDone, Reason: "enough"})
		for name, call := range map[string]func() error{
			"open":    func() error { _, err := p.client.Open(p.ctx); return err },
			"accept":  func() error { _, err := p.client.Accept(p.ctx); return err },
			"ping":    func() error { _, err := p.client.Ping(p.ctx); return err },
			"hedge":   func() error { return p.client.Hedge(p.ctx) },
			"attach":  func() error { return p.client.Attach(p.ctx, newWire(0, 0).client) },
			"read":    func() error { _, err := c.Read(make([]byte, 1)); return err },
			"write":   func() error { _, err := c.Write([]byte("x")); return err },
			"FIN":     c.CloseWrite,
			"session": p.client.Err,
		} {
			ce := mustCloseError(t, call(), CloseDone)
			if ce.Reason != "enough" || ce.Remote {
				t.Errorf("%s: %#v", name, ce)
			}
		}
		for name, call := range map[string]func() error{
			"close": c.Close, "close again": c.Close,
			"reset": func() error { return c.Reset(1, "") },
			"stop":  func() error { return c.CloseRead(1, "") },
			"times": func() error { return c.SetDeadline(time.Now().Add(time.Hour)) },
			"drain": func() error { return p.client.Drain(p.ctx) },
		} {
			if err := call(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		p.client.Close(&CloseError{Code: CloseRevoked})
		p.client.GoAway(GoAway{})
		mustCloseError(t, p.client.Err(), CloseDone)
		<-c.Done()
	})
}

func TestCallsAfterClose(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(time.Millisecond, 0))
		c, s := p.open()
		fmt.Fprint(s, "never read")
		time.Sleep(time.Second)
		c.Close()
		for name, call := range map[string]func() error{
			"read":     func() error { _, err := c.Read(make([]byte, 1)); return err },
			"write":    func() error { _, err := c.Write([]byte("x")); return err },
			"FIN":      c.CloseWrite,
			"ReadFrom": func() error { _, err := c.ReadFrom(neverEnding{}); return err },
			"WriteTo":  func() error { _, err := c.WriteTo(io.Discard); return err },
		} {
			if err := call(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got, err := io.ReadAll(s); len(got) != 0 || err != nil {
			t.Errorf("the peer read %q, %v after a Close", got, err)
		}
		time.Sleep(time.Second)
		_, err := s.Write([]byte("x"))
		mustStreamError(t, err, CodeClosed, "the reader closed the stream")
	})
}

// TestBlockedCallsWakeUp checks that each way to end a stream wakes a reader
// and a writer that wait on it.
func TestBlockedCallsWakeUp(t *testing.T) {
	for name, end := range map[string]func(p *pair, c, s *Stream){
		"close":         func(p *pair, c, s *Stream) { c.Close() },
		"reset":         func(p *pair, c, s *Stream) { c.Reset(1, "") },
		"remote reset":  func(p *pair, c, s *Stream) { s.Reset(1, "") },
		"session":       func(p *pair, c, s *Stream) { p.client.Close(&CloseError{}) },
		"peer's close":  func(p *pair, c, s *Stream) { p.server.Close(&CloseError{}) },
		"remote close":  func(p *pair, c, s *Stream) { s.Close() },
		"agent stops":   func(p *pair, c, s *Stream) { p.stop() },
		"past deadline": func(p *pair, c, s *Stream) { c.SetDeadline(time.Unix(1, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := newPair(t, Options{}, HostOptions{})
				p.start(newWire(time.Millisecond, 0))
				c, s := p.open()
				var wg sync.WaitGroup
				wg.Go(func() { io.Copy(io.Discard, onlyReader{c}) })
				wg.Go(func() {
					if _, err := c.Write(make([]byte, 1<<20)); err == nil {
						t.Error("the writer ended without an error")
					}
				})
				time.Sleep(time.Second)
				end(p, c, s)
				done := make(chan struct{})
				go func() { wg.Wait(); close(done) }()
				select {
				case <-done:
				case <-time.After(time.Minute):
					t.Error("calls still wait")
					p.stop()
				}
			})
		})
	}
}

// onlyReader hides WriteTo.
type onlyReader struct{ io.Reader }

// TestConcurrentCalls throws every call at a stream at once, for the race
// detector, while carriers come and go.
func TestConcurrentCalls(t *testing.T) {
	p := newPair(t, Options{}, HostOptions{})
	w := newWire(0, 0)
	p.start(w)
	for range 30 {
		c, s := p.open()
		var wg sync.WaitGroup
		for _, st := range []*Stream{c, s} {
			for _, call := range []func(){
				func() { st.Write(make([]byte, 100_000)) },
				func() { st.ReadFrom(bytes.NewReader(make([]byte, 100_000))) },
				func() { st.Read(make([]byte, 50_000)) },
				func() { st.WriteTo(io.Discard) },
				func() { st.SendDatagram([]byte("x")) },
				func() { st.Stats(); st.LocalAddr(); st.RemoteAddr(); st.ID() },
				func() { st.SetDeadline(time.Now().Add(5 * time.Millisecond)) },
				func() { st.CloseWrite() },
				func() { <-time.After(time.Millisecond); st.CloseRead(1, "") },
				func() { <-time.After(2 * time.Millisecond); st.Close() },
				func() { <-time.After(2 * time.Millisecond); st.Reset(2, "") },
			} {
				wg.Go(call)
			}
		}
		wg.Go(func() { p.client.Stats(); p.server.Stats(); p.client.Ping(p.ctx) })
		old := w
		wg.Go(func() { old.client.Close(errCut) })
		w = newWire(0, 0)
		p.join(w, "alice")
		wg.Wait()
	}
	for end := time.Now().Add(10 * time.Second); p.client.Stats().Streams+p.server.Stats().Streams > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("streams are left: %+v, %+v", p.client.Stats(), p.server.Stats())
		}
	}
	if n := p.client.opt.Memory.Used() + p.host.opt.Memory.Used(); n > 4*MaxMessage {
		t.Errorf("%d bytes are held by two idle sessions", n)
	}
}

func TestAddresses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		p.start(newWire(0, 0))
		c, s := p.open()
		if a := s.RemoteAddr(); a.Network() != "sallyport" || a.String() != "alice#0" {
			t.Errorf("remote address %s %s", a.Network(), a)
		}
		if a := c.LocalAddr(); a.String() != "#0" || c.Session() != p.client {
			t.Errorf("local address %s", a)
		}
		synctest.Wait()
	})
}
