package tunnel

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/tunnel/internal/frame"
)

// inBubble runs f in virtual time.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// violations are messages that break the protocol, each right after a
// handshake; want is what the reason must say.
var violations = []struct {
	name string
	msgs func(b *bed) [][]byte
	want string
}{
	{"unknown frame type", one(func(*bed) []byte { return []byte{0x20} }), "unknown frame type"},
	{"type 0", one(func(*bed) []byte { return []byte{0} }), "unknown frame type"},
	{"truncated frame", one(func(b *bed) []byte { return frame.AppendCredit(nil, 0, 1<<40)[:5] }), "cut short"},
	{"truncated varint", one(func(*bed) []byte { return []byte{0x02, 0xc0} }), "cut short"},
	{"length beyond the message", one(func(b *bed) []byte { return []byte{0x12, byte(b.peerID(0)), 0, 9, 1} }), "cut short"},
	{"garbage behind a frame", one(func(*bed) []byte { return append(frame.AppendPing(nil, 1), 0x3f) }), "unknown frame type"},
	{"reason too long", one(func(b *bed) []byte {
		return append([]byte{byte(frame.TypeClose), 0, 0x41, 0x2c}, make([]byte, 300)...)
	}), "malformed"},
	{"offset beyond the largest", one(func(b *bed) []byte {
		return frame.AppendStream(nil, b.peerID(0), frame.MaxVarint, []byte("x"), false, true)
	}), "malformed"},
	{"second HELLO", one(func(*bed) []byte { return frame.AppendHello(nil, rawHello()) }), "HELLO after the handshake"},
	{"ack beyond what was sent", one(func(*bed) []byte { return frame.AppendCarrierAck(nil, 1000, 0) }), "ack of 1000 messages"},
	{"data beyond credit", one(func(b *bed) []byte {
		return frame.AppendStream(nil, b.peerID(0), initialWindow, []byte("x"), false, true)
	}), "credit"},
	{"reset beyond credit", one(func(b *bed) []byte {
		return frame.AppendResetStream(nil, b.peerID(0), 1, initialWindow+1, "")
	}), "credit"},
	{"data beyond the final size", func(b *bed) [][]byte {
		id := b.peerID(0)
		return [][]byte{
			frame.AppendStream(nil, id, 10, []byte("x"), true, true), // the gap keeps it open
			frame.AppendStream(nil, id, 11, []byte("y"), false, true),
		}
	}, "final size"},
	{"another FIN", func(b *bed) [][]byte {
		id := b.peerID(0)
		return [][]byte{
			frame.AppendStream(nil, id, 10, []byte("x"), true, true),
			frame.AppendStream(nil, id, 5, nil, true, true),
		}
	}, "final size"},
	{"FIN below what had come", func(b *bed) [][]byte {
		id := b.peerID(0)
		return [][]byte{
			frame.AppendStream(nil, id, 0, []byte("hello"), false, true),
			frame.AppendStream(nil, id, 2, nil, true, true),
		}
	}, "FIN at 2"},
	{"FIN below what waits behind a gap", func(b *bed) [][]byte {
		id := b.peerID(0)
		return [][]byte{
			frame.AppendStream(nil, id, 100, []byte("hello"), false, true),
			frame.AppendStream(nil, id, 50, nil, true, true),
		}
	}, "FIN at 50"},
	{"reset below what had come", func(b *bed) [][]byte {
		id := b.peerID(0)
		return [][]byte{
			frame.AppendStream(nil, id, 0, []byte("hello"), false, true),
			frame.AppendResetStream(nil, id, 1, 3, ""),
		}
	}, "reset at 3"},
	{"reset with another final size", func(b *bed) [][]byte {
		id := b.peerID(0)
		return [][]byte{
			frame.AppendStream(nil, id, 10, []byte("x"), true, true),
			frame.AppendResetStream(nil, id, 1, 20, ""),
		}
	}, "reset at 20"},
	{"data after a reset, beyond its size", func(b *bed) [][]byte {
		id := b.peerID(0)
		return [][]byte{
			frame.AppendResetStream(nil, id, 1, 3, ""),
			frame.AppendStream(nil, id, 3, []byte("x"), false, true),
		}
	}, "final size was 3"},
	{"data on an own stream never opened", one(func(b *bed) []byte {
		return frame.AppendStream(nil, b.ownID(0), 0, []byte("x"), false, true)
	}), "never opened"},
	{"credit on an own stream never opened", one(func(b *bed) []byte { return frame.AppendCredit(nil, b.ownID(5), 1) }), "never opened"},
	{"stop on an own stream never opened", one(func(b *bed) []byte { return frame.AppendStopSending(nil, b.ownID(0), 1, "") }), "never opened"},
	{"reset of an own stream never opened", one(func(b *bed) []byte { return frame.AppendResetStream(nil, b.ownID(0), 1, 0, "") }), "never opened"},
	{"datagram on an own stream never opened", one(func(b *bed) []byte { return frame.AppendDatagram(nil, b.ownID(0), nil) }), "never opened"},
	{"stream beyond MAX_STREAMS", one(func(b *bed) []byte {
		return frame.AppendStream(nil, b.peerID(8), 0, []byte("x"), false, true)
	}), "beyond the limit of 8"},
	{"largest stream id", one(func(b *bed) []byte {
		return frame.AppendCredit(nil, frame.MaxVarint-uint64(1-b2i(b.session.client)), 1)
	}), "beyond the limit of 8"},
	{"datagram too large", one(func(b *bed) []byte {
		return frame.AppendDatagram(nil, b.peerID(0), make([]byte, maxDatagram+1))
	}), "datagram of"},
	{"too many gaps", func(b *bed) (msgs [][]byte) {
		for i := range uint64(maxGaps + 1) {
			msgs = append(msgs, frame.AppendStream(nil, b.peerID(0), 2*i+1, []byte("x"), false, true))
		}
		return msgs
	}, "more than 256 gaps"},
}

