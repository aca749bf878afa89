package faults

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

// Options configure a Relay. Target is needed; the zero value of the rest is a transparent relay.
type Options struct {
	// Target is the host:port dialled for each connection.
	Target string
	// Link is the link to emulate. Zero: none.
	Link Link
	// Plan returns the fault of the n-th connection, counted from 0. It may be called from several
	// goroutines. nil: no faults but those of Relay.Cut.
	Plan func(n int) Fault
	// MaxCuts ends the plan: once that many connections were cut, by the plan or by Relay.Cut, the
	// plan cuts no more. 0: it never ends.
	MaxCuts int
}

// Stats is what a relay has seen so far.
type Stats struct {
	// Accepted counts connections since the start, Live those not yet closed on both sides:
	// black-holed ones live.
	Accepted, Live int
	// Cuts counts the connections cut, by mode. A connection cut twice counts twice.
	Cuts map[Mode]int
	// Up and Down count the bytes that passed, in and out of both directions' links.
	Up, Down int64
}

// Total returns the number of cuts of all modes.
func (s Stats) Total() int {
	n := 0
	for _, c := range s.Cuts {
		n += c
	}
	return n
}

// Relay is a TCP relay that can be told to misbehave. Make one with NewRelay. Its methods may be
// called at any time from any goroutine.
type Relay struct {
	ln   net.Listener
	up   lane
	down lane

	mu      sync.Mutex
	target  string
	link    Link
	plan    func(int) Fault
	maxCuts int
	conns   map[*conn]struct{}
	count   int
	cuts    [modes]int
	bytes   [Down + 1]int64
}

// NewRelay returns a relay that will accept on ln, which it owns from now on. It starts nothing:
// call Run.
func NewRelay(ln net.Listener, o Options) *Relay {
	r := &Relay{
		ln: ln, target: o.Target, plan: o.Plan, maxCuts: o.MaxCuts,
		conns: make(map[*conn]struct{}),
	}
	r.SetLink(o.Link)
	return r
}

// Addr returns the host:port that the relay accepts on.
func (r *Relay) Addr() string { return r.ln.Addr().String() }

// Run accepts and forwards until ctx ends. It then resets what is left and returns nil when all its
// goroutines have ended, or the error that ended the listener.
func (r *Relay) Run(ctx context.Context) error {
	defer r.ln.Close()
	defer context.AfterFunc(ctx, func() { r.ln.Close() })()

	var wg sync.WaitGroup
	defer wg.Wait()
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		c, err := r.ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		wg.Go(func() { r.serve(serving, c.(*net.TCPConn)) })
	}
}

// serve relays one accepted connection until both of its sides are closed.
func (r *Relay) serve(ctx context.Context, client *net.TCPConn) {
	c := r.newConn(client)
	defer r.remove(c)
	defer c.close()
	defer context.AfterFunc(ctx, c.end)()

	if _, strike := c.admit(Either, 0); strike != None {
		c.cut(strike)
	}
	switch c.gate() {
	case stop:
		return
	case discard:
		c.drop()
		return
	}
	server, err := r.dial(ctx)
	if err != nil {
		c.end()
		return
	}
	if c.attach(server) {
		c.relay()
	}
}

// dial connects to the target, with small buffers when there is a link: what waits, waits in the
// link's own queue.
func (r *Relay) dial(ctx context.Context) (*net.TCPConn, error) {
	r.mu.Lock()
	target := r.target
	r.mu.Unlock()
	d := net.Dialer{Timeout: 10 * time.Second}
	c, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// newConn registers an accepted connection and gives it its fault.
func (r *Relay) newConn(client *net.TCPConn) *conn {
	r.mu.Lock()
	n, plan := r.count, r.plan
	r.count++
	c := &conn{
		owner: r, client: client, linked: r.link.enabled(),
		born: time.Now(), rtt: r.link.RTT(), over: make(chan struct{}),
	}
	r.conns[c] = struct{}{}
	r.mu.Unlock()
	if plan != nil {
		c.fault = plan(n)
	}
	return c
}

func (r *Relay) remove(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

// mayCut says whether the plan may still cut.
func (r *Relay) mayCut() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.maxCuts == 0 {
		return true
	}
	n := 0
	for _, c := range r.cuts {
		n += c
	}
	return n < r.maxCuts
}

func (r *Relay) counted(m Mode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cuts[m]++
}

func (r *Relay) moved(d Direction, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes[d] += int64(n)
}

func (r *Relay) live() []*conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.conns))
}

// Cut cuts every connection that lives, black-holed ones too, and returns how many it cut.
func (r *Relay) Cut(m Mode) int {
	n := 0
	for _, c := range r.live() {
		if c.cut(m) {
			n++
		}
	}
	return n
}

// Heal lets black-holed connections flow again and returns how many there were.
func (r *Relay) Heal() int {
	n := 0
	for _, c := range r.live() {
		if c.heal() {
			n++
		}
	}
	return n
}

// SetTarget changes where new connections go.
func (r *Relay) SetTarget(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = addr
}

// SetPlan changes the plan for new connections; nil ends it. Connections keep the fault they have.
func (r *Relay) SetPlan(plan func(n int) Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plan = plan
}

// SetLink changes the link. A new rate and queue hold at once, also for connections that live; a
// connection accepted while there was no link never gets one.
func (r *Relay) SetLink(l Link) {
	r.up.set(l)
	r.down.set(l)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.link = l
}

// Stats returns what the relay has seen so far.
func (r *Relay) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Stats{
		Accepted: r.count, Live: len(r.conns), Cuts: make(map[Mode]int),
		Up: r.bytes[Up], Down: r.bytes[Down],
	}
	for m, n := range r.cuts {
		if n > 0 {
			s.Cuts[Mode(m)] = n
		}
	}
	return s
}
