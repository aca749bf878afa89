package tunnel

import (
	"context"
	"time"
)

// crowd watches whether the processor is what limits a session: a carrier is
// encrypted, written and read by one goroutine each, and what several streams
// send waits for these one after the other. Another carrier lets them go on side
// by side, and lets interactive streams have one without bulk.
//
// It looks at what has moved whenever a message comes, so it costs an idle
// session nothing.
type crowd struct {
	watched  int       // calls of Crowded
	at       time.Time // when it last looked
	sent     uint64    // payload bytes until then
	received uint64
	periods  int       // in a row in which the carriers were crowded
	used     time.Time // when one carrier less would last have been crowded

	counted       time.Time // when busyStreams was last called
	interactive   *Stream   // one that moved little lately; nil: none
	interactiveAt time.Time
}

const (
	// defaultCrowdRate is a gigabit: where a network is the limit it is hardly more.
	defaultCrowdRate = 125_000_000
	// crowdPeriod is how often to look, and crowdPeriods how long it must last.
	crowdPeriod  = 100 * time.Millisecond
	crowdPeriods = 3
)

// Crowded waits until another carrier would let the session do more: those that
// it has are crowded, by more streams than there are carriers.
func (s *Session) Crowded(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crowd.watched++
	s.crowd.periods = 0
	defer func() { s.crowd.watched-- }()
	return s.wait(ctx, &s.changed, func() bool {
		return s.crowd.periods >= crowdPeriods && len(s.attached) > 0 && len(s.attached) < maxCarriers
	})
}

// watchCrowd looks, if it is time to.
func (s *Session) watchCrowd(now time.Time) {
	c := &s.crowd
	elapsed := now.Sub(c.at)
	if elapsed < crowdPeriod {
		return
	}
	moved := max(s.counters.sent-c.sent, s.counters.received-c.received)
	crowded := int(float64(moved)/elapsed.Seconds()) / s.opt.CrowdRate // so many carriers
	c.at, c.sent, c.received = now, s.counters.sent, s.counters.received
	n := len(s.attached)
	if n > 1 && crowded >= n-1 {
		c.used = now
	}
	switch {
	case c.watched == 0:
	case crowded < n || s.busyStreams() <= n:
		c.periods = 0
	default:
		if c.periods++; c.periods == crowdPeriods {
			s.changed.Broadcast()
		}
	}
}

// busyStreams counts the streams that have moved bulk since it was last called,
// and all interactive ones of late as one. The first time in a while it counts none.
func (s *Session) busyStreams() (n int) {
	c := &s.crowd
	if c.at.Sub(c.counted) > 2*crowdPeriod {
		for _, st := range s.streams {
			st.counted = st.sent + st.received
		}
		c.counted, c.interactive = c.at, nil
		return 0
	}
	c.counted = c.at
	for _, st := range s.streams {
		moved := st.sent + st.received
		switch since := moved - st.counted; {
		case since > interactiveBytes:
			n++
			if st == c.interactive {
				c.interactive = nil // it was only beginning
			}
		case since > 0:
			c.interactive, c.interactiveAt = st, c.at
		}
		st.counted = moved
	}
	if c.at.Sub(c.interactiveAt) > reservedPeriod {
		c.interactive = nil
	}
	if c.interactive != nil {
		n++
	}
	return n
}
