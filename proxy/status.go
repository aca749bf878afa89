package proxy

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/tunnel"
)

// Status is a snapshot of an agent, for the admin pages and for metrics. It holds no secret.
type Status struct {
	// Agent is "client" or "server".
	Agent string `json:"agent"`
	// Started is when Run began; zero before that.
	Started time.Time `json:"started"`
	// Draining is true from the start of a drain on.
	Draining bool `json:"draining"`
	// Sessions are the live sessions, attached or not, oldest first.
	Sessions []SessionStatus `json:"sessions"`
	// Listeners are the listeners open at this agent: a client agent's forwards, a server agent's reverse forwards.
	Listeners []ListenerStatus `json:"listeners"`
	// Streams are the relayed streams that are live now.
	Streams []StreamStatus `json:"streams"`
	// Waiting is the number of accepted connections that wait for a session (client agent).
	Waiting int `json:"waiting"`
	// Counters are totals since the agent was made.
	Counters Counters `json:"counters"`
}

// SessionStatus is one session.
type SessionStatus struct {
	// Identity is the peer's; empty at a client agent.
	Identity string `json:"identity,omitempty"`
	// Carriers is the number of carriers attached now; 0 means detached. Suspect of them are silent.
	Carriers int `json:"carriers"`
	Suspect  int `json:"suspect"`
	// Detached is since when there is no carrier; zero while there is one.
	Detached time.Time `json:"detached,omitzero"`
	// Streams is the number of streams that are not forgotten yet, listen streams included.
	Streams int `json:"streams"`
	// GoingAway is true once the peer has sent GOAWAY.
	GoingAway bool `json:"going_away"`
	// RTT is the smoothed round trip of the carrier with the least backlog; 0 while unknown.
	RTT time.Duration `json:"rtt_ns"`
}

// ListenerStatus is one open listener.
type ListenerStatus struct {
	// Forward is the forward in ssh's syntax; at a server agent, the address that was asked for.
	Forward string `json:"forward"`
	// Network is "tcp" or "unix".
	Network string `json:"network"`
	// Addr is the bound address, with the real port where 0 was asked for.
	Addr string `json:"addr"`
	// Identity is whose reverse forward this is; empty at a client agent.
	Identity string `json:"identity,omitempty"`
}

// StreamStatus is one live stream.
type StreamStatus struct {
	// Identity is the peer's; empty at a client agent.
	Identity string `json:"identity,omitempty"`
	// Origin is who connected.
	Origin string `json:"origin"`
	// Target is what is or will be dialled.
	Target string `json:"target"`
	// State is "opening" until the reply, then "open".
	State string `json:"state"`
	// Started is when the request was sent or read.
	Started time.Time `json:"started"`
}

// The states of a [StreamStatus].
const (
	StreamOpening = "opening"
	StreamOpen    = "open"
)

// Counters are totals that only grow.
type Counters struct {
	// SessionsOpened counts sessions that were established.
	SessionsOpened uint64 `json:"sessions_opened"`
	// SessionsLost counts sessions that ended otherwise than by a drain or a close, and their streams with them.
	SessionsLost uint64 `json:"sessions_lost"`
	// CarriersOpened counts carriers whose WebSocket handshake succeeded.
	CarriersOpened uint64 `json:"carriers_opened"`
	// CarrierLosses counts carriers that ended, by cause; "closed" by a WebSocket close, "eof" without one.
	CarrierLosses map[string]uint64 `json:"carrier_losses"`
	// DialFailures counts carriers that could not be had, by [Cause] (client agent).
	DialFailures map[string]uint64 `json:"dial_failures"`
	// Resumes counts carriers attached to a session that had been detached.
	Resumes uint64 `json:"resumes"`
	// BytesReplayed counts payload bytes sent again after a carrier was lost or suspected.
	BytesReplayed uint64 `json:"bytes_replayed"`
	// StreamsOpened counts streams whose reply was ok.
	StreamsOpened uint64 `json:"streams_opened"`
	// StreamsEnded counts relayed streams that ended, by cause ("eof" is the clean one).
	StreamsEnded map[string]uint64 `json:"streams_ended"`
	// OpenFailures counts requests that failed, by [Code] name.
	OpenFailures map[string]uint64 `json:"open_failures"`
	// BytesSent counts payload bytes handed to carriers, repeats included; BytesReceived those that came in and were
	// passed on.
	BytesSent     uint64 `json:"bytes_sent"`
	BytesReceived uint64 `json:"bytes_received"`
	// AuthFailures counts requests turned away for their credentials (server agent).
	AuthFailures uint64 `json:"auth_failures"`
	// ConnectionsDropped counts accepted connections that were reset because too many waited, or waited too long.
	ConnectionsDropped uint64 `json:"connections_dropped"`
}

// counters are the live form of [Counters]. What sessions count themselves is added when they end, and in snapshots.
type counters struct {
	sessionsOpened, sessionsLost, carriersOpened, streamsOpened, authFailures, dropped atomic.Uint64

	carrierLosses, dialFailures, openFailures, streamsEnded tally
}

func (c *counters) snapshot() Counters {
	return Counters{
		SessionsOpened:     c.sessionsOpened.Load(),
		SessionsLost:       c.sessionsLost.Load(),
		CarriersOpened:     c.carriersOpened.Load(),
		CarrierLosses:      c.carrierLosses.snapshot(),
		DialFailures:       c.dialFailures.snapshot(),
		StreamsOpened:      c.streamsOpened.Load(),
		StreamsEnded:       c.streamsEnded.snapshot(),
		OpenFailures:       c.openFailures.snapshot(),
		AuthFailures:       c.authFailures.Load(),
		ConnectionsDropped: c.dropped.Load(),
	}
}

// addSession adds what a session has counted.
func (c *Counters) addSession(st tunnel.SessionStats) {
	c.BytesSent += st.Sent
	c.BytesReceived += st.Received
	c.BytesReplayed += st.Replayed
	c.Resumes += st.Resumes
}

// sessionSet is an agent's live sessions, oldest first, and the counts of those that have ended.
type sessionSet struct {
	mu    sync.Mutex
	list  []*tunnel.Session
	ended Counters // only what addSession adds
}

func (s *sessionSet) add(x *tunnel.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, x)
}

func (s *sessionSet) remove(x *tunnel.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.list, x); i >= 0 {
		s.list = slices.Concat(s.list[:i], s.list[i+1:])
		s.ended.addSession(x.Stats())
	}
}

// all returns the live sessions.
func (s *sessionSet) all() []*tunnel.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// snapshot fills in the sessions and what they count, so that no count ever falls.
func (s *sessionSet) snapshot(st *Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Counters.BytesSent = s.ended.BytesSent
	st.Counters.BytesReceived = s.ended.BytesReceived
	st.Counters.BytesReplayed = s.ended.BytesReplayed
	st.Counters.Resumes = s.ended.Resumes
	for _, x := range s.list {
		stats := x.Stats()
		st.Counters.addSession(stats)
		_, leaving := x.PeerGoAway()
		st.Sessions = append(st.Sessions, SessionStatus{
			Identity: x.Identity(), Carriers: stats.Carriers, Suspect: stats.Suspect, Detached: stats.Detached,
			Streams: stats.Streams, GoingAway: leaving, RTT: stats.RTT,
		})
	}
}

// tally counts by name. The names are our own words, so there are few; the zero value is ready.
type tally struct {
	mu sync.Mutex
	n  map[string]uint64
}

func (t *tally) add(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = make(map[string]uint64)
	}
	t.n[name]++
}

func (t *tally) snapshot() map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		return map[string]uint64{}
	}
	return maps.Clone(t.n)
}
