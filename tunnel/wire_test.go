package tunnel

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"sallyport/tunnel/internal/frame"
)

// wire is a pair of carriers in memory that, unlike a memLink, delivers what
// was written before a close, and keeps order whatever its latency and rate.
type wire struct{ client, server *wireEnd }

type wireEnd struct {
	peer    *wireEnd
	latency time.Duration // one way, towards this end
	rate    int           // bytes a second towards this end; 0: no limit

	mu     sync.Mutex
	cond   sync.Cond
	inbox  []wireMessage
	bytes  int       // in inbox: the writer waits at wireBuffer
	free   time.Time // when the line has carried all of inbox
	held   bool      // nothing is delivered now
	stuck  bool      // writers towards this end wait
	closed bool      // here
	eof    bool      // closed by the peer: ends after inbox
	reads  int       // buffers taken
}

type wireMessage struct {
	at   time.Time
	data []byte
}

const wireBuffer = 4 << 20

var errCut = errors.New("cut by the test")

func newWire(latency time.Duration, rate int) *wire {
	w := &wire{&wireEnd{latency: latency, rate: rate}, &wireEnd{latency: latency, rate: rate}}
	w.client.peer, w.server.peer = w.server, w.client
	w.client.cond.L, w.server.cond.L = &w.client.mu, &w.server.mu
	return w
}

// hold stops delivery, as a network does that loses every packet; when it ends
// everything arrives, as TCP sends it again.
func (w *wire) hold(on bool) {
	w.client.set(func() { w.client.held = on })
	w.server.set(func() { w.server.held = on })
}

func (e *wireEnd) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
	e.cond.Broadcast()
}

func (e *wireEnd) MaxMessage() int { return MaxMessage - 4 }

func (e *wireEnd) ReadMessage(take func() []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		switch {
		case e.closed:
			return 0, io.ErrClosedPipe
		case e.held:
		case len(e.inbox) == 0 && e.eof:
			return 0, io.EOF
		case len(e.inbox) > 0:
			if wait := time.Until(e.inbox[0].at); wait > 0 {
				defer time.AfterFunc(wait, func() { e.set(func() {}) }).Stop()
				break
			}
			m := e.inbox[0].data
			e.inbox, e.bytes = e.inbox[1:], e.bytes-len(m)
			e.reads++
			e.cond.Broadcast()
			return copy(take(), m), nil
		}
		e.cond.Wait()
	}
}

func (e *wireEnd) WriteMessages(msgs [][]byte) error {
	for _, m := range msgs {
		if err := e.peer.arrive(append([]byte(nil), m...)); err != nil {
			return err
		}
	}
	return nil
}

func (e *wireEnd) arrive(m []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for (e.bytes >= wireBuffer || e.stuck) && !e.closed && !e.eof {
		e.cond.Wait()
	}
	if e.closed || e.eof {
		return io.ErrClosedPipe
	}
	now := time.Now()
	if e.free.Before(now) {
		e.free = now
	}
	if e.rate > 0 {
		e.free = e.free.Add(time.Duration(float64(len(m)) / float64(e.rate) * float64(time.Second)))
	}
	e.inbox, e.bytes = append(e.inbox, wireMessage{e.free.Add(e.latency), m}), e.bytes+len(m)
	e.cond.Broadcast()
	return nil
}

func (e *wireEnd) Close(error) error {
	e.set(func() { e.closed = true })
	e.peer.set(func() { e.peer.eof = true })
	return nil
}

func (e *wireEnd) isClosed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed
}

// join serves both ends of a wire; the results of Attach and Serve come back
// on the channels.
func (p *pair) join(w *wire, identity string) (attach, serve <-chan error) {
	a, s := make(chan error, 1), make(chan error, 1)
	p.wg.Go(func() { a <- p.client.Attach(p.ctx, w.client) })
	p.wg.Go(func() { s <- p.host.Serve(p.ctx, w.server, identity) })
	return a, s
}

// start makes the session over a wire and confirms it with a round trip.
func (p *pair) start(w *wire) (attach, serve <-chan error) {
	p.t.Helper()
	attach, serve = p.join(w, "alice")
	var err error
	if p.server, err = p.host.Accept(p.ctx); err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.client.Ping(p.ctx); err != nil {
		p.t.Fatal(err)
	}
	return attach, serve
}

// rawPeer lets a test play one agent, frame by frame.
type rawPeer struct {
	t     *testing.T
	end   *wireEnd
	hello *frame.Hello // of the other side
	queue []frame.Frame
	buf   []byte
}

// send sends one message of these frames.
func (r *rawPeer) send(frames ...[]byte) {
	var msg []byte
	for _, f := range frames {
		msg = append(msg, f...)
	}
	_ = r.end.WriteMessages([][]byte{msg}) // a closed carrier shows when reading
}

// next returns the next frame, or an error once the carrier is closed.
func (r *rawPeer) next() (frame.Frame, error) {
	for len(r.queue) == 0 {
		r.buf = make([]byte, MaxMessage) // frames point into it
		n, err := r.end.ReadMessage(func() []byte { return r.buf })
		if err != nil {
			return frame.Frame{}, err
		}
		for rest := r.buf[:n]; len(rest) > 0; {
			var f frame.Frame
			if rest, err = frame.Next(&f, rest); err != nil {
				r.t.Errorf("the session sent a malformed message: %v", err)
				return frame.Frame{}, err
			}
			r.queue = append(r.queue, f)
		}
	}
	f := r.queue[0]
	r.queue = r.queue[1:]
	return f, nil
}

