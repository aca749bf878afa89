package tls

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Reason is why a server's certificate was refused.
type Reason uint8

// The reasons, told apart because a different person has to do something.
const (
	ReasonOther            Reason = iota // see VerifyError.Err
	ReasonUnknownAuthority               // issued by a CA that is not trusted here
	ReasonWrongHost                      // issued for another name
	ReasonExpired                        // past its end, it or one of its CAs
	ReasonNotYetValid                    // before its beginning, mostly a wrong clock
	ReasonPinMismatch                    // no pinned key in it
)

// String returns the reason as a label for logs and metrics, e.g. "wrong_host".
func (r Reason) String() string {
	switch r {
	case ReasonUnknownAuthority:
		return "unknown_authority"
	case ReasonWrongHost:
		return "wrong_host"
	case ReasonExpired:
		return "expired"
	case ReasonNotYetValid:
		return "not_yet_valid"
	case ReasonPinMismatch:
		return "pin_mismatch"
	}
	return "other"
}

// A VerifyError says why the certificate of a server was refused and what to
// try. It comes out of the handshake as it is.
type VerifyError struct {
	Reason Reason
	Host   string // what was to be verified, without port
	Issuer string // common name of who issued the server's certificate
	// Authority is the common name of the topmost CA that the sent chain leads
	// to: the one to trust if ReasonUnknownAuthority is to go away.
	Authority string
	Pin       string            // of the key that the server has, for --pin
	Leaf      *x509.Certificate // the server's certificate; nil: it sent none
	Hint      string            // what to try; Error includes it
	Err       error             // mostly of crypto/x509: UnknownAuthorityError, HostnameError, CertificateInvalidError
}

// Error names the host, the issuer, the problem and the hint.
func (e *VerifyError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "certificate of %s", quote(e.Host))
	if e.Issuer != "" {
		fmt.Fprintf(&b, " (issuer %s)", quote(e.Issuer))
	}
	// What crypto/x509 says quotes names out of the certificate.
	fmt.Fprintf(&b, " refused: %s", printable(e.Err.Error(), 400))
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *VerifyError) Unwrap() error { return e.Err }

var (
	errNoCertificate = errors.New("the server sent no certificate")
	errNoHost        = errors.New("there is no host name to compare it with")
	errPin           = errors.New("none of its keys is pinned")
)

// trust is whom a client accepts.
type trust struct {
	serverName  string // override; may be empty
	roots       *x509.CertPool
	noSystemCAs bool // this machine has none
	pins        map[Pin]bool
}

// verify checks what a server sent against pins, CAs, host and date. The order
// and meaning of the checks are told in the package comment.
func (t *trust) verify(sent []*x509.Certificate, host string, now time.Time) error {
	if len(sent) == 0 {
		return &VerifyError{Host: host, Err: errNoCertificate}
	}
	if t.pins[PinOf(sent[0])] {
		return nil
	}
	opts := x509.VerifyOptions{
		Roots: t.roots, DNSName: host, CurrentTime: now,
		Intermediates: x509.NewCertPool(),
	}
	for _, c := range sent[1:] {
		opts.Intermediates.AddCert(c)
	}
	if host == "" {
		return t.refuse(sent, opts, errNoHost) // x509 would skip the comparison
	}
	chains, err := sent[0].Verify(opts)
	switch {
	case err != nil:
		return t.refuse(sent, opts, err)
	case len(t.pins) > 0 && !t.pinned(chains):
		return t.refuse(sent, opts, errPin)
	}
	return nil
}

// pinned tells whether a key of one of the chains is pinned.
func (t *trust) pinned(chains [][]*x509.Certificate) bool {
	return slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool {
		return slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return t.pins[PinOf(c)] })
	})
}

// pinnedButForNameAndDate tells whether what was sent leads to a pinned CA if
// the host and today's date are left out. It chooses words, never decides.
func (t *trust) pinnedButForNameAndDate(opts x509.VerifyOptions, leaf *x509.Certificate) bool {
	opts.DNSName, opts.CurrentTime = "", leaf.NotAfter
	chains, err := leaf.Verify(opts)
	return err == nil && t.pinned(chains)
}

// refuse turns a failed check into an error that helps.
func (t *trust) refuse(sent []*x509.Certificate, opts x509.VerifyOptions, err error) *VerifyError {
	leaf, now := sent[0], opts.CurrentTime
	e := &VerifyError{
		Host: opts.DNSName, Leaf: leaf, Err: err,
		Issuer:    commonName(leaf.Issuer),
		Authority: authority(sent),
		Pin:       Fingerprint(leaf),
	}
	if inv, ok := errors.AsType[x509.CertificateInvalidError](err); ok && inv.Reason == x509.Expired {
		e.Reason = ReasonExpired
		e.Hint = "have it renewed on the server; if its dates look right, set this machine's clock"
		if inv.Cert != nil && now.Before(inv.Cert.NotBefore) {
			e.Reason = ReasonNotYetValid
			e.Hint = "this machine's clock is probably slow: it says " + now.UTC().Format(time.RFC3339)
		}
	} else if _, ok := errors.AsType[x509.HostnameError](err); ok {
		e.Reason = ReasonWrongHost
		e.Hint = "use a server URL with a name that the certificate has, or have one issued for this name"
	} else if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		e.Reason = ReasonUnknownAuthority
		e.Hint = t.unknownHint(e)
	}
	// Who pins a key relies on it alone: a name or a date that does not fit
	// either is not the news.
	if len(t.pins) > 0 && !t.pinnedButForNameAndDate(opts, leaf) {
		if !errors.Is(err, errPin) {
			e.Err = fmt.Errorf("its key is not pinned, and %w", err)
		}
		e.Reason = ReasonPinMismatch
		e.Hint = t.pinHint(e)
	}
	return e
}

func (t *trust) unknownHint(e *VerifyError) string {
	pin := "pin this server's key with --pin " + e.Pin + " once you know it to be right"
	switch {
	case t.noSystemCAs:
		return "this machine has no CA certificates: install them (package ca-certificates), or add the CA " +
			quote(e.Authority) + " with --ca-file, or " + pin
	case string(e.Leaf.RawIssuer) == string(e.Leaf.RawSubject):
		return "it is self-signed: add it with --ca-file, or " + pin
	}
	return "unless that CA is your own, your network intercepts TLS: add the CA " + quote(e.Authority) + " with --ca-file, or " + pin
}

func (t *trust) pinHint(e *VerifyError) string {
	if t.pins[sha256.Sum256(e.Leaf.Raw)] {
		return "the pin given is the fingerprint of the certificate; a pin is that of its key: --pin " + e.Pin
	}
	return "another key than expected: if the server's key was changed on purpose use --pin " + e.Pin +
		", otherwise somebody stands in between"
}

// authority names the issuer at the top of what was sent.
func authority(sent []*x509.Certificate) string {
	top := sent[0]
	for range sent { // each step uses one more; a loop among them ends here too
		next := top
		for _, c := range sent {
			if string(c.RawSubject) == string(top.RawIssuer) {
				next = c
				break
			}
		}
		if next == top {
			break
		}
		top = next
	}
	return commonName(top.Issuer)
}

// commonName returns the common name, else whatever names the holder.
func commonName(n pkix.Name) string {
	switch {
	case n.CommonName != "":
		return shorten(n.CommonName, 100)
	case len(n.Organization) > 0:
		return shorten(n.Organization[0], 100)
	}
	return shorten(n.String(), 100)
}

// printable puts text with foreign parts on one line of bounded length.
func printable(s string, limit int) string {
	clean := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	return shorten(clean, limit)
}
