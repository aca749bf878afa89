package ws

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// recordBuffer holds the TLS records of one flush.
type recordBuffer [recordCorkSize]byte

// recordBuffers is a cache of free buffers, nothing else.
var recordBuffers = sync.Pool{New: func() any { return new(recordBuffer) }}

// recordCork lies below crypto/tls. Between cork and uncork it gathers what TLS
// writes; otherwise it passes it through. It takes a buffer only while corked.
type recordCork struct {
	net.Conn // what lies below: TCP, or a tunnel through a proxy

	mu     sync.Mutex // held across writes on Conn: keeps records in order
	corked bool
	buf    *recordBuffer // nil: nothing gathered
	n      int
	err    error // sticky: a stream of records with a gap is useless

	frozen atomic.Bool // the write deadline stays as it is
}

// NetConn is what lies below.
func (c *recordCork) NetConn() net.Conn { return c.Conn }

// Write is called by crypto/tls, one record or handshake flight at a time.
func (c *recordCork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.corked && c.n+len(p) > recordCorkSize {
		if err := c.flushLocked(); err != nil {
			return 0, err
		}
	}
	if !c.corked || len(p) > recordCorkSize {
		n, err := c.Conn.Write(p)
		c.err = err
		return n, err
	}
	if c.buf == nil {
		c.buf = recordBuffers.Get().(*recordBuffer)
	}
	c.n += copy(c.buf[c.n:], p)
	return len(p), nil
}

// cork starts gathering.
func (c *recordCork) cork() {
	c.mu.Lock()
	c.corked = true
	c.mu.Unlock()
}

// uncork writes what was gathered, in one write, and ends gathering.
func (c *recordCork) uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	return c.flushLocked()
}

func (c *recordCork) flushLocked() error {
	if c.buf == nil {
		return c.err
	}
	if c.err == nil {
		_, c.err = c.Conn.Write(c.buf[:c.n])
	}
	recordBuffers.Put(c.buf)
	c.buf, c.n = nil, 0
	return c.err
}

// freezeWriteDeadline sets the write deadline and ignores later ones:
// crypto/tls would extend it to five seconds for its close_notify.
func (c *recordCork) freezeWriteDeadline(t time.Time) {
	c.frozen.Store(true)
	_ = c.Conn.SetWriteDeadline(t)
}

// SetWriteDeadline passes on unless frozen.
func (c *recordCork) SetWriteDeadline(t time.Time) error {
	if c.frozen.Load() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline passes on; the write deadline unless frozen.
func (c *recordCork) SetDeadline(t time.Time) error {
	if c.frozen.Load() {
		return c.Conn.SetReadDeadline(t)
	}
	return c.Conn.SetDeadline(t)
}

// Close closes what lies below at once; what is gathered is dropped.
func (c *recordCork) Close() error { return closeNow(c.Conn) }
