package tunnel

import (
	"errors"
	"fmt"
	"net"
)

// CloseCode says why a session ended, in a CLOSE frame.
type CloseCode uint64

// The close codes of the protocol.
const (
	CloseDone           CloseCode = 0 // finished: drained, or the agent is done with it
	CloseProtocol       CloseCode = 1 // the peer broke the protocol
	CloseUnknownSession CloseCode = 2 // no session with this id (expired, or the server restarted)
	CloseRefused        CloseCode = 3 // wrong secret or another identity than the session's
	CloseVersion        CloseCode = 4 // no common protocol version
	CloseLimit          CloseCode = 5 // too many sessions
	CloseExpired        CloseCode = 6 // no carrier for longer than the resume timeout
	CloseShutdown       CloseCode = 7 // the agent is stopping
	CloseRevoked        CloseCode = 8 // the identity was removed
)

var closeNames = [...]string{
	CloseDone: "done", CloseProtocol: "protocol error", CloseUnknownSession: "unknown session",
	CloseRefused: "refused", CloseVersion: "no common version", CloseLimit: "limit reached",
	CloseExpired: "expired", CloseShutdown: "shutting down", CloseRevoked: "identity revoked",
}

// String returns the code in words.
func (c CloseCode) String() string {
	if int(c) < len(closeNames) && closeNames[c] != "" {
		return closeNames[c]
	}
	return fmt.Sprintf("code %d", uint64(c))
}

// CloseError is why a session, or an attempt to attach to one, ended.
// It is a net.ErrClosed.
type CloseError struct {
	Code   CloseCode
	Reason string // for a person; may be empty
	Remote bool   // the peer said so
}

func (e *CloseError) Error() string {
	by := "session ended"
	if e.Remote {
		by = "session ended by the peer"
	}
	if e.Reason == "" {
		return fmt.Sprintf("%s: %v", by, e.Code)
	}
	return fmt.Sprintf("%s: %v: %s", by, e.Code, e.Reason)
}

// Is makes the error a net.ErrClosed, and equal to a CloseError that has the
// same code and no reason.
func (e *CloseError) Is(target error) bool {
	t, ok := target.(*CloseError)
	return target == net.ErrClosed || ok && t.Code == e.Code && t.Reason == ""
}

// StreamError is why a stream, or one of its directions, ended early: a
// RESET_STREAM or STOP_SENDING. It is a net.ErrClosed. The codes are those of
// the application on top.
type StreamError struct {
	Code   uint64
	Reason string // for a person; may be empty
	Remote bool   // the peer said so
}

func (e *StreamError) Error() string {
	by := "stream reset"
	if e.Remote {
		by = "stream reset by the peer"
	}
	if e.Reason == "" {
		return fmt.Sprintf("%s (code %d)", by, e.Code)
	}
	return fmt.Sprintf("%s: %s", by, e.Reason)
}

// Is makes the error a net.ErrClosed.
func (e *StreamError) Is(target error) bool { return target == net.ErrClosed }

// Stream codes that the session itself uses; an application's own start at 16.
const (
	CodeClosed uint64 = 0 // the reader or writer closed its end
	CodeLimit  uint64 = 1 // the agent has no memory left for new streams
)

// Errors of carriers and sessions. Those that end a stream's calls are a net.ErrClosed.
var (
	// ErrDead ends a carrier that has not answered for Options.DeadAfter.
	ErrDead = errors.New("the carrier is dead: nothing came back although an answer was due")
	// ErrReplaced ends a carrier that the peer has given up, or that a newer one stands in for.
	ErrReplaced = errors.New("the carrier was replaced: the peer had lost it or it had stopped moving")
	// ErrHandshake ends a carrier whose peer sent no HELLO within Options.HandshakeTimeout.
	ErrHandshake = errors.New("no HELLO within the handshake timeout")
	// ErrGoingAway is returned by Session.Open once either agent has sent GOAWAY.
	ErrGoingAway = fmt.Errorf("the session takes no new streams, it is draining: %w", net.ErrClosed)
	// ErrTooManyCarriers ends an attach beyond the carriers that a session may have.
	ErrTooManyCarriers = errors.New("the session has as many carriers as it may")

	errNoAcks       = fmt.Errorf("the peer sends but acks nothing: %d messages are in flight", maxUnacked)
	errClosedStream = fmt.Errorf("the stream is closed: %w", net.ErrClosed)
)

// protocolError returns the error that ends a session whose peer broke the protocol.
func protocolError(format string, args ...any) *CloseError {
	return &CloseError{Code: CloseProtocol, Reason: fmt.Sprintf(format, args...)}
}