// expect returns the next frame of a type, skipping others.
func (r *rawPeer) expect(want frame.Type) frame.Frame {
	r.t.Helper()
	for {
		f, err := r.next()
		if err != nil {
			r.t.Fatalf("waiting for %v: %v", want, err)
		}
		if f.Type == want {
			return f
		}
	}
}

// count drains what has come so far and says how often each type did.
func (r *rawPeer) count() map[frame.Type]int {
	n := make(map[frame.Type]int)
	for {
		r.end.mu.Lock()
		empty := len(r.end.inbox) == 0
		r.end.mu.Unlock()
		if empty && len(r.queue) == 0 {
			return n
		}
		f, err := r.next()
		if err != nil {
			return n
		}
		n[f.Type]++
	}
}

// rawHello is what a raw peer says first unless a test wants otherwise.
func rawHello() *frame.Hello {
	return &frame.Hello{
		MinVersion: Version, MaxVersion: Version, Carrier: 1, MaxStreams: 100,
		Window: initialWindow, MaxDatagram: maxDatagram, ResumeTimeout: time.Minute, Software: "raw",
	}
}

// bed is a Host or a client Session against a raw peer.
type bed struct {
	*rawPeer
	ctx     context.Context
	host    *Host    // the side under test, if it is the server
	session *Session // the side under test
	ended   <-chan error
}

// newBed returns the side under test after the handshake. The raw peer is the
// client if server is set.
func newBed(t *testing.T, server bool, o Options) *bed {
	t.Helper()
	if server {
		b := newHostBed(t, HostOptions{Options: o})
		b.dial(rawHello())
		b.hello = b.reply()
		b.send(frame.AppendPing(nil, 1))
		var err error
		if b.session, err = b.host.Accept(b.ctx); err != nil {
			t.Fatal(err)
		}
		b.expect(frame.TypePong)
		return b
	}
	b := &bed{rawPeer: &rawPeer{t: t}, session: NewSession(o)}
	b.ctx = runInTest(t, b.session.Run)
	b.accept()
	b.hello = b.reply()
	h := rawHello()
	h.Carrier, h.Session, h.Secret = b.hello.Carrier, frame.SessionID{1}, frame.Secret{2}
	b.send(frame.AppendHello(nil, h))
	b.expect(frame.TypePing)
	return b
}

// newHostBed returns a Host that runs, before any carrier.
func newHostBed(t *testing.T, o HostOptions) *bed {
	b := &bed{rawPeer: &rawPeer{t: t}, host: NewHost(o)}
	b.ctx = runInTest(t, b.host.Run)
	return b
}

// runInTest keeps run going until the test ends, and waits for it.
func runInTest(t *testing.T, run func(context.Context) error) context.Context {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { run(ctx) })
	t.Cleanup(func() { stop(); wg.Wait() })
	return ctx
}

// dial gives the raw peer, a client, a new carrier and says hello.
func (b *bed) dial(h *frame.Hello) { b.dialAs("alice", frame.AppendHello(nil, h)) }

// dialAs gives the raw peer a new carrier and sends its first message.
func (b *bed) dialAs(identity string, first []byte) {
	w := newWire(0, 0)
	ended := make(chan error, 1)
	go func() { ended <- b.host.Serve(b.ctx, w.server, identity) }()
	b.rawPeer = &rawPeer{t: b.t, end: w.client}
	b.ended = ended
	b.t.Cleanup(func() { w.client.Close(nil) })
	if first != nil {
		b.send(first)
	}
}

// accept gives the raw peer, a server, a new carrier of the session's.
func (b *bed) accept() {
	w := newWire(0, 0)
	ended := make(chan error, 1)
	go func() { ended <- b.session.Attach(b.ctx, w.client) }()
	b.rawPeer = &rawPeer{t: b.t, end: w.server}
	b.ended = ended
	b.t.Cleanup(func() { w.server.Close(nil) })
}

// reply reads the other side's HELLO.
func (b *bed) reply() *frame.Hello {
	b.t.Helper()
	h, err := frame.ParseHello(b.expect(frame.TypeHello).Data)
	if err != nil {
		b.t.Fatal(err)
	}
	return h
}

// peerID and ownID are ids of the n-th stream that the raw peer and the side
// under test open.
func (b *bed) peerID(n uint64) uint64 { return n<<1 | uint64(b2i(b.session.client)) }
func (b *bed) ownID(n uint64) uint64  { return n<<1 | uint64(1-b2i(b.session.client)) }

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// bothSides runs f with each side under test, in virtual time.
func bothSides(t *testing.T, o Options, f func(t *testing.T, b *bed)) {
	for name, server := range map[string]bool{"server": true, "client": false} {
		t.Run(name, func(t *testing.T) { inBubble(t, func(t *testing.T) { f(t, newBed(t, server, o)) }) })
	}
}
