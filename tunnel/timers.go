package tunnel

import (
	"context"
	"errors"
	"time"
)

// Run keeps the session's clock: acks that are due, pings, silent carriers,
// the end of a session without a carrier. It returns when the session is over
// and its carriers are gone: why, or nil if that was the plan (CloseDone).
// When ctx ends, so does the session.
func (s *Session) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			s.Close(&CloseError{Code: CloseShutdown, Reason: "the agent is stopping"})
		case <-s.done:
		case <-s.rearm:
		case <-timer.C:
		}
		select {
		case <-s.done:
			s.linger()
			err := s.Err()
			if errors.Is(err, &CloseError{Code: CloseDone}) {
				return nil
			}
			return err
		default:
		}
		s.mu.Lock()
		timer.Reset(time.Until(s.tick(time.Now())))
		s.mu.Unlock()
	}
}

// linger gives the carriers of a session that is over a moment to write its
// CLOSE, and then loses them.
func (s *Session) linger() {
	ctx, cancel := context.WithTimeout(context.Background(), closeLinger)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.attached) > 0 && ctx.Err() == nil {
		s.changed.Wait()
	}
	for len(s.attached) > 0 {
		s.attached[0].lose(s.err)
	}
}

// schedule makes Run look at the clock at t at the latest.
func (s *Session) schedule(t time.Time) {
	if s.armed.IsZero() || t.Before(s.armed) {
		s.armed = t
		select {
		case s.rearm <- struct{}{}:
		default:
		}
	}
}

// tick does everything that is due and returns when to look again.
func (s *Session) tick(now time.Time) (next time.Time) {
	late := !s.armed.IsZero() && now.Sub(s.armed) > oversleep
	next = now.Add(time.Hour)
	soonest := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	if !s.detached.IsZero() && s.established {
		if end := s.detached.Add(s.expiry()); now.Before(end) {
			soonest(end)
		} else {
			s.end(&CloseError{Code: CloseExpired, Reason: "no carrier for longer than the resume timeout"})
		}
	}
	soonest(s.tickFlow(now))
	s.ticking = append(s.ticking[:0], s.attached...) // what is due may lose some
	for _, a := range s.ticking {
		if late && !a.askedAt.IsZero() {
			a.askedAt = now // this machine slept, not the peer
		}
		soonest(a.tickAck(now))
		soonest(a.tickPing(now))
		soonest(a.tickSilence(now))
	}
	clear(s.ticking)
	s.armed = next
	return next
}

func (s *Session) expiry() time.Duration {
	if s.client {
		return s.peerResume + clientGrace
	}
	return s.opt.ResumeTimeout
}

func (a *attachment) tickAck(now time.Time) time.Time {
	if a.ackBytes == 0 || a.ackDue {
		return time.Time{}
	}
	if now.Before(a.ackAt) {
		return a.ackAt
	}
	a.ackDue = true
	a.wake()
	return time.Time{}
}

// tickFlow asks the carriers when data that was flowing has stopped. If they
// answer and still none comes, it was the peer's to stop; if they do not, it
// asks those that come after them too.
func (s *Session) tickFlow(now time.Time) time.Time {
	stalled := s.dataAt.Add(stallAfter)
	switch {
	case !s.flowing:
		return time.Time{}
	case now.Before(stalled):
		return stalled
	}
	answered := s.stallAsked && len(s.attached) > 0
	for _, a := range s.attached {
		if a.asks > 0 || a.pingDue {
			answered = false
		} else if !s.stallAsked {
			a.ping()
		}
	}
	if answered {
		s.flowing = false
		return time.Time{}
	}
	s.dataAt, s.stallAsked = now, len(s.attached) > 0
	return now.Add(stallAfter)
}

// tickPing asks an idle carrier whether it is alive.
func (a *attachment) tickPing(now time.Time) time.Time {
	due := a.lastSent.Add(a.pingIn)
	if !now.Before(due) {
		a.pingIn = jittered(a.s.opt.KeepAlive)
		a.ping()
		due = now.Add(a.pingIn)
	}
	return due
}

func (a *attachment) ping() {
	a.pingSeq++
	a.pingDue = true
	a.wake()
}

// tickSilence finds carriers that owe an answer: suspect after a while, lost
// after a longer one.
func (a *attachment) tickSilence(now time.Time) time.Time {
	switch {
	case a.lost:
		return time.Time{}
	case a.broken != nil && now.Before(a.brokenUntil):
		return a.brokenUntil
	case a.broken != nil:
		a.lose(a.broken)
		return time.Time{}
	case a.askedAt.IsZero():
		return time.Time{}
	}
	s := a.s
	suspect, dead := a.askedAt.Add(a.suspectAfter()), a.askedAt.Add(s.opt.DeadAfter)
	switch {
	case !now.Before(dead):
		a.lose(ErrDead)
		return time.Time{}
	case now.Before(suspect):
		return suspect
	case !a.suspect:
		a.suspect = true
		s.opt.Logger.Info("carrier has gone silent", "carrier", a.id, "silent_for", now.Sub(a.askedAt).Round(time.Millisecond))
		a.moveAway()
		s.changed.Broadcast()
	}
	return dead
}

func (a *attachment) suspectAfter() time.Duration { return max(suspectAfter, 4*a.rtt) }
