package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"sallyport/tunnel"
)

// farewell bounds how long Connect waits, after its stream has ended, for the server agent to have it all.
const farewell = 5 * time.Second

// Connect carries one stream between target and the pair in and out: ssh's ProxyCommand. It runs instead of Run, and
// returns when both directions have ended: nil after an end of file each way. The end of in is passed on to the target;
// the end of what the target sends closes out, if that is an io.Closer.
//
// Errors: [*OpenError] when the target was not reached or aborted the connection, [*CarrierError] when the server agent was not (the first failure
// is final here), [ErrSessionLost] when the session was lost on the way, ctx's. A Read of in that is under way when
// Connect returns goes on until it has something.
func (c *Client) Connect(ctx context.Context, target Endpoint, in io.Reader, out io.Writer) error {
	if err := target.checkTarget(); err != nil {
		return fmt.Errorf("target %s: %w", target, err)
	}
	if c.running.Swap(true) {
		return errors.New("client agent: already running")
	}
	c.once = true
	c.start()
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		err := c.connect(ctx)
		if err == nil {
			err = ErrSessionLost
		}
		cancel(err)
	})
	wg.Go(func() {
		<-ctx.Done()
		c.stop(errStopped)
	})
	return c.connectStream(ctx, target, newPipeSocket(in, out))
}

func (c *Client) connectStream(ctx context.Context, target Endpoint, sock *pipeSocket) error {
	defer sock.close()
	l, st, err := c.openStream(ctx)
	if err != nil {
		return err
	}
	req := &request{action: actionConnect, address: target, origin: "stdio"}
	live := &liveStream{stream: st, origin: req.origin, target: target.String()}
	err = l.relay(func() error { return c.openAndRelay(live, req, sock) })
	code, reason, reset := resetCode(err)
	switch {
	case err == nil:
		c.beginDrain()
		ctx, cancel := context.WithTimeout(ctx, farewell)
		defer cancel()
		_ = drainAll(ctx, c.sessions.all()) // everything was passed on; the rest is courtesy
	case reset:
		err = &OpenError{Code: code, Target: target.String(), Reason: reason}
	case isSessionError(err):
		err = fmt.Errorf("%w: %w", ErrSessionLost, err)
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return err
}

func isSessionError(err error) bool {
	_, ok := errors.AsType[*tunnel.CloseError](err)
	return ok
}

// drainAll lets the streams of all sessions finish until ctx ends, side by side, and closes the sessions.
func drainAll(ctx context.Context, sessions []*tunnel.Session) error {
	errs := make([]error, len(sessions))
	var wg sync.WaitGroup
	for i, s := range sessions {
		wg.Go(func() { errs[i] = s.Drain(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
