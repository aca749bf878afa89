//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// idle opens n streams that then do nothing, and measures what they cost: memory, time to open
// them, processor time while they idle, and how fast more are opened beside them.
func idle(n int, then ...func(context.Context, *trial, measures) error) func(context.Context, *trial) (measures, error) {
	return func(ctx context.Context, t *trial) (measures, error) {
		count, err := t.affordable(n)
		if err != nil {
			return nil, err
		}
		before, err := settled(ctx, t.tunnel.memory)
		if err != nil {
			return nil, err
		}
		begin := time.Now()
		conns, err := t.openIdle(ctx, count)
		defer closeAll(conns)
		if err != nil {
			return nil, err
		}
		took := time.Since(begin)
		after, err := settled(ctx, t.tunnel.memory)
		if err != nil {
			return nil, err
		}
		m := measures{"open": float64(count) / took.Seconds()}
		for i, side := range []string{"client", "server"} {
			if t.measured() {
				m[side] = float64(after[i]-before[i]) / float64(count) / 1000
			}
		}
		for _, more := range then {
			if err := more(ctx, t, m); err != nil {
				return nil, err
			}
		}
		return m, stillAlive(conns)
	}
}

// affordable returns how many of the wanted streams the system has room for, and notes for the
// reader if that is less.
func (t *trial) affordable(wanted int) (int, error) {
	count := affordable(wanted, t.who.files, t.bench.files)
	if count == 0 {
		return 0, fmt.Errorf("%d file descriptors are too few for any stream", t.bench.files)
	}
	if count < wanted {
		t.note = fmt.Sprintf("%d streams only: an agent may have %d file descriptors and needs %d a stream",
			count, t.bench.files, max(1, t.who.files))
	}
	// Direct connections come from many addresses; an agent dials the target from one.
	if ports := portsEach * len(t.tunnel.addrs); t.measured() && count > ports {
		count = ports
		t.note = fmt.Sprintf("%d streams only: connecting to one address gets slow beyond", count)
	}
	return count, nil
}

// openIdle opens streams, each with one byte echoed, so that it is open to its very end. It returns
// those it has opened even with an error.
func (t *trial) openIdle(ctx context.Context, count int) ([]net.Conn, error) {
	const workers = 32
	var (
		mu    sync.Mutex
		conns = make([]net.Conn, 0, count)
		errs  []error
		wg    sync.WaitGroup
	)
	for worker := range workers {
		wg.Go(func() {
			for i := worker; i < count && ctx.Err() == nil; i += workers {
				c, err := t.dial()
				if err == nil {
					err = ping(c, make([]byte, 1))
				}
				mu.Lock()
				if c != nil {
					conns = append(conns, c)
				}
				if err != nil {
					errs = append(errs, fmt.Errorf("idle stream %d: %w", i, err))
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return conns, errors.Join(append(errs[:min(3, len(errs))], context.Cause(ctx))...)
}

// stillAlive pings on a few of the streams.
func stillAlive(conns []net.Conn) error {
	for i := 0; i < len(conns); i += max(1, len(conns)/10) {
		if err := ping(conns[i], make([]byte, 1)); err != nil {
			return fmt.Errorf("an idle stream is dead: %w", err)
		}
	}
	return nil
}

func closeAll[C io.Closer](all []C) {
	for _, c := range all {
		c.Close()
	}
}

// idleCPU adds the agents' processor time while nothing happens, in ms a second.
func idleCPU(ctx context.Context, t *trial, m measures) error {
	before, err := t.sample()
	if err != nil {
		return err
	}
	if err := sleep(ctx, max(3*t.window, 2*time.Second)); err != nil {
		return err
	}
	after, err := t.sample()
	if err != nil {
		return err
	}
	m["cpu"] = milliseconds(after.cpu-before.cpu) / after.at.Sub(before.at).Seconds()
	return nil
}

// opensBeside adds how many streams a second are opened, echoed and closed beside the idle ones.
func opensBeside(ctx context.Context, t *trial, m measures) (err error) {
	m["more"], err = t.openRate(ctx, atOnce)
	return err
}
