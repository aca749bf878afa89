package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"sallyport/proxy/access"
	"sallyport/tunnel"
)

// maxPending is how many connections of one reverse listener may wait for the client agent's reply; further ones wait
// in the system's own queue.
const maxPending = 128

// reverseTable is a server agent's listeners for reverse forwards. A listener outlives the listen stream that asked for
// it only by being taken over.
type reverseTable struct {
	mu   sync.Mutex
	list []*reverseListener
}

// reverseListener is one of them.
type reverseListener struct {
	identity string
	address  Endpoint // as asked for
	addr     netip.AddrPort
	listener deadlineListener

	owner *reverseOwner // who has it now; guarded by the table's mu
}

// reverseOwner is a listen stream while it has a listener.
type reverseOwner struct {
	live    *liveStream
	forward string        // the id of its forward
	stop    chan struct{} // closed when accepting must end
	ended   chan struct{} // closed when it has
}

func newReverseOwner(live *liveStream, forward string) *reverseOwner {
	return &reverseOwner{live: live, forward: forward, stop: make(chan struct{}), ended: make(chan struct{})}
}

// acquire gives o a listener: one that a detached session of the same identity had for the same address or forward, or
// a new one. An attached session never loses its listener.
func (t *reverseTable) acquire(ctx context.Context, o *reverseOwner, req *request, addrs []netip.AddrPort) (*reverseListener, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	identity := o.live.identity
	for _, l := range t.list {
		fixed := l.address == req.address && (req.address.Port != 0 || req.address.Path != "")
		same := l.identity == identity && (fixed || l.owner.forward == req.forward && l.address == req.address)
		if !same && !fixed {
			continue
		}
		if !same || attached(l.owner.live.stream.Session()) {
			return nil, &OpenError{Code: CodeInUse, Target: req.address.String(), Reason: "another session listens there"}
		}
		l.takeOver(o)
		return l, nil
	}
	l, err := bind(ctx, req.address, addrs)
	if err != nil {
		return nil, err
	}
	l.identity, l.owner = identity, o
	t.list = append(t.list, l)
	return l, nil
}

func attached(s *tunnel.Session) bool { return s.Err() == nil && s.Stats().Carriers > 0 }

// takeOver gives l to o. The listener stays open all the while: who connects meanwhile waits in the system's queue.
func (l *reverseListener) takeOver(o *reverseOwner) {
	old := l.owner
	l.owner = o
	close(old.stop)
	_ = l.listener.SetDeadline(time.Unix(1, 0))
	<-old.ended
	_ = l.listener.SetDeadline(time.Time{})
	old.live.end(&OpenError{Code: CodeTakenOver, Target: l.address.String(), Reason: "a newer session listens there"})
}

// release closes l, unless o has lost it to another.
func (t *reverseTable) release(l *reverseListener, o *reverseOwner) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.owner != o {
		return
	}
	t.list = slices.DeleteFunc(t.list, func(x *reverseListener) bool { return x == l })
	close(o.stop)
	_ = l.listener.Close()
	<-o.ended
}

func (t *reverseTable) status() []ListenerStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []ListenerStatus
	for _, l := range t.list {
		list = append(list, ListenerStatus{
			Forward: l.address.String(), Network: l.address.Network(),
			Addr: l.listener.Addr().String(), Identity: l.identity,
		})
	}
	return list
}

// bind opens the listener at the first of the allowed addresses that this machine has.
func bind(ctx context.Context, asked Endpoint, addrs []netip.AddrPort) (*reverseListener, error) {
	if asked.Path != "" {
		l, err := listen(ctx, asked)
		if err != nil {
			return nil, err
		}
		return &reverseListener{address: asked, listener: l}, nil
	}
	var first error
	for _, addr := range addrs {
		l, err := listen(ctx, Endpoint{Host: addr.Addr().String(), Port: addr.Port()})
		if err == nil {
			return &reverseListener{address: asked, addr: addr, listener: l}, nil
		}
		if first == nil {
			first = err
		}
		if isAddrInUse(err) {
			break
		}
	}
	return nil, first
}

// serveListen carries out a listen request: the listener lives as long as its stream.
func (s *Server) serveListen(ctx context.Context, live *liveStream, req *request, spawn func(func())) {
	live.listen = true
	s.track(live)
	defer s.untrack(live)
	o := newReverseOwner(live, req.forward)
	l, err := s.openListener(ctx, o, req)
	if err != nil {
		refuse(live.stream, err)
		s.counters.openFailures.add(codeOf(err).String())
		s.log.Warn("reverse forward refused", "identity", live.identity, "listen", live.target, "error", err)
		return
	}
	bound := l.listener.Addr().String()
	s.log.Info("reverse forward listening", "identity", live.identity, "addr", bound)
	spawn(func() { s.acceptReverse(ctx, l, o, spawn) })
	_, err = live.stream.Write((&reply{code: CodeOK, text: bound}).append(nil))
	if err == nil {
		live.open.Store(true)
		_, err = io.Copy(io.Discard, struct{ io.Reader }{live.stream})
	}
	s.reverse.release(l, o)
	s.log.Info("reverse forward closed", "identity", live.identity, "addr", bound, "cause", endCause(live.cause(err)))
}

