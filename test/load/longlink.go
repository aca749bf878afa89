//go:build linux

package main

import (
	"context"
	"errors"
	"time"

	"sallyport/test/internal/faults"
)

// newLink describes a link as the tables do.
func newLink(rtt time.Duration, mbPerSecond, queueKB int) faults.Link {
	return faults.Link{Delay: rtt / 2, Rate: int64(mbPerSecond) * megabyte, Queue: queueKB << 10}
}

// overLink measures a long link: how long a new stream takes to its first echo, the round trip of a
// byte on the quiet link, then the rate of one bulk stream and the round trip beside it.
func overLink(l faults.Link, up bool) func(context.Context, *trial) (measures, error) {
	return func(ctx context.Context, t *trial) (measures, error) {
		first, err := t.openBy(ctx, 1, min(t.window, 5*l.RTT()))
		if err != nil {
			return nil, err
		}
		c, err := t.dial()
		if err != nil {
			return nil, err
		}
		defer c.Close()
		if err := ping(c, make([]byte, 1)); err != nil { // the stream's first byte may cost more
			return nil, err
		}
		quiet, err := roundTrips(ctx, c, t.window/4, 8)
		if err != nil {
			return nil, err
		}
		b, err := t.startBulk(up, 1)
		if err != nil {
			return nil, err
		}
		var full []time.Duration
		err = sleep(ctx, rampUp(l))
		var rate float64
		if err == nil {
			rate, err = b.rate(func() (err error) {
				full, err = roundTrips(ctx, c, max(t.window, minLinkWindow), 5)
				return err
			})
		}
		if err := errors.Join(err, b.stop()); err != nil {
			return nil, err
		}
		before, beside := percentile(quiet, 0.5), percentile(full, 0.5)
		return measures{
			"first": milliseconds(percentile(first, 0.5)),
			"quiet": milliseconds(before),
			"full":  milliseconds(beside),
			"slow":  float64(beside) / float64(before),
			"share": rate / float64(l.Rate),
		}, nil
	}
}

// minLinkWindow is the least that a long link is looked at: a second has few round trips.
const minLinkWindow = 1500 * time.Millisecond

// rampUp is how long a bulk stream has to find its rate: a second, or ten round trips if that is
// more.
func rampUp(l faults.Link) time.Duration { return max(time.Second, 10*l.RTT()) }
