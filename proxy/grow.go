package proxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"sallyport/tunnel"
)

// The pauses before another carrier is tried for after one could not be had, or did harm: what there is works.
const (
	firstGrowPause   = 10 * time.Second
	longestGrowPause = 10 * time.Minute
	// harmPeriod is how soon after a carrier was added the loss of any is put down to that: something on the way
	// may allow one connection, and cut the new one or the old.
	harmPeriod = 5 * time.Second
)

// errSurplus is what a carrier ends with that is not needed any more.
var errSurplus = errors.New("fewer carriers do")

// growth is what a link knows of the carriers that it has added.
type growth struct {
	grown  time.Time     // when one was added
	pause  time.Duration // the last one
	next   time.Time     // when to try again
	gaveUp time.Time     // when a carrier was given up
}

// grow adds carriers to those that the client keeps, while the session is crowded.
func (l *link) grow(ctx, alive context.Context) {
	if l.client.o.Carriers == l.client.o.MaxCarriers {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for l.awaitRoom(ctx) && l.session.Crowded(ctx) == nil {
		if wait := l.growAgain(); wait > 0 {
			if !pause(ctx, wait, nil, nil) {
				return
			}
			continue
		}
		if room, _ := l.room(); !room {
			continue // taken meanwhile, as by the first carrier
		}
		carrier, ok := l.dial(ctx, l.growFailed)
		if !ok {
			continue
		}
		settled := make(chan struct{})
		wg.Go(func() {
			l.serveExtra(alive, carrier, func(joined bool) {
				if joined {
					l.growth.grown = time.Now()
				}
				close(settled)
			}, l.growFailed)
		})
		<-settled
	}
}

// growAgain returns how long to wait until another carrier is tried for.
func (l *link) growAgain() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.growth.next)
}

// growFailed is about a carrier without which the session goes on as well as before.
func (l *link) growFailed(ce *CarrierError) {
	wait := l.growLater()
	attrs := append(ce.attrs(), "carriers", l.session.Stats().Carriers, "next_try_in", wait)
	l.client.log.Info("no further carrier to be had, going on with those there are", attrs...)
}

// growLater puts off the next try, and returns for how long.
func (l *link) growLater() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := &l.growth
	g.pause = min(max(2*g.pause, firstGrowPause), longestGrowPause)
	g.next = time.Now().Add(g.pause)
	return g.pause
}

// harmed notes that a carrier was lost, perhaps because another had been added.
func (l *link) harmed() {
	l.mu.Lock()
	recent := time.Since(l.growth.grown) < harmPeriod
	l.growth.grown = time.Time{}
	l.mu.Unlock()
	if recent {
		l.client.log.Info("a carrier was lost soon after another had been added: adding none for a while", "next_try_in", l.growLater())
	}
}

// awaitRoom waits until the session may have another carrier.
func (l *link) awaitRoom(ctx context.Context) bool {
	for {
		room, changed := l.room()
		if room {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// room says whether the session may have another carrier; changed is closed when that may have changed.
func (l *link) room() (room bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.attached+l.dialling < l.client.o.MaxCarriers, l.changed
}

// serveExtra is attach for a carrier beyond those that the client keeps: it ends when it is not needed any more, too.
func (l *link) serveExtra(alive context.Context, carrier tunnel.Carrier, dialled func(joined bool), failed func(*CarrierError)) {
	ctx, cancel := context.WithCancelCause(alive)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	l.attach(ctx, carrier, func(joined bool) {
		if joined {
			wg.Go(func() { l.awaitSurplus(ctx, time.Now(), cancel) })
		}
		dialled(joined)
	}, failed)
}

// awaitSurplus gives a carrier up once one less would do, and has done for long.
func (l *link) awaitSurplus(ctx context.Context, joined time.Time, giveUp context.CancelCauseFunc) {
	ticker := time.NewTicker(max(l.client.o.SurplusAfter/3, 1))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if l.surplus(joined) {
			giveUp(errSurplus)
			return
		}
	}
}

// surplus says whether to give up a carrier that joined then. After one it says no for a while, until that one has left
// and the session has looked at what the others do: two at once might be the last ones, or one too many.
func (l *link) surplus(joined time.Time) bool {
	after := l.client.o.SurplusAfter
	st := l.session.Stats()
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(joined) <= after || time.Since(st.AllNeeded) <= after || time.Since(l.growth.gaveUp) <= after/2 ||
		st.Suspect > 0 || st.Carriers <= l.client.o.Carriers {
		return false
	}
	l.growth.gaveUp = time.Now()
	l.growth.pause = 0 // it did no harm
	return true
}
