package tunnel

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/tunnel/internal/frame"
)

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
			if _, err := st.Write(make([]byte, maxUnsent)); err != nil {
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
