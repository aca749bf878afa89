package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/tunnel"
)

// agent is what both agents are made of: the streams that they relay, and the counting and logging of these.
type agent struct {
	log      *slog.Logger
	counters counters
	sessions sessionSet
	started  atomic.Pointer[time.Time]

	mu      sync.Mutex
	live    map[*liveStream]struct{}
	idle    chan struct{} // closed, and made anew, when the last of live has ended
	stopped error         // set when the agent stops at once
}

// liveStream is one stream that is being opened or relayed.
type liveStream struct {
	stream   *tunnel.Stream
	identity string // the peer's, at a server agent
	origin   string
	target   string
	started  time.Time
	listen   bool        // it holds a listener open and carries no bytes
	open     atomic.Bool // the reply was ok
	answered func()      // called when the reply has come, or will not; may be nil

	mu      sync.Mutex
	relay   *relay       // nil while opening
	allowed func() error // whether the policy still allows the stream; nil if nothing is to be checked
	ended   error        // why end was called
}

// end aborts the stream, now or as soon as its relay begins.
func (s *liveStream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return
	}
	s.ended = err
	if s.relay != nil {
		s.relay.fail(err)
		return
	}
	resetStream(s.stream, codeOf(err), publicReason(err))
}

// begin says that r relays the stream from now on.
func (s *liveStream) begin(r *relay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.relay = r
	if s.ended != nil {
		r.fail(s.ended)
	}
}

// cause returns what ended the stream: what end was called with, or else err.
func (s *liveStream) cause(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return s.ended
	}
	return err
}

// check runs the policy's check, if there is one, and ends the stream that is not allowed any more.
func (s *liveStream) check() {
	s.mu.Lock()
	allowed := s.allowed
	s.mu.Unlock()
	if allowed == nil {
		return
	}
	if err := allowed(); err != nil {
		s.end(err)
	}
}

// setAllowed sets how to check whether the stream is still allowed.
func (s *liveStream) setAllowed(allowed func() error) {
	s.mu.Lock()
	s.allowed = allowed
	s.mu.Unlock()
}

func (a *agent) init(log *slog.Logger) {
	a.log = log
	if log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.live = make(map[*liveStream]struct{})
	a.idle = make(chan struct{})
}

func (a *agent) start() {
	now := time.Now()
	a.started.Store(&now)
}

func (a *agent) track(s *liveStream) {
	s.started = time.Now()
	a.mu.Lock()
	a.live[s] = struct{}{}
	stopped := a.stopped
	a.mu.Unlock()
	if stopped != nil {
		s.end(stopped)
	}
}

// stop ends all streams at once, and those that begin later.
func (a *agent) stop(err error) {
	a.mu.Lock()
	a.stopped = err
	a.mu.Unlock()
	for _, s := range a.streams() {
		s.end(err)
	}
}

func (a *agent) untrack(s *liveStream) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.live, s)
	if len(a.live) == 0 {
		close(a.idle)
		a.idle = make(chan struct{})
	}
}

// awaitIdle waits until no stream is left, or ctx ends: then it returns ctx's error.
func (a *agent) awaitIdle(ctx context.Context) error {
	for {
		a.mu.Lock()
		left, idle := len(a.live), a.idle
		a.mu.Unlock()
		switch {
		case left == 0:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		select {
		case <-idle:
		case <-ctx.Done():
		}
	}
}

// finishStreams lets the streams of the sessions finish until ctx ends, closes the sessions, and waits until what has
// arrived was passed on: a reader may take the last bytes of a stream long after the session is done with it.
func (a *agent) finishStreams(ctx context.Context, sessions []*tunnel.Session) error {
	if err := drainAll(ctx, sessions); err != nil {
		return err
	}
	return a.awaitIdle(ctx)
}

// streams returns the live streams, oldest first.
func (a *agent) streams() []*liveStream {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]*liveStream, 0, len(a.live))
	for s := range a.live {
		list = append(list, s)
	}
	slices.SortFunc(list, func(x, y *liveStream) int {
		return cmp.Or(x.started.Compare(y.started), cmp.Compare(x.stream.ID(), y.stream.ID()))
	})
	return list
}

// trace returns the hooks of a session: the agent's counting, and then those of its options.
func (a *agent) trace(user *tunnel.Trace) *tunnel.Trace {
	var t tunnel.Trace
	if user != nil {
		t = *user
	}
	t.CarrierLost = func(cause error) {
		a.counters.carrierLosses.add(lossCause(cause))
		if user != nil && user.CarrierLost != nil {
			user.CarrierLost(cause)
		}
	}
	return &t
}

// status fills in what both agents have.
func (a *agent) status(kind string) Status {
	st := Status{Agent: kind, Counters: a.counters.snapshot()}
	if t := a.started.Load(); t != nil {
		st.Started = *t
	}
	a.sessions.snapshot(&st)
	for _, s := range a.streams() {
		if s.listen {
			continue
		}
		state := StreamOpening
		if s.open.Load() {
			state = StreamOpen
		}
		st.Streams = append(st.Streams, StreamStatus{
			Identity: s.identity, Origin: s.origin, Target: s.target, State: state, Started: s.started,
		})
	}
	return st
}

