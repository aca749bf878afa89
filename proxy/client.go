package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/tunnel"
)

// DialFunc opens one carrier to the server agent. resume says whether it is for a session that exists already; a server
// agent that drains turns new ones away at once. Its error is best a [*CarrierError]; any other is taken as a network
// failure, which is tried again. [WebSocket.Dial] is one.
type DialFunc func(ctx context.Context, resume bool) (tunnel.Carrier, error)

// ClientOptions sets up a client agent.
type ClientOptions struct {
	// Dial opens carriers. Required.
	Dial DialFunc
	// Forwards listen here and dial at the server agent.
	Forwards []Forward
	// Reverse forwards listen at the server agent and dial here.
	Reverse []Forward
	// Carriers is how many carriers a session has while all is well; 0 means 1.
	Carriers int
	// MaxCarriers is how many it has when those are crowded ([tunnel.Session.Crowded]); 0 means 4, the most that there
	// may be: hedges come on top. As many as Carriers: none are added.
	MaxCarriers int
	// SurplusAfter is how long one carrier less must have done before one that was added ends; 0 means 30 seconds.
	SurplusAfter time.Duration

	// MaxWaiting is how many accepted connections may wait for a session; 0 means 256. Further ones are reset.
	MaxWaiting int
	// WaitTimeout is how long each may wait; 0 means 60 seconds, twice the longest pause between attempts.
	WaitTimeout time.Duration
	// DialTimeout bounds dialling a reverse forward's target; 0 means 10 seconds.
	DialTimeout time.Duration

	// Session sets up each session. Its Logger defaults to Logger; its Trace is also used by the client agent.
	Session tunnel.Options
	// Logger gets a line a stream, and what happens to sessions and listeners; nil discards.
	Logger *slog.Logger
}

// Client is a client agent. Make one with [NewClient]; its methods may be called from any goroutine.
type Client struct {
	agent
	o        ClientOptions
	gate     gate
	backoff  backoff
	forwards forwarder

	established atomic.Bool // a session was established once: no failure is permanent any more
	once        bool        // Connect: the first failure is final, whatever it is
	running     atomic.Bool

	drain      context.Context // ends when a drain begins
	beginDrain context.CancelFunc
}

const (
	defaultSurplus     = 30 * time.Second
	defaultMaxWaiting  = 256
	defaultWaitTimeout = time.Minute
	defaultDialTimeout = 10 * time.Second
	maxClientCarriers  = 4 // a session may have 8: as many hedges again
)

// NewClient checks the options and starts nothing.
func NewClient(o ClientOptions) (*Client, error) {
	if o.Dial == nil {
		return nil, errors.New("client agent: no way to dial the server agent")
	}
	c := &Client{o: o}
	setDefault(&c.o.Carriers, 1)
	setDefault(&c.o.MaxCarriers, maxClientCarriers)
	if c.o.Carriers < 0 || c.o.Carriers > c.o.MaxCarriers || c.o.MaxCarriers > maxClientCarriers {
		return nil, fmt.Errorf("client agent: Carriers is %d and MaxCarriers %d: give 1 to %d for both, no less for the second",
			c.o.Carriers, c.o.MaxCarriers, maxClientCarriers)
	}
	setDefault(&c.o.SurplusAfter, defaultSurplus)
	setDefault(&c.o.MaxWaiting, defaultMaxWaiting)
	setDefault(&c.o.WaitTimeout, defaultWaitTimeout)
	setDefault(&c.o.DialTimeout, defaultDialTimeout)
	c.agent.init(o.Logger)
	if c.o.Session.Logger == nil {
		c.o.Session.Logger = c.log
	}
	c.gate.init(c.o.MaxWaiting)
	if err := c.forwards.init(c, o.Forwards, o.Reverse); err != nil {
		return nil, err
	}
	c.drain, c.beginDrain = context.WithCancel(context.Background())
	return c, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// errStopped is what streams end with when their agent is told to stop without a drain.
var errStopped = &OpenError{Code: CodeShuttingDown, Reason: "the agent was stopped"}

// Run opens the listeners, and keeps them and a session open until ctx ends, or a drain is over: then it returns nil
// once everything below it has ended. Streams that still live then are aborted; Drain first to let them finish.
//
// It returns early with a [*ListenError] when a forward's listener cannot be opened, and with a [*CarrierError] when
// the very first attempt to reach the server agent shows that trying again is pointless. A Client runs once.
func (c *Client) Run(ctx context.Context) error {
	if c.running.Swap(true) {
		return errors.New("client agent: already running")
	}
	c.start()
	ctx, cancel := context.WithCancel(ctx)
	if err := c.forwards.open(ctx); err != nil {
		cancel()
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		c.forwards.close()
		c.stop(errStopped)
	})
	err := c.connect(ctx)
	if err == nil { // a drain has ended the sessions, but what has arrived is still passed on
		_ = c.awaitIdle(ctx)
	}
	cancel()
	wg.Wait()
	c.forwards.wait()
	return err
}

// SetForwards replaces the forwards. Listeners that are new are opened, all or none: on an error, a [*ListenError] or
// one of the forwards themselves, the old ones stay as they are. Listeners that are gone are closed; streams that came
// through them live on. Listeners that stay are not touched.
func (c *Client) SetForwards(forwards, reverse []Forward) error {
	return c.forwards.set(forwards, reverse)
}

// Drain closes the listeners, lets the streams finish until ctx ends, and ends Run. It returns nil when all streams
// have finished and what they carried was passed on, else ctx's error; those left are aborted.
func (c *Client) Drain(ctx context.Context) error {
	c.log.Info("draining", "streams", len(c.streams()))
	c.beginDrain()
	c.forwards.close()
	err := c.finishStreams(ctx, c.sessions.all())
	if err != nil {
		c.stop(errStopped)
	}
	return err
}

// readyTimeout bounds how long Ready waits for an answer; a carrier that takes longer is suspect.
const readyTimeout = 5 * time.Second

// Ready returns nil while an attached session answers its PING, before ctx ends or 5 seconds have passed; else why not.
func (c *Client) Ready(ctx context.Context) error {
	l, _ := c.gate.current()
	switch {
	case c.drain.Err() != nil:
		return ErrShuttingDown
	case l == nil || l.session.Stats().Carriers == 0:
		return errors.New("no session is attached to the server agent")
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if _, err := l.session.Ping(ctx); err != nil {
		return fmt.Errorf("the server agent does not answer: %w", err)
	}
	return nil
}

// Status returns a snapshot.
func (c *Client) Status() Status {
	st := c.status("client")
	st.Draining = c.drain.Err() != nil
	st.Waiting = c.gate.waiters()
	st.Listeners = c.forwards.status()
	return st
}
