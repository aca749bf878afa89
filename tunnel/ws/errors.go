package ws

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode"
)

// Errors that a carrier's reader or writer meets; compare with errors.Is.
var (
	// ErrTextMessage is returned when the peer sends a text message: tunnel
	// messages are binary. The carrier is closed with status 1003.
	ErrTextMessage = errors.New("text message on a carrier: only binary messages are allowed")

	// ErrMessageTooLarge is returned when the peer sends a message larger than
	// the reader's buffer or 64 KiB, and the carrier is closed with status 1009;
	// or when a message to write is larger than MaxMessage, and nothing is sent
	// of it.
	ErrMessageTooLarge = errors.New("message too large for the carrier")

	errCorkFull = errors.New("frames overflow the cork")
)

// CloseError is what a reader gets when the peer closed the WebSocket with a
// close frame (RFC 6455 §5.5.1). It unwraps to io.EOF.
type CloseError struct {
	Code   int    // status code (RFC 6455 §7.4); 1005 when the frame had none
	Reason string // the peer's words, control characters stripped; often empty
}

// Error says who closed and with which status.
func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("carrier closed by the peer with status %d", e.Code)
	}
	return fmt.Sprintf("carrier closed by the peer with status %d (%s)", e.Code, e.Reason)
}

// Unwrap returns io.EOF.
func (e *CloseError) Unwrap() error { return io.EOF }

// Leg is a part of the way to a server at which a handshake can fail.
type Leg string

// The legs, in their order.
const (
	LegResolve Leg = "resolve" // a name did not resolve
	LegConnect Leg = "connect" // no connection, directly or through the proxy
	LegTLS     Leg = "tls"     // the TLS handshake
	LegUpgrade Leg = "upgrade" // the HTTP request that opens the WebSocket
)

// HandshakeError tells at which leg Dial failed and what is known about why.
type HandshakeError struct {
	Leg  Leg
	Addr string // host:port that was dialled

	// Status is the HTTP status of an answer at LegUpgrade; 0 if there was none.
	Status int

	// Header has of that answer Location, Retry-After, WWW-Authenticate and
	// Proxy-Authenticate, as they came; nil if there was no answer.
	Header http.Header

	// Excerpt is the beginning of the answer's body as plain text, at most 200
	// characters, without tags and control characters.
	Excerpt string

	// Err is the cause. A certificate that was not accepted, the dialler's own
	// typed errors, io.EOF, timeouts and context errors can be found in it.
	Err error
}

// Error names the leg, the address, the cause, and the server's own words.
func (e *HandshakeError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %v", e.Leg, e.Addr, e.Err)
	if e.Excerpt != "" {
		fmt.Fprintf(&b, ": %q", e.Excerpt)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *HandshakeError) Unwrap() error { return e.Err }

// statusError explains an answer other than 101.
func statusError(resp *http.Response) error {
	status := fmt.Sprintf("server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	switch code := resp.StatusCode; {
	case code == http.StatusOK && isHTML(resp.Header):
		return fmt.Errorf("got a web page (%s) where a WebSocket was expected: a captive portal or an intercepting proxy? log in there with a browser, or check the URL", strings.TrimSpace(status))
	case code == http.StatusOK:
		return fmt.Errorf("%s instead of opening a WebSocket: check the URL's path", status)
	case code >= 300 && code < 400:
		return fmt.Errorf("%s: redirects are refused (to %s); set the URL to the final address", status, locationText(resp.Header))
	case code == http.StatusUnauthorized:
		return fmt.Errorf("%s: check the token or the client certificate", status)
	case code == http.StatusForbidden:
		return fmt.Errorf("%s: the identity is not allowed, or a firewall in between refuses the address", status)
	case code == http.StatusNotFound:
		return fmt.Errorf("%s: check the URL's path", status)
	case code == http.StatusProxyAuthRequired:
		return fmt.Errorf("%s: an intercepting proxy asks for credentials; name it as the proxy to use", status)
	case code == http.StatusUpgradeRequired || code == http.StatusBadRequest:
		return fmt.Errorf("%s: a reverse proxy, or a proxy that intercepts TLS, may not pass the Upgrade header on", status)
	case code == http.StatusNetworkAuthenticationRequired:
		return fmt.Errorf("%s: a captive portal; log in there with a browser", status)
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		if after := clean(resp.Header.Get("Retry-After"), 40); after != "" {
			return fmt.Errorf("%s: retry after %s", status, after)
		}
		return fmt.Errorf("%s: retry later", status)
	case code == http.StatusBadGateway || code == http.StatusGatewayTimeout:
		return fmt.Errorf("%s: a gateway does not reach the server agent", status)
	}
	return errors.New(status)
}

func isHTML(h http.Header) bool {
	return strings.Contains(strings.ToLower(h.Get("Content-Type")), "html")
}

// locationText is the place of a Location header, without what may be secret.
func locationText(h http.Header) string {
	u, err := url.Parse(h.Get("Location"))
	if err != nil || h.Get("Location") == "" {
		return "an unreadable place"
	}
	return clean((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(), maxExcerpt)
}

// tlsError explains a failed TLS handshake and keeps the cause.
func tlsError(err error) error {
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("the certificate%s is not accepted: %w", issuedBy(bad.UnverifiedCertificates), err)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Errorf("the other side does not speak TLS on this port: %w", err)
	}
	if isAlert(err) {
		return fmt.Errorf("the server refused the TLS handshake, for want of a client certificate that it accepts perhaps: %w", err)
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the connection was closed during the TLS handshake: %w", err)
	}
	return err
}

// isAlert tells a TLS alert of the peer from other errors. A server that does
// not like the client's certificate sends it only after the handshake (RFC 8446
// §4.4.2), so that it may turn up in the next read.
func isAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" // how crypto/tls marks them
}

