package ws

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/coder/websocket"
)

// Conn is a WebSocket as a carrier. Made by Dial and Accept.
//
// One goroutine may read while another writes; Close and the methods that only
// tell something may be called from any goroutine at any time. Conn keeps no
// goroutine of its own, except for the moment that a control frame takes.
type Conn struct {
	library *websocket.Conn
	cork    *frameCork
	secured *tls.Conn // nil for plaintext, even through an https proxy
	max     int

	beyond [1]byte // where the reader looks for a byte too many

	readEnded atomic.Bool // the library's reader failed: it has said goodbye, if it could
	closeOnce sync.Once
	closed    atomic.Pointer[closing]
}

// closing says why this side closed, in words only: a reader must not take the
// cause for something that the peer did.
type closing struct{ why string }

// start completes a Conn.
func (c *Conn) start(library *websocket.Conn, cork *frameCork) {
	// On the hot path the library gets the background context only: one that
	// can end costs two dozen allocations a message.
	c.library, c.cork = library, cork
	library.SetReadLimit(readLimit)
}

// onPing is called by the library's reader; false: no pong is to be written.
func (c *Conn) onPing(_ context.Context, payload []byte) bool {
	c.cork.answer(payload)
	return false
}

// MaxMessage is the largest payload, in bytes, that WriteMessages takes: with
// its frame header it fills four TLS records. 65,528 for a client, whose header
// has a masking key, 65,532 for a server.
func (c *Conn) MaxMessage() int { return c.max }

// Subprotocol is what client and server agreed on.
func (c *Conn) Subprotocol() string { return c.library.Subprotocol() }

// LocalAddr is this end of the connection below the WebSocket.
func (c *Conn) LocalAddr() net.Addr { return c.cork.conn.LocalAddr() }

// RemoteAddr is the other end of the connection below the WebSocket: a proxy,
// perhaps.
func (c *Conn) RemoteAddr() net.Addr { return c.cork.conn.RemoteAddr() }

// NetConn is the connection at the very bottom, normally a *net.TCPConn. It is
// there for socket options, counters and fault injection, not for reading or
// writing.
func (c *Conn) NetConn() net.Conn {
	inner, _ := bottom(c.cork.conn)
	return inner
}

// TLS is the state of the TLS connection between client and server, and false
// for a plaintext WebSocket.
func (c *Conn) TLS() (tls.ConnectionState, bool) {
	if c.secured == nil {
		return tls.ConnectionState{}, false
	}
	return c.secured.ConnectionState(), true
}

// ReadMessage waits for the next binary message. Once one has begun it calls
// take for a buffer, of 64 KiB or more to fit any message that is accepted,
// fills it and returns the message's length.
//
// It returns an error that wraps io.EOF when the peer is gone (a *CloseError
// when it said so), net.ErrClosed after Close, ErrTextMessage and
// ErrMessageTooLarge for messages of that kind, and a network or protocol error
// otherwise. After any error the carrier is of no more use and must be closed.
func (c *Conn) ReadMessage(take func() []byte) (int, error) {
	kind, r, err := c.library.Reader(context.Background())
	if err != nil {
		return 0, c.readError(err)
	}
	if kind != websocket.MessageBinary {
		return 0, c.refuse(websocket.StatusUnsupportedData, ErrTextMessage)
	}
	buf := take()
	n := 0
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return 0, c.readError(err)
		}
	}
	// The buffer is full. The message must be read to its end all the same:
	// the library would take a rest for the next frame's header.
	switch _, err := io.ReadFull(r, c.beyond[:]); err {
	case io.EOF:
		return n, nil
	case nil:
		return 0, c.refuse(websocket.StatusMessageTooBig, ErrMessageTooLarge)
	default:
		return 0, c.readError(err)
	}
}

// refuse closes the carrier because of what the peer sent.
func (c *Conn) refuse(code websocket.StatusCode, err error) error {
	c.closeWith(err, code, "", true)
	return fmt.Errorf("read from carrier: %w", err)
}

// readError explains an error of the library's reader.
func (c *Conn) readError(err error) error {
	c.readEnded.Store(true)
	if here := c.closed.Load(); here != nil {
		return here.error()
	}
	if ce, ok := errors.AsType[websocket.CloseError](err); ok {
		return &CloseError{Code: int(ce.Code), Reason: clean(ce.Reason, maxExcerpt)}
	}
	if errors.Is(err, websocket.ErrMessageTooBig) {
		err = ErrMessageTooLarge
	}
	return fmt.Errorf("read from carrier: %w", err)
}

// WriteMessages writes each element of msgs as one binary message, in one frame
// each, and flushes after the last, or before when 64 KiB have gathered. The
// slices are neither kept nor modified.
//
// It returns ErrMessageTooLarge, wrapped, without having sent anything when an
// element is larger than MaxMessage. After any other error, net.ErrClosed after
// Close among them, the carrier is of no more use and must be closed.
func (c *Conn) WriteMessages(msgs [][]byte) error {
	for _, m := range msgs {
		if len(m) > c.max {
			return fmt.Errorf("write to carrier: %w: %d bytes, at most %d fit", ErrMessageTooLarge, len(m), c.max)
		}
	}
	c.cork.cork()
	err := c.gather(msgs)
	if err2 := c.cork.uncork(); err2 != nil {
		err = err2 // the cause of what the library reports
	}
	if err == nil {
		return nil
	}
	if here := c.closed.Load(); here != nil {
		return here.error()
	}
	return fmt.Errorf("write to carrier: %w", err)
}

// gather passes msgs through the library into the cork.
func (c *Conn) gather(msgs [][]byte) error {
	header := maxHeaderServer
	if c.cork.client {
		header = maxHeaderClient
	}
	for _, m := range msgs {
		if err := c.cork.reserve(header + len(m)); err != nil {
			return err
		}
		if err := c.library.Write(context.Background(), websocket.MessageBinary, m); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the carrier and unblocks its reader and writer. It tries to send a
// close frame, with status 1000 when cause is nil and otherwise 1001 with the
// beginning of cause's text, and TLS's close_notify; then it closes the
// connection. With a cause, a writer at work is cut off at once and nothing is
// sent; without one, what it has begun to write gets 50 ms to leave before. In
// no case does Close take longer than about 100 ms or wait for the peer's
// answer. It always returns nil; only the first call does anything.
func (c *Conn) Close(cause error) error {
	if cause == nil {
		c.closeWith(errors.New("no longer needed"), websocket.StatusNormalClosure, "", true)
	} else {
		c.closeWith(cause, websocket.StatusGoingAway, cause.Error(), false)
	}
	return nil
}

func (c *Conn) closeWith(cause error, code websocket.StatusCode, reason string, patient bool) {
	c.closeOnce.Do(func() {
		c.closed.Store(&closing{cause.Error()})
		var last []byte
		if !c.readEnded.Load() {
			last = closeFrame(code, reason, c.cork.client)
		}
		_ = c.cork.shut(last, patient)
		_ = c.library.CloseNow()
		c.cork.helpers.Wait()
	})
}

// error is what readers and writers get after Close.
func (c *closing) error() error {
	return fmt.Errorf("carrier closed here (%s): %w", c.why, net.ErrClosed)
}
