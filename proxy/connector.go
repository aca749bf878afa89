package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"sallyport/tunnel"
)

// healthyAfter is how long a carrier must have lived for its loss to be a new trouble, which is met by dialling at once,
// rather than the last one going on. One that moved payload is healthy, however short its life.
const healthyAfter = time.Second

// attemptTimeout bounds one attempt to get a carrier, above all its legs' own deadlines.
const attemptTimeout = 45 * time.Second

// link is one session of a client agent and the carriers below it. The client has one that takes new streams, and
// perhaps older ones whose streams are finishing.
type link struct {
	client  *Client
	session *tunnel.Session

	mu          sync.Mutex
	changed     chan struct{} // closed when one of the fields below changes
	established bool          // the server agent has answered once
	dialling    int
	attached    int
	retired     bool  // goes away: takes no new streams
	fatal       error // why trying on is pointless
	streams     int   // relays that go on, or ended because the session did
	growth      growth
	dialTook    time.Duration // the last carrier
}

// connect keeps the client connected until ctx ends: it makes a session, and a new one whenever the last one ended or
// goes away. It returns early only with the error that a first attempt showed to be permanent.
func (c *Client) connect(ctx context.Context) error {
	var links sync.WaitGroup // and the relays that outlive them
	defer links.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for ctx.Err() == nil && c.drain.Err() == nil {
		l := c.newLink()
		ended := make(chan error, 1)
		links.Go(func() { ended <- l.run(ctx, links.Go) })
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
		case <-l.session.GoingAway():
			l.retire()
		}
	}
	links.Wait()
	return nil
}

func (c *Client) newLink() *link {
	l := &link{client: c, changed: make(chan struct{})}
	o := c.o.Session
	o.Trace = c.agent.trace(o.Trace)
	l.session = tunnel.NewSession(o)
	return l
}

// run serves the session until it is over or ctx ends, which closes it. The error is only ever the fatal one. spawn
// starts what may outlive it: streams that pass on what has arrived must not keep the next session waiting.
func (l *link) run(ctx context.Context, spawn func(func())) error {
	c := l.client
	c.sessions.add(l.session)
	defer c.sessions.remove(l.session)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() {
		l.session.Close(&tunnel.CloseError{Code: tunnel.CloseDone, Reason: "client agent stopped"})
	})
	var wg sync.WaitGroup
	alive := context.WithoutCancel(ctx) // Run and Attach end by Close, so that CLOSE still gets out
	for slot := range c.o.Carriers {
		wg.Go(func() { l.keepCarrier(ctx, alive, slot) })
	}
	wg.Go(func() { l.hedge(ctx, alive) })
	wg.Go(func() { l.grow(ctx, alive) })
	spawn(func() { l.acceptStreams(ctx) })
	wg.Go(func() { l.keepReverse(ctx) })
	wg.Go(func() { l.finish(ctx) })
	err := l.session.Run(alive)
	stop()
	c.gate.unset(l)
	wasWanted := ctx.Err() == nil
	cancel()
	wg.Wait()
	c.gate.unset(l) // a carrier may have joined as the session ended
	return l.epilogue(err, wasWanted)
}

// epilogue logs how the session ended. wanted says that the agent did not end it.
func (l *link) epilogue(err error, wanted bool) error {
	l.mu.Lock()
	fatal, established, lost := l.fatal, l.established, l.streams
	l.mu.Unlock()
	if fatal != nil {
		return fatal
	}
	switch ce, _ := errors.AsType[*tunnel.CloseError](err); {
	case !established || !wanted, err == nil: // relays that are left pass on what has arrived
	case ce != nil && ce.Code == tunnel.CloseShutdown && lost == 0:
		l.client.log.Info("session ended", "cause", ce.Code.String())
	case ce != nil && ce.Code == tunnel.CloseUnknownSession:
		l.client.counters.sessionsLost.Add(1)
		l.client.log.Warn(ErrSessionLost.Error(), "streams_reset", lost)
	default:
		l.client.counters.sessionsLost.Add(1)
		l.client.log.Warn("session lost", "error", err, "streams_reset", lost)
	}
	return nil
}

