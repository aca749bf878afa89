package tls

import (
	"context"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// ClientOptions say whom a client agent trusts and how it shows itself. The
// zero value trusts the system's CAs and has no client certificate.
type ClientOptions struct {
	// ServerName is the name (or IP address) that the server's certificate
	// must have, also sent as SNI. Empty: the host that is dialled.
	ServerName string
	// CAFile is a PEM file with CAs to trust beside the system's. It may also
	// hold a self-signed server certificate. Empty: none.
	CAFile string
	// CA is PEM text with more such CAs, in memory and never reloaded.
	CA []byte
	// Pins are public keys, as ParsePin reads them, one of which the server or
	// a CA of its chain must have; the package comment tells exactly. Empty:
	// CAs alone decide.
	Pins []string

	// CertFile and KeyFile are PEM files with the client's certificate, chain
	// and key; both or none.
	CertFile string
	KeyFile  string

	// PollInterval is how often Run looks for changed files. 0 or less: 10 s.
	PollInterval time.Duration
	// Logger is told of reloads and of files that are wrong. nil: nobody is.
	Logger *slog.Logger
}

// ClientMaterial is what [Client] made: live configs for diallers. It is safe
// for concurrent use.
type ClientMaterial struct {
	r *reloader
}

// Client reads the files of o. It starts nothing: call Run to have changed
// files noticed. The error is a [*FileError] if a file is at fault.
//
// The system's CAs are read once in the life of a process; that is how
// crypto/x509 has it. A new CA for a running agent goes into CAFile.
func Client(o ClientOptions) (*ClientMaterial, error) {
	p, err := o.plan()
	if err != nil {
		return nil, err
	}
	r, err := newReloader("client", p, o.PollInterval, o.Logger)
	if err != nil {
		return nil, err
	}
	return &ClientMaterial{r: r}, nil
}

// Config returns a config for dialling host, a name or an IP address without a
// port; ClientOptions.ServerName, if set, goes before it. It may be kept: each
// handshake uses CAs, pins and client certificate in force at its time.
//
// The config has InsecureSkipVerify set, because the verification stands in
// VerifyConnection, where it knows pins and can explain itself by a
// [*VerifyError]. Keep both as they are. Changing ServerName in a copy changes
// the SNI only, not the name that is verified.
func (m *ClientMaterial) Config(host string) *stdtls.Config {
	if name := m.r.current.Load().trust.serverName; name != "" {
		host = name
	}
	host = bareHost(host)
	c := baseConfig()
	c.ServerName = host
	c.InsecureSkipVerify = true // VerifyConnection verifies instead, and fails closed
	c.VerifyConnection = func(cs stdtls.ConnectionState) error {
		return m.r.current.Load().trust.verify(cs.PeerCertificates, host, time.Now())
	}
	c.GetClientCertificate = func(*stdtls.CertificateRequestInfo) (*stdtls.Certificate, error) {
		// Sent even if the server's list of CAs lacks its issuer: "unknown CA"
		// from the server tells more than "certificate required".
		if cert := m.r.current.Load().cert; cert != nil {
			return cert, nil
		}
		return &stdtls.Certificate{}, nil
	}
	return c
}

// Certificate returns the client certificate now in force, nil if there is none.
func (m *ClientMaterial) Certificate() *x509.Certificate { return m.r.current.Load().leaf() }

// Reload reads the files at once, as at SIGHUP. After an error, a [*FileError]
// inside, everything is as it was.
func (m *ClientMaterial) Reload() error { return m.r.reload() }

// Update reads with other options and keeps to them, or returns an error and
// leaves everything as it was. Configs handed out follow, but for ServerName.
// PollInterval and Logger stay what they were.
func (m *ClientMaterial) Update(o ClientOptions) error {
	p, err := o.plan()
	if err != nil {
		return err
	}
	return m.r.update(p)
}

// Run looks for changed files until ctx ends and returns ctx's error. Files
// that are wrong are logged once for each distinct failure that is there at
// two looks in a row; a certificate near its end is logged once too.
func (m *ClientMaterial) Run(ctx context.Context) error { return m.r.run(ctx) }

// plan checks o and says how to make a state of it.
func (o ClientOptions) plan() (plan, error) {
	switch {
	case o.CertFile != "" && o.KeyFile == "":
		return plan{}, errors.New("client certificate file without a key file; give both")
	case o.CertFile == "" && o.KeyFile != "":
		return plan{}, errors.New("client key file without a certificate file; give both")
	}
	pins, err := parsePins(o.Pins)
	if err != nil {
		return plan{}, err
	}
	src := sources{cert: o.CertFile, key: o.KeyFile, ca: o.CAFile}
	return plan{src: src, build: func(c *contents) (*state, error) { return o.build(src, c, pins) }}, nil
}

func (o ClientOptions) build(src sources, c *contents, pins map[Pin]bool) (*state, error) {
	s := &state{trust: &trust{serverName: o.ServerName, pins: pins}}
	if src.cert != "" {
		cert, err := parseKeyPair(src, c, x509.ExtKeyUsageClientAuth)
		if err != nil {
			return nil, err
		}
		s.cert = cert
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		// No reason to stop: CAs given here or a pin may be all that is needed.
		s.warnings = append(s.warnings, "the system's CAs cannot be read: "+err.Error())
		roots = x509.NewCertPool()
	}
	s.trust.noSystemCAs = roots.Equal(x509.NewCertPool())
	s.trust.roots = roots
	if src.ca != "" {
		warnings, err := addCAs(roots, src.ca, c.ca)
		if err != nil {
			return nil, err
		}
		s.warnings = append(s.warnings, warnings...)
	}
	if len(o.CA) > 0 {
		warnings, err := addCAs(roots, "CA in memory", o.CA)
		if err != nil {
			return nil, err
		}
		s.warnings = append(s.warnings, warnings...)
	}
	return s, nil
}

// bareHost takes off what a URL or an address has and a certificate has not:
// the brackets and the zone of an IPv6 address, the dot at the end of a name.
func bareHost(host string) string {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.WithZone("").String()
	}
	return strings.TrimSuffix(host, ".")
}
