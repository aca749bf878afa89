package tunnel

import (
	"context"
	"errors"
	"sync"
	"time"

	"sallyport/tunnel/internal/frame"
)

// Session is what two agents share: streams that outlive the carriers below
// them. Make one with NewSession (client) or get it from a Host (server), keep
// Run going for as long as it lives, and serve carriers with Attach.
//
// All fields below mu are guarded by it, and so are those of the session's
// streams and attachments. Unexported methods expect it to be held, unless
// their comment says otherwise.
type Session struct {
	opt      Options
	client   bool
	identity string
	done     chan struct{} // closed when err is set
	goneAway chan struct{} // closed when the peer's GOAWAY has come
	rearm    chan struct{} // tells Run that armed moved forward
	waiting  chan struct{} // what Waiting returns

	mu      sync.Mutex
	changed sync.Cond // anything that Open, Drain, Hedge, Ping or Attach waits for
	arrived sync.Cond // a stream to Accept
	err     error     // why the session is over; nil while it lives
	armed   time.Time // when Run will look at the clock next

	id          frame.SessionID
	secret      frame.Secret
	established bool // HELLOs were exchanged once
	creating    bool // client: the first exchange is under way
	confirmed   bool // server: the client has sent something after its first HELLO

	attached    []*attachment // the live carriers
	ticking     []*attachment // tick's copy of them
	detached    time.Time     // since when there is none
	lastCarrier uint64        // highest carrier id so far
	limbo       []*attachment // lost, waiting for the peer to say what arrived
	lostCounts  []frame.Received
	path        path

	streams    map[uint64]*Stream
	acceptable deque[*Stream]
	opened     uint64 // streams we opened, ever
	maxOpen    uint64 // how many the peer lets us
	peerOpened uint64 // streams the peer opened, ever
	peerMax    uint64 // how many we let it
	peerTold   uint64 // how many it knows of
	peerWindow uint64 // credit on a new stream of ours
	peerResume time.Duration
	peerData   uint64 // largest DATAGRAM the peer takes; 0: none

	control       deque[*Stream] // with a CREDIT, RESET_STREAM or STOP_SENDING to send
	datagrams     deque[datagram]
	datagramBytes int
	maxStreamsDue bool
	goAway        GoAway
	goAwayDue     bool
	goAwaySent    bool
	peerGoAway    GoAway
	peerLeaving   bool
	draining      bool // Drain waits for the last stream

	interactiveAt time.Time // when an interactive stream last had something to send
	bulkAt        time.Time // when a bulk stream last did, or sent it

	dataAt     time.Time // client: when stream data last came, or was last asked for
	flowing    bool      // it came in a steady flow
	stallAsked bool      // it stopped, and the carriers were asked

	isWaiting bool // Waiting's channel is closed

	crowd crowd

	receiveBudget int // left for windows above initialWindow
	sendCharged   int // held by streams beyond initialWindow each
	sendWaiters   bool
	counters      counters
}

// NewSession returns the client side of a session that does not exist yet: the
// first Attach makes it.
func NewSession(o Options) *Session {
	s := newSession(o.withDefaults())
	s.client = true
	return s
}

func newSession(o Options) *Session {
	s := &Session{
		opt:           o,
		done:          make(chan struct{}),
		goneAway:      make(chan struct{}),
		rearm:         make(chan struct{}, 1),
		waiting:       make(chan struct{}),
		streams:       make(map[uint64]*Stream),
		peerMax:       o.MaxStreams,
		peerTold:      o.MaxStreams,
		peerResume:    o.ResumeTimeout,
		receiveBudget: o.ReceiveBudget,
		detached:      time.Now(),
	}
	s.changed.L, s.arrived.L = &s.mu, &s.mu
	return s
}

// Identity is who the client is, as told to Host.Serve; empty on the client side.
func (s *Session) Identity() string { return s.identity }

// Done is closed when the session is over.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns why the session is over, a *CloseError; nil while it lives.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Waiting returns a channel that is closed while no carrier is attached and a
// stream waits for one: it was given something to send, or what it sent is not
// acked, or data was flowing to it.
func (s *Session) Waiting() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

// waits closes Waiting's channel.
func (s *Session) waits() {
	if !s.isWaiting {
		s.isWaiting = true
		close(s.waiting)
	}
}

// Open opens a stream. There is no round trip: the peer learns of it with the
// first byte (or FIN, or reset). While the peer allows no more streams, or
// before the first carrier's HELLO, Open waits. It works while no carrier is
// attached: what is written waits.
//
// Errors: ctx's, ErrGoingAway, or why the session is over.
func (s *Session) Open(ctx context.Context) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.wait(ctx, &s.changed, func() bool {
		return s.goAwaySent || s.peerLeaving || s.established && s.opened < s.maxOpen
	})
	if err != nil {
		return nil, err
	}
	if s.goAwaySent || s.peerLeaving {
		return nil, ErrGoingAway
	}
	st := s.newStream(s.ownID(s.opened), true)
	s.opened++
	s.counters.opened++
	return st, nil
}

// Accept waits for a stream that the peer opened. The caller must end its work
// on the stream with Close or Reset: only then may the peer open another in
// its place.
func (s *Session) Accept(ctx context.Context) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.wait(ctx, &s.arrived, func() bool { return s.acceptable.len() > 0 }); err != nil {
		return nil, err
	}
	return s.acceptable.pop(), nil
}

// wait waits until ready, the session's end (whose reason it returns) or ctx's.
func (s *Session) wait(ctx context.Context, c *sync.Cond, ready func() bool) error {
	if s.err == nil && ctx.Err() == nil && ready() {
		return nil
	}
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		c.Broadcast()
	})
	defer stop()
	for {
		switch {
		case s.err != nil:
			return s.err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case ready():
			return nil
		}
		c.Wait()
	}
}

