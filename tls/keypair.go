package tls

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// parseKeyPair makes a certificate with its chain and key out of two PEM
// files. What it returns can be used in a handshake now, for usage.
func parseKeyPair(src sources, c *contents, usage x509.ExtKeyUsage) (*stdtls.Certificate, error) {
	chain, err := parseChain(src.cert, c.cert)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(src.key, c.key)
	if err != nil {
		return nil, err
	}
	leaf := chain[0]
	if !supported(leaf.PublicKey) {
		return nil, &FileError{
			Path: src.cert, Problem: "has a public key of an unsupported kind (" + leaf.PublicKeyAlgorithm.String() + ")",
			Hint: "use ECDSA (P-256, P-384, P-521), RSA or Ed25519",
		}
	}
	if !matches(key, leaf) {
		return nil, mismatch(src, chain, key)
	}
	if err := checkLeaf(src.cert, leaf, usage, time.Now()); err != nil {
		return nil, err
	}
	cert := &stdtls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, x := range chain {
		cert.Certificate = append(cert.Certificate, x.Raw)
	}
	return cert, nil
}

// parseChain returns the certificates of a PEM file in their order, at least one.
func parseChain(path string, data []byte) ([]*x509.Certificate, error) {
	blocks, err := decodePEM(path, data)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for _, b := range blocks {
		if b.Type != "CERTIFICATE" {
			continue // a key in the same file is fine
		}
		x, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, &FileError{
				Path: path, Problem: fmt.Sprintf("certificate %d of the file cannot be parsed: %v", len(chain)+1, err),
				Hint: "have it issued again", Err: err,
			}
		}
		chain = append(chain, x)
	}
	if len(chain) == 0 {
		return nil, noCertificate(path, blocks)
	}
	return chain, nil
}

// noCertificate describes a PEM file without a CERTIFICATE block.
func noCertificate(path string, blocks []*pem.Block) *FileError {
	e := &FileError{Path: path, Problem: "holds no certificate but " + blockTypes(blocks)}
	if slices.ContainsFunc(blocks, isKeyBlock) {
		e.Problem = "holds a private key and no certificate"
		e.Hint = "are the certificate file and the key file swapped?"
	}
	return e
}

// parseKey returns the first private key of a PEM file.
func parseKey(path string, data []byte) (crypto.Signer, error) {
	blocks, err := decodePEM(path, data)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(blocks, isKeyBlock)
	if i < 0 {
		e := &FileError{Path: path, Problem: "holds no private key but " + blockTypes(blocks)}
		if slices.ContainsFunc(blocks, func(b *pem.Block) bool { return b.Type == "CERTIFICATE" }) {
			e.Problem = "holds a certificate and no private key"
			e.Hint = "are the certificate file and the key file swapped?"
		}
		return nil, e
	}
	b := blocks[i]
	switch {
	case b.Type == "ENCRYPTED PRIVATE KEY", strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED"):
		return nil, &FileError{
			Path: path, Problem: "holds a private key that is encrypted with a passphrase",
			Hint: "decrypt it into a file that only the agent can read: openssl pkey -in " + fmt.Sprintf("%q", path) + " -out key.pem",
		}
	case b.Type == "OPENSSH PRIVATE KEY":
		return nil, &FileError{
			Path: path, Problem: "holds a key in ssh's own format",
			Hint: "a TLS certificate has a key of its own, in PKCS#8, PKCS#1 or SEC 1 form",
		}
	}
	key, err := parseKeyDER(b.Bytes)
	if err != nil {
		return nil, &FileError{
			Path: path, Problem: "holds a private key that cannot be used: " + err.Error(),
			Hint: "use ECDSA (P-256, P-384, P-521), RSA or Ed25519 in PKCS#8, PKCS#1 or SEC 1 form", Err: err,
		}
	}
	return key, nil
}

func isKeyBlock(b *pem.Block) bool {
	return b.Type == "PRIVATE KEY" || strings.HasSuffix(b.Type, " PRIVATE KEY")
}

func blockTypes(blocks []*pem.Block) string {
	var types []string
	for _, b := range blocks {
		if t := quote(b.Type); !slices.Contains(types, t) {
			types = append(types, t)
		}
	}
	return shorten(strings.Join(types, ", "), 100)
}

