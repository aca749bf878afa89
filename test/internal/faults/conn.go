package faults

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// drainTime bounds how long a connection cut by FIN still takes and throws away what arrives.
const drainTime = 10 * time.Second

// conn is one relayed connection: two sockets, two pumps, one fault.
type conn struct {
	owner  *Relay
	client *net.TCPConn
	fault  Fault
	linked bool // goes through the owner's link
	born   time.Time
	rtt    time.Duration // of the link at birth
	over   chan struct{} // closed by end

	mu     sync.Mutex
	server *net.TCPConn  // nil before attach
	mode   Mode          // None while bytes flow
	turned chan struct{} // while black-holed: closed when the mode changes
	ended  bool
	passed [Down + 1]int64 // by direction; Either is the sum
}

// attach gives the connection its target's side. False: it ended meanwhile, and server is closed.
func (c *conn) attach(server *net.TCPConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		reset(server)
		return false
	}
	c.server = server
	return true
}

// relay pumps both ways until both are done.
func (c *conn) relay() {
	pump := c.pump
	if c.linked {
		pump = c.pumpLink
		// Bytes that wait belong into the link's queue, not into the relay's sockets.
		c.client.SetReadBuffer(linkReadBuffer)
		c.server.SetReadBuffer(linkReadBuffer)
	}
	var wg sync.WaitGroup
	wg.Go(func() { pump(Up, c.client, c.server) })
	wg.Go(func() { pump(Down, c.server, c.client) })
	wg.Wait()
}

// cut applies a mode. False: the connection had ended, or is in that mode already.
func (c *conn) cut(m Mode) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.mode == m || c.mode == FIN && m != RST {
		return false
	}
	c.setMode(m)
	c.owner.counted(m)
	switch m {
	case RST:
		c.endLocked()
	case FIN:
		deadline := time.Now().Add(drainTime)
		for _, side := range []*net.TCPConn{c.client, c.server} {
			if side != nil {
				side.CloseWrite()
				side.SetDeadline(deadline)
			}
		}
	}
	return true
}

// heal ends a black hole.
func (c *conn) heal() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.mode != BlackHole {
		return false
	}
	c.setMode(None)
	return true
}

// setMode needs c.mu.
func (c *conn) setMode(m Mode) {
	c.mode = m
	if c.turned != nil {
		close(c.turned)
		c.turned = nil
	}
	if m == BlackHole {
		c.turned = make(chan struct{})
	}
}

// end resets both sides, if they are not closed yet.
func (c *conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked()
}

func (c *conn) endLocked() {
	if c.ended {
		return
	}
	c.ended = true
	close(c.over)
	reset(c.client)
	if c.server != nil {
		reset(c.server)
	}
}

// close ends a connection whose directions have both ended: what the kernel still holds for a slow
// reader is delivered.
func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	close(c.over)
	c.client.Close()
	if c.server != nil {
		c.server.Close()
	}
}

// reset closes with RST.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// verdict is what a pump may do with the bytes it holds.
type verdict uint8

const (
	forward verdict = iota
	discard         // read on, forward nothing
	stop            // the connection is over
)

// gate waits out a black hole and says what to do with bytes, an end of file or an abort in hand.
func (c *conn) gate() verdict {
	for {
		c.mu.Lock()
		mode, turned, ended := c.mode, c.turned, c.ended
		c.mu.Unlock()
		switch {
		case ended || mode == RST:
			return stop
		case mode == FIN || mode == Swallow:
			return discard
		case mode == None:
			return forward
		}
		select {
		case <-turned:
		case <-c.over:
		}
	}
}

// admit takes the next bytes of up to n that may pass in direction d, and the mode in which the
// connection must be cut right after them.
func (c *conn) admit(d Direction, n int) (allowed int, strike Mode) {
	c.mu.Lock()
	if f := c.fault; f.Mode != None && (f.Dir == Either || f.Dir == d) && c.passed[f.Dir]+int64(n) >= f.After {
		c.fault = Fault{} // strikes once
		if c.owner.mayCut() {
			n = int(max(f.After-c.passed[f.Dir], 0))
			strike = f.Mode
		}
	}
	c.passed[d] += int64(n)
	c.passed[Either] += int64(n)
	c.mu.Unlock()
	c.owner.moved(d, n)
	return n, strike
}

// pump forwards one direction at once, until its end.
func (c *conn) pump(d Direction, src, dst *net.TCPConn) {
	buf := make([]byte, 64<<10)
	write := func(p []byte) bool { _, err := dst.Write(p); return err == nil }
	for {
		n, err := src.Read(buf)
		if !c.pass(d, buf[:n], write) {
			return
		}
		if err != nil {
			c.finish(err, dst)
			return
		}
	}
}

// pass hands p to write as far as cuts allow. False: the connection is over.
func (c *conn) pass(d Direction, p []byte, write func([]byte) bool) bool {
	for len(p) > 0 {
		switch c.gate() {
		case stop:
			return false
		case discard:
			return true
		}
		n, strike := c.admit(d, len(p))
		if n > 0 && !write(p[:n]) && !c.broken() {
			return false
		}
		p = p[n:]
		if strike != None {
			c.cut(strike)
		}
	}
	return true
}

// broken handles a failed write: a reset of the far side is passed on, unless a cut is why it
// failed, or hides it. False: the connection is over.
func (c *conn) broken() bool {
	v := c.gate()
	if v == forward {
		c.end()
	}
	return v == discard
}

// finish passes on how a direction ended: an end of file as such, an abort as an abort.
func (c *conn) finish(err error, dst *net.TCPConn) {
	switch c.gate() {
	case discard:
		c.hush()
	case forward:
		if errors.Is(err, io.EOF) {
			dst.CloseWrite()
		} else {
			c.end()
		}
	}
}

// drop reads and throws away what the client sends on a connection cut before it was relayed.
func (c *conn) drop() {
	io.Copy(io.Discard, c.client)
	c.hush()
}

// hush keeps a swallowed connection open after one side has ended, so that the other never hears.
func (c *conn) hush() {
	c.mu.Lock()
	mode := c.mode
	c.mu.Unlock()
	if mode == Swallow {
		<-c.over
	}
}
