package proxy

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// leastPatience is how long a hedge may take at least. If the path swallows it like the carriers that have gone silent,
// another one must not wait for its legs' deadlines.
const leastPatience = 2 * time.Second

// hedgeError is why a hedge was given up.
type hedgeError struct {
	after time.Duration
	err   error // what its dial said, with the leg; may be nil
}

func (e *hedgeError) Error() string {
	text := fmt.Sprintf("no further carrier within %v, beside those that have gone silent", e.after)
	if e.err != nil {
		text += ": " + e.err.Error()
	}
	return text
}

func (e *hedgeError) Unwrap() error { return e.err }

// hedge dials one carrier more whenever the session suspects those that it has.
func (l *link) hedge(ctx, alive context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var b backoff
	for tries := 0; l.session.Hedge(ctx) == nil; tries++ {
		if !pause(ctx, b.delay(), nil, nil) {
			return
		}
		if l.hedgeOnce(ctx, alive, &wg, l.patience(tries)) {
			b.succeed()
			tries = -1
		} else {
			b.fail()
		}
	}
}

// patience is how long the next hedge may take: longer than others took, and ever longer.
func (l *link) patience(tries int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return min(max(leastPatience, 4*l.dialTook)<<min(tries, 8), attemptTimeout)
}

// hedgeOnce reports whether a carrier joined in time.
func (l *link) hedgeOnce(ctx, alive context.Context, wg *sync.WaitGroup, patience time.Duration) bool {
	late := &hedgeError{after: patience}
	dialling, cancel := context.WithTimeoutCause(ctx, patience, late)
	defer cancel()
	carrier, ok := l.dial(dialling, l.dialFailed)
	if !ok {
		return false
	}
	settled := make(chan bool, 1) // until then the session asks for it still, and would get two
	wg.Go(func() {
		alive, giveUp := context.WithCancelCause(alive)
		defer giveUp(nil)
		timer := time.AfterFunc(patience, func() { giveUp(late) })
		l.serveExtra(alive, carrier, func(joined bool) {
			timer.Stop()
			settled <- joined
		}, l.dialFailed)
	})
	return <-settled
}
