package tls

import (
	"context"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"time"
)

// ServerOptions say with what a server agent meets its clients. Either both of
// CertFile and KeyFile or Certificate must be set.
type ServerOptions struct {
	// CertFile is a PEM file with the server's certificate, followed by those
	// of its intermediate CAs.
	CertFile string
	// KeyFile is a PEM file with the certificate's key, not encrypted: PKCS#8,
	// PKCS#1 or SEC 1. It may be the same file as CertFile.
	KeyFile string
	// Certificate is used in place of the files. It is never reloaded. nil:
	// the files are used.
	Certificate *stdtls.Certificate

	// ClientCAFile is a PEM file with the CAs that issue client certificates.
	// If set, a client without a certificate of theirs ends in the handshake.
	// The system's CAs are never trusted for clients. Empty: clients are not
	// asked for a certificate.
	ClientCAFile string
	// ClientCertOptional lets clients without a certificate in; one that is
	// sent must still be valid. It needs ClientCAFile. Default: false.
	ClientCertOptional bool

	// PollInterval is how often Run looks for changed files. 0 or less: 10 s.
	PollInterval time.Duration
	// Logger is told of reloads and of files that are wrong. nil: nobody is.
	Logger *slog.Logger
}

// ServerMaterial is what [Server] made: a live config for listeners. It is
// safe for concurrent use.
type ServerMaterial struct {
	r      *reloader
	config *stdtls.Config
}

// Server reads the files of o. It starts nothing: call Run to have changed
// files noticed. The error is a [*FileError] if a file is at fault: missing,
// not readable, not PEM, key and certificate that do not match, expired.
func Server(o ServerOptions) (*ServerMaterial, error) {
	p, err := o.plan()
	if err != nil {
		return nil, err
	}
	r, err := newReloader("server", p, o.PollInterval, o.Logger)
	if err != nil {
		return nil, err
	}
	config := baseConfig()
	config.GetConfigForClient = func(*stdtls.ClientHelloInfo) (*stdtls.Config, error) {
		return r.current.Load().config, nil
	}
	return &ServerMaterial{r: r, config: config}, nil
}

// Config returns a config for a listener, for as long as it lives: each
// handshake uses the certificate and the client CAs in force at its start, by
// GetConfigForClient. What a caller changes in the returned copy therefore has
// no effect on handshakes.
func (m *ServerMaterial) Config() *stdtls.Config { return m.config.Clone() }

// Certificate returns the server's certificate now in force, without its chain.
func (m *ServerMaterial) Certificate() *x509.Certificate { return m.r.current.Load().leaf() }

// Reload reads the files at once, as at SIGHUP. After an error, a [*FileError]
// inside, everything is as it was.
func (m *ServerMaterial) Reload() error { return m.r.reload() }

// Update reads with other options and keeps to them, or returns an error and
// leaves everything as it was. PollInterval and Logger stay what they were.
func (m *ServerMaterial) Update(o ServerOptions) error {
	p, err := o.plan()
	if err != nil {
		return err
	}
	return m.r.update(p)
}

// Run looks for changed files until ctx ends and returns ctx's error. Files
// that are wrong are logged once for each distinct failure that is there at
// two looks in a row; a certificate near its end is logged once too.
func (m *ServerMaterial) Run(ctx context.Context) error { return m.r.run(ctx) }

// plan checks o and says how to make a state of it.
func (o ServerOptions) plan() (plan, error) {
	switch {
	case o.Certificate != nil && (o.CertFile != "" || o.KeyFile != ""):
		return plan{}, errors.New("server certificate given twice, by file and in memory; give one")
	case o.Certificate == nil && o.CertFile == "" && o.KeyFile == "":
		return plan{}, errors.New("no server certificate; give a certificate file and its key file (`sallyport cert dev` makes some for local use)")
	case o.Certificate == nil && o.KeyFile == "":
		return plan{}, errors.New("server certificate file without a key file; give both")
	case o.Certificate == nil && o.CertFile == "":
		return plan{}, errors.New("server key file without a certificate file; give both")
	case o.ClientCertOptional && o.ClientCAFile == "":
		return plan{}, errors.New("optional client certificates without a client CA file; give the CA that issues them")
	}
	src := sources{cert: o.CertFile, key: o.KeyFile, ca: o.ClientCAFile}
	return plan{src: src, build: func(c *contents) (*state, error) { return o.build(src, c) }}, nil
}

func (o ServerOptions) build(src sources, c *contents) (*state, error) {
	s := &state{cert: o.Certificate}
	if s.cert == nil {
		cert, err := parseKeyPair(src, c, x509.ExtKeyUsageServerAuth)
		if err != nil {
			return nil, err
		}
		s.cert = cert
	} else if s.cert.Leaf == nil {
		return nil, errors.New("server certificate in memory lacks its parsed form (Leaf)")
	}
	s.config = baseConfig()
	s.config.Certificates = []stdtls.Certificate{*s.cert}
	if src.ca == "" {
		return s, nil
	}
	pool := x509.NewCertPool()
	warnings, err := addCAs(pool, src.ca, c.ca)
	if err != nil {
		return nil, err
	}
	s.warnings = warnings
	s.config.ClientCAs = pool
	s.config.ClientAuth = stdtls.RequireAndVerifyClientCert
	if o.ClientCertOptional {
		s.config.ClientAuth = stdtls.VerifyClientCertIfGiven
	}
	// A ticket would carry a client's proof past a change of the CA file.
	s.config.SessionTicketsDisabled = true
	return s, nil
}

// baseConfig is what both sides have in common.
func baseConfig() *stdtls.Config {
	return &stdtls.Config{
		MinVersion: stdtls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		// For TLS 1.2; those of TLS 1.3 are not for choosing. crypto/tls puts
		// them in order by what the CPUs of both ends do fast.
		CipherSuites: []uint16{
			stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			stdtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			stdtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			stdtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			stdtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			stdtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
}
