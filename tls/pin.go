package tls

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// A Pin is the SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 7469,
// section 2.4). It stays the same when a certificate is renewed with its key.
// The zero Pin matches no certificate that can exist in practice.
type Pin [sha256.Size]byte

// Fingerprint returns the pin of cert as [ParsePin] reads it:
// sha256/BASE64. A nil cert gives an empty string.
func Fingerprint(cert *x509.Certificate) string {
	if cert == nil {
		return ""
	}
	return PinOf(cert).String()
}

// PinOf returns the pin of a parsed certificate.
func PinOf(cert *x509.Certificate) Pin {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// String returns the pin as sha256/BASE64.
func (p Pin) String() string {
	return "sha256/" + base64.StdEncoding.EncodeToString(p[:])
}

// ParsePin reads a pin in one of three spellings:
//
//	sha256/BASE64   standard alphabet, padding optional
//	sha256//BASE64  as curl's --pinnedpubkey has it
//	sha256:HEX      64 digits in either case, bytes may be set apart by colons
//
// The error says which part is wrong. A pin is no secret.
func ParsePin(s string) (Pin, error) {
	var (
		raw []byte
		err error
	)
	switch {
	case strings.HasPrefix(s, "sha256/"):
		raw, err = decodeBase64(withoutCurlSlash(strings.TrimPrefix(s, "sha256/")))
	case strings.HasPrefix(s, "sha256:"):
		raw, err = decodeHex(strings.TrimPrefix(s, "sha256:"))
	default:
		return Pin{}, pinError(s, "it must begin with sha256/ or sha256:")
	}
	if err != nil {
		return Pin{}, pinError(s, err.Error())
	}
	if len(raw) != sha256.Size {
		return Pin{}, pinError(s, fmt.Sprintf("it holds %d bytes, a SHA-256 has %d", len(raw), sha256.Size))
	}
	return Pin(raw), nil
}

// withoutCurlSlash takes off the second slash of curl's spelling. BASE64 may
// itself begin with a slash: one character too many tells which it is.
func withoutCurlSlash(b64 string) string {
	if len(strings.TrimRight(b64, "=")) > base64.RawStdEncoding.EncodedLen(sha256.Size) {
		return strings.TrimPrefix(b64, "/")
	}
	return b64
}

// decodeBase64 is strict: no line breaks (encoding/base64 would skip them) and
// no stray bits in the last character, so that one pin has one spelling.
func decodeBase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("line break in BASE64")
	}
	enc := base64.StdEncoding
	if !strings.HasSuffix(s, "=") {
		enc = base64.RawStdEncoding
	}
	raw, err := enc.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("what follows sha256/ is not BASE64")
	}
	return raw, nil
}

func decodeHex(s string) ([]byte, error) {
	if strings.Contains(s, ":") {
		parts := strings.Split(s, ":")
		for _, part := range parts {
			if len(part) != 2 {
				return nil, fmt.Errorf("colons must set single bytes apart")
			}
		}
		s = strings.Join(parts, "")
	}
	raw, err := hex.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("what follows sha256: is not an even number of hex digits")
	}
	return raw, nil
}

func pinError(s, what string) error {
	return fmt.Errorf("pin %s: %s; write sha256/BASE64 or sha256:HEX, as `sallyport cert` prints it", quote(s), what)
}

// parsePins reads all of texts; the order does not matter.
func parsePins(texts []string) (map[Pin]bool, error) {
	pins := make(map[Pin]bool, len(texts))
	for _, text := range texts {
		p, err := ParsePin(text)
		if err != nil {
			return nil, err
		}
		pins[p] = true
	}
	return pins, nil
}
