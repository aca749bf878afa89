//go:build linux

package main

import (
	"context"
	"errors"
	"time"
)

// afterBurst is how long the agents have to give memory back.
const afterBurst = time.Minute

// burst lets 32 streams flow, half of them either way, beside 1,000 more, ends them all and
// measures the agents' memory before, at its peak, and a minute after.
func burst(ctx context.Context, t *trial) (measures, error) {
	before, err := settled(ctx, t.tunnel.memory)
	if err != nil {
		return nil, err
	}
	if err := t.makeBurst(ctx); err != nil {
		return nil, err
	}
	peak, err := t.tunnel.peak()
	if err != nil {
		return nil, err
	}
	if err := sleep(ctx, afterBurst); err != nil {
		return nil, err
	}
	after, err := t.tunnel.memory()
	if err != nil {
		return nil, err
	}
	return measures{
		"before": float64(before.sum()) / megabyte,
		"peak":   float64(peak.sum()) / megabyte,
		"after":  float64(after.sum()) / megabyte,
	}, nil
}

// makeBurst opens everything, lets it flow and closes it.
func (t *trial) makeBurst(ctx context.Context) error {
	count, err := t.affordable(1000)
	if err != nil {
		return err
	}
	conns, err := t.openIdle(ctx, count)
	defer closeAll(conns)
	if err != nil {
		return err
	}
	down, err := t.startBulk(false, 16)
	if err != nil {
		return err
	}
	up, err := t.startBulk(true, 16)
	if err != nil {
		return errors.Join(err, down.stop())
	}
	err = sleep(ctx, max(t.window, 2*time.Second))
	return errors.Join(err, up.stop(), down.stop())
}
