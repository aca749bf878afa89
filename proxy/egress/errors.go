package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
)

// Leg is a stage of the way out. Its text is what a person reads.
type Leg string

// The legs, in the order in which they are walked.
const (
	LegSetting      Leg = "proxy setting"        // options or environment, before any packet
	LegPAC          Leg = "PAC script"           // the script that tells the proxy: reading it, or its answer
	LegResolve      Leg = "resolve"              // direct: the target's name
	LegConnect      Leg = "connect"              // direct: TCP to the target
	LegResolveProxy Leg = "resolve proxy"        // the proxy's name
	LegConnectProxy Leg = "connect proxy"        // TCP to the proxy
	LegProxyTLS     Leg = "proxy TLS"            // TLS to an https:// proxy
	LegCONNECT      Leg = "CONNECT"              // the request for the tunnel
	LegProxyAuth    Leg = "proxy authentication" // the proxy asks who we are
)

// What went wrong, for errors.Is on an [*Error]. The first four are transient, as is what the caller's context ended.
var (
	// ErrDNS: a name could not be resolved; the [*net.DNSError] is in the chain too.
	ErrDNS = errors.New("name resolution failed")
	// ErrRefused: TCP connection refused.
	ErrRefused = errors.New("connection refused")
	// ErrUnreachable: no route to the host or its network.
	ErrUnreachable = errors.New("unreachable")
	// ErrTimeout: a leg's deadline passed. Also matches [os.ErrDeadlineExceeded].
	ErrTimeout = fmt.Errorf("timed out: %w", os.ErrDeadlineExceeded)

	// ErrCaptivePortal: the network wants a login page visited first. Transient: somebody may log in.
	ErrCaptivePortal = errors.New("captive portal")
	// ErrUnavailable: the proxy could not reach the target or is overloaded (408, 429 and 5xx but for 501 and 505).
	// Transient.
	ErrUnavailable = errors.New("proxy could not provide the tunnel")

	// ErrNoKDC: no Kerberos server was reached, and no other scheme is left. Transient: the network may come up.
	ErrNoKDC = errors.New("no Kerberos server was reached")

	// ErrPAC: a PAC script cannot be had, or its answer not be used. Transient: it may be mended at its place.
	ErrPAC = errors.New("PAC script unusable")

	// ErrConfig: options or environment are wrong. Permanent, as are all below.
	ErrConfig = errors.New("invalid proxy setting")
	// ErrForbidden: the proxy's rules do not allow this target (403, 451).
	ErrForbidden = errors.New("forbidden by the proxy")
	// ErrNoTunnel: a status that no CONNECT proxy gives for a well-formed request.
	ErrNoTunnel = errors.New("proxy does not tunnel")
	// ErrBadReply: what came back is not a well-formed, bounded HTTP/1 reply.
	ErrBadReply = errors.New("malformed reply from the proxy")
	// ErrCredentialsMissing: the proxy wants credentials and none are set.
	ErrCredentialsMissing = errors.New("the proxy wants credentials and none are set")
	// ErrCredentialsRefused: the proxy refused the credentials, now or so lately that they are not sent again yet.
	ErrCredentialsRefused = errors.New("the proxy refused the credentials")
	// ErrNotTrusted: the proxy wants credentials, and neither the user nor an allow-list named it.
	ErrNotTrusted = errors.New("the proxy wants credentials, and is not one that they may be shown to")
	// ErrSchemeUnsupported: credentials are set, but the proxy offers no scheme that can use them.
	ErrSchemeUnsupported = errors.New("no common authentication scheme")
)

// Error is a failure on the way out. No field, and nothing in Err's chain, ever holds a secret.
type Error struct {
	// Leg is where it failed.
	Leg Leg
	// Proxy is the proxy's host:port, without scheme and user; empty when direct.
	Proxy string
	// Target is the host:port that was asked for; empty for an error of [New].
	Target string
	// Status is the proxy's HTTP status; 0 when there was none.
	Status int
	// Offered are the authentication schemes that the proxy named, in its order.
	Offered []string
	// Tried are the schemes that something was sent for, in our order.
	Tried []string
	// Excerpt is the proxy's own explanation: text only, one line, at most 200 characters.
	Excerpt string
	// Err is the cause: one of this package's Err values is in its chain, or the caller's context error, or, for a
	// connection cut or a TLS failure, the error of net or crypto/tls. Never nil.
	Err error
	// Hint says what to try, for the person at the command; it is not part of Error's text. May be empty.
	Hint string
}

