package faults

import (
	"net"
	"sync"
	"time"
)

const (
	// linkChunk is the most that is read at once for a link: small, so that connections share it
	// finely.
	linkChunk = 16 << 10
	// linkReadBuffer is the sockets' receive buffer: small beside the link's queue, and still large
	// enough that loopback's 64 KB segments flow.
	linkReadBuffer = 128 << 10
)

// parcel is a chunk on its way over a link. No bytes: how the direction ended.
type parcel struct {
	data    []byte
	end     error
	arrival time.Time
}

// wire is what one direction of one connection has on its way.
type wire struct {
	mu      sync.Mutex
	cond    sync.Cond
	parcels []parcel
	held    int // bytes
	closed  bool
}

func newWire() *wire {
	w := new(wire)
	w.cond.L = &w.mu
	return w
}

// put adds a parcel once there is room. False: the wire was closed.
func (w *wire) put(p parcel, window int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.closed && w.held > 0 && w.held+len(p.data) > window {
		w.cond.Wait()
	}
	if w.closed {
		return false
	}
	w.parcels = append(w.parcels, p)
	w.held += len(p.data)
	w.cond.Broadcast()
	return true
}

// get removes the oldest parcel, waiting for one. False: the wire was closed.
func (w *wire) get() (parcel, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.closed && len(w.parcels) == 0 {
		w.cond.Wait()
	}
	if w.closed {
		return parcel{}, false
	}
	p := w.parcels[0]
	w.parcels[0] = parcel{}
	w.parcels = w.parcels[1:]
	w.held -= len(p.data)
	w.cond.Broadcast()
	return p, true
}

// close ends both put and get.
func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.cond.Broadcast()
}

// pumpLink forwards one direction through the link, until its end.
func (c *conn) pumpLink(d Direction, src, dst *net.TCPConn) {
	l, floor := &c.owner.up, c.born.Add(c.rtt)
	if d == Down {
		// The target's first bytes leave when the handshake's last packet has reached it.
		l, floor = &c.owner.down, c.born.Add(c.rtt*3/2)
	}
	w := newWire()
	var deliverer sync.WaitGroup
	deliverer.Go(func() { c.deliver(w, dst) })
	defer deliverer.Wait()

	send := func(p parcel, n int) bool {
		arrival, ok := l.book(n, floor, c.over)
		p.arrival = arrival
		return ok && w.put(p, l.window())
	}
	for {
		buf := make([]byte, linkChunk)
		n, err := src.Read(buf)
		if !c.pass(d, buf[:n], func(p []byte) bool { return send(parcel{data: p}, len(p)) }) {
			w.close()
			return
		}
		if err != nil {
			if !send(parcel{end: err}, 0) {
				w.close()
			}
			return
		}
	}
}

// deliver writes parcels to dst when they arrive, until one says how the direction ended. It closes
// the wire when the connection is over.
func (c *conn) deliver(w *wire, dst *net.TCPConn) {
	defer w.close()
	for {
		p, ok := w.get()
		if !ok || !sleepUntil(p.arrival, c.over) {
			return
		}
		if p.end != nil {
			c.finish(p.end, dst)
			return
		}
		switch c.gate() {
		case stop:
			return
		case discard:
			continue
		}
		if _, err := dst.Write(p.data); err != nil && !c.broken() {
			return
		}
	}
}

// sleepUntil waits for t and returns true, or returns false as soon as over is closed.
func sleepUntil(t time.Time, over <-chan struct{}) bool {
	d := time.Until(t)
	return d <= 0 || sleep(d, over)
}
