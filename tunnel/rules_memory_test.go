package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sallyport/tunnel/internal/frame"
)

func TestRule5(t *testing.T) {
	t.Run("many stalled streams", func(t *testing.T) { inBubble(t, testManyStalled) })
	t.Run("many stalled streams in small pieces", func(t *testing.T) {
		bothSides(t, Options{MaxStreams: 40, ReceiveBudget: 1}, func(t *testing.T, b *bed) {
			synctest.Wait()
			used := b.session.opt.Memory.Used()
			for n := range uint64(40) {
				for at := uint64(0); at < initialWindow; at += 500 {
					b.send(frame.AppendStream(nil, b.peerID(n), at, make([]byte, min(500, initialWindow-at)), false, true))
				}
			}
			synctest.Wait()
			if got := b.session.opt.Memory.Used() - used; got < 40*initialWindow || got > 40*2*initialWindow {
				t.Errorf("holds %d bytes for 40 windows of %d", got, initialWindow)
			}
		})
	})
	t.Run("a full buffer blocks its writer, nothing is dropped", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			p := newPair(t, Options{SendBudget: 1}, HostOptions{Options: Options{ReceiveBudget: 1}})
			p.start(newWire(time.Millisecond, 0))
			c, s := p.open()
			data := noise(4, 1<<20)
			written := make(chan error, 1)
			go func() { _, err := c.Write(data); c.CloseWrite(); written <- err }()
			select {
			case err := <-written:
				t.Fatalf("1 MiB fits into the windows: %v", err)
			case <-time.After(time.Hour):
			}
			got, err := io.ReadAll(s)
			if err != nil || string(got) != string(data) {
				t.Fatalf("read %d bytes, %v", len(got), err)
			}
			if err := <-written; err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("agent-wide bound refuses new streams", func(t *testing.T) { inBubble(t, testAgentBound) })
	t.Run("what is unread stays charged after the stream is over", func(t *testing.T) { inBubble(t, testUnreadStaysCharged) })
	t.Run("the end gives everything back", func(t *testing.T) {
		for name, end := range map[string]func(p *pair){
			"close": func(p *pair) { p.server.Close(&CloseError{Code: CloseDone}) },
			"stop":  func(p *pair) { p.stop() },
		} {
			t.Run(name, func(t *testing.T) { inBubble(t, func(t *testing.T) { testEndGivesBack(t, end) }) })
		}
	})
}

// testManyStalled fills 50 streams each way that nobody reads.
func testManyStalled(t *testing.T) {
	const n, budget = 50, 1 << 20
	mem := [2]*Memory{NewMemory(0), NewMemory(0)}
	o := func(m *Memory) Options {
		return Options{Memory: m, ReceiveBudget: budget, SendBudget: budget, MaxStreams: n}
	}
	p := newPair(t, o(mem[0]), HostOptions{Options: o(mem[1])})
	p.start(newWire(time.Millisecond, 0))
	var wg sync.WaitGroup
	var all []*Stream
	for range n {
		c, s := p.open()
		wg.Go(func() { c.ReadFrom(neverEnding{}) })
		wg.Go(func() { s.ReadFrom(neverEnding{}) })
		all = append(all, c, s)
	}
	time.Sleep(time.Minute)
	const bound = 2*(n*initialWindow+budget) + // received, and sent but not acked
		2*n*MaxMessage // what a writer had in its hands when it was told to wait
	for i, m := range mem {
		if used := m.Used(); used > bound || used < n*initialWindow {
			t.Errorf("side %d holds %d bytes, the bound is %d", i, used, bound)
		}
	}
	for i := range all {
		all[i].Reset(1, "over")
	}
	wg.Wait()
	time.Sleep(time.Second)
	for i, m := range mem {
		if used := m.Used(); used != 0 {
			t.Errorf("side %d still holds %d bytes", i, used)
		}
	}
}

// testAgentBound fills an agent's Memory: new streams are refused with a
// reason, those that exist go on, and room makes new ones welcome again.
func testAgentBound(t *testing.T) {
	mem := NewMemory(150 << 10)
	p := newPair(t, Options{}, HostOptions{Options: Options{Memory: mem}})
	p.start(newWire(time.Millisecond, 0))
	a, stalledA := p.open()
	b, stalledB := p.open()
	for _, st := range []*Stream{a, b} {
		go st.Write(make([]byte, 200_000))
	}
	time.Sleep(time.Second)
	refused, err := p.client.Open(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(refused, "hello?")
	_, err = refused.Read(make([]byte, 1))
	mustStreamError(t, err, CodeLimit, "the agent has no memory left for new streams")
	ctx, cancel := context.WithTimeout(p.ctx, time.Second)
	defer cancel()
	if st, err := p.server.Accept(ctx); err == nil {
		t.Fatalf("accepted stream %d", st.ID())
	}
	if _, err := io.CopyN(io.Discard, stalledA, 200_000); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, stalledB, 200_000); err != nil {
		t.Fatal(err)
	}
	p.open()
}

// testUnreadStaysCharged lets a stream's window grow and then finish while
// unread: its share of the budget must not be free for others before it is read.
func testUnreadStaysCharged(t *testing.T) {
	const budget = 8 << 20
	p := newPair(t, Options{ReceiveBudget: budget}, HostOptions{})
	p.start(newWire(10*time.Millisecond, 0))
	free := func() int {
		p.client.mu.Lock()
		defer p.client.mu.Unlock()
		return p.client.receiveBudget
	}
	c, s := p.open()
	go func() { s.Write(make([]byte, 30<<20)); s.Close() }()
	if _, err := io.CopyN(io.Discard, c, 29<<20); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	time.Sleep(time.Minute)
	if held := p.client.opt.Memory.Used(); held < 1<<20 {
		t.Fatalf("only %d bytes are unread", held)
	}
	if held, left := p.client.opt.Memory.Used(), free(); int64(budget-left) < held-2*initialWindow {
		t.Errorf("%d bytes are held, %d charged", held, budget-left)
	}
	if n, err := io.Copy(io.Discard, c); n != 1<<20 || err != nil {
		t.Errorf("the rest: %d bytes, %v", n, err)
	}
	c.Close()
	if left := free(); left != budget {
		t.Errorf("%d left of a budget of %d when all is read", left, budget)
	}
}

// testEndGivesBack ends a session with streams in every state.
func testEndGivesBack(t *testing.T, end func(p *pair)) {
	mem := NewMemory(0)
	p := newPair(t, Options{Memory: mem}, HostOptions{Options: Options{Memory: mem}})
	w := newWire(time.Millisecond, 0)
	p.start(w)
	c, s := p.open()
	_, ignored := p.open()
	for range 3 { // never accepted
		st, _ := p.client.Open(p.ctx)
		fmt.Fprint(st, "nobody hears this")
	}
	go c.Write(make([]byte, 500_000))
	go s.Write(make([]byte, 500_000))
	time.Sleep(time.Second)
	w.hold(true)
	late, _ := p.client.Open(p.ctx)
	late.Write(make([]byte, 50_000))
	end(p)
	<-p.server.Done()
	w.hold(false)
	<-p.client.Done()
	for _, st := range []*Stream{c, s, ignored} {
		st.Close()
	}
	w.client.Close(nil)
	w.server.Close(nil)
	p.close()
	if n := mem.Used(); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
}

func TestRule10(t *testing.T) {
	t.Run("half-open handshakes time out and hold nothing", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			mem := NewMemory(0)
			b := newHostBed(t, HostOptions{Options: Options{Memory: mem}})
			var ended []<-chan error
			for range 1000 {
				b.dialAs("alice", nil)
				ended = append(ended, b.ended)
			}
			time.Sleep(9 * time.Second)
			if mem.Used() != 0 || len(b.host.Sessions()) != 0 {
				t.Errorf("%d bytes, %d sessions", mem.Used(), len(b.host.Sessions()))
			}
			time.Sleep(2 * time.Second)
			for _, e := range ended {
				if err := <-e; !errors.Is(err, ErrHandshake) {
					t.Fatalf("serve: %v", err)
				}
			}
		})
	})
	t.Run("a server that does not answer", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			b := &bed{rawPeer: &rawPeer{t: t}, session: NewSession(Options{HandshakeTimeout: 3 * time.Second})}
			b.ctx = runInTest(t, b.session.Run)
			start := time.Now()
			b.accept()
			if err := <-b.ended; !errors.Is(err, ErrHandshake) || time.Since(start) != 3*time.Second {
				t.Fatalf("attach: %v after %v", err, time.Since(start))
			}
			if !b.end.peer.isClosed() {
				t.Error("the carrier is not closed")
			}
		})
	})
	t.Run("a client that does not take the answer", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			b := newHostBed(t, HostOptions{})
			b.dialAs("alice", nil)
			b.end.set(func() { b.end.stuck = true })
			b.send(frame.AppendHello(nil, rawHello()))
			if err := <-b.ended; err == nil {
				t.Fatal("served")
			}
			synctest.Wait()
			if n := len(b.host.Sessions()); n != 0 {
				t.Fatalf("%d sessions are left", n)
			}
		})
	})
	t.Run("a peer that never acks", func(t *testing.T) { bothSides(t, Options{}, testNeverAcks) })
	for name, f := range floods {
		t.Run("flood of "+name, func(t *testing.T) {
			bothSides(t, Options{MaxStreams: 16}, func(t *testing.T, b *bed) { testFlood(t, b, f) })
		})
	}
}