func one(f func(b *bed) []byte) func(b *bed) [][]byte {
	return func(b *bed) [][]byte { return [][]byte{f(b)} }
}

// TestViolationsEndTheSession checks that each violation ends the session on
// the side that saw it, with a reason, and that the peer is told the same.
func TestViolationsEndTheSession(t *testing.T) {
	for _, v := range violations {
		t.Run(strings.ReplaceAll(v.name, " ", "-"), func(t *testing.T) {
			bothSides(t, Options{MaxStreams: 8, Memory: NewMemory(0)}, func(t *testing.T, b *bed) {
				for _, m := range v.msgs(b) {
					b.send(m)
				}
				checkViolation(t, b, v.want)
			})
		})
	}
}

func checkViolation(t *testing.T, b *bed, want string) {
	t.Helper()
	f := b.expect(frame.TypeClose)
	if CloseCode(f.Code) != CloseProtocol || !strings.Contains(string(f.Reason), want) {
		t.Errorf("the peer was told code %d, %q; want %q", f.Code, f.Reason, want)
	}
	<-b.session.Done()
	var ce *CloseError
	err := b.session.Err()
	if !errors.As(err, &ce) || ce.Code != CloseProtocol || ce.Remote || !strings.Contains(ce.Reason, want) {
		t.Errorf("session ended with %v, want %q", err, want)
	}
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v is not a net.ErrClosed", err)
	}
	if _, err := b.next(); err == nil {
		t.Error("the carrier stays open after CLOSE")
	}
	if err := <-b.ended; err == nil {
		t.Error("serving the carrier returned nil")
	}
	synctest.Wait()
	if n := b.session.opt.Memory.Used(); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
}

// TestViolationReachesTheOtherSession checks the same between two sessions:
// the innocent one ends with the reason too.
func TestViolationReachesTheOtherSession(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := newPair(t, Options{}, HostOptions{})
		w := newWire(time.Millisecond, 0)
		p.start(w)
		// A third party injects a frame behind the client's back.
		if err := w.client.WriteMessages([][]byte{{0x3f}}); err != nil {
			t.Fatal(err)
		}
		<-p.client.Done()
		var ce *CloseError
		if err := p.client.Err(); !errors.As(err, &ce) || ce.Code != CloseProtocol || !ce.Remote || ce.Reason == "" {
			t.Errorf("client: %v", err)
		}
	})
}

