package tunnel

import "time"

// counters are what a session counts.
type counters struct {
	sent, received   uint64 // payload bytes: first handed to a carrier, read by the application
	replayed         uint64 // bytes queued again after a loss
	opened, accepted uint64 // streams
	carriers         uint64 // ever attached
	carriersLost     uint64
	resumes          uint64 // times a carrier joined when none was left
	datagramsDropped uint64
	datagramsHeld    int // bytes waiting to be read
}

// SessionStats is a snapshot of a session.
type SessionStats struct {
	Carriers         int           // attached now
	Suspect          int           // of them, silent
	Streams          int           // open now
	Opened, Accepted uint64        // streams, ever
	Sent, Received   uint64        // payload bytes; Sent includes repeats
	Replayed         uint64        // bytes queued again after a carrier was lost
	CarriersEver     uint64        // attached, ever
	CarriersLost     uint64        // lost, ever
	Resumes          uint64        // times a carrier joined when none was left
	DatagramsDropped uint64        //
	RTT              time.Duration // smoothed, of the carrier with the least backlog; 0: not measured
	AllNeeded        time.Time     // when its carriers were last all needed: one less would have been crowded
	Detached         time.Time     // since when no carrier is attached; zero: one is
	Established      bool          // HELLOs were exchanged once
}

// Stats returns a snapshot.
func (s *Session) Stats() SessionStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.counters
	st := SessionStats{
		Carriers: len(s.attached), Streams: len(s.streams), Opened: c.opened, Accepted: c.accepted,
		Sent: c.sent, Received: c.received, Replayed: c.replayed,
		CarriersEver: c.carriers, CarriersLost: c.carriersLost, Resumes: c.resumes,
		DatagramsDropped: c.datagramsDropped, AllNeeded: s.crowd.used, Detached: s.detached, Established: s.established,
	}
	for _, a := range s.attached {
		if a.suspect {
			st.Suspect++
		}
	}
	if a := s.pick(); a != nil {
		st.RTT = a.rtt
	}
	return st
}

// StreamStats is a snapshot of a stream: payload bytes that were sent first
// time and again, and that the application has read.
type StreamStats struct {
	Sent, Received uint64
}

// Stats returns a snapshot.
func (st *Stream) Stats() StreamStats {
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	return StreamStats{st.out.sent, st.in.read}
}