// testNeverAcks makes a session answer PINGs whose PONGs are never acked: what
// it remembers of them is bounded, and then the carrier is given up.
func testNeverAcks(t *testing.T, b *bed) {
	s := b.session
	s.mu.Lock()
	a := s.attached[0]
	for a.inFlight.len() < maxUnacked { // as if it had answered that many
		a.inFlight.push(message{sent: time.Now()})
		a.sentCount++
	}
	s.mu.Unlock()
	for i := range uint64(3) {
		b.send(frame.AppendPing(nil, 100+i))
		synctest.Wait()
	}
	if err := <-b.ended; !errors.Is(err, errNoAcks) {
		t.Fatalf("the carrier ended with %v", err)
	}
	if s.Err() != nil {
		t.Fatalf("the session ended: %v", s.Err())
	}
}

// floods are frames that a hostile peer repeats without ever acking anything.
var floods = map[string]func(b *bed, i uint64) []byte{
	"PING":       func(b *bed, i uint64) []byte { return frame.AppendPing(nil, i) },
	"PONG":       func(b *bed, i uint64) []byte { return frame.AppendPong(nil, i) },
	"CREDIT":     func(b *bed, i uint64) []byte { return frame.AppendCredit(nil, b.peerID(i%16), i) },
	"RESET":      func(b *bed, i uint64) []byte { return frame.AppendResetStream(nil, b.peerID(i%16), 1, 0, "x") },
	"STOP":       func(b *bed, i uint64) []byte { return frame.AppendStopSending(nil, b.peerID(i%16), 1, "x") },
	"MAX":        func(b *bed, i uint64) []byte { return frame.AppendMaxStreams(nil, i) },
	"GOAWAY":     func(b *bed, i uint64) []byte { return frame.AppendGoAway(nil, 7, 0, "", "x") },
	"DATAGRAM":   func(b *bed, i uint64) []byte { return frame.AppendDatagram(nil, b.peerID(i%16), make([]byte, 1000)) },
	"empty data": func(b *bed, i uint64) []byte { return frame.AppendStream(nil, b.peerID(i%16), 0, nil, false, false) },
	"same byte": func(b *bed, i uint64) []byte {
		return frame.AppendStream(nil, b.peerID(i%16), 9, []byte("x"), false, false)
	},
	"nothing": func(b *bed, i uint64) []byte { return nil },
}

// testFlood sends many messages of a few such frames while the peer takes
// nothing: what waits to be sent stays bounded.
func testFlood(t *testing.T, b *bed, f func(b *bed, i uint64) []byte) {
	const messages = 1500
	b.end.set(func() { b.end.stuck = true })
	for i := range uint64(messages) {
		b.send(f(b, 5*i), f(b, 5*i+1), f(b, 5*i+2), f(b, 5*i+3), f(b, 5*i+4))
	}
	synctest.Wait()
	s := b.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		t.Fatalf("the session ended: %v", s.err)
	}
	a := s.attached[0]
	if n := s.control.len(); n > 16 {
		t.Errorf("%d streams wait with control frames", n)
	}
	if n := a.inFlight.len() + a.records.len(); n > 100 {
		t.Errorf("%d messages and records are remembered while nothing could be written", n)
	}
	if len(s.streams) > 16 || s.acceptable.len() > 16 || s.counters.datagramsHeld > maxDatagramBytes {
		t.Errorf("%d streams, %d to accept, %d bytes of datagrams", len(s.streams), s.acceptable.len(), s.counters.datagramsHeld)
	}
	if n := s.opt.Memory.Used(); n > 16*initialWindow {
		t.Errorf("%d bytes are held", n)
	}
}