// openListener checks the policy and finds or opens the listener.
func (s *Server) openListener(ctx context.Context, o *reverseOwner, req *request) (*reverseListener, error) {
	if s.draining.Load() {
		return nil, &OpenError{Code: CodeShuttingDown, Target: req.address.String(), Reason: "server agent is draining"}
	}
	live := o.live
	id, err := s.identity(live.identity)
	if err != nil {
		return nil, err
	}
	e := req.address
	var addrs []netip.AddrPort
	if e.Path != "" {
		err = id.Policy.ListenUnix(e.Path)
	} else {
		rctx, cancel := context.WithTimeoutCause(ctx, s.o.DialTimeout, errDialTimeout)
		addrs, err = id.Policy.ResolveListen(rctx, s.o.Resolver, e.Host, e.Port)
		cancel()
	}
	if err != nil {
		return nil, err
	}
	l, err := s.reverse.acquire(ctx, o, req, addrs)
	if err != nil {
		return nil, err
	}
	live.setAllowed(s.listenAllowed(live.identity, l))
	live.check() // the policy may have changed meanwhile; a stream that this ends is closed soon
	return l, nil
}

// listenAllowed returns the check whether the identity may still have l and what came through it.
func (s *Server) listenAllowed(identity string, l *reverseListener) func() error {
	return func() error {
		now, err := s.identity(identity)
		if err != nil {
			return err
		}
		return l.allowed(now.Policy)
	}
}

func (l *reverseListener) allowed(p access.Policy) error {
	if l.address.Path != "" {
		return p.ListenUnix(l.address.Path)
	}
	return p.CheckListen(l.address.Host, l.addr)
}

// acceptReverse opens a stream to the client agent for each connection, until the listener has another owner or none.
func (s *Server) acceptReverse(ctx context.Context, l *reverseListener, o *reverseOwner, spawn func(func())) {
	defer close(o.ended)
	pending := make(chan struct{}, maxPending)
	err := acceptLoop(l.listener, func(c net.Conn) {
		select {
		case pending <- struct{}{}:
			spawn(func() { s.serveReverseConn(ctx, l, o, c, sync.OnceFunc(func() { <-pending })) })
		case <-o.stop:
			abortConn(c)
		}
	}, func(err error, wait time.Duration) {
		s.log.Warn("accept failed, trying again", "addr", l.listener.Addr().String(), "error", plainError(err), "wait", wait)
	})
	if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.log.Warn("reverse listener failed", "addr", l.listener.Addr().String(), "error", plainError(err))
	}
}

// serveReverseConn carries one accepted connection to the client agent. answered is called once its reply has come.
func (s *Server) serveReverseConn(ctx context.Context, l *reverseListener, o *reverseOwner, c net.Conn, answered func()) {
	defer answered()
	identity, origin, bound := o.live.identity, originOf(c), l.listener.Addr().String()
	st, err := s.openReverse(ctx, o)
	if err != nil {
		s.counters.dropped.Add(1)
		s.log.Warn("connection dropped", "identity", identity, "origin", origin, "addr", bound, "error", err)
		abortConn(c)
		return
	}
	defer s.usage.release(identity)
	req := &request{action: actionConnect, address: l.address, origin: origin, forward: o.forward}
	live := &liveStream{stream: st, identity: identity, origin: origin, target: "reverse " + bound, answered: answered}
	live.setAllowed(s.listenAllowed(identity, l))
	_ = s.openAndRelay(live, req, netSocket{c})
}

// openReverse takes one of the identity's places for streams and opens one.
func (s *Server) openReverse(ctx context.Context, o *reverseOwner) (*tunnel.Stream, error) {
	id, err := s.identity(o.live.identity)
	if err != nil {
		return nil, err
	}
	if !s.usage.take(id.Name, id.Limits.Streams) {
		return nil, fmt.Errorf("%w: the identity has %d streams open", ErrLimit, id.Limits.Streams)
	}
	st, err := o.live.stream.Session().Open(ctx)
	if err != nil {
		s.usage.release(id.Name)
		return nil, err
	}
	return st, nil
}
