package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"sallyport/proxy/access"
	"sallyport/tunnel"
)

// requestTimeout bounds the wait for the rest of a request whose first byte came. It outlives a session that is away
// for as long as it may be.
const requestTimeout = 3 * time.Minute

// admit decides whether an identity may have one more session.
func (s *Server) admit(identity string, live int) error {
	id, ok := s.o.Access.Lookup(identity)
	switch {
	case !ok:
		return errors.New("the identity was removed")
	case id.Limits.Sessions > 0 && live >= id.Limits.Sessions:
		s.log.Warn("session refused: limit of the identity reached", "identity", identity, "limit", id.Limits.Sessions)
		return fmt.Errorf("the identity has %d sessions, its limit", live)
	case len(s.sessions.all()) >= s.o.MaxSessions:
		s.log.Warn("session refused: limit of the server agent reached", "identity", identity, "limit", s.o.MaxSessions)
		return errors.New("the server agent has as many sessions as it may have")
	}
	return nil
}

// acceptSessions serves each new session until ctx ends.
func (s *Server) acceptSessions(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		sess, err := s.host.Accept(ctx)
		if err != nil {
			return
		}
		s.sessions.add(sess)
		wg.Go(func() { s.serveSession(ctx, sess) })
	}
}

// serveSession serves a session's streams until it is over.
func (s *Server) serveSession(ctx context.Context, sess *tunnel.Session) {
	defer s.sessions.remove(sess)
	identity := sess.Identity()
	s.counters.sessionsOpened.Add(1)
	s.log.Info("session opened", "identity", identity)
	var wg sync.WaitGroup
	for {
		st, err := sess.Accept(ctx)
		if err != nil {
			break
		}
		wg.Go(func() { s.serveStream(ctx, st, identity, wg.Go) })
	}
	wg.Wait()
	err := sess.Err()
	if done := (&tunnel.CloseError{Code: tunnel.CloseDone}); err != nil && !errors.Is(err, done) {
		s.counters.sessionsLost.Add(1)
		s.log.Info("session ended", "identity", identity, "cause", err)
		return
	}
	s.log.Info("session ended", "identity", identity)
}

// serveStream carries out one request. Closing the stream comes last: only then may the client open another in its
// place. spawn starts what may outlive the stream, in the session's care.
func (s *Server) serveStream(ctx context.Context, st *tunnel.Stream, identity string, spawn func(func())) {
	defer st.Close()
	live := &liveStream{stream: st, identity: identity, origin: "-", target: "-"}
	req, err := s.admitStream(live)
	if err != nil {
		s.refuse(live, err)
		return
	}
	defer s.usage.release(identity)
	live.origin, live.target = req.origin, req.address.String()
	if req.action == actionListen {
		s.serveListen(ctx, live, req, spawn)
		return
	}
	_ = s.answer(ctx, live, func(ctx context.Context) (net.Conn, error) {
		if err := req.address.checkTarget(); err != nil {
			return nil, recordError("%w", err)
		}
		return s.connect(ctx, live, req.address)
	})
}

// admitStream takes one of the identity's places for streams, and reads the request. On an error no place is taken.
func (s *Server) admitStream(live *liveStream) (*request, error) {
	id, err := s.identity(live.identity)
	if err != nil {
		return nil, err
	}
	if !s.usage.take(id.Name, id.Limits.Streams) {
		return nil, &OpenError{
			Code: CodeLimit, Target: live.target,
			Reason: fmt.Sprintf("the identity has %d streams open, its limit", id.Limits.Streams),
		}
	}
	_ = live.stream.SetReadDeadline(time.Now().Add(requestTimeout))
	req, err := readRequest(live.stream)
	if err != nil {
		s.usage.release(id.Name)
		return nil, err
	}
	_ = live.stream.SetReadDeadline(time.Time{})
	return req, nil
}

// refuse tells the opener, counts and logs a request that is not carried out.
func (s *Server) refuse(live *liveStream, err error) {
	s.track(live)
	defer s.untrack(live)
	refuse(live.stream, err)
	s.ended(live, 0, 0, err)
}

// identity returns what an identity may do now.
func (s *Server) identity(name string) (access.Identity, error) {
	id, ok := s.o.Access.Lookup(name)
	if !ok {
		return id, &OpenError{Code: CodeDenied, Reason: "the identity was removed"}
	}
	return id, nil
}

// connect dials a target for an identity, and makes sure that it is still allowed when the connection stands: the
// policy may have changed meanwhile.
func (s *Server) connect(ctx context.Context, live *liveStream, target Endpoint) (net.Conn, error) {
	id, err := s.identity(live.identity)
	if err != nil {
		return nil, err
	}
	conn, allowed, err := s.dialTarget(ctx, id, target)
	if err != nil {
		return nil, err
	}
	check := func() error {
		now, err := s.identity(live.identity)
		if err != nil {
			return err
		}
		return allowed(now.Policy)
	}
	live.setAllowed(check)
	if err := check(); err != nil {
		abortConn(conn)
		return nil, err
	}
	return conn, nil
}

// usage counts the streams of each identity.
type usage struct {
	mu      sync.Mutex
	streams map[string]int
}

// take takes a place; limit 0 means no limit.
func (u *usage) take(identity string, limit int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if limit > 0 && u.streams[identity] >= limit {
		return false
	}
	if u.streams == nil {
		u.streams = make(map[string]int)
	}
	u.streams[identity]++
	return true
}

func (u *usage) release(identity string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.streams[identity]--; u.streams[identity] == 0 {
		delete(u.streams, identity)
	}
}