// retire stops new streams on the link; those that there are finish, then the session closes.
func (l *link) retire() {
	l.update(func() {
		l.retired = true
		l.client.gate.unset(l)
	})
	if l.client.drain.Err() == nil { // otherwise it is the answer to our own GOAWAY
		l.client.log.Info("session takes no new streams: the server agent is draining")
	}
}

// finish drains the session once either agent wants it to end.
func (l *link) finish(ctx context.Context) {
	select {
	case <-l.session.GoingAway():
	case <-l.client.drain.Done():
	case <-l.session.Done():
		return
	}
	_ = l.session.Drain(ctx)
}

// update changes l's state and wakes who waits for it.
func (l *link) update(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	close(l.changed)
	l.changed = make(chan struct{})
}

// keepCarrier dials and attaches one carrier after the other, for as long as the session lives. Slot 0 alone makes the
// session; the others join it.
func (l *link) keepCarrier(ctx, alive context.Context, slot int) {
	c := l.client
	for l.claim(ctx, slot) {
		ok := pause(ctx, c.backoff.delay(), c.gate.wanted(), l.session.Waiting())
		var carrier tunnel.Carrier
		if ok {
			carrier, ok = l.dial(ctx, l.dialFailed)
		}
		if !ok {
			l.update(func() { l.dialling-- })
			continue
		}
		l.attach(alive, carrier, func(bool) { l.dialling-- }, l.dialFailed)
	}
}

// claim waits until a carrier is missing, and reserves its place.
func (l *link) claim(ctx context.Context, slot int) bool {
	for {
		l.mu.Lock()
		missing := l.attached+l.dialling < l.client.o.Carriers && (l.established || slot == 0)
		if missing && ctx.Err() == nil {
			l.dialling++
			l.mu.Unlock()
			return true
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		case <-l.session.Done():
			return false
		}
	}
}

// dial opens one carrier. failed is told why that did not work, unless ctx ended.
func (l *link) dial(ctx context.Context, failed func(*CarrierError)) (tunnel.Carrier, bool) {
	c := l.client
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	l.mu.Lock()
	resume := l.established
	l.mu.Unlock()
	start := time.Now()
	carrier, err := c.o.Dial(ctx, resume)
	if err == nil {
		c.counters.carriersOpened.Add(1)
		l.update(func() { l.dialTook = time.Since(start) })
		return carrier, true
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil, false
	}
	ce, ok := errors.AsType[*CarrierError](err)
	if !ok {
		ce = &CarrierError{Cause: CauseNetwork, Err: err}
	}
	if slow, ok := errors.AsType[*hedgeError](context.Cause(ctx)); ok {
		ce = &CarrierError{Cause: ce.Cause, Advice: ce.Advice, Err: &hedgeError{slow.after, ce.Err}}
	}
	c.counters.dialFailures.add(string(ce.Cause))
	failed(ce)
	return nil, false
}

// dialFailed is about a carrier that the client needs: it ends the client if that was the first and will not mend.
func (l *link) dialFailed(ce *CarrierError) {
	c := l.client
	c.backoff.fail()
	if (ce.Permanent || c.once) && !c.established.Load() {
		l.giveUp(ce)
		return
	}
	c.log.Warn("server agent not reached, trying again", ce.attrs()...)
}

// giveUp ends the session and the client with err.
func (l *link) giveUp(err error) {
	l.update(func() {
		if l.fatal == nil {
			l.fatal = err
		}
	})
	l.session.Close(&tunnel.CloseError{Code: tunnel.CloseDone, Reason: "client agent gave up"})
}

// attach serves one carrier until it is lost. dialled runs with l locked, once it is attached or has failed; then failed is
// told why, unless the session is over.
func (l *link) attach(alive context.Context, carrier tunnel.Carrier, dialled func(joined bool), failed func(*CarrierError)) {
	joined := false
	w := &watchedCarrier{Carrier: carrier, joined: func() {
		joined = true
		l.joined(dialled)
	}}
	start, before := time.Now(), l.payload()
	err := l.session.Attach(alive, w)
	if !joined {
		l.attachFailed(err, failed)
		l.update(func() { dialled(false) })
		return
	}
	l.client.backoff.lost(time.Since(start) >= healthyAfter || l.payload() != before)
	l.left(err, w.silence)
}

