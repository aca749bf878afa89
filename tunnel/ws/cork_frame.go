package ws

import (
	"cmp"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"sallyport/tunnel/internal/sock"
)

// frameBuffer holds the WebSocket frames of one flush.
type frameBuffer [corkSize + corkSlack]byte

// frameBuffers is a cache of free buffers, nothing else.
var frameBuffers = sync.Pool{New: func() any { return new(frameBuffer) }}

// frameCork lies above crypto/tls and is what the WebSocket library reads from
// and writes to. Its Write never blocks, it only appends:
//
//   - between cork and uncork, to the data buffer, which uncork flushes;
//   - otherwise what comes is a close frame of the library's reader: it waits in
//     a small buffer for whoever is flushing, or for a short-lived goroutine when
//     nobody is.
//
// Pings are answered by the same way, from here: the library would write the
// pong itself and give up after five seconds. So its reader is never held up by
// a peer that does not read.
type frameCork struct {
	conn   net.Conn    // crypto/tls, or TCP for plaintext
	below  *recordCork // the cork below TLS; nil for plaintext or a foreign TLS
	early  []byte      // bytes that came with the handshake, read first
	client bool        // frames are masked (RFC 6455 §5.3)

	flushMu sync.Mutex // held by the one who may write on conn

	mu      sync.Mutex   // guards what follows; never held across a write on conn
	data    *frameBuffer // frames gathered while corked; nil: none
	n       int
	control []byte // frames that came while not corked
	ping    []byte // payload of the newest ping without an answer; nil: none
	corked  bool
	busy    bool // the holder of flushMu will look at control before it leaves
	helping bool // flushControl is under way
	writing bool // between cork and uncork, flushes included
	closed  bool
	err     error // sticky: why writing ended

	helpers sync.WaitGroup // flushControl
}

// newFrameCork makes a cork above conn, whose handshakes are over and which
// nobody else uses.
func newFrameCork(conn net.Conn, early []byte, client bool) *frameCork {
	c := &frameCork{conn: sock.Wrap(conn), early: early, client: client}
	if t, ok := conn.(*tls.Conn); ok {
		if c.below, _ = t.NetConn().(*recordCork); c.below != nil {
			c.below.Conn = sock.Wrap(c.below.Conn)
		}
	}
	return c
}

// Read is called by the library's reader.
func (c *frameCork) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
		return n, nil
	}
	return c.conn.Read(p)
}

// Write is called by the library, with whole control frames or parts of data
// frames. It never blocks.
func (c *frameCork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case c.err != nil:
		return 0, c.err
	case c.corked:
		if c.n+len(p) > len(frameBuffer{}) {
			c.err = errCorkFull // reserve rules it out
			return 0, c.err
		}
		if c.data == nil {
			c.data = frameBuffers.Get().(*frameBuffer)
		}
		c.n += copy(c.data[c.n:], p)
	default:
		c.control = append(c.control, p...)
		c.helpLocked()
	}
	return len(p), nil
}

// helpLocked sees to it that somebody flushes.
func (c *frameCork) helpLocked() {
	if !c.busy && !c.helping {
		c.helping = true
		c.helpers.Go(c.flushControl)
	}
}

// answer has a ping answered as soon as nothing else is being written. Only the
// newest is (RFC 6455 §5.5.3), so that pings take no memory.
func (c *frameCork) answer(ping []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.err != nil {
		return
	}
	c.ping = append([]byte{}, ping...)
	c.helpLocked()
}

// cork starts gathering; uncork must follow, in the same goroutine.
func (c *frameCork) cork() {
	c.flushMu.Lock()
	c.mu.Lock()
	c.corked, c.busy, c.writing = true, true, true
	c.mu.Unlock()
}

// reserve makes sure that a frame of size bytes can be gathered, which may
// need a flush of those before it.
func (c *frameCork) reserve(size int) error {
	c.mu.Lock()
	full := c.n+size > corkSize
	c.mu.Unlock()
	if full {
		return c.flush(true)
	}
	return nil
}

