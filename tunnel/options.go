package tunnel

import (
	"log/slog"
	"math/rand/v2"
	"time"
)

// Options sets up a session. The zero value is ready to use.
type Options struct {
	// Logger gets what happens to carriers; nil discards.
	Logger *slog.Logger
	// Software is this agent's name and version, told to the peer; at most 64 bytes.
	Software string

	// ResumeTimeout is how long the server agent keeps a session that has no
	// carrier; 0 means 2 minutes. A client takes the server's value and tries
	// for clientGrace longer, so that the server decides.
	ResumeTimeout time.Duration
	// KeepAlive is how long a carrier may be idle before a PING, give or take
	// a tenth; 0 means 20 seconds, below the shortest idle limit (30 s) known
	// of proxies and load balancers.
	KeepAlive time.Duration
	// HandshakeTimeout bounds the exchange of HELLOs; 0 means 10 seconds.
	HandshakeTimeout time.Duration
	// DeadAfter is the silence after which a carrier that owes an answer is
	// given up; 0 means 10 seconds.
	DeadAfter time.Duration

	// MaxStreams is how many streams the peer may have open at a time; 0 means 32,768.
	MaxStreams uint64
	// ReceiveBudget and SendBudget are how many bytes a session's streams may
	// hold beyond the first 64 KiB that each owns, each way; 0 means 64 MiB.
	ReceiveBudget, SendBudget int
	// CrowdRate is how many bytes a second one way on each carrier crowd it
	// ([Session.Crowded]); 0 means 125,000,000, a gigabit.
	CrowdRate int
	// Memory is where buffers come from and are counted; nil means one of the
	// session's own, without a limit.
	Memory *Memory

	// Trace is told of events as they happen; nil for none.
	Trace *Trace
}

// Trace holds functions that a session calls as things happen, from the
// goroutine where they do and with the session locked: they must return at
// once and not call back. Any may be nil.
type Trace struct {
	// RTT gets each measured round trip of a PING.
	RTT func(time.Duration)
	// CarrierLost gets the reason whenever a carrier is lost.
	CarrierLost func(cause error)
	// Resumed is called when a carrier joins a session that had none left.
	Resumed func()
}

// Fixed limits of the protocol's implementation, each with its reason.
const (
	// clientGrace is how much longer than the server a client keeps trying.
	clientGrace = 30 * time.Second

	// initialWindow is the credit that each new stream starts with, and what
	// each stream owns uncharged: enough for an interactive stream, and 5,000
	// stalled ones cost 320 MB.
	initialWindow = 64 << 10
	// maxWindow is the most that one stream's window grows to: 100 MB/s at 160 ms.
	maxWindow = 16 << 20
	// maxUnsent is how many bytes a stream takes from its writer ahead of the
	// network: one full buffer. More would only make data stale; less would leave
	// the carrier idle.
	maxUnsent = readSize
	// maxGaps is how many separate pieces a stream's reassembly may hold.
	maxGaps = 256
	// maxMoves is how often a bulk stream may change carriers for what it has in
	// flight: should one be held up, each move leaves a gap at the peer.
	maxMoves = maxGaps / 4

	// maxCarriers is how many carriers a session may have at a time.
	maxCarriers = 8
	// maxLost is how many lost carriers a session remembers for its next HELLO.
	maxLost = 16

	// maxUnacked is how many messages a carrier may have in flight: a peer that
	// makes us answer and never acks would fill our memory with what we remember of them.
	maxUnacked = 128 << 10

	// interactiveBytes in interactivePeriod is the most that a stream may send
	// and still go before bulk.
	interactiveBytes  = 64 << 10
	interactivePeriod = 100 * time.Millisecond
	// reservedPeriod is how long after something interactive one carrier of several
	// is kept clear of bulk: somebody who types makes such pauses.
	reservedPeriod = 2 * time.Second
	// inlineBytes is how much may be unacked for a stream's writer to write to
	// the carrier itself: that little always fits into a socket's buffer, so
	// a Write cannot get stuck in a carrier that went silent.
	inlineBytes = 16 << 10
	// bulkShare is the part of a carrier that interactive streams leave to bulk: 1/8.
	bulkShare = 8

	// ackBytes and ackInterval: an ACK goes out once that much came in and
	// that long has passed since the last one, or at once when ackAtOnce came:
	// on a fast path the sender's buffers are then still in its processor's
	// cache when it may use them again. ackDelay: less waits that long for data
	// to ride on.
	ackBytes    = 16 << 10
	ackAtOnce   = 256 << 10
	ackInterval = time.Millisecond
	ackDelay    = 25 * time.Millisecond

	// stallAfter is how long data must have stopped on a stream that was
	// flowing for a client to ask whether the carrier is alive.
	stallAfter = 500 * time.Millisecond
	// suspectAfter is the least silence, answer due, that makes a carrier
	// suspect; 4 round trips if that is more.
	suspectAfter = time.Second
	// maxSilences is how many in a row are silences; more are the path's round trips.
	maxSilences = 3
	// oversleep is how late a timer may fire before the silence is put down to
	// this machine (suspended, overloaded) and not to the peer.
	oversleep = 500 * time.Millisecond

	// maxDatagram is the largest DATAGRAM payload, maxFlowDatagrams how many
	// may wait on a flow and maxDatagramBytes on a session, each way.
	maxDatagram      = 60 << 10
	maxFlowDatagrams = 64
	maxDatagramBytes = 256 << 10

	// brokenLinger is how long a carrier that cannot be written to is still read.
	brokenLinger = 100 * time.Millisecond
	// closeLinger is how long a session that ends waits for its CLOSE to be written.
	closeLinger = time.Second
)

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.ResumeTimeout, 2*time.Minute)
	setDefault(&o.KeepAlive, 20*time.Second)
	setDefault(&o.HandshakeTimeout, 10*time.Second)
	setDefault(&o.DeadAfter, 10*time.Second)
	setDefault(&o.MaxStreams, 32<<10)
	setDefault(&o.ReceiveBudget, 64<<20)
	setDefault(&o.SendBudget, 64<<20)
	setDefault(&o.CrowdRate, defaultCrowdRate)
	if o.Memory == nil {
		o.Memory = NewMemory(0)
	}
	if o.Trace == nil {
		o.Trace = &Trace{}
	}
	return o
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// jittered returns d give or take a tenth, so that many agents do not ping in step.
func jittered(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}
