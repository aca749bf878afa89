package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"sallyport/tunnel"
)

// resetBase is added to a Code to make a stream's error code: package tunnel keeps those below for itself.
const resetBase = 16

// resetStream aborts both directions of st.
func resetStream(st *tunnel.Stream, code Code, reason string) {
	_ = st.Reset(resetBase+uint64(code), clip(reason, 256))
}

// resetCode returns the Code that a stream was reset with.
func resetCode(err error) (Code, string, bool) {
	se, ok := errors.AsType[*tunnel.StreamError](err)
	if !ok || se.Code <= resetBase {
		return 0, "", false
	}
	return Code(se.Code - resetBase), se.Reason, true
}

// relay copies between a stream and a socket until both directions have ended, or one has failed.
//
// It takes two goroutines a stream and no buffer of its own: package tunnel waits for readability before it takes one.
type relay struct {
	stream *tunnel.Stream
	socket socket
	// begin runs before the stream's bytes are passed on; the opener reads its reply there. May be nil.
	begin func() error

	toStream, toSocket int64 // bytes, valid after run

	begun      chan struct{} // closed when begin has returned
	fromSocket chan struct{} // closed when copyToStream has passed an end of file on, or failed
	fromStream chan struct{} // the same for copyToSocket
	once       sync.Once
	cause      error // the first failure; nil while all is well
	watchers   sync.WaitGroup
	eof        atomic.Bool  // the socket has sent all
	halves     atomic.Int32 // directions that ended cleanly
}

// run copies and returns why it stopped: nil after an end of file each way. The socket is closed then, or aborted; the
// stream is left to its owner to Close.
func (r *relay) run() error {
	r.begun = make(chan struct{})
	r.fromSocket = make(chan struct{})
	r.fromStream = make(chan struct{})
	r.watchers.Go(r.copyToStream) // with a stack of its own, for writing to a carrier takes the most
	r.copyToSocket()
	r.watchers.Wait()
	r.once.Do(func() {}) // whoever ends the stream from outside comes too late now
	r.socket.close()
	return r.cause
}

// fail records the first failure and aborts both ends, which unblocks whoever waits on one. What is a reset at this
// end becomes a reset at the other.
func (r *relay) fail(err error) {
	r.once.Do(func() {
		r.cause = err
		code, reason := CodeAborted, "connection aborted"
		if open, ok := errors.AsType[*OpenError](err); ok {
			code, reason = open.Code, open.Reason
		}
		resetStream(r.stream, code, reason)
		r.socket.abort()
	})
}

// copyToStream passes on what the socket sends.
func (r *relay) copyToStream() {
	defer close(r.fromSocket)
	n, err := r.stream.ReadFrom(r.socket.reader())
	r.toStream = n
	if err == nil {
		r.eof.Store(true)
		err = r.stream.CloseWrite()
	}
	switch {
	case err == nil:
		r.half()
		r.watchSocket()
	case errors.Is(err, net.ErrClosed): // the stream's: it was reset. Or the socket's, because the other direction failed
		<-r.begun // while the reply is on its way it has the better explanation
		r.fail(err)
	default:
		r.fail(fmt.Errorf("read: %w", err))
	}
}

// watchSocket waits for a reset of the socket while the other direction goes on: it would stay unnoticed until the next
// byte for it. A reset of the stream is waited for too, in case the other direction is stuck in a write; the session's
// end is not, for what has arrived can still be passed on.
func (r *relay) watchSocket() {
	r.watchers.Add(1)
	stop := r.stream.AfterDone(func() {
		defer r.watchers.Done()
		select {
		case <-r.fromStream:
		default:
			if r.stream.Session().Err() == nil {
				r.fail(r.streamError())
			}
		}
	})
	defer func() {
		if stop() {
			r.watchers.Done()
		}
	}()
	if err := r.socket.watch(); err != nil {
		r.fail(fmt.Errorf("read: %w", err))
	}
}

// copyToSocket passes on what the peer sends.
func (r *relay) copyToSocket() {
	defer close(r.fromStream)
	err := r.start()
	if err != nil {
		r.fail(err)
	}
	close(r.begun)
	if err != nil {
		return
	}
	n, err := r.stream.WriteTo(r.socket.writer())
	r.toSocket = n
	switch {
	case err == nil:
		_ = r.socket.closeWrite() // fails only when the peer has gone already, having sent all it wanted
		r.half()
		select {
		case <-r.stream.Done(): // nobody else notices while the other direction waits for the socket
			if !r.eof.Load() { // else all is said, and the session may well be over before the peer has acked that
				r.fail(r.streamError())
			}
		case <-r.fromSocket:
		}
	case errors.Is(err, net.ErrClosed):
		r.fail(err)
	default:
		r.fail(fmt.Errorf("write: %w", err))
	}
}

func (r *relay) start() error {
	if r.begin == nil {
		return nil
	}
	return r.begin()
}

// half counts a direction that ended cleanly. After the second the socket is closed, which ends its watch.
func (r *relay) half() {
	if r.halves.Add(1) == 2 {
		r.socket.close()
	}
}

// streamError returns why the stream is Done.
func (r *relay) streamError() error {
	if err := r.stream.Session().Err(); err != nil {
		return err
	}
	if err := r.stream.CloseWrite(); isStreamError(err) {
		return err
	}
	return &tunnel.StreamError{Code: resetBase + uint64(CodeAborted), Remote: true}
}

// isStreamError tells an error of the stream or its session from one of the socket.
func isStreamError(err error) bool {
	if _, ok := errors.AsType[*tunnel.StreamError](err); ok {
		return true
	}
	_, ok := errors.AsType[*tunnel.CloseError](err)
	return ok
}

// endCause names why a relay ended, in a word for logs and metrics.
func endCause(err error) string {
	if err == nil {
		return "eof"
	}
	if open, ok := errors.AsType[*OpenError](err); ok {
		return open.Code.String()
	}
	if code, _, ok := resetCode(err); ok {
		return code.String()
	}
	if ce, ok := errors.AsType[*tunnel.CloseError](err); ok {
		if ce.Code == tunnel.CloseDone || ce.Code == tunnel.CloseShutdown {
			return CodeShuttingDown.String()
		}
		return "session_lost"
	}
	switch {
	case isReset(err):
		return CodeAborted.String()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return CodeAborted.String()
	case errors.Is(err, net.ErrClosed):
		return "closed"
	}
	return codeOf(err).String()
}