// TestHarmless checks what looks wrong but must be ignored.
func TestHarmless(t *testing.T) {
	for name, msgs := range map[string]func(b *bed) [][]byte{
		"empty message":           one(func(*bed) []byte { return nil }),
		"PONG nobody asked for":   one(func(*bed) []byte { return frame.AppendPong(nil, 1<<40) }),
		"ack of nothing new":      one(func(*bed) []byte { return frame.AppendCarrierAck(nil, 0, 1<<60) }),
		"absurd ack delay":        one(func(*bed) []byte { return frame.AppendCarrierAck(nil, 1, frame.MaxVarint) }),
		"older MAX_STREAMS":       one(func(*bed) []byte { return frame.AppendMaxStreams(nil, 1) }),
		"largest MAX_STREAMS":     one(func(*bed) []byte { return frame.AppendMaxStreams(nil, frame.MaxVarint) }),
		"credit on a placeholder": one(func(b *bed) []byte { return frame.AppendCredit(nil, b.peerID(3), 1) }),
		"largest credit":          one(func(b *bed) []byte { return frame.AppendCredit(nil, b.peerID(0), frame.MaxVarint) }),
		"empty datagram":          one(func(b *bed) []byte { return frame.AppendDatagram(nil, b.peerID(0), nil) }),
		"GOAWAY twice":            one(func(*bed) []byte { g := frame.AppendGoAway(nil, 0, 0, "", ""); return append(g, g...) }),
		"data twice": one(func(b *bed) []byte {
			f := frame.AppendStream(nil, b.peerID(0), 0, []byte("x"), false, false)
			return append(f, f...)
		}),
		"FIN twice, same size": one(func(b *bed) []byte {
			f := frame.AppendStream(nil, b.peerID(0), 0, []byte("x"), true, false)
			return append(f, f...)
		}),
		"reset after all had come": one(func(b *bed) []byte {
			return frame.AppendResetStream(frame.AppendStream(nil, b.peerID(0), 0, []byte("x"), true, false), b.peerID(0), 1, 1, "")
		}),
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			bothSides(t, Options{MaxStreams: 8}, func(t *testing.T, b *bed) {
				for _, m := range msgs(b) {
					b.send(m)
				}
				b.send(frame.AppendPing(nil, 77))
				for b.expect(frame.TypePong).Count != 77 {
				}
				if err := b.session.Err(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestClientRejectsServerHello checks that a wrong answer to its HELLO ends a
// client's attach only, and that the session can be made afterwards.
func TestClientRejectsServerHello(t *testing.T) {
	good := func(change func(h *frame.Hello)) []byte {
		h := rawHello()
		h.Session, h.Secret = frame.SessionID{1}, frame.Secret{2}
		change(h)
		return frame.AppendHello(nil, h)
	}
	for _, c := range []struct {
		name  string
		reply []byte
		code  CloseCode
		want  string
	}{
		{"no session id", good(func(h *frame.Hello) { h.Session, h.Secret = frame.SessionID{}, frame.Secret{} }), CloseProtocol, "names no session"},
		{"newer version", good(func(h *frame.Hello) { h.MinVersion, h.MaxVersion = 2, 3 }), CloseVersion, "version 1"},
		{"not a HELLO", frame.AppendPing(nil, 1), CloseProtocol, "must be one HELLO"},
		{"more behind the HELLO", frame.AppendPing(good(func(*frame.Hello) {}), 1), CloseProtocol, "must be one HELLO"},
		{"garbage", []byte{0xff}, CloseProtocol, "first message"},
		{"empty", nil, CloseProtocol, "first message"},
		{"truncated HELLO", good(func(*frame.Hello) {})[:20], CloseProtocol, "first message"},
		{"refusal", frame.AppendClose(nil, uint64(CloseLimit), "full house"), CloseLimit, "full house"},
		{"unknown code", frame.AppendClose(nil, 1000, "from the future"), 1000, "from the future"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				b := &bed{rawPeer: &rawPeer{t: t}, session: NewSession(Options{})}
				b.ctx = runInTest(t, b.session.Run)
				b.accept()
				b.reply()
				b.send(c.reply)
				err := <-b.ended
				var ce *CloseError
				if !errors.As(err, &ce) || ce.Code != c.code || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("attach: %v, want code %v and %q", err, c.code, c.want)
				}
				if b.session.Err() != nil {
					t.Fatalf("the session ended: %v", b.session.Err())
				}
				b.accept()
				b.reply()
				b.send(good(func(*frame.Hello) {}))
				b.expect(frame.TypePing)
			})
		})
	}
}

// TestClientRejectsAnotherSession checks that a resumed carrier must be
// answered for the same session, and that only the carrier ends if not.
func TestClientRejectsAnotherSession(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, false, Options{})
		b.end.Close(nil)
		<-b.ended
		b.accept()
		if h := b.reply(); h.Session != (frame.SessionID{1}) || h.Secret != (frame.Secret{2}) || h.Carrier != 2 {
			t.Fatalf("second HELLO: %+v", h)
		}
		h := rawHello()
		h.Session, h.Secret = frame.SessionID{9}, frame.Secret{9}
		b.send(frame.AppendHello(nil, h))
		if err := <-b.ended; !errors.Is(err, &CloseError{Code: CloseProtocol}) {
			t.Fatalf("attach: %v", err)
		}
		if b.session.Err() != nil {
			t.Fatalf("the session ended: %v", b.session.Err())
		}
	})
}

