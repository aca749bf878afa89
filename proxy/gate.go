package proxy

import (
	"context"
	"errors"
	"sync"
)

// errTooManyWaiting is why a connection is reset that was accepted while the session was away.
var errTooManyWaiting = errors.New("too many connections wait for a session already")

// gate is where accepted connections wait for a session with a carrier attached. None of their bytes leave before
// that, so a session that turns out to be lost costs them nothing.
type gate struct {
	mu      sync.Mutex
	link    *link         // takes new streams; nil while there is none
	changed chan struct{} // closed when link is set
	demand  chan struct{} // closed while somebody waits
	waiting int
	max     int
}

func (g *gate) init(max int) {
	g.max = max
	g.changed = make(chan struct{})
	g.demand = make(chan struct{})
}

// set opens the gate to l.
func (g *gate) set(l *link) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.link = l
	close(g.changed)
	g.changed = make(chan struct{})
}

// unset closes the gate if it was open to l.
func (g *gate) unset(l *link) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.link == l {
		g.link = nil
	}
}

// current returns the link that takes new streams, or nil, and a channel that closes when there is a new one.
func (g *gate) current() (*link, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.link, g.changed
}

// wanted returns a channel that is closed while somebody waits.
func (g *gate) wanted() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.demand
}

func (g *gate) waiters() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting
}

// wait returns a link that takes new streams, as soon as there is one.
func (g *gate) wait(ctx context.Context) (*link, error) {
	if l, _ := g.current(); l != nil {
		return l, nil
	}
	if err := g.enter(); err != nil {
		return nil, err
	}
	defer g.leave()
	for {
		l, changed := g.current()
		if l != nil {
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting >= g.max {
		return errTooManyWaiting
	}
	if g.waiting++; g.waiting == 1 {
		close(g.demand)
	}
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting--; g.waiting == 0 {
		g.demand = make(chan struct{})
	}
}