// Hedge waits until the session wants another carrier beside those attached,
// because every one of them has gone silent. The caller dials and attaches
// one; while the silence lasts and no other has come, Hedge returns again.
func (s *Session) Hedge(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wait(ctx, &s.changed, func() bool {
		for _, a := range s.attached {
			if !a.suspect || a.broken != nil { // a broken one is about to be lost, and replaced
				return false
			}
		}
		return len(s.attached) > 0
	})
}

// Ping measures a round trip through an attached carrier, in the path that
// data takes. It waits for a carrier if there is none.
func (s *Session) Ping(ctx context.Context) (time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := s.wait(ctx, &s.changed, func() bool { return len(s.attached) > 0 }); err != nil {
			return 0, err
		}
		a := s.pick()
		a.ping()
		seq, start := a.pingSeq, time.Now()
		a.wake()
		err := s.wait(ctx, &s.changed, func() bool { return a.lost || a.pongSeen >= seq })
		if err != nil {
			return 0, err
		}
		if a.pongSeen >= seq {
			return time.Since(start), nil
		}
	}
}

// Close ends the session: the peer gets a CLOSE with the code and reason of
// why, and every stream's calls fail with it. It does not wait; Run does.
func (s *Session) Close(why *CloseError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(why)
}

// end ends the session once.
func (s *Session) end(why error) {
	if s.err != nil {
		return
	}
	s.err = why
	close(s.done)
	var remote *CloseError
	told := errors.As(why, &remote) && remote.Remote
	for _, a := range append([]*attachment(nil), s.attached...) {
		if told {
			a.lose(why)
		} else {
			a.closeDue = true
			a.wake()
		}
	}
	for _, st := range s.streams {
		st.abandon()
	}
	for s.acceptable.len() > 0 {
		s.acceptable.pop().in.drop() // nobody will read it
	}
	clear(s.streams)
	s.limbo, s.control, s.datagrams = nil, deque[*Stream]{}, deque[datagram]{}
	s.changed.Broadcast()
	s.arrived.Broadcast()
}

// ownID and peerID return the id of the n-th stream of ours or the peer's: the
// lowest bit says who opened it, 0 the client, 1 the server.
func (s *Session) ownID(n uint64) uint64 {
	if s.client {
		return n << 1
	}
	return n<<1 | 1
}

func (s *Session) isOwn(id uint64) bool { return id&1 == 0 == s.client }

func (s *Session) newStream(id uint64, own bool) *Stream {
	st := &Stream{id: id, own: own, session: s}
	st.readable.L, st.writable.L = &s.mu, &s.mu
	st.in = incoming{mem: s.opt.Memory, limit: initialWindow, window: initialWindow}
	st.out.limit = s.peerWindow
	s.streams[id] = st
	return st
}

// peerStream returns the stream of a frame that the peer sent about id, or nil
// if it is over and forgotten. A peer's id above the highest opens it and all
// below (RFC 9000 §3.2).
func (s *Session) peerStream(id uint64) (*Stream, error) {
	n := id >> 1
	if s.isOwn(id) {
		if n >= s.opened {
			return nil, protocolError("frame for stream %d, which was never opened", id)
		}
		return s.streams[id], nil
	}
	if n >= s.peerMax {
		return nil, protocolError("stream %d is beyond the limit of %d", id, s.peerMax)
	}
	if s.peerOpened <= n {
		for ; s.peerOpened <= n; s.peerOpened++ {
			s.newStream(s.peerOpened<<1|id&1, false)
			s.counters.accepted++
		}
		s.offerStreams()
	}
	return s.streams[id], nil
}

// forget drops a stream that is over: everything was received and everything
// sent is acked. A peer's stream makes room for another once its handler has
// ended too.
func (s *Session) forget(st *Stream) {
	if !st.forgotten && st.in.done() && st.out.done() {
		st.forgotten = true
		delete(s.streams, st.id)
		if s.crowd.interactive == st {
			s.crowd.interactive = nil
		}
		if s.draining && len(s.streams) == 0 {
			s.changed.Broadcast()
		}
	}
	st.refund()
	if !st.forgotten || st.own || !st.released || st.slotBack {
		return
	}
	st.slotBack = true
	s.peerMax++
	s.offerStreams()
}

// refund gives back what a stream's window had of the budget once the stream
// is over and nothing of it is left to read.
func (st *Stream) refund() {
	if st.forgotten && st.in.held == 0 {
		st.session.receiveBudget += int(st.in.window - initialWindow)
		st.in.window = initialWindow
	}
}

// offerStreams tells the peer of slots that came back once it has used half of
// those it knows of.
func (s *Session) offerStreams() {
	if s.peerMax > s.peerTold && s.peerTold-s.peerOpened <= s.opt.MaxStreams/2 {
		s.maxStreamsDue = true
		s.wakeAny()
	}
}

// wakeAny makes some carrier send what the session has to say.
func (s *Session) wakeAny() {
	if a := s.pick(); a != nil {
		a.wake()
	}
}

// pick returns the carrier with the least backlog, not a suspect one if there
// is another; nil if none is attached.
func (s *Session) pick() *attachment { return s.pickBeside(nil) }

// pickBeside is pick without one of the carriers.
func (s *Session) pickBeside(not *attachment) (best *attachment) {
	for _, a := range s.attached {
		if a == not {
			continue
		}
		if best == nil || best.suspect && !a.suspect || best.suspect == a.suspect && a.backlog() < best.backlog() {
			best = a
		}
	}
	return best
}