// joined opens the gate to l: a carrier of its session is attached.
func (l *link) joined(dialled func(joined bool)) {
	c := l.client
	c.backoff.succeed()
	c.established.Store(true)
	l.update(func() {
		dialled(true)
		if !l.established {
			l.established = true
			c.counters.sessionsOpened.Add(1)
		}
		if !l.retired {
			c.gate.set(l)
		}
		if l.attached++; l.attached == 1 {
			c.log.Info("session attached")
		}
	})
}

// left closes the gate to l if that was its session's last carrier, from which nothing had come for as long as silence.
func (l *link) left(err error, silence time.Duration) {
	c := l.client
	rest := 0
	l.update(func() {
		l.attached--
		rest = l.attached
		if rest == 0 {
			c.gate.unset(l)
		}
	})
	switch {
	case l.session.Err() != nil:
	case errors.Is(err, errSurplus):
		c.log.Debug("carrier given up: fewer do", "carriers_left", rest)
	default:
		attrs := []any{"error", explainLoss(err), "carriers_left", rest}
		if hint := idleHint(err, silence); hint != "" {
			attrs = append(attrs, "hint", hint)
		}
		c.log.Info("carrier lost", attrs...)
		l.harmed()
	}
}

// attachFailed handles a carrier over which the server agent did not let the session be made or resumed.
func (l *link) attachFailed(err error, failed func(*CarrierError)) {
	if l.session.Err() != nil {
		return // which tells why it ended
	}
	failure := &CarrierError{Cause: CauseNetwork, Err: err}
	if lost, ok := errors.AsType[*lossError](explainLoss(err)); ok {
		failure.Err = fmt.Errorf("waiting for the server agent's HELLO: %w", lost)
	}
	if ce, ok := errors.AsType[*tunnel.CloseError](err); ok {
		switch ce.Code {
		case tunnel.CloseVersion, tunnel.CloseProtocol, tunnel.CloseRefused:
			failure.Cause, failure.Permanent = CauseConfig, true
			failure.Advice = "check that the versions of both agents fit"
		case tunnel.CloseUnknownSession: // but a carrier is attached
			failure.Cause = CauseConfig
			failure.Advice = "the server agent was restarted, or a balancer led to another one: it must lead each client to one and the same"
		case tunnel.CloseLimit:
			failure.Cause = CauseLimit
			failure.Advice = "the identity has as many sessions as it may have: stop another client agent of it, or raise its limit"
		case tunnel.CloseShutdown:
			failure.Cause = CauseLimit
		}
	}
	l.client.counters.dialFailures.add(string(failure.Cause))
	failed(failure)
}

// payload is a figure that changes whenever payload moved.
func (l *link) payload() uint64 {
	st := l.session.Stats()
	return st.Sent + st.Received
}

// relay runs f, which relays one of the session's streams, and keeps count of those that end because the session does.
func (l *link) relay(f func() error) error {
	l.mu.Lock()
	l.streams++
	l.mu.Unlock()
	err := f()
	if _, ok := errors.AsType[*tunnel.CloseError](err); !ok {
		l.mu.Lock()
		l.streams--
		l.mu.Unlock()
	}
	return err
}

// watchedCarrier tells when the session reads on after the first message: it has taken the server agent's HELLO. And it
// knows for how long nothing had come when reading ended.
type watchedCarrier struct {
	tunnel.Carrier
	reads   int
	joined  func()
	silence time.Duration
}

func (w *watchedCarrier) ReadMessage(take func() []byte) (int, error) {
	if w.reads < 2 {
		if w.reads++; w.reads == 2 {
			w.joined()
		}
	}
	start := time.Now()
	n, err := w.Carrier.ReadMessage(take)
	if err != nil {
		w.silence = time.Since(start)
	}
	return n, err
}
