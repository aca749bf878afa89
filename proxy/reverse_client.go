package proxy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"sallyport/tunnel"
)

// newForwardID makes the name of a reverse forward between the agents.
func newForwardID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// keepReverse asks the server agent for the reverse forwards that are wanted, and gives back those that are not any
// more, until the session is over or takes no new streams.
func (l *link) keepReverse(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	asked := make(map[string]context.CancelFunc)
	for {
		wanted, changed := l.client.forwards.wanted()
		keep := make(map[string]bool)
		for _, r := range wanted {
			keep[r.id] = true
			if asked[r.id] == nil {
				rctx, stop := context.WithCancel(ctx)
				asked[r.id] = stop
				wg.Go(func() { l.keepListener(rctx, r) })
			}
		}
		for id, stop := range asked {
			if !keep[id] {
				stop()
				delete(asked, id)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-l.client.drain.Done():
			return
		case <-l.session.GoingAway():
			return
		case <-l.session.Done():
			return
		}
	}
}

// keepListener holds one listener at the server agent open. A failure is tried again: another session may still have
// the address, or the policy change.
func (l *link) keepListener(ctx context.Context, r reverseForward) {
	c := l.client
	var b backoff
	last := ""
	for ; pause(ctx, b.delay(), nil, nil); b.fail() {
		err := l.listenRemotely(ctx, r, func(bound string) {
			b.succeed()
			last = ""
			c.log.Info("reverse forward listening", "addr", bound, "target", r.Target.String())
		})
		if ctx.Err() != nil || l.session.Err() != nil || errors.Is(err, tunnel.ErrGoingAway) {
			return
		}
		if text := err.Error(); text != last { // once for each reason
			last = text
			attrs := []any{"listen", r.Listen.String(), "target", r.Target.String(), "error", text}
			if open, ok := errors.AsType[*OpenError](err); ok && open.Hint() != "" {
				attrs = append(attrs, "hint", open.Hint())
			}
			c.log.Warn("reverse forward not listening, trying again", attrs...)
		}
	}
}

// listenRemotely opens a listen stream and holds it until ctx ends, which gives the listener back, or the server agent
// ends it: the error says why.
func (l *link) listenRemotely(ctx context.Context, r reverseForward, listening func(bound string)) error {
	st, err := l.session.Open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	stop := context.AfterFunc(ctx, func() { _ = st.Close() })
	defer stop()
	req := &request{action: actionListen, address: r.Listen, forward: r.id}
	if _, err := st.Write(req.append(nil)); err != nil {
		return openFailure(err, r.Listen.String())
	}
	rep, err := readReply(st)
	if err != nil {
		return openFailure(err, r.Listen.String())
	}
	if rep.code != CodeOK {
		l.client.counters.openFailures.add(rep.code.String())
		return &OpenError{Code: rep.code, Target: r.Listen.String(), Reason: rep.text}
	}
	listening(rep.text)
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{st}); err != nil {
		return openFailure(err, r.Listen.String())
	}
	return &OpenError{Code: CodeShuttingDown, Target: r.Listen.String(), Reason: "the server agent closed the listener"}
}

// acceptStreams serves the streams that the server agent opens: connections to reverse forwards.
func (l *link) acceptStreams(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		st, err := l.session.Accept(ctx)
		if err != nil {
			return
		}
		wg.Go(func() { l.serveReverse(ctx, st) })
	}
}

// serveReverse dials the target of the reverse forward that the request names. The address in the request is only
// informative: a server agent cannot make this agent dial anything else.
func (l *link) serveReverse(ctx context.Context, st *tunnel.Stream) {
	defer st.Close()
	c := l.client
	req, err := readRequest(st)
	if err != nil {
		refuse(st, err)
		c.log.Warn("bad request from the server agent", "error", err)
		return
	}
	fwd, ok := c.forwards.reverseByID(req.forward)
	if req.action != actionConnect || !ok {
		refuse(st, &OpenError{Code: CodeDenied, Target: req.address.String(), Reason: "there is no such reverse forward"})
		c.log.Warn("request for a reverse forward that does not exist", "origin", req.origin)
		return
	}
	live := &liveStream{stream: st, origin: req.origin, target: fwd.Target.String()}
	_ = l.relay(func() error {
		return c.answer(ctx, live, func(ctx context.Context) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, c.o.DialTimeout)
			defer cancel()
			conn, err := (&net.Dialer{}).DialContext(ctx, fwd.Target.Network(), fwd.Target.String())
			if err != nil {
				return nil, fmt.Errorf("dial %s: %w", fwd.Target, err)
			}
			return conn, nil
		})
	})
}
