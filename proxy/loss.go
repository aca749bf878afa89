package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"sallyport/tunnel"
	"sallyport/tunnel/ws"
)

// lossCause names why a carrier was lost, in a word for metrics.
func lossCause(err error) string {
	nerr, _ := errors.AsType[net.Error](err)
	_, said := errors.AsType[*ws.CloseError](err)
	switch {
	case said:
		return "closed"
	case errors.Is(err, tunnel.ErrDead):
		return "dead"
	case errors.Is(err, errSurplus):
		return "surplus"
	case errors.Is(err, tunnel.ErrReplaced):
		return "replaced"
	case err == nil, isSessionError(err):
		return "session_ended"
	case isReset(err):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "eof"
	case nerr != nil && nerr.Timeout():
		return "timeout"
	case errors.Is(err, net.ErrClosed):
		return "closed"
	}
	return "other"
}

// lossError says why a carrier was lost in a person's words rather than a library's. It unwraps to what the carrier
// reported.
type lossError struct {
	text string
	err  error
}

func (e *lossError) Error() string { return e.text }
func (e *lossError) Unwrap() error { return e.err }

// explainLoss returns err, which a carrier was lost with, as a [lossError] where there are better words for it. A log line
// says by itself that it is about a loss.
func explainLoss(err error) error {
	const byWhom = ", by the other agent or by something between the agents"
	text := ""
	closed, said := errors.AsType[*ws.CloseError](err)
	op, failed := errors.AsType[*net.OpError](err)
	switch {
	case err == nil, isSessionError(err):
		return err
	case said:
		text = closed.Error()
	case isReset(err):
		text = "connection reset" + byWhom
	case errors.Is(err, io.ErrUnexpectedEOF):
		text = "connection closed in the middle of a message" + byWhom
	case errors.Is(err, io.EOF):
		text = "connection closed without a WebSocket close (a bare EOF)" + byWhom
	case failed:
		text = fmt.Sprintf("connection failed: %s: %v", op.Op, plainError(op))
	default:
		cause := errors.Unwrap(err) // package tunnel says "carrier lost" in front of what a carrier reports
		if cause == nil {
			return err
		}
		text = cause.Error()
	}
	return &lossError{text, err}
}

// shortestIdleLimit is a little less than the shortest time, 10 seconds, after which something in between may be expected
// to cut an idle connection.
const shortestIdleLimit = 9 * time.Second

// idleHint says what to try when a carrier was cut that nothing had come from for a while, or "". Who cuts what is idle
// gives no reason.
func idleHint(err error, silence time.Duration) string {
	if cause := lossCause(err); cause != "eof" && cause != "reset" || silence < shortestIdleLimit {
		return ""
	}
	return fmt.Sprintf("nothing had come for %v: if that is so each time, something between the agents cuts idle "+
		"connections: set --keepalive lower than that", silence.Round(time.Second))
}
