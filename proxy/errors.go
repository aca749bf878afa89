package proxy

import (
	"context"
	"errors"
	"net"
	"strconv"

	"sallyport/proxy/access"
)

// Code says why a stream's request was not carried out, or why a stream was aborted. Codes travel in replies and in
// RESET_STREAM; PROTOCOL.md lists them. A code that this version does not know is treated as [CodeInternal].
type Code uint64

// The codes. Their numbers are part of the protocol and never change.
const (
	CodeOK           Code = 0  // carried out
	CodeDenied       Code = 1  // the policy does not allow it
	CodeDNS          Code = 2  // the target's name does not resolve
	CodeRefused      Code = 3  // the target refused the connection
	CodeUnreachable  Code = 4  // no route to the target, or its network is down
	CodeTimeout      Code = 5  // the target did not answer in time
	CodeShuttingDown Code = 6  // the agent is draining
	CodeLimit        Code = 7  // a limit of the identity or of the agent is reached
	CodeBadRequest   Code = 8  // the request cannot be understood
	CodeInternal     Code = 9  // anything else
	CodeInUse        Code = 10 // the address to listen at is taken
	CodeAborted      Code = 11 // resets only: the connection at the other end was aborted (RST)
	CodeTakenOver    Code = 12 // resets only: a newer session has this listener now
)

var codeNames = [...]string{
	CodeOK: "ok", CodeDenied: "denied", CodeDNS: "dns", CodeRefused: "refused", CodeUnreachable: "unreachable",
	CodeTimeout: "timeout", CodeShuttingDown: "shutting_down", CodeLimit: "limit", CodeBadRequest: "bad_request",
	CodeInternal: "internal", CodeInUse: "in_use", CodeAborted: "aborted", CodeTakenOver: "taken_over",
}

// String returns the code's name as it stands in logs and metrics: one lower-case word.
func (c Code) String() string {
	if c < Code(len(codeNames)) {
		return codeNames[c]
	}
	return "code_" + strconv.FormatUint(uint64(c), 10)
}

// The causes that an [OpenError] unwraps to, one for each code, for errors.Is.
var (
	ErrDenied       = errors.New("denied by policy")
	ErrDNS          = errors.New("name does not resolve")
	ErrRefused      = errors.New("connection refused")
	ErrUnreachable  = errors.New("unreachable")
	ErrTimeout      = errors.New("timed out")
	ErrShuttingDown = errors.New("agent is shutting down")
	ErrLimit        = errors.New("limit reached")
	ErrBadRequest   = errors.New("bad request")
	ErrInternal     = errors.New("internal error")
	ErrInUse        = errors.New("address in use")
	ErrAborted      = errors.New("connection aborted")
	ErrTakenOver    = errors.New("taken over by a newer session")
)

var codeErrors = [...]error{
	CodeDenied: ErrDenied, CodeDNS: ErrDNS, CodeRefused: ErrRefused, CodeUnreachable: ErrUnreachable,
	CodeTimeout: ErrTimeout, CodeShuttingDown: ErrShuttingDown, CodeLimit: ErrLimit, CodeBadRequest: ErrBadRequest,
	CodeInternal: ErrInternal, CodeInUse: ErrInUse, CodeAborted: ErrAborted, CodeTakenOver: ErrTakenOver,
}

// OpenError says that the agent which should dial (or listen) did not, and why. It unwraps to the sentinel of its code
// (errors.Is(err, [ErrRefused]) and so on).
type OpenError struct {
	// Code is the cause.
	Code Code
	// Target is what should have been dialled or listened at; empty when the failure is about none.
	Target string
	// Reason is one line for a person, from the agent that failed. May be empty.
	Reason string
}

// Error says what failed, with the reason that the other agent gave, or else the code's.
func (e *OpenError) Error() string {
	reason := e.Reason
	if reason == "" {
		reason = e.Unwrap().Error()
	}
	if e.Target == "" {
		return reason
	}
	return e.Target + ": " + reason
}

// Unwrap returns the sentinel of the code.
func (e *OpenError) Unwrap() error {
	if e.Code > CodeOK && e.Code < Code(len(codeErrors)) {
		return codeErrors[e.Code]
	}
	return ErrInternal
}

