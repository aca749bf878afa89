package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"sallyport/tunnel"
)

// forwarder holds a client agent's forwards: the listeners of its own, and the wish list of reverse forwards, which
// each session asks the server agent for.
type forwarder struct {
	client *Client
	wg     sync.WaitGroup // accept loops and the connections that came through them

	mu        sync.Mutex
	ctx       context.Context // what the listeners live in; nil before open
	closed    bool
	forwards  []Forward
	listeners map[Forward]net.Listener
	reverse   []reverseForward
	changed   chan struct{} // closed when reverse changes
}

// reverseForward is a reverse forward with the id by which the server agent names it.
type reverseForward struct {
	Forward
	id string
}

func (f *forwarder) init(c *Client, forwards, reverse []Forward) error {
	f.client = c
	f.listeners = make(map[Forward]net.Listener)
	f.changed = make(chan struct{})
	return f.set(forwards, reverse)
}

// set replaces the forwards; while the listeners are open, it opens and closes what differs.
func (f *forwarder) set(forwards, reverse []Forward) error {
	if err := errors.Join(checkForwards("forward", forwards), checkForwards("reverse forward", reverse)); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx != nil && !f.closed {
		if err := f.openMissing(forwards); err != nil {
			return err
		}
		for fwd, l := range f.listeners {
			if !slices.Contains(forwards, fwd) {
				f.closeListener(fwd, l)
			}
		}
	}
	f.forwards = slices.Clone(forwards)
	f.setReverse(reverse)
	return nil
}

// setReverse keeps the ids of what stays: a listener at the server agent is known by its id.
func (f *forwarder) setReverse(reverse []Forward) {
	old := f.reverse
	f.reverse = nil
	for _, fwd := range reverse {
		i := slices.IndexFunc(old, func(r reverseForward) bool { return r.Forward == fwd })
		if i >= 0 {
			f.reverse = append(f.reverse, old[i])
		} else {
			f.reverse = append(f.reverse, reverseForward{fwd, newForwardID()})
		}
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// open opens the listeners, to live until close.
func (f *forwarder) open(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ctx = ctx
	if f.closed {
		return nil // drained before it ran
	}
	return f.openMissing(f.forwards)
}

// openMissing opens those listeners that are not open yet, all of them or none.
func (f *forwarder) openMissing(forwards []Forward) error {
	fresh := make(map[Forward]net.Listener)
	for _, fwd := range forwards {
		if f.listeners[fwd] != nil {
			continue
		}
		l, err := listen(f.ctx, fwd.Listen)
		if err != nil {
			for _, l := range fresh {
				_ = l.Close()
			}
			return fmt.Errorf("forward %s: %w", fwd, err)
		}
		fresh[fwd] = l
	}
	for fwd, l := range fresh {
		f.listeners[fwd] = l
		f.client.log.Info("forward listening", "addr", l.Addr().String(), "target", fwd.Target.String())
		f.wg.Go(func() { f.serve(f.ctx, fwd, l) })
	}
	return nil
}

// close closes the listeners for good.
func (f *forwarder) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for fwd, l := range f.listeners {
		f.closeListener(fwd, l)
	}
}

func (f *forwarder) closeListener(fwd Forward, l net.Listener) {
	delete(f.listeners, fwd)
	_ = l.Close()
	f.client.log.Info("forward closed", "addr", l.Addr().String(), "target", fwd.Target.String())
}

// wait waits for all that came through the listeners to end.
func (f *forwarder) wait() { f.wg.Wait() }

// wanted returns the reverse forwards, and a channel that closes when they change.
func (f *forwarder) wanted() ([]reverseForward, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reverse, f.changed
}

func (f *forwarder) reverseByID(id string) (Forward, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.reverse, func(r reverseForward) bool { return r.id == id })
	if i < 0 {
		return Forward{}, false
	}
	return f.reverse[i].Forward, true
}

func (f *forwarder) status() []ListenerStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []ListenerStatus
	for _, fwd := range f.forwards {
		if l := f.listeners[fwd]; l != nil {
			list = append(list, ListenerStatus{
				Forward: fwd.String(), Network: fwd.Listen.Network(), Addr: l.Addr().String(),
			})
		}
	}
	return list
}

// serve accepts connections until the listener is closed.
func (f *forwarder) serve(ctx context.Context, fwd Forward, l net.Listener) {
	c := f.client
	_ = acceptLoop(l, func(conn net.Conn) {
		f.wg.Go(func() { c.serveOrigin(ctx, fwd, conn) })
	}, func(err error, wait time.Duration) {
		c.log.Warn("accept failed, trying again", "addr", l.Addr().String(), "error", plainError(err), "wait", wait)
	})
}

// serveOrigin carries one accepted connection to the forward's target.
func (c *Client) serveOrigin(ctx context.Context, fwd Forward, conn net.Conn) {
	req := &request{action: actionConnect, address: fwd.Target, origin: originOf(conn)}
	l, st, err := c.openStream(ctx)
	if err != nil {
		c.counters.dropped.Add(1)
		c.log.Warn("connection dropped: no session to carry it", "origin", req.origin, "target", fwd.Target.String(), "error", err)
		abortConn(conn)
		return
	}
	live := &liveStream{stream: st, origin: req.origin, target: fwd.Target.String()}
	_ = l.relay(func() error { return c.openAndRelay(live, req, netSocket{conn}) })
}

// openStream waits for an attached session and opens a stream on it. What fails before anything was sent is tried
// again on the next session.
func (c *Client) openStream(ctx context.Context) (*link, *tunnel.Stream, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.o.WaitTimeout, errWaitedTooLong)
	defer cancel()
	for {
		l, err := c.gate.wait(ctx)
		if err != nil {
			return nil, nil, err
		}
		st, err := l.session.Open(ctx)
		if err == nil {
			return l, st, nil
		}
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		c.gate.unset(l) // it is over, or takes no new streams
	}
}

// errWaitedTooLong is why a connection is reset that found no session in time.
var errWaitedTooLong = fmt.Errorf("waited too long for a session: %w", context.DeadlineExceeded)

// checkForwards refuses lists in which one forward could never work.
func checkForwards(kind string, forwards []Forward) error {
	for i, f := range forwards {
		if f.Listen.IsZero() || f.Target.IsZero() {
			return fmt.Errorf("%s %d: listener or target is missing", kind, i+1)
		}
		for _, g := range forwards[:i] {
			if f == g || f.Listen == g.Listen && f.Listen.Port != 0 || f.Listen == g.Listen && f.Listen.Path != "" {
				return fmt.Errorf("%s %s: %s listens there already", kind, f, g)
			}
		}
	}
	return nil
}