// Error says what failed, at which leg, with what answer. See Hint for what to try.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Leg))
	switch e.Leg {
	case LegSetting:
	case LegResolve, LegConnect, LegPAC:
		b.WriteString(" " + e.Target)
	case LegCONNECT:
		b.WriteString(" " + e.Target + " through " + e.Proxy)
	case LegResolveProxy, LegConnectProxy:
		b.WriteString(" " + e.Proxy)
	default:
		b.WriteString(" with " + e.Proxy)
	}
	b.WriteString(": " + e.Err.Error())
	var schemes []string
	if len(e.Offered) > 0 {
		schemes = append(schemes, "offered: "+strings.Join(e.Offered, ", "))
	}
	if len(e.Tried) > 0 {
		schemes = append(schemes, "tried: "+strings.Join(e.Tried, ", "))
	}
	if len(schemes) > 0 {
		b.WriteString(" (" + strings.Join(schemes, "; ") + ")")
	}
	if e.Excerpt != "" {
		fmt.Fprintf(&b, "; it says: %q", e.Excerpt)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Permanent reports whether trying again without changing something first is pointless: a wrong setting, refused or
// missing credentials, a forbidden target, a certificate that does not verify, something that is no proxy. Network
// failures, captive portals and overload are not permanent.
func (e *Error) Permanent() bool {
	if slices.ContainsFunc([]error{
		ErrConfig, ErrForbidden, ErrNoTunnel, ErrBadReply,
		ErrCredentialsMissing, ErrCredentialsRefused, ErrNotTrusted, ErrSchemeUnsupported,
	}, func(k error) bool { return errors.Is(e.Err, k) }) {
		return true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](e.Err); ok {
		return true
	}
	_, ok := errors.AsType[tls.RecordHeaderError](e.Err)
	return ok
}

// kindError adds one of our sentinels to an error without changing its text.
type kindError struct {
	kind error
	err  error
}

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

// reason is text for a person that matches kind.
func reason(kind error, format string, args ...any) error {
	return &kindError{kind, fmt.Errorf(format, args...)}
}

// classify marks a network error with what kind of failure it is.
func classify(err error) error {
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return &kindError{ErrDNS, err}
	}
	for kind, errnos := range map[error][]error{
		ErrRefused:     errnosRefused,
		ErrUnreachable: errnosUnreachable,
		ErrTimeout:     errnosTimeout,
	} {
		for _, errno := range errnos {
			if errors.Is(err, errno) {
				return &kindError{kind, err}
			}
		}
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return &kindError{ErrTimeout, err}
	}
	return err
}

// ended returns why a leg under ctx stopped: err itself, unless ctx ended, which then is the true cause.
func ended(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return classify(err)
	}
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		return &kindError{ErrTimeout, cause}
	}
	return cause
}

// noAnswer is the cause of a context or deadline that ends a leg.
func noAnswer(after fmt.Stringer) error {
	return reason(ErrTimeout, "no answer within %v", after)
}

// textError says it in other words than its cause.
type textError struct {
	text string
	err  error
}

func (e *textError) Error() string { return e.text }
func (e *textError) Unwrap() error { return e.err }

// root is the innermost cause: what net says without the addresses and calls around it.
func root(err error) error {
	for {
		inner := errors.Unwrap(err)
		if marked, ok := err.(*kindError); ok { //nolint:errorlint // the chain is walked step by step
			inner = marked.err
		}
		if inner == nil {
			return err
		}
		err = inner
	}
}

// unlessEOF is ": cause", or nothing where "closed" says it all.
func unlessEOF(err error) string {
	if errors.Is(err, io.EOF) {
		return ""
	}
	return ": " + root(err).Error()
}