// issuedBy names the issuer of the leaf: it tells an intercepting proxy's
// certificate from a private authority's.
func issuedBy(chain []*x509.Certificate) string {
	if len(chain) == 0 {
		return ""
	}
	issuer := chain[0].Issuer
	name := issuer.CommonName
	if name == "" {
		name = issuer.String()
	}
	return fmt.Sprintf(" issued by %q", clean(name, maxExcerpt))
}

// dialLeg tells a name that did not resolve from other failures to connect.
func dialLeg(err error) Leg {
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return LegResolve
	}
	return LegConnect
}

// excerpt turns the beginning of a body, HTML or not, into a short text.
func excerpt(body []byte) string {
	var b strings.Builder
	rest := string(body)
	for rest != "" {
		text, after, found := strings.Cut(rest, "<")
		b.WriteString(text)
		b.WriteByte(' ')
		if !found {
			break
		}
		rest = skipTag(after)
	}
	return clean(html.UnescapeString(b.String()), maxExcerpt)
}

// skipTag returns what follows the tag whose inside s begins with; of script
// and style elements, what follows their end.
func skipTag(s string) string {
	if after, ok := strings.CutPrefix(s, "!--"); ok {
		_, rest, _ := strings.Cut(after, "-->")
		return rest
	}
	tag, rest, _ := strings.Cut(s, ">")
	name, _, _ := strings.Cut(strings.ToLower(tag), " ")
	if name != "script" && name != "style" {
		return rest
	}
	end := strings.Index(lowerASCII(rest), "</"+name)
	if end < 0 {
		return ""
	}
	_, rest, _ = strings.Cut(rest[end:], ">")
	return rest
}

// lowerASCII is strings.ToLower that keeps every byte's place: what a peer sends
// need not be UTF-8, and some letters are longer or shorter in lower case.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// clean makes s, which a peer chose, fit to print: runs of white space become
// one space, other characters that do not print vanish, and at most limit
// characters stay.
func clean(s string, limit int) string {
	out := make([]rune, 0, min(len(s), limit))
	space := false
	for _, r := range s {
		switch {
		case unicode.IsSpace(r):
			space = len(out) > 0
			continue
		case !unicode.IsPrint(r) || r == unicode.ReplacementChar:
			continue
		}
		if space {
			out = append(out, ' ')
			space = false
		}
		if len(out) >= limit {
			break
		}
		out = append(out, r)
	}
	if len(out) > limit {
		out = out[:limit]
	}
	return strings.TrimRight(string(out), " ")
}
