//go:build linux

package main

import (
	"context"
	"net"
	"time"
)

// roundTrips pings on an open stream, at least a few times and until d has passed, and returns how
// long each took.
func roundTrips(ctx context.Context, c net.Conn, d time.Duration, least int) ([]time.Duration, error) {
	var took []time.Duration
	b := make([]byte, 1)
	for begin := time.Now(); len(took) < least || time.Since(begin) < d; {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		sent := time.Now()
		if err := ping(c, b); err != nil {
			return nil, err
		}
		took = append(took, time.Since(sent))
	}
	return took, nil
}

// pingPong measures the round trip of one byte on a stream that is open, and the agents' processor
// time for it.
func pingPong(ctx context.Context, t *trial) (measures, error) {
	c, err := t.dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, err := roundTrips(ctx, c, t.window/4, 100); err != nil {
		return nil, err
	}
	before, err := t.sample()
	if err != nil {
		return nil, err
	}
	took, err := roundTrips(ctx, c, t.window, 100)
	if err != nil {
		return nil, err
	}
	after, err := t.sample()
	if err != nil {
		return nil, err
	}
	m := measures{"p50": microseconds(percentile(took, 0.5)), "p99": microseconds(percentile(took, 0.99))}
	if t.measured() {
		m["cpu"] = microseconds(after.cpu-before.cpu) / float64(len(took))
	}
	return m, nil
}