// Hint says what to try, or "".
func (e *OpenError) Hint() string {
	switch e.Code {
	case CodeDenied:
		return "ask for a rule in the identity's policy at the server agent (tokens file)"
	case CodeDNS:
		return "the name is looked up where the target is dialled: check it there"
	case CodeRefused:
		return "nothing listens at that address as seen from the agent that dials"
	case CodeUnreachable, CodeTimeout:
		return "check the route and the firewall between the dialling agent and the target"
	case CodeShuttingDown:
		return "the server agent is draining; try again in a moment"
	case CodeLimit:
		return "close some streams, or raise the identity's limits at the server agent"
	case CodeInUse:
		return "another listener has that address; choose another or stop it"
	}
	return ""
}

// Cause says which part of reaching the server agent failed.
type Cause string

// The causes of a [CarrierError], also the values of the label in metrics.
const (
	CauseNetwork Cause = "network" // the server agent or the proxy could not be reached, or the link broke
	CauseAuth    Cause = "auth"    // the server agent or the proxy refused the credentials
	CauseTLS     Cause = "tls"     // a certificate was not accepted, by either side
	CauseConfig  Cause = "config"  // an answer that only a change of the configuration can mend (wrong path, wrong version)
	CauseLimit   Cause = "limit"   // the server agent is full, or draining
)

// CarrierError says that no carrier to the server agent could be had, and why. [Client.Run] ends with one when the
// first attempt shows that trying again cannot help; it unwraps to what the egress or the handshake reported.
type CarrierError struct {
	// Cause says which part failed.
	Cause Cause
	// Permanent is true when the same attempt would fail again until somebody changes something.
	Permanent bool
	// Advice is what Hint returns. May be empty.
	Advice string
	// Err is the failure, without secrets.
	Err error
}

// Error says what failed.
func (e *CarrierError) Error() string { return "connect to server agent: " + e.Err.Error() }

// Hint says what to try, or "".
func (e *CarrierError) Hint() string { return e.Advice }

// Unwrap returns the failure.
func (e *CarrierError) Unwrap() error { return e.Err }

// attrs returns what a log line tells of it.
func (e *CarrierError) attrs() []any {
	attrs := []any{"error", e.Err, "cause", string(e.Cause)}
	if e.Advice != "" {
		attrs = append(attrs, "hint", e.Advice)
	}
	return attrs
}

// ErrSessionLost is what streams end with when the server agent no longer knows their session.
var ErrSessionLost = errors.New("session lost: the server agent restarted, the session expired, or a balancer led to another server agent")

// codeOf returns the code for a failure to resolve, dial or bind.
func codeOf(err error) Code {
	var (
		open    *OpenError
		denied  *access.DeniedError
		bad     *access.TargetError
		resolve *access.ResolveError
		dns     *net.DNSError
		nerr    net.Error
	)
	switch {
	case err == nil:
		return CodeOK
	case errors.As(err, &open):
		return open.Code
	case errors.Is(err, ErrAborted):
		return CodeAborted
	case errors.As(err, &denied):
		return CodeDenied
	case errors.As(err, &bad), errors.Is(err, errRecord):
		return CodeBadRequest
	case errors.As(err, &resolve):
		return CodeDNS // a resolver's timeout too: that is where to look
	case errors.As(err, &dns):
		return CodeDNS
	case isRefused(err):
		return CodeRefused
	case isUnreachable(err):
		return CodeUnreachable
	case isAddrInUse(err):
		return CodeInUse
	case isReset(err):
		return CodeAborted
	case errors.Is(err, errDialTimeout), errors.Is(err, context.DeadlineExceeded), errors.As(err, &nerr) && nerr.Timeout():
		return CodeTimeout
	}
	return CodeInternal
}

// publicReason is what the peer is told about a failure: nothing of the policy, nor where a name points.
func publicReason(err error) string {
	if denied, ok := errors.AsType[*access.DeniedError](err); ok {
		return denied.Public()
	}
	if open, ok := errors.AsType[*OpenError](err); ok {
		return open.Reason
	}
	return plainError(err).Error()
}
