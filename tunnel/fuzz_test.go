package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"sallyport/tunnel/internal/frame"
)

// FuzzServerSession plays a client whose every message the fuzzer chooses,
// against a live Host with an application that echoes.
func FuzzServerSession(f *testing.F) {
	for _, seed := range fuzzSeeds(0) {
		f.Add(true, seed)
	}
	f.Add(false, fuzzMessages(frame.AppendHello(nil, rawHello()), frame.AppendPing(nil, 1)))
	f.Add(false, fuzzMessages(frame.AppendClose(nil, 1, "no")))
	f.Add(false, []byte{0, 0, 0, 1, 0xff})
	f.Fuzz(func(t *testing.T, hello bool, input []byte) {
		mem := NewMemory(0)
		h := NewHost(HostOptions{Options: fuzzOptions(mem)})
		play := newFuzzPlay(t, h.Run)
		play.wg.Go(func() {
			for {
				s, err := h.Accept(play.ctx)
				if err != nil {
					return
				}
				play.wg.Go(func() { play.app(s) })
			}
		})
		w := newWire(0, 0)
		play.serve(w.client, func() error { return h.Serve(play.ctx, w.server, "alice") })
		if hello {
			play.send(frame.AppendHello(nil, rawHello()))
		}
		play.sendAll(input)
		play.finish(mem)
		if n := len(h.Sessions()); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}

// FuzzClientSession plays the server.
func FuzzClientSession(f *testing.F) {
	good := rawHello()
	good.Session, good.Secret = frame.SessionID{1}, frame.Secret{2}
	for _, seed := range fuzzSeeds(1) {
		f.Add(true, seed)
	}
	f.Add(false, fuzzMessages(frame.AppendHello(nil, good)))
	f.Add(false, fuzzMessages(frame.AppendHello(nil, rawHello())))
	f.Add(false, fuzzMessages(frame.AppendClose(nil, uint64(CloseUnknownSession), "gone")))
	f.Fuzz(func(t *testing.T, hello bool, input []byte) {
		mem := NewMemory(0)
		s := NewSession(fuzzOptions(mem))
		play := newFuzzPlay(t, s.Run)
		play.wg.Go(func() { play.app(s) })
		w := newWire(0, 0)
		play.serve(w.server, func() error { return s.Attach(play.ctx, w.client) })
		if hello {
			play.send(frame.AppendHello(nil, good))
		}
		play.sendAll(input)
		play.finish(mem)
	})
}

func fuzzOptions(m *Memory) Options {
	return Options{Memory: m, MaxStreams: 32, HandshakeTimeout: 5 * time.Second}
}

// fuzzSeeds are exchanges that make sense, for a peer whose ids end in this bit.
func fuzzSeeds(bit uint64) [][]byte {
	id := func(n uint64) uint64 { return n<<1 | bit }
	own := bit ^ 1
	hello := frame.AppendStream(nil, id(0), 0, []byte("hello"), false, true)
	return [][]byte{
		fuzzMessages(hello, frame.AppendStream(nil, id(0), 5, []byte(" world"), true, true), frame.AppendCarrierAck(nil, 1, 0)),
		fuzzMessages(frame.AppendStream(nil, id(2), 100, []byte("gap"), true, true), frame.AppendStream(nil, id(2), 0, make([]byte, 100), false, true)),
		fuzzMessages(hello, frame.AppendResetStream(nil, id(0), 7, 5, "bye"), frame.AppendStopSending(nil, id(0), 7, "bye")),
		fuzzMessages(hello, frame.AppendStopSending(nil, id(0), 0, ""), frame.AppendCredit(nil, id(0), 1<<20), frame.AppendMaxStreams(nil, 50)),
		fuzzMessages(frame.AppendPing(frame.AppendPong(hello[:0:0], 3), 4), frame.AppendCarrierAck(nil, 1, 100), frame.AppendDatagram(nil, id(1), []byte("udp"))),
		fuzzMessages(frame.AppendGoAway(nil, 7, 1000, "wss://b", "moving"), frame.AppendClose(nil, 0, "done")),
		fuzzMessages(frame.AppendStream(nil, own, 0, []byte("answer"), true, true), frame.AppendCredit(nil, own, 200_000), frame.AppendStopSending(nil, own, 1, "stop")),
		fuzzMessages(nil, hello, hello, frame.AppendStream(nil, id(0), 3, []byte("lo wor"), false, true)),
	}
}

// fuzzMessages joins messages, each behind two bytes of length.
func fuzzMessages(msgs ...[]byte) (b []byte) {
	for _, m := range msgs {
		b = append(append(b, byte(len(m)>>8), byte(len(m))), m...)
	}
	return b
}

// fuzzPlay is one run of a fuzz target.
type fuzzPlay struct {
	t     *testing.T
	ctx   context.Context
	stop  context.CancelFunc
	wg    sync.WaitGroup
	end   *wireEnd // the fuzzer's
	ended chan struct{}
}

func newFuzzPlay(t *testing.T, run func(context.Context) error) *fuzzPlay {
	p := &fuzzPlay{t: t, ended: make(chan struct{})}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.wg.Go(func() { run(p.ctx) })
	return p
}

// serve runs the side under test and reads whatever it sends: it must be well formed.
func (p *fuzzPlay) serve(end *wireEnd, serve func() error) {
	p.end = end
	p.wg.Go(func() {
		defer close(p.ended)
		if err := serve(); err == nil {
			p.t.Error("a carrier ended without an error")
		}
	})
	p.wg.Go(func() {
		buf := make([]byte, MaxMessage)
		for {
			n, err := end.ReadMessage(func() []byte { return buf })
			if err != nil {
				return
			}
			for rest := buf[:n]; len(rest) > 0; {
				var f frame.Frame
				if rest, err = frame.Next(&f, rest); err != nil {
					p.t.Errorf("the session sent %x: %v", buf[:n], err)
					return
				}
			}
		}
	})
}

func (p *fuzzPlay) send(m []byte) { _ = p.end.WriteMessages([][]byte{m}) }

// sendAll cuts the fuzzer's bytes into messages and sends them.
func (p *fuzzPlay) sendAll(input []byte) {
	for len(input) >= 2 {
		n := min(int(input[0])<<8|int(input[1]), len(input)-2)
		p.send(input[2 : 2+n])
		input = input[2+n:]
	}
}

// finish waits until the session has taken in everything, and ends it: every
// goroutine and every buffer must be gone soon.
func (p *fuzzPlay) finish(mem *Memory) {
	under := p.end.peer
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Microsecond) {
		under.mu.Lock()
		idle := len(under.inbox) == 0 || under.closed
		under.mu.Unlock()
		if idle {
			break
		}
		if time.Now().After(end) {
			p.t.Fatal("the session does not read its carrier")
		}
	}
	p.end.Close(nil)
	<-p.ended
	p.stop()
	gone := make(chan struct{})
	go func() { p.wg.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		p.t.Fatal("goroutines are left 10 s after the end")
	}
	if n := mem.Used(); n != 0 {
		p.t.Errorf("%d bytes are still held", n)
	}
}

// app is an application on the side under test: it opens a stream of its own,
// and echoes on those of the peer until they end.
func (p *fuzzPlay) app(s *Session) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		st, err := s.Open(p.ctx)
		if err != nil {
			return
		}
		defer st.Close()
		st.Write(make([]byte, 2000))
		p.check(io.Copy(io.Discard, st))
	})
	for {
		st, err := s.Accept(p.ctx)
		if err != nil {
			return
		}
		wg.Go(func() {
			defer st.Close()
			if st.ID()%8 < 4 {
				p.check(io.Copy(st, st))
			} else {
				p.check(io.CopyN(onlyWriter{st}, st, 3))
			}
			st.ReceiveDatagram(p.ctx)
		})
	}
}

// check allows only the errors that a stream may end with.
func (p *fuzzPlay) check(_ int64, err error) {
	if err != nil && err != io.EOF && !errors.Is(err, net.ErrClosed) {
		p.t.Errorf("a stream ended with %v", err)
	}
}

// onlyWriter hides ReadFrom.
type onlyWriter struct{ io.Writer }
