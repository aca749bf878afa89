package tunnel

import (
	"context"
	"time"

	"sallyport/tunnel/internal/frame"
)

// GoAway says why an agent takes no new streams, and where to go instead.
type GoAway struct {
	Code   CloseCode     // why: usually CloseShutdown
	Delay  time.Duration // before the client should come again; whole ms
	URL    string        // where; empty: the same server URL
	Reason string        // for a person
}

// GoAway tells the peer that no new streams are welcome. Those under way, and
// those that the peer opens before it has read this, go on.
func (s *Session) GoAway(info GoAway) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(info)
}

func (s *Session) leave(info GoAway) {
	if s.goAwaySent || s.goAwayDue || s.err != nil {
		return
	}
	s.goAway, s.goAwayDue = info, true
	s.wakeAny()
}

// GoingAway is closed when the peer has sent GOAWAY.
func (s *Session) GoingAway() <-chan struct{} { return s.goneAway }

// PeerGoAway returns what the peer's GOAWAY said, and whether there was one.
func (s *Session) PeerGoAway() (GoAway, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peerGoAway, s.peerLeaving
}

func (s *Session) onGoAway(f *frame.Frame) {
	if s.peerLeaving {
		return
	}
	s.peerLeaving = true
	s.peerGoAway = GoAway{
		Code:   CloseCode(f.Code),
		Delay:  time.Duration(min(f.Delay, uint64(time.Hour/time.Millisecond))) * time.Millisecond,
		URL:    string(f.Data),
		Reason: string(f.Reason),
	}
	close(s.goneAway)
	s.leave(GoAway{Code: CloseDone}) // the echo
	s.changed.Broadcast()
}

// Drain sends GOAWAY, waits until all streams are over and everything sent is
// acked, and ends the session. If ctx ends first, what is left is cut off and
// Drain returns ctx's error.
func (s *Session) Drain(ctx context.Context) error {
	s.GoAway(GoAway{Code: CloseShutdown, Reason: "the agent is stopping"})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	err := s.wait(ctx, &s.changed, func() bool {
		return len(s.streams) == 0 && (s.peerLeaving || len(s.attached) == 0)
	})
	if s.err != nil {
		return nil
	}
	if err != nil {
		s.end(&CloseError{Code: CloseShutdown, Reason: "the agent is stopping, and its streams did not end in time"})
		return err
	}
	s.end(&CloseError{Code: CloseDone})
	return nil
}
