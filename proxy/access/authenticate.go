package access

import (
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Authenticator tells who sends a request. *Store is one.
type Authenticator interface {
	// Authenticate returns the request's identity. The error wraps ErrNoCredentials or ErrBadCredentials; its text is for the log
	// of this agent, the peer gets Refuse.
	Authenticate(r *http.Request) (Identity, error)
}

// What Authenticate's errors wrap.
var (
	ErrNoCredentials  = errors.New("no credentials")
	ErrBadCredentials = errors.New("bad credentials")
)

// Refuse answers a request that Authenticate had an error for: 401 in the same words whatever the reason (RFC 6750 §3.1 allows
// to leave it out).
func Refuse(w http.ResponseWriter) {
	h := w.Header()
	h.Set("WWW-Authenticate", `Bearer realm="sallyport"`)
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, "401 unauthorized\n")
}

// Authenticate implements Authenticator. A bearer token that is sent must be known, also when a certificate would do without it.
func (s *Store) Authenticate(r *http.Request) (Identity, error) {
	t := s.current.Load()
	if len(t.entries) == 1 && t.entries[0].Anyone {
		return t.entries[0].identity(), nil
	}
	leaf := verifiedLeaf(r)
	token, err := bearer(r.Header)
	switch {
	case err != nil:
		return Identity{}, err
	case token != "":
		return t.byToken(token, leaf)
	case leaf != nil:
		return t.byCertificate(leaf)
	}
	return Identity{}, fmt.Errorf("%w: neither a bearer token nor a client certificate was sent", ErrNoCredentials)
}

// bearer returns the token of an Authorization header, "" if there is no such header (RFC 6750 §2.1).
func bearer(h http.Header) (string, error) {
	values := h.Values("Authorization")
	switch len(values) {
	case 0:
		return "", nil
	case 1:
	default:
		return "", fmt.Errorf("%w: %d Authorization headers", ErrBadCredentials, len(values))
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", fmt.Errorf("%w: the Authorization header's scheme is not Bearer", ErrBadCredentials)
	}
	token = strings.Trim(token, " ")
	if !isToken(token) || len(token) > maxToken {
		return "", fmt.Errorf("%w: malformed bearer token", ErrBadCredentials)
	}
	return token, nil
}

// byToken compares with every entry, so that the time it takes doesn't tell which one came close.
func (t *table) byToken(token string, leaf *x509.Certificate) (Identity, error) {
	digest := HashToken(token)
	found := -1
	for i := range t.entries {
		same := subtle.ConstantTimeCompare(digest[:], t.entries[i].SHA256[:])
		found = subtle.ConstantTimeSelect(same, i, found)
	}
	if found < 0 {
		return Identity{}, fmt.Errorf("%w: unknown token", ErrBadCredentials)
	}
	e := t.entries[found]
	if e.Certificate != "" && (leaf == nil || !(e.Certificate == anyCertificate || certificateHas(leaf, e.Certificate))) {
		return Identity{}, fmt.Errorf("%w: the token of %s without the client certificate that it needs", ErrBadCredentials, quote(e.Name))
	}
	return e.identity(), nil
}

const anyCertificate = "*"

// byCertificate finds the entry without token that the certificate fits; one for every certificate comes last.
func (t *table) byCertificate(leaf *x509.Certificate) (Identity, error) {
	found, general := -1, -1
	for i, e := range t.entries {
		switch {
		case !e.SHA256.IsZero() || e.Certificate == "":
		case e.Certificate == anyCertificate:
			general = i
		case certificateHas(leaf, e.Certificate):
			if found >= 0 {
				return Identity{}, fmt.Errorf("%w: client certificate %s fits entries %s and %s", ErrBadCredentials,
					describe(leaf), quote(t.entries[found].Name), quote(e.Name))
			}
			found = i
		}
	}
	switch {
	case found >= 0:
		return t.entries[found].identity(), nil
	case general >= 0:
		return t.entries[general].identity(), nil
	}
	return Identity{}, fmt.Errorf("%w: client certificate %s fits no entry", ErrBadCredentials, describe(leaf))
}

// verifiedLeaf is the client's certificate if the TLS layer verified it, else nil.
func verifiedLeaf(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return nil
	}
	return r.TLS.VerifiedChains[0][0]
}

// certificateHas compares with the subject's common name and the URI and DNS alternative names; DNS names whatever their case.
func certificateHas(leaf *x509.Certificate, name string) bool {
	if leaf.Subject.CommonName == name {
		return true
	}
	for _, u := range leaf.URIs {
		if u.String() == name {
			return true
		}
	}
	for _, d := range leaf.DNSNames {
		if lowerASCII(d) == lowerASCII(name) {
			return true
		}
	}
	return false
}

// describe names a certificate in a log.
func describe(leaf *x509.Certificate) string {
	switch {
	case leaf.Subject.CommonName != "":
		return quote(leaf.Subject.CommonName)
	case len(leaf.URIs) > 0:
		return quote(leaf.URIs[0].String())
	case len(leaf.DNSNames) > 0:
		return quote(leaf.DNSNames[0])
	}
	return "without a name"
}