// uncork flushes what was gathered and ends gathering.
func (c *frameCork) uncork() error {
	err := c.flush(false)
	c.mu.Lock()
	c.writing = false
	c.mu.Unlock()
	c.flushMu.Unlock()
	return err
}

// flush writes the frames gathered and then control frames that came
// meanwhile, until there are none. The caller holds flushMu and goes on
// gathering if more.
func (c *frameCork) flush(more bool) error {
	for {
		c.mu.Lock()
		b, data, err := c.takeLocked()
		if len(b) == 0 || err != nil {
			c.corked, c.busy = more, more
			c.mu.Unlock()
			release(data)
			return err
		}
		c.corked = false
		c.mu.Unlock()

		if err := c.write(b, data); err != nil {
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
		}
	}
}

// takeLocked takes what waits to be written: data's buffer, with the control
// frames behind if they fit, as they do, or else the control frames.
func (c *frameCork) takeLocked() (b []byte, data *frameBuffer, err error) {
	if c.err != nil || c.closed { // control is left for farewell
		data = c.data
		c.data, c.n = nil, 0
		return nil, data, cmp.Or(c.err, net.ErrClosed)
	}
	if c.ping != nil { // before a close frame, which ends everything
		c.control = append(controlFrame(opPong, c.ping, c.client), c.control...)
		c.ping = nil
	}
	data = c.data
	n := c.n
	c.data, c.n = nil, 0
	switch {
	case data == nil:
		b, c.control = c.control, nil
	case n+len(c.control) <= len(data):
		n += copy(data[n:], c.control)
		b, c.control = data[:n], nil
	default:
		b = data[:n]
	}
	return b, data, nil
}

// write writes b, the content of data if that is not nil, and releases data as
// soon as TLS has encrypted it.
func (c *frameCork) write(b []byte, data *frameBuffer) error {
	if c.below == nil || len(b) <= recordSize { // one write anyway
		_, err := c.conn.Write(b)
		release(data)
		return err
	}
	c.below.cork()
	_, err := c.conn.Write(b)
	release(data)
	if err2 := c.below.uncork(); err == nil {
		err = err2
	}
	return err
}

func release(data *frameBuffer) {
	if data != nil {
		frameBuffers.Put(data)
	}
}

// flushControl writes control frames that nobody else is there to flush.
func (c *frameCork) flushControl() {
	c.flushMu.Lock()
	defer c.flushMu.Unlock()
	c.mu.Lock()
	c.busy, c.helping = true, false
	c.mu.Unlock()
	_ = c.flush(false) // sticky: the next writer or reader sees it
}

// Close is called by the library, when the peer has closed: the answer to its
// close frame may still wait.
func (c *frameCork) Close() error { return c.shut(nil, true) }

// shut ends the cork. The control frames that wait, and last behind them, are
// still written if that takes no longer than farewellTimeout and, unless
// patient, no data is being written. Then everything below is closed at once.
func (c *frameCork) shut(last []byte, patient bool) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	writing := c.writing
	c.mu.Unlock()

	if patient || !writing {
		c.limitWrites()
		c.flushMu.Lock() // whoever holds it is limited as well
		c.farewell(last)
		c.flushMu.Unlock()
	}
	return closeNow(c.conn)
}

// farewell writes control frames that wait, last, and TLS's close_notify, as
// one. The caller holds flushMu.
func (c *frameCork) farewell(last []byte) {
	c.mu.Lock()
	b := c.control
	c.control = nil // ours from here on
	b = append(b, last...)
	failed := c.err != nil
	c.mu.Unlock()
	if failed {
		return
	}
	c.limitWrites()
	if c.below == nil {
		if len(b) > 0 {
			_, _ = c.conn.Write(b)
		}
		return
	}
	c.below.cork()
	if len(b) > 0 {
		_, _ = c.conn.Write(b)
	}
	_ = c.conn.(*tls.Conn).CloseWrite()
	_ = c.below.uncork()
}

// limitWrites bounds all writes from here on.
func (c *frameCork) limitWrites() {
	deadline := time.Now().Add(farewellTimeout)
	if c.below != nil {
		c.below.freezeWriteDeadline(deadline)
		return
	}
	_ = c.conn.SetWriteDeadline(deadline)
}