// TestServerRejectsHello checks what a Host answers to a wrong first message.
func TestServerRejectsHello(t *testing.T) {
	hello := func(change func(h *frame.Hello)) []byte {
		h := rawHello()
		change(h)
		return frame.AppendHello(nil, h)
	}
	for _, c := range []struct {
		name  string
		first []byte
		code  CloseCode
		want  string
	}{
		{"newer version", hello(func(h *frame.Hello) { h.MinVersion, h.MaxVersion = 2, 4 }), CloseVersion, "versions 2 to 4"},
		{"version 0", hello(func(h *frame.Hello) { h.MinVersion, h.MaxVersion = 0, 0 }), CloseVersion, "versions 0 to 0"},
		{"versions the wrong way round", hello(func(h *frame.Hello) { h.MinVersion, h.MaxVersion = 2, 1 }), CloseProtocol, "HELLO"},
		{"no carrier id", hello(func(h *frame.Hello) { h.Carrier = 0 }), CloseProtocol, "carrier id 0"},
		{"unknown session", hello(func(h *frame.Hello) { h.Session, h.Secret = frame.SessionID{9}, frame.Secret{9} }), CloseUnknownSession, "restarted"},
		{"not a HELLO", frame.AppendPing(nil, 1), CloseProtocol, "must be one HELLO"},
		{"empty", []byte{}, CloseProtocol, "first message"},
		{"HELLO and PING", frame.AppendPing(hello(func(*frame.Hello) {}), 1), CloseProtocol, "must be one HELLO"},
		{"HELLO too large", append([]byte{byte(frame.TypeHello), 0x50, 0x01}, make([]byte, 0x1001)...), CloseProtocol, "HELLO of 4097 bytes"},
		{"garbage", bytes.Repeat([]byte{0xff}, 100), CloseProtocol, "first message"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				b := newHostBed(t, HostOptions{Options: Options{Memory: NewMemory(0)}})
				b.dialAs("alice", nil)
				b.send(c.first)
				f := b.expect(frame.TypeClose)
				if CloseCode(f.Code) != c.code || !strings.Contains(string(f.Reason), c.want) {
					t.Errorf("told code %v, %q; want %v, %q", CloseCode(f.Code), f.Reason, c.code, c.want)
				}
				var ce *CloseError
				if err := <-b.ended; !errors.As(err, &ce) || ce.Code != c.code {
					t.Errorf("serve: %v", err)
				}
				synctest.Wait()
				if n := len(b.host.Sessions()); n != 0 {
					t.Errorf("%d sessions are left", n)
				}
				if n := b.host.opt.Memory.Used(); n != 0 {
					t.Errorf("%d bytes are held", n)
				}
			})
		})
	}
}

// TestVersionMismatchNamesBoth checks what the client's user gets to read.
func TestVersionMismatchNamesBoth(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newHostBed(t, HostOptions{})
		h := rawHello()
		h.MinVersion, h.MaxVersion, h.Software = 3, 5, "sallyport 9.9"
		b.dial(h)
		reason := string(b.expect(frame.TypeClose).Reason)
		for _, want := range []string{"version 1", "versions 3 to 5", "sallyport 9.9"} {
			if !strings.Contains(reason, want) {
				t.Errorf("the reason %q does not name %q", reason, want)
			}
		}
	})
}

// TestCarrierIDReuse checks that a carrier id counts once: what the two sides
// tell each other about lost carriers would mean two things.
func TestCarrierIDReuse(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newBed(t, true, Options{})
		first := b.rawPeer
		again := rawHello()
		again.Session, again.Secret = b.hello.Session, b.hello.Secret
		b.dial(again)
		if f := b.expect(frame.TypeClose); CloseCode(f.Code) != CloseProtocol || !strings.Contains(string(f.Reason), "not new") {
			t.Fatalf("told code %d, %q", f.Code, f.Reason)
		}
		first.send(frame.AppendPing(nil, 5))
		for first.expect(frame.TypePong).Count != 5 {
		}
		// Ids may come a little out of order: they were dialled at once.
		for _, id := range []uint64{5, 3} {
			h := *again
			h.Carrier = id
			b.dial(&h)
			if got := b.reply(); got.Carrier != id {
				t.Fatalf("carrier %d answered as %d", id, got.Carrier)
			}
		}
	})
}
