//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
)

// stalledReceive is the receive buffer of an origin that does not read: small, so that what it does
// not take waits in the agents, which is what is measured, and not in its kernel.
const stalledReceive = 64 << 10

// stalled opens n downloads whose origins read one byte and no more. It measures what the agents
// hold for each, and the rate of another stream: beside them, and once they are gone.
func stalled(n int) func(context.Context, *trial) (measures, error) {
	return func(ctx context.Context, t *trial) (measures, error) {
		before, err := settled(ctx, t.tunnel.memory)
		if err != nil {
			return nil, err
		}
		conns, err := t.openStalled(n)
		defer closeAll(conns)
		if err != nil {
			return nil, err
		}
		after, err := settled(ctx, t.tunnel.memory)
		if err != nil {
			return nil, err
		}
		beside, err := t.downloadRate(ctx)
		if err != nil {
			return nil, fmt.Errorf("beside %d stalled: %w", n, err)
		}
		closeAll(conns)
		alone, err := t.downloadRate(ctx)
		if err != nil {
			return nil, err
		}
		m := measures{"other": beside / alone}
		if t.measured() {
			m["held"] = float64(after.sum()-before.sum()) / float64(n) / megabyte
		}
		return m, nil
	}
}

// openStalled opens the downloads. It returns those that it has opened even with an error.
func (t *trial) openStalled(n int) ([]net.Conn, error) {
	var conns []net.Conn
	for range n {
		c, err := t.dial()
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
		if err := c.SetReadBuffer(stalledReceive); err != nil {
			return conns, err
		}
		stream := t.nextStream()
		if _, err := c.Write(bulkHeader(serviceFlood, stream)); err != nil {
			return conns, err
		}
		first := make([]byte, 1)
		if _, err := io.ReadFull(c, first); err != nil {
			return conns, err
		}
		if err := newPattern(stream).check(first); err != nil {
			return conns, faultError{err}
		}
	}
	return conns, nil
}

// downloadRate returns the bytes a second of one fresh download.
func (t *trial) downloadRate(ctx context.Context) (float64, error) {
	b, err := t.startBulk(false, 1)
	if err != nil {
		return 0, err
	}
	rate := 0.0
	err = sleep(ctx, t.window/2)
	if err == nil {
		rate, err = b.rateOver(ctx, t.window)
	}
	return rate, errors.Join(err, b.stop())
}
