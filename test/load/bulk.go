//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// bulk is streams that carry the pattern one way as fast as they can.
type bulk struct {
	t        *trial
	up       bool // from origin to target
	conns    []net.Conn
	count    atomic.Int64 // bytes received here
	stopping atomic.Bool
	failed   atomic.Pointer[error]
	wg       sync.WaitGroup
}

// startBulk opens n streams and lets them flow. Each has passed its first byte when it returns,
// unless they go up: then only the target could tell.
func (t *trial) startBulk(up bool, n int) (*bulk, error) {
	b := &bulk{t: t, up: up}
	// All are open before the first one flows: a dial would wait its turn behind those.
	for range n {
		c, err := t.dial()
		if err != nil {
			return nil, errors.Join(err, b.stop())
		}
		b.conns = append(b.conns, c)
	}
	flowing := make(chan struct{}, n)
	for _, c := range b.conns {
		stream := t.nextStream()
		b.wg.Go(func() { b.fail(b.serve(c, stream, flowing)) })
	}
	for range n {
		select {
		case <-flowing:
		case <-time.After(time.Until(t.deadline)):
			return nil, errors.Join(errors.New("a bulk stream does not begin to flow"), b.stop())
		}
	}
	return b, nil
}

// serve runs one stream until its connection fails, and returns why.
func (b *bulk) serve(c net.Conn, stream uint16, flowing chan<- struct{}) error {
	flows := sync.OnceFunc(func() { flowing <- struct{}{} })
	defer flows()
	p := newPattern(stream)
	if b.up {
		if _, err := c.Write(bulkHeader(serviceSink, stream)); err != nil {
			return err
		}
		flows()
		return flood(c, p)
	}
	if _, err := c.Write(bulkHeader(serviceFlood, stream)); err != nil {
		return err
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(c, first); err != nil {
		return err
	}
	if err := p.check(first); err != nil {
		return faultError{err}
	}
	flows()
	return drain(c, p, &b.count)
}

// fail keeps the first thing that went wrong. What ends a stream once we stop is no failure, but
// wrong bytes always are.
func (b *bulk) fail(err error) {
	if !b.stopping.Load() || isFault(err) {
		err = fmt.Errorf("bulk stream: %w", err)
		b.failed.CompareAndSwap(nil, &err)
	}
}

// progress is how many bytes had arrived at the receiving end by a time, all of them right. The time
// is taken where the bytes are counted: who asks may have to wait for the answer.
type progress struct {
	Bytes int64
	At    time.Time
}

// rateSince returns the bytes a second since an earlier progress.
func (p progress) rateSince(before progress) float64 {
	return float64(p.Bytes-before.Bytes) / p.At.Sub(before.At).Seconds()
}

// progress returns how far the streams are.
func (b *bulk) progress() (progress, error) {
	if err := b.failed.Load(); err != nil {
		return progress{}, *err
	}
	if b.up {
		return b.t.target.received()
	}
	return progress{b.count.Load(), time.Now()}, nil
}

// stop ends the streams and returns what went wrong with them.
func (b *bulk) stop() error {
	b.stopping.Store(true)
	for _, c := range b.conns {
		c.Close()
	}
	b.wg.Wait()
	if err := b.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// rate returns how many bytes a second arrive while do runs.
func (b *bulk) rate(do func() error) (float64, error) {
	before, err := b.progress()
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := b.progress()
	if err != nil {
		return 0, err
	}
	return after.rateSince(before), nil
}

// rateOver returns how many bytes a second arrive during d.
func (b *bulk) rateOver(ctx context.Context, d time.Duration) (float64, error) {
	return b.rate(func() error { return sleep(ctx, d) })
}

// throughput measures n bulk streams: MB/s, and MB for a second of the agents' processor time.
func throughput(up bool, n int) func(context.Context, *trial) (measures, error) {
	return func(ctx context.Context, t *trial) (measures, error) {
		b, err := t.startBulk(up, n)
		if err != nil {
			return nil, err
		}
		m, err := b.measure(ctx, t.window/2+time.Duration(n)*3*time.Millisecond)
		return m, errors.Join(err, b.stop())
	}
}

// measure looks for a window after a warm-up.
func (b *bulk) measure(ctx context.Context, warmUp time.Duration) (measures, error) {
	if err := sleep(ctx, warmUp); err != nil {
		return nil, err
	}
	var before, after sample
	rate, err := b.rate(func() (err error) {
		if before, err = b.t.sample(); err != nil {
			return err
		}
		if err := sleep(ctx, b.t.window); err != nil {
			return err
		}
		after, err = b.t.sample()
		return err
	})
	if err != nil {
		return nil, err
	}
	if rate == 0 {
		return nil, errors.New("nothing arrives")
	}
	m := measures{"rate": rate / megabyte}
	if used := after.cpu - before.cpu; used > 0 {
		m["work"] = rate * after.at.Sub(before.at).Seconds() / used.Seconds() / megabyte
	}
	return m, nil
}
