package tls

import (
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// DevOptions say where [Dev] puts its files and for whom they are.
type DevOptions struct {
	// Dir is the directory, made (0700) if it is not there. Empty: the current one.
	Dir string
	// Hosts are the server's names and IP addresses. Empty: localhost,
	// 127.0.0.1 and ::1.
	Hosts []string
	// Force replaces a server certificate that is there. The CA is never
	// replaced: delete ca.pem and ca-key.pem for a new one. Default: false.
	Force bool
}

// DevClientOptions say for whom [DevClient] makes a certificate.
type DevClientOptions struct {
	// Dir is the directory where Dev put the CA. Empty: the current one.
	Dir string
	// Name becomes the certificate's common name and a part of the file names:
	// 1 to 64 letters, digits and ". _ @ -", not beginning with a dot or hyphen.
	Name string
	// Force replaces a certificate of that name. Default: false.
	Force bool
}

// DevFiles tells what was written.
type DevFiles struct {
	CA, CAKey string            // paths of the CA: ca.pem and ca-key.pem
	NewCA     bool              // false: the CA was there already
	Cert, Key string            // paths of the certificate and its key
	Leaf      *x509.Certificate // the certificate
}

// Dev makes a server certificate for local use, and the CA that issues it if
// Dir has none: ca.pem, ca-key.pem, server.pem and server-key.pem. Only the
// user can read the keys (mode 0600; on Windows what the directory's access
// list says). The error wraps fs.ErrExist if a server certificate is there and
// Force is not set; it is a [*FileError] if the CA that is there can't be used.
func Dev(o DevOptions) (*DevFiles, error) {
	return devIssue(o.Dir, "server", o.Force, true, func(ca *DevCA) (stdtls.Certificate, error) {
		return ca.Server(o.Hosts...)
	})
}

// DevClient makes a client certificate, signed by the CA that [Dev] made in
// Dir: client-NAME.pem and client-NAME-key.pem. Errors are those of Dev; the
// CA must be there.
func DevClient(o DevClientOptions) (*DevFiles, error) {
	if !fileNameSafe(o.Name) {
		return nil, fmt.Errorf("client name %s: use letters, digits and . _ @ - (at most %d, a letter, digit or _ first)", quote(o.Name), devCommonName)
	}
	return devIssue(o.Dir, "client-"+o.Name, o.Force, false, func(ca *DevCA) (stdtls.Certificate, error) {
		return ca.Client(o.Name)
	})
}

// devIssue writes base.pem and base-key.pem in dir. Everything that can fail
// is tried before the first file is written.
func devIssue(dir, base string, force, makeCA bool, issue func(*DevCA) (stdtls.Certificate, error)) (*DevFiles, error) {
	f := &DevFiles{
		CA: filepath.Join(dir, "ca.pem"), CAKey: filepath.Join(dir, "ca-key.pem"),
		Cert: filepath.Join(dir, base+".pem"), Key: filepath.Join(dir, base+"-key.pem"),
	}
	if !force {
		for _, path := range []string{f.Cert, f.Key} {
			if exists(path) {
				return nil, fmt.Errorf("%s: %w; remove it, choose another directory, or use --force", path, fs.ErrExist)
			}
		}
	}
	ca, err := f.authority(makeCA)
	if err != nil {
		return nil, err
	}
	cert, err := issue(ca)
	if err != nil {
		return nil, err
	}
	f.Leaf = cert.Leaf
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the directory for certificates: %w", err)
		}
	}
	if f.NewCA {
		if err := writePair(f.CA, f.CAKey, ca.PEM(), ca.key); err != nil {
			return nil, err
		}
	}
	if err := writePair(f.Cert, f.Key, certPEM(cert.Certificate[0]), cert.PrivateKey); err != nil {
		return nil, err
	}
	return f, nil
}

// authority loads the CA, or makes one in memory if there is none and that is wanted.
func (f *DevFiles) authority(makeCA bool) (*DevCA, error) {
	haveCert, haveKey := exists(f.CA), exists(f.CAKey)
	switch {
	case haveCert && haveKey:
		return loadDevCA(f.CA, f.CAKey)
	case haveCert:
		return nil, &FileError{Path: f.CAKey, Problem: "does not exist, but " + f.CA + " does", Hint: "put it back, or remove the other for a new CA", Err: fs.ErrNotExist}
	case haveKey:
		return nil, &FileError{Path: f.CA, Problem: "does not exist, but " + f.CAKey + " does", Hint: "put it back, or remove the other for a new CA", Err: fs.ErrNotExist}
	case !makeCA:
		return nil, &FileError{Path: f.CA, Problem: "does not exist", Hint: "make a CA and a server certificate first: sallyport cert dev", Err: fs.ErrNotExist}
	}
	f.NewCA = true
	return NewDevCA()
}

func loadDevCA(certFile, keyFile string) (*DevCA, error) {
	src := sources{cert: certFile, key: keyFile}
	c, err := src.read()
	if err != nil {
		return nil, err
	}
	chain, err := parseChain(certFile, c.cert)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(keyFile, c.key)
	if err != nil {
		return nil, err
	}
	cert := chain[0]
	switch {
	case !matches(key, cert):
		return nil, mismatch(src, chain, key)
	case !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, &FileError{Path: certFile, Problem: "is not the certificate of a CA", Hint: "remove it and its key for a new CA"}
	}
	if now := time.Now(); now.After(cert.NotAfter) || now.Before(cert.NotBefore) {
		return nil, &FileError{
			Path: certFile, Problem: fmt.Sprintf("the CA is valid from %s to %s only", cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339)),
			Hint: "remove it and its key for a new CA", Err: x509.CertificateInvalidError{Cert: cert, Reason: x509.Expired},
		}
	}
	return &DevCA{cert: cert, key: key}, nil
}

// writePair writes a certificate and its key, the key first: a certificate
// that is there has its key.
func writePair(certFile, keyFile string, cert []byte, key any) error {
	text, err := keyPEM(key)
	if err != nil {
		return err
	}
	if err := writeFile(keyFile, text, 0o600); err != nil {
		return err
	}
	return writeFile(certFile, cert, 0o644)
}

// writeFile puts data in place whole or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	// Made with 0600, so a key is at no moment open to others.
	tmp := path + "." + rand.Text() + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp)
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// exists tells whether there is something at path. What cannot be looked at
// (no permission, no such directory) cannot be written either, with a better error.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// fileNameSafe tells whether a client's name can be a part of a file name on
// every system.
func fileNameSafe(name string) bool {
	if name == "" || len(name) > devCommonName || name[0] == '.' || name[0] == '-' || strings.HasSuffix(name, ".") {
		return false
	}
	for _, c := range []byte(name) {
		if !isHostByte(c) && c != '.' && c != '@' {
			return false
		}
	}
	return true
}
