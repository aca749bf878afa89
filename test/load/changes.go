//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"sallyport/test/internal/faults"
)

// timedEcho is a round trip and when it ended.
type timedEcho struct {
	at   time.Time
	took time.Duration
}

// pinger pings on a stream in the background until it is stopped.
type pinger struct {
	c     net.Conn
	quit  chan struct{}
	wg    sync.WaitGroup
	took  []timedEcho // valid after stop
	err   error
	ended sync.Once
}

func startPinger(c net.Conn) *pinger {
	p := &pinger{c: c, quit: make(chan struct{})}
	p.wg.Go(func() {
		b := make([]byte, 1)
		for {
			select {
			case <-p.quit:
				return
			default:
			}
			sent := time.Now()
			if p.err = ping(c, b); p.err != nil {
				return
			}
			p.took = append(p.took, timedEcho{time.Now(), time.Since(sent)})
		}
	})
	return p
}

// stop waits for the last round trip and returns them all.
func (p *pinger) stop() ([]timedEcho, error) {
	p.ended.Do(func() { close(p.quit) })
	p.wg.Wait()
	return p.took, p.err
}

// lastSlow returns how long after since the last round trip that took more than limit ended; 0 if
// there is none.
func lastSlow(echoes []timedEcho, since time.Time, limit time.Duration) time.Duration {
	var last time.Duration
	for _, e := range echoes {
		if e.took > limit && e.at.After(since) {
			last = e.at.Sub(since)
		}
	}
	return last
}

// firstReached returns the index of the first of the rates that reaches goal, and false if none
// does.
func firstReached(rates []float64, goal float64) (int, bool) {
	i := slices.IndexFunc(rates, func(r float64) bool { return r >= goal })
	return i, i >= 0
}

const (
	fastRate, slowRate = 100, 20 // MB/s
	// slice is how finely a rate is watched while it changes, phase how long.
	slice = 200 * time.Millisecond
	phase = 4 * time.Second
)

// rateChange lets the link's rate fall from 100 to 20 MB/s and rise again under a download, with a
// byte going back and forth beside it.
func rateChange(ctx context.Context, t *trial) (measures, error) {
	c, err := t.dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	quiet, err := roundTrips(ctx, c, time.Second, 8)
	if err != nil {
		return nil, err
	}
	b, err := t.startBulk(false, 1)
	if err != nil {
		return nil, err
	}
	p := startPinger(c)
	err = sleep(ctx, 2*time.Second)
	var down, up []float64
	toSlow := time.Now()
	if err == nil {
		down, err = b.watchAt(ctx, slowRate)
	}
	toFast := time.Now()
	if err == nil {
		up, err = b.watchAt(ctx, fastRate)
	}
	echoes, pingErr := p.stop()
	if err := errors.Join(err, pingErr, b.stop()); err != nil {
		return nil, err
	}
	before := percentile(quiet, 0.5)
	inSlow := slices.DeleteFunc(slices.Clone(echoes), func(e timedEcho) bool { return e.at.After(toFast) })
	m := measures{
		"calm":  lastSlow(inSlow, toSlow, before*5/4).Seconds(),
		"share": median(down[len(down)/2:]) / slowRate,
		"again": median(up[len(up)/2:]) / fastRate,
	}
	i, reached := firstReached(up, 0.9*fastRate)
	if !reached {
		i = len(up)
		t.note = fmt.Sprintf("not back at 90 %% within %v", phase)
	}
	m["back"] = (time.Duration(i) * slice).Seconds()
	return m, nil
}

// watchAt changes the link's rate and returns the rate that arrives in each slice of the phase that
// follows.
func (b *bulk) watchAt(ctx context.Context, mbPerSecond int) ([]float64, error) {
	if err := b.t.link.set(linkSetting{Link: newLink(40*time.Millisecond, mbPerSecond, 256)}); err != nil {
		return nil, err
	}
	var rates []float64
	for range int(phase / slice) {
		r, err := b.rateOver(ctx, slice)
		if err != nil {
			return nil, err
		}
		rates = append(rates, r/megabyte)
	}
	return rates, nil
}

// rival lets a download share the link with a plain TCP connection that keeps the queue full, and
// measures what part of its fair half it gets.
func rival(l faults.Link) func(context.Context, *trial) (measures, error) {
	return func(ctx context.Context, t *trial) (measures, error) {
		ours, err := t.startBulk(false, 1)
		if err != nil {
			return nil, err
		}
		m, err := t.against(ctx, ours, l)
		return m, errors.Join(err, ours.stop())
	}
}

// against starts the rival once ours has its rate. The link's new connections go to the target from
// then on: what the contender needs must stand already.
func (t *trial) against(ctx context.Context, ours *bulk, l faults.Link) (measures, error) {
	if err := sleep(ctx, 2*time.Second); err != nil {
		return nil, err
	}
	if err := t.link.set(linkSetting{Link: l, Target: t.target.addrs[0]}); err != nil {
		return nil, err
	}
	beside := &trial{bench: t.bench, target: t.target, tunnel: &tunnel{addrs: []string{t.link.addr}}, deadline: t.deadline, streams: 1000}
	theirs, err := beside.startBulk(false, 1)
	if err != nil {
		return nil, fmt.Errorf("the rival: %w", err)
	}
	err = sleep(ctx, 3*time.Second)
	var mine, his float64
	if err == nil {
		mine, err = ours.rate(func() error {
			his, err = theirs.rateOver(ctx, max(t.window, 2*time.Second))
			return err
		})
	}
	rate := float64(l.Rate)
	return measures{"share": mine / (rate / 2), "all": (mine + his) / rate}, errors.Join(err, theirs.stop())
}
