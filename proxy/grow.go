package proxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"sallyport/tunnel"
)

// growPause is how long to leave it when another carrier cannot be had: what there is works.
const growPause = 10 * time.Minute

// errSurplus is what a carrier ends with that is not needed any more.
var errSurplus = errors.New("fewer carriers do")

// grow adds carriers to those that the client keeps, while the session is crowded.
func (l *link) grow(ctx, alive context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for l.awaitRoom(ctx) && l.session.Crowded(ctx) == nil {
		if room, _ := l.room(); !room {
			continue // taken meanwhile, as by the first carrier
		}
		carrier, ok := l.dial(ctx, l.growFailed)
		if ok {
			settled := make(chan bool, 1)
			wg.Go(func() { l.serveExtra(alive, carrier, func(joined bool) { settled <- joined }) })
			ok = <-settled
		}
		if !ok && !pause(ctx, growPause, nil, nil) {
			return
		}
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

// serveExtra serves a carrier until it is lost, or not needed any more.
func (l *link) serveExtra(alive context.Context, carrier tunnel.Carrier, dialled func(joined bool)) {
	ctx, cancel := context.WithCancelCause(alive)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	l.attach(ctx, carrier, func(joined bool) {
		if joined {
			wg.Go(func() { l.awaitSurplus(ctx, time.Now(), cancel) })
		}
		dialled(joined)
	}, l.growFailed)
}

// growFailed is about a carrier without which the session goes on as well as before.
func (l *link) growFailed(ce *CarrierError) {
	attrs := append(ce.attrs(), "carriers", l.session.Stats().Carriers, "next_try_in", growPause)
	l.client.log.Info("no further carrier to be had, going on with those there are", attrs...)
}

// awaitSurplus gives a carrier up once one less would do, and has done for long.
func (l *link) awaitSurplus(ctx context.Context, joined time.Time, giveUp context.CancelCauseFunc) {
	after := l.client.o.SurplusAfter
	ticker := time.NewTicker(after / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		st := l.session.Stats()
		if time.Since(joined) > after && time.Since(st.AllNeeded) > after && st.Suspect == 0 && st.Carriers > l.client.o.Carriers {
			giveUp(errSurplus)
			return
		}
	}
}
