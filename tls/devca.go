package tls

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

const (
	devCALife = 5 * 365 * 24 * time.Hour
	// devLeafLife is the longest that Apple's systems accept of any CA.
	devLeafLife = 825 * 24 * time.Hour
	// devBackdate lets machines whose clock is a little slow take part at once.
	devBackdate = time.Hour
	// devCommonName bounds a common name (RFC 5280, ub-common-name).
	devCommonName = 64
)

// A DevCA issues certificates for local use and tests. It lives in memory;
// [Dev] keeps one on disk. Keys are ECDSA P-256.
//
// The CA is valid for five years, for TLS servers and clients only, and cannot
// have CAs below it. It can name any host, so give it to sallyport with
// --ca-file and never add it to the trust of a system or a browser.
type DevCA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewDevCA makes a CA with a new key.
func NewDevCA() (*DevCA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the CA's key: %w", err)
	}
	now := time.Now()
	// The name differs from CA to CA, for people and for verification, which
	// looks for issuers by name.
	template := &x509.Certificate{
		Subject: pkix.Name{
			Organization: []string{"sallyport development"},
			CommonName:   "sallyport dev CA " + rand.Text()[:8],
		},
		NotBefore:             now.Add(-devBackdate),
		NotAfter:              now.Add(devCALife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the CA: %w", err)
	}
	return &DevCA{cert: cert, key: key}, nil
}

// PEM returns the CA's certificate as clients need it, without the key.
func (ca *DevCA) PEM() []byte { return certPEM(ca.cert.Raw) }

// Server issues a certificate for hosts: names (also *.suffix) and IP
// addresses. None means localhost, 127.0.0.1 and ::1. It is valid for 825 days
// or until the CA ends.
func (ca *DevCA) Server(hosts ...string) (stdtls.Certificate, error) {
	if len(hosts) == 0 {
		hosts = []string{"localhost", "127.0.0.1", "::1"}
	}
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, host := range hosts {
		if addr, err := netip.ParseAddr(bareHost(host)); err == nil {
			template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
			continue
		}
		name := bareHost(host)
		if err := checkDNSName(name); err != nil {
			return stdtls.Certificate{}, fmt.Errorf("host %s: %w", quote(host), err)
		}
		template.DNSNames = append(template.DNSNames, strings.ToLower(name))
	}
	if cn := bareHost(hosts[0]); len(cn) <= devCommonName {
		template.Subject.CommonName = cn
	}
	return ca.issue(template)
}

// Client issues a client certificate whose common name is name, at most 64
// characters. It is valid for 825 days or until the CA ends.
func (ca *DevCA) Client(name string) (stdtls.Certificate, error) {
	if name == "" || len(name) > devCommonName {
		return stdtls.Certificate{}, fmt.Errorf("client name %s: it must have 1 to %d characters", quote(name), devCommonName)
	}
	return ca.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// issue completes template and signs it for a new key. Dates that are set stay.
func (ca *DevCA) issue(template *x509.Certificate) (stdtls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return stdtls.Certificate{}, fmt.Errorf("make a key: %w", err)
	}
	now := time.Now()
	if template.NotBefore.IsZero() {
		template.NotBefore = now.Add(-devBackdate)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = now.Add(devLeafLife)
		if template.NotAfter.After(ca.cert.NotAfter) {
			template.NotAfter = ca.cert.NotAfter
		}
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	leaf, err := sign(template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return stdtls.Certificate{}, fmt.Errorf("sign a certificate: %w", err)
	}
	return stdtls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// sign makes a certificate; crypto/x509 chooses a random serial number.
func sign(template, issuer *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// checkDNSName accepts what a certificate may hold as a DNS name (RFC 5280,
// section 4.2.1.6; RFC 9525, section 6.3 for the asterisk).
func checkDNSName(name string) error {
	rest := strings.TrimPrefix(name, "*.")
	switch {
	case strings.Contains(name, "://"):
		return errors.New("a URL; give the host alone")
	case strings.Contains(name, ":"):
		return errors.New("neither a name nor an IP address; give the host without a port")
	case name == "" || len(name) > 253:
		return errors.New("a name has 1 to 253 characters")
	}
	for label := range strings.SplitSeq(rest, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("not a host name")
		}
		for _, c := range []byte(label) {
			if !isHostByte(c) {
				return errors.New("not a host name: only letters, digits, hyphens and dots (international names in their xn-- form)")
			}
		}
	}
	return nil
}

func isHostByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
