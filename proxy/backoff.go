package proxy

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// The pauses between attempts to get a carrier (or a reverse forward): none before the first, then exponential with
// full jitter. Every cut seen in practice came without a reason, and most mend at once.
const (
	firstPause   = 250 * time.Millisecond
	longestPause = 30 * time.Second
	// wantedPause is the longest pause while an accepted connection waits, or after a stream was given something to send.
	wantedPause = time.Second
)

// backoff counts failures in a row. The zero value is ready.
type backoff struct {
	mu       sync.Mutex
	failures int
	flaps    int // carriers in a row that were lost as soon as they were attached
}

// fail counts a failed attempt.
func (b *backoff) fail() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
}

// succeed makes the next pause none.
func (b *backoff) succeed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures = 0
}

// lost counts the loss of what an attempt had gained. If it was any good, the next attempt follows at once; if it was
// lost again and again before it was, the pauses grow as if nothing had been gained.
func (b *backoff) lost(healthy bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if healthy {
		b.failures, b.flaps = 0, 0
		return
	}
	b.flaps++
	b.failures = max(b.failures, b.flaps)
}

// delay returns how long to wait before the next attempt.
func (b *backoff) delay() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures == 0 {
		return 0
	}
	limit := longestPause
	if b.failures <= 7 { // 250 ms << 7 is past the limit
		limit = min(limit, firstPause<<(b.failures-1))
	}
	return rand.N(limit)
}

// pause waits for d, or until ctx ends: false. When wanted or waiting closes, what remains shrinks to at most wantedPause.
// Either may be nil.
func pause(ctx context.Context, d time.Duration, wanted, waiting <-chan struct{}) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	end := time.Now().Add(d)
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		case <-wanted:
		case <-waiting:
		}
		wanted, waiting = nil, nil
		if short := rand.N(wantedPause); time.Until(end) > short {
			timer.Reset(short)
		}
	}
}