var errKeyFormat = errors.New("neither PKCS#8 nor PKCS#1 nor SEC 1")

// parseKeyDER reads a private key of a kind that TLS can use.
func parseKeyDER(der []byte) (crypto.Signer, error) {
	var signer crypto.Signer
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		s, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("a key of type %T cannot sign", key)
		}
		signer = s
	} else if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		signer = key
	} else if key, err := x509.ParseECPrivateKey(der); err == nil {
		signer = key
	} else {
		return nil, errKeyFormat
	}
	if !supported(signer.Public()) {
		return nil, fmt.Errorf("unsupported kind of key or curve (%T)", signer.Public())
	}
	return signer, nil
}

// supported tells whether TLS 1.3 can sign with the key (RFC 8446, section 4.2.3).
func supported(pub crypto.PublicKey) bool {
	switch k := pub.(type) {
	case *rsa.PublicKey, ed25519.PublicKey:
		return true
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521()
	}
	return false
}

// matches tells whether key is the private key of cert.
func matches(key crypto.Signer, cert *x509.Certificate) bool {
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(cert.PublicKey)
}

// mismatch describes a key that is not the first certificate's.
func mismatch(src sources, chain []*x509.Certificate, key crypto.Signer) *FileError {
	for i, x := range chain {
		if matches(key, x) {
			return &FileError{
				Path:    src.cert,
				Problem: fmt.Sprintf("the key in %s belongs to certificate %d of the file, not to the first", src.key, i+1),
				Hint:    "put that one first and its issuers after it",
			}
		}
	}
	return &FileError{
		Path:    src.cert,
		Problem: "the key in " + src.key + " does not belong to this certificate",
		Hint:    "were both files renewed together?",
	}
}

// checkLeaf refuses a certificate that every peer would refuse. Its texts hold
// no current time, so that a failure that lasts is one failure.
func checkLeaf(path string, leaf *x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	switch {
	case now.After(leaf.NotAfter):
		return &FileError{
			Path: path, Problem: "the certificate has expired on " + leaf.NotAfter.UTC().Format(time.RFC3339),
			Hint: "renew it, or set this machine's clock if that date is still to come",
			Err:  x509.CertificateInvalidError{Cert: leaf, Reason: x509.Expired},
		}
	case now.Before(leaf.NotBefore):
		return &FileError{
			Path: path, Problem: "the certificate is not valid before " + leaf.NotBefore.UTC().Format(time.RFC3339),
			Hint: "set this machine's clock if that date has passed",
			Err:  x509.CertificateInvalidError{Cert: leaf, Reason: x509.Expired},
		}
	case len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(leaf.ExtKeyUsage, usage) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny):
		return &FileError{
			Path: path, Problem: "the certificate is not made for " + usageName(usage) + " (extended key usage)",
			Hint: "have one issued for that use", Err: x509.CertificateInvalidError{Cert: leaf, Reason: x509.IncompatibleUsage},
		}
	}
	return nil
}

func usageName(u x509.ExtKeyUsage) string {
	if u == x509.ExtKeyUsageClientAuth {
		return "a TLS client"
	}
	return "a TLS server"
}

// addCAs adds the certificates of a PEM file to pool. One that Go cannot parse
// is left out and told in warnings (bundles of companies hold odd ones), as
// long as there is another.
func addCAs(pool *x509.CertPool, path string, data []byte) (warnings []string, err error) {
	blocks, err := decodePEM(path, data)
	if err != nil {
		return nil, err
	}
	seen, added := 0, 0
	for _, b := range blocks {
		if b.Type != "CERTIFICATE" {
			continue
		}
		seen++
		x, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("%s: certificate %d left out: %v", path, seen, err))
			continue
		}
		pool.AddCert(x)
		added++
	}
	switch {
	case seen == 0:
		return nil, noCertificate(path, blocks)
	case added == 0:
		return nil, &FileError{Path: path, Problem: "holds no certificate that can be parsed: " + warnings[0], Hint: "have the CA's certificate exported again"}
	}
	return warnings, nil
}