// openAndRelay is the opener's side of one stream: it writes the request, lets the socket's bytes follow, and relays
// until the end. It closes stream and socket, and returns why it ended: nil after an end of file each way.
func (a *agent) openAndRelay(live *liveStream, req *request, sock socket) error {
	st := live.stream
	a.track(live)
	defer a.untrack(live)
	defer st.Close()
	r := &relay{stream: st, socket: sock}
	r.begin = func() error {
		err := a.awaitReply(live)
		if live.answered != nil {
			live.answered()
		}
		return err
	}
	live.begin(r)
	_, _ = st.WriteLater(req.append(nil)) // its failure shows in what the relay does next
	err := r.run()
	a.ended(live, r.toStream, r.toSocket, err)
	return err
}

// awaitReply reads the reply to a request.
func (a *agent) awaitReply(live *liveStream) error {
	rep, err := readReply(live.stream)
	if err != nil {
		return openFailure(err, live.target)
	}
	if rep.code != CodeOK {
		return &OpenError{Code: rep.code, Target: live.target, Reason: rep.text}
	}
	live.open.Store(true)
	a.counters.streamsOpened.Add(1)
	return nil
}

// openFailure explains a stream that ended before its reply.
func openFailure(err error, target string) error {
	if code, reason, ok := resetCode(err); ok {
		return &OpenError{Code: code, Target: target, Reason: reason}
	}
	switch {
	case errors.Is(err, errRecord), errors.Is(err, io.EOF):
		return &OpenError{Code: CodeInternal, Target: target, Reason: "no proper reply: " + err.Error()}
	}
	return err
}

// answer is the acceptor's side of one connect: dial, reply, relay until the end. dial's error decides what the opener
// is told. It returns why the stream ended, and leaves it to its caller to Close, which must be the last thing.
func (a *agent) answer(ctx context.Context, live *liveStream, dial func(context.Context) (net.Conn, error)) error {
	a.track(live)
	defer a.untrack(live)
	st := live.stream
	conn, err := a.dialWhile(ctx, st, dial)
	if err == nil {
		if _, err = st.Write((&reply{code: CodeOK}).append(nil)); err != nil {
			abortConn(conn)
		}
	} else if !errors.Is(err, errStreamGone) {
		refuse(st, err)
	}
	if err != nil {
		a.ended(live, 0, 0, err)
		return err
	}
	live.open.Store(true)
	a.counters.streamsOpened.Add(1)
	r := &relay{stream: st, socket: netSocket{conn}}
	live.begin(r)
	err = r.run()
	a.ended(live, r.toSocket, r.toStream, err)
	return err
}

// dialWhile dials for as long as the stream lives: nobody waits for the connection of a stream that was reset.
func (a *agent) dialWhile(ctx context.Context, st *tunnel.Stream, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cancelled := make(chan struct{})
	stop := st.AfterDone(func() {
		cancel(errStreamGone)
		close(cancelled)
	})
	conn, err := dial(ctx)
	if !stop() {
		<-cancelled
	}
	if errors.Is(context.Cause(ctx), errStreamGone) {
		if conn != nil {
			abortConn(conn)
		}
		return nil, errStreamGone
	}
	return conn, err
}

// errStreamGone is why a target is not dialled any further.
var errStreamGone = fmt.Errorf("%w: the stream ended while its target was dialled", ErrAborted)

// refuse tells the opener why its request failed, in the reply and, for an opener that is still sending, in the
// STOP_SENDING that follows it.
func refuse(st *tunnel.Stream, err error) {
	code, reason := codeOf(err), publicReason(err)
	if _, werr := st.Write((&reply{code: code, text: reason}).append(nil)); werr == nil {
		_ = st.CloseWrite()
	}
	_ = st.CloseRead(resetBase+uint64(code), clip(reason, 256))
}

// ended counts and logs the end of a stream. sent went from the origin to the target.
func (a *agent) ended(s *liveStream, sent, received int64, err error) {
	cause := endCause(err)
	a.counters.streamsEnded.add(cause)
	if !s.open.Load() {
		a.counters.openFailures.add(cause)
	}
	attrs := []slog.Attr{
		slog.String("origin", s.origin),
		slog.String("target", s.target),
		slog.Int64("sent", sent),
		slog.Int64("received", received),
		slog.Duration("duration", time.Since(s.started).Round(time.Microsecond)),
		slog.String("cause", cause),
	}
	if s.identity != "" {
		attrs = append([]slog.Attr{slog.String("identity", s.identity)}, attrs...)
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", fmt.Sprint(err)))
	}
	a.log.LogAttrs(context.Background(), slog.LevelInfo, "stream ended", attrs...)
}
