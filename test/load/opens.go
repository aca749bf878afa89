//go:build linux

package main

import (
	"context"
	"errors"
	"sync"
	"time"
)

// openBy lets so many workers open a stream, have one byte echoed and close it, over and over, for
// d. It returns how long each took.
func (t *trial) openBy(ctx context.Context, workers int, d time.Duration) ([]time.Duration, error) {
	var (
		mu   sync.Mutex
		all  []time.Duration
		errs []error
		wg   sync.WaitGroup
	)
	end := time.Now().Add(d)
	for range workers {
		wg.Go(func() {
			var (
				took []time.Duration
				err  error
			)
			for err == nil && ctx.Err() == nil && (len(took) == 0 || time.Now().Before(end)) {
				var one time.Duration
				if one, err = t.echoOnce(); err == nil {
					took = append(took, one)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			if err != nil && len(errs) < 3 { // the others say the same
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return all, errors.Join(append(errs, context.Cause(ctx))...)
}

// openRate returns how many streams a second so many workers open, have echoed and close.
func (t *trial) openRate(ctx context.Context, workers int) (float64, error) {
	begin := time.Now()
	took, err := t.openBy(ctx, workers, t.window)
	return float64(len(took)) / time.Since(begin).Seconds(), err
}

// atOnce is how many streams the parallel rows open at a time.
const atOnce = 64

// opens measures one stream after the other.
func opens(ctx context.Context, t *trial) (measures, error) {
	if _, err := t.openBy(ctx, 1, t.window/4); err != nil {
		return nil, err
	}
	before, err := t.sample()
	if err != nil {
		return nil, err
	}
	took, err := t.openBy(ctx, 1, t.window)
	if err != nil {
		return nil, err
	}
	after, err := t.sample()
	if err != nil {
		return nil, err
	}
	m := measures{"p50": microseconds(percentile(took, 0.5))}
	if t.measured() {
		m["cpu"] = microseconds(after.cpu-before.cpu) / float64(len(took))
	}
	return m, nil
}

// opensAtOnce measures many workers.
func opensAtOnce(ctx context.Context, t *trial) (measures, error) {
	if _, err := t.openBy(ctx, atOnce, t.window/4); err != nil {
		return nil, err
	}
	rate, err := t.openRate(ctx, atOnce)
	return measures{"rate": rate}, err
}
