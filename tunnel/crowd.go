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
	looks    uint64    // that it has taken
	periods  int       // in a row in which the carriers were crowded
	used     time.Time // when one carrier less would last have been crowded

	moving        []*Stream // since it last looked, if somebody watches
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

// moves notes that a stream is about to move payload.
func (c *crowd) moves(st *Stream) {
	if c.watched == 0 || st.look > c.looks {
		return
	}
	st.look, st.moved = c.looks+1, st.sent+st.received
	c.moving = append(c.moving, st)
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
	bulk := n // so many carry bulk
	if s.reserved(now) != nil {
		bulk--
	}
	if n > 1 && crowded >= max(1, bulk-1) {
		c.used = now
	}
	busy := c.busyStreams()
	switch {
	case c.watched == 0:
	case crowded < bulk || busy <= n:
		c.periods = 0
	default:
		if c.periods++; c.periods == crowdPeriods {
			s.changed.Broadcast()
		}
	}
}

// busyStreams counts the streams that have moved bulk since it was last called,
// and all interactive ones of late as one.
func (c *crowd) busyStreams() (n int) {
	for i, st := range c.moving {
		if st.sent+st.received-st.moved <= interactiveBytes {
			c.interactive, c.interactiveAt = st, c.at
		} else {
			n++
			if st == c.interactive {
				c.interactive = nil // it was only beginning
			}
		}
		c.moving[i] = nil
	}
	c.moving = c.moving[:0]
	c.looks++
	if c.at.Sub(c.interactiveAt) > reservedPeriod {
		c.interactive = nil
	}
	if c.interactive != nil {
		n++
	}
	return n
}
