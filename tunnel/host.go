package tunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"sallyport/tunnel/internal/frame"
)

// HostOptions sets up a Host. The zero value is ready to use.
type HostOptions struct {
	Options // of every session; Memory is shared by all

	// MaxDetached is how many sessions without a carrier are kept at a time,
	// and MaxDetachedBytes how much memory all sessions may hold while there
	// are some; beyond, the one that was left longest ends. 0 means 10,000
	// and 1 GiB.
	MaxDetached      int
	MaxDetachedBytes int64
	// Admit decides whether an identity that has live sessions may have
	// another; a non-nil error refuses it, and is told to the client. If one
	// session less would do, and one has no carrier, that one is ended
	// instead. nil admits all.
	Admit func(identity string, live int) error
}

// Host is the server side: it finds or makes the session that a carrier is
// for, and owns the sessions.
type Host struct {
	opt      HostOptions
	start    chan *Session // from Serve to Run
	sessions chan *Session // from Run to Accept
	stopped  chan struct{} // closed when Run has returned

	mu       sync.Mutex
	byID     map[frame.SessionID]*Session
	draining *GoAway
}

// NewHost returns a Host, whose Run must be called.
func NewHost(o HostOptions) *Host {
	o.Options = o.withDefaults()
	setDefault(&o.MaxDetached, 10_000)
	setDefault(&o.MaxDetachedBytes, 1<<30)
	return &Host{
		opt:      o,
		start:    make(chan *Session),
		sessions: make(chan *Session),
		stopped:  make(chan struct{}),
		byID:     make(map[frame.SessionID]*Session),
	}
}

// Run owns the sessions until ctx ends; then it ends them and waits for them.
func (h *Host) Run(ctx context.Context) error {
	defer close(h.stopped)
	var wg sync.WaitGroup
	defer wg.Wait()
	sweep := time.NewTicker(time.Second)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			h.evict()
		case s := <-h.start:
			wg.Go(func() {
				_ = s.Run(ctx) // who holds s learns why it ended
				h.remove(s)
			})
			wg.Go(func() {
				select {
				case h.sessions <- s:
				case <-s.Done():
				}
			})
		}
	}
}

// Accept waits for a new session.
func (h *Host) Accept(ctx context.Context) (*Session, error) {
	select {
	case s := <-h.sessions:
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-h.stopped:
		return nil, errHostStopped
	}
}

var errHostStopped = &CloseError{Code: CloseShutdown, Reason: "the server agent is stopping"}

// Sessions returns the live sessions.
func (h *Host) Sessions() []*Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*Session, 0, len(h.byID))
	for _, s := range h.byID {
		list = append(list, s)
	}
	return list
}

// GoAway sends GOAWAY in every session and refuses new ones from now on.
// Carriers that resume a session are still welcome.
func (h *Host) GoAway(info GoAway) {
	h.mu.Lock()
	h.draining = &info
	h.mu.Unlock()
	for _, s := range h.Sessions() {
		s.GoAway(info)
	}
}

// Serve reads the carrier's HELLO, makes or finds its session, and serves it
// until the carrier is lost: why. identity is the client's authenticated name.
// A refusal is a *CloseError, which the client is told too.
func (h *Host) Serve(ctx context.Context, c Carrier, identity string) error {
	a, err := h.attach(ctx, c, identity)
	if err != nil {
		var refusal *CloseError
		if errors.As(err, &refusal) && !refusal.Remote {
			// A carrier that does not take it is about to be closed anyway.
			_ = c.WriteMessages([][]byte{frame.AppendClose(nil, uint64(refusal.Code), refusal.Reason)})
			c.Close(nil)
		}
		c.Close(err)
		return err
	}
	return a.serve(ctx)
}

func (h *Host) attach(ctx context.Context, c Carrier, identity string) (*attachment, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, h.opt.HandshakeTimeout, ErrHandshake)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Close(context.Cause(ctx)) })
	defer stop()
	hello, err := readHello(c, h.opt.Memory)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("reading HELLO: %w", err)
	}
	if hello.MinVersion > Version || hello.MaxVersion < Version {
		return nil, versionError(hello)
	}
	s, err := h.find(ctx, identity, hello)
	if err != nil {
		return nil, err
	}
	a, err := s.accept(c, hello)
	if err != nil && hello.Session == (frame.SessionID{}) {
		s.Close(&CloseError{Code: CloseDone, Reason: "its first carrier was lost"})
	}
	return a, err
}

// find returns the session that a HELLO is for, a new one if it names none.
func (h *Host) find(ctx context.Context, identity string, hello *frame.Hello) (*Session, error) {
	if hello.Session != (frame.SessionID{}) {
		h.mu.Lock()
		s := h.byID[hello.Session]
		h.mu.Unlock()
		if s == nil {
			return nil, &CloseError{Code: CloseUnknownSession, Reason: "it expired, or the server agent was restarted"}
		}
		return s, s.resumable(identity, hello)
	}
	s, err := h.create(identity, hello)
	if err != nil {
		return nil, err
	}
	select {
	case h.start <- s:
		return s, nil
	case <-h.stopped:
		err = errHostStopped
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	h.remove(s)
	return nil, err
}

func (h *Host) create(identity string, hello *frame.Hello) (*Session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining != nil {
		return nil, &CloseError{Code: CloseShutdown, Reason: h.draining.Reason}
	}
	if err := h.admit(identity); err != nil {
		return nil, &CloseError{Code: CloseLimit, Reason: err.Error()}
	}
	s := newServerSession(h.opt.Options, identity, hello)
	h.byID[s.id] = s
	return s, nil
}

// admit asks Admit. A session that its client has left, perhaps because it was
// restarted, must not keep the client out: the one left longest makes room.
func (h *Host) admit(identity string) error {
	if h.opt.Admit == nil {
		return nil
	}
	live := 0
	var left *Session
	var since time.Time
	for _, s := range h.byID {
		if s.identity != identity {
			continue
		}
		live++
		if d := s.Stats().Detached; !d.IsZero() && (left == nil || d.Before(since)) {
			left, since = s, d
		}
	}
	err := h.opt.Admit(identity, live)
	if err == nil || left == nil || h.opt.Admit(identity, live-1) != nil {
		return err
	}
	delete(h.byID, left.id)
	left.Close(&CloseError{Code: CloseExpired, Reason: "the identity has reached its limit, and a new session took this one's place"})
	return nil
}

func (h *Host) remove(s *Session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byID, s.id)
}

// evict ends the sessions that have been without a carrier for longest while
// there are too many of them or they hold too much.
func (h *Host) evict() {
	type left struct {
		s     *Session
		since time.Time
	}
	var list []left
	for _, s := range h.Sessions() {
		if st := s.Stats(); !st.Detached.IsZero() {
			list = append(list, left{s, st.Detached})
		}
	}
	slices.SortFunc(list, func(a, b left) int { return cmp.Compare(a.since.UnixNano(), b.since.UnixNano()) })
	for i, l := range list {
		if len(list)-i <= h.opt.MaxDetached && h.opt.Memory.Used() <= h.opt.MaxDetachedBytes {
			return
		}
		l.s.Close(&CloseError{Code: CloseExpired, Reason: "the server agent keeps no more sessions without a carrier"})
	}
}
