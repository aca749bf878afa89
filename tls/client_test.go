package tls

import (
	"crypto/sha256"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serving is a plain server config around one certificate and its chain.
func serving(cert stdtls.Certificate) *stdtls.Config {
	return &stdtls.Config{Certificates: []stdtls.Certificate{cert}}
}

// withIntermediate is a server certificate for localhost below a root, with
// the intermediate CA in its chain.
func withIntermediate(t *testing.T) (root *DevCA, cert stdtls.Certificate) {
	t.Helper()
	root = newCA(t)
	middle := newCA(t)
	template := *middle.cert
	template.RawSubject, template.Subject.CommonName = nil, "middle CA"
	signed, err := sign(&template, root.cert, middle.key.Public(), root.key)
	if err != nil {
		t.Fatal(err)
	}
	middle.cert = signed
	cert = serverCert(t, middle, "localhost")
	cert.Certificate = append(cert.Certificate, signed.Raw)
	return root, cert
}

func TestClientVerifies(t *testing.T) {
	ca := newCA(t)
	now := time.Now()
	good := serverCert(t, ca, "tunnel.example", "*.wild.example", "127.0.0.1", "::1")
	self := selfSigned(t, "localhost")
	_, chained := withIntermediate(t)
	for _, tc := range []struct {
		name   string
		cert   stdtls.Certificate
		host   string
		reason Reason // if refused
		want   string // of the error; empty: accepted
	}{
		{"name", good, "tunnel.example", 0, ""},
		{"case and dot", good, "Tunnel.Example.", 0, ""},
		{"wildcard", good, "a.wild.example", 0, ""},
		{"IPv4", good, "127.0.0.1", 0, ""},
		{"IPv6", good, "::1", 0, ""},
		{"IPv6 in brackets", good, "[::1]", 0, ""},
		{"IPv6 with zone", good, "::1%lo", 0, ""},
		{"other name", good, "other.example", ReasonWrongHost, "tunnel.example"},
		{"two below a wildcard", good, "a.b.wild.example", ReasonWrongHost, "server URL"},
		{"other IP", good, "127.0.0.2", ReasonWrongHost, "server URL"},
		{"no host", good, "", ReasonOther, "no host name"},
		{"self-signed", self, "localhost", ReasonUnknownAuthority, "self-signed: add it with --ca-file"},
		{"other CA", serverCert(t, newCA(t)), "localhost", ReasonUnknownAuthority, `add the CA "sallyport dev CA`},
		{"unknown root", chained, "localhost", ReasonUnknownAuthority, `(issuer "middle CA")`},
		{"expired", datedCert(t, ca, now.Add(-2*day), now.Add(-day)), "localhost", ReasonExpired, "renewed on the server"},
		{"not yet valid", datedCert(t, ca, now.Add(day), now.Add(2*day)), "localhost", ReasonNotYetValid, "clock"},
		{"client's", clientCert(t, ca, "alice"), "alice", ReasonWrongHost, "use SANs"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cc := mustClient(t, ClientOptions{CA: ca.PEM()}).Config(tc.host)
			_, cerr, _ := dial(t, serving(tc.cert), cc)
			if tc.want == "" {
				if cerr != nil {
					t.Fatal(cerr)
				}
				return
			}
			ve, ok := errors.AsType[*VerifyError](cerr)
			if !ok || ve.Reason != tc.reason || !strings.Contains(ve.Error(), tc.want) {
				t.Fatalf("got %v, want %v with %q", cerr, tc.reason, tc.want)
			}
			if ve.Pin != Fingerprint(tc.cert.Leaf) || ve.Leaf == nil {
				t.Errorf("pin %s, leaf %v", ve.Pin, ve.Leaf)
			}
		})
	}
}

// TestVerifyErrorUnwraps: callers may also ask for crypto/x509's own types.
func TestVerifyErrorUnwraps(t *testing.T) {
	ca := newCA(t)
	verify := func(cert stdtls.Certificate, host string, o ClientOptions) error {
		_, err, _ := dial(t, serving(cert), mustClient(t, o).Config(host))
		return err
	}
	good := serverCert(t, ca)
	trusting := ClientOptions{CA: ca.PEM()}
	if _, ok := errors.AsType[x509.HostnameError](verify(good, "other.example", trusting)); !ok {
		t.Error("no HostnameError")
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](verify(good, "localhost", ClientOptions{})); !ok {
		t.Error("no UnknownAuthorityError")
	}
	pinned := ClientOptions{Pins: []string{Fingerprint(ca.cert)}}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](verify(good, "localhost", pinned)); !ok {
		t.Error("no UnknownAuthorityError below a failed pin")
	}
	old := datedCert(t, ca, time.Now().Add(-2*day), time.Now().Add(-day))
	if inv, ok := errors.AsType[x509.CertificateInvalidError](verify(old, "localhost", trusting)); !ok || inv.Reason != x509.Expired {
		t.Error("no CertificateInvalidError")
	}
}

func TestAuthorityIsTheTopOfTheChain(t *testing.T) {
	root, cert := withIntermediate(t)
	_, cerr, _ := dial(t, serving(cert), mustClient(t, ClientOptions{}).Config("localhost"))
	ve, ok := errors.AsType[*VerifyError](cerr)
	if !ok || ve.Issuer != "middle CA" || ve.Authority != root.cert.Subject.CommonName {
		t.Fatalf("got %v, want issuer and authority", cerr)
	}
}

func TestPins(t *testing.T) {
	ca := newCA(t)
	now := time.Now()
	good, self := serverCert(t, ca), selfSigned(t)                        // which has no name
	expired := datedCert(t, ca, now.Add(-2*day), now.Add(-devBackdate/2)) // while its CA was valid
	wrong := Fingerprint(serverCert(t, ca).Leaf)
	sum := sha256.Sum256(good.Leaf.Raw)
	ofCert := "sha256:" + hex.EncodeToString(sum[:])
	curl := strings.Replace(Fingerprint(good.Leaf), "/", "//", 1)

	for _, tc := range []struct {
		name string
		cert stdtls.Certificate
		host string
		ca   bool // the client trusts the CA
		pins []string
		want string // of the error; empty: accepted
	}{
		{"leaf, trusted CA", good, "localhost", true, []string{Fingerprint(good.Leaf)}, ""},
		{"leaf, one of several", good, "localhost", true, []string{wrong, curl}, ""},
		{"leaf, no CA", good, "localhost", false, []string{Fingerprint(good.Leaf)}, ""},
		{"self-signed", self, "localhost", false, []string{Fingerprint(self.Leaf)}, ""},
		{"leaf, other name", good, "other.example", false, []string{Fingerprint(good.Leaf)}, ""},
		{"leaf, no name", good, "", false, []string{Fingerprint(good.Leaf)}, ""},
		{"leaf, expired", expired, "localhost", false, []string{Fingerprint(expired.Leaf)}, ""},
		{"CA, trusted", good, "localhost", true, []string{Fingerprint(ca.cert)}, ""},
		{"CA, not trusted", good, "localhost", false, []string{Fingerprint(ca.cert)}, "not pinned, and x509: certificate signed by unknown authority"},
		{"CA, other name", good, "other.example", true, []string{Fingerprint(ca.cert)}, "certificate is valid for localhost"},
		{"CA, expired leaf", expired, "localhost", true, []string{Fingerprint(ca.cert)}, "expired"},
		{"mismatch, trusted CA", good, "localhost", true, []string{wrong}, "none of its keys is pinned; another key than expected"},
		{"mismatch, self-signed", self, "localhost", false, []string{wrong}, "another key than expected"},
		{"mismatch, expired", expired, "localhost", false, []string{wrong}, "another key than expected"},
		{"of the certificate", good, "localhost", true, []string{ofCert}, "a pin is that of its key: --pin " + Fingerprint(good.Leaf)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := ClientOptions{Pins: tc.pins}
			if tc.ca {
				o.CA = ca.PEM()
			}
			_, cerr, _ := dial(t, serving(tc.cert), mustClient(t, o).Config(tc.host))
			if tc.want == "" {
				if cerr != nil {
					t.Fatal(cerr)
				}
				return
			}
			ve, ok := errors.AsType[*VerifyError](cerr)
			if !ok || !strings.Contains(ve.Error(), tc.want) {
				t.Fatalf("got %v, want %q", cerr, tc.want)
			}
			byPin := strings.Contains(tc.want, "pin") || strings.Contains(tc.want, "another key")
			if (ve.Reason == ReasonPinMismatch) != byPin {
				t.Errorf("reason %v", ve.Reason)
			}
		})
	}
}

// TestPinOfStrangerProvesNothing: a server that sends a pinned certificate
// behind its own has not shown that it holds the pinned key.
func TestPinOfStrangerProvesNothing(t *testing.T) {
	pinned, self := selfSigned(t, "localhost"), selfSigned(t, "localhost")
	self.Certificate = append(self.Certificate, pinned.Certificate[0])
	cc := mustClient(t, ClientOptions{Pins: []string{Fingerprint(pinned.Leaf)}}).Config("localhost")
	if _, cerr, _ := dial(t, serving(self), cc); cerr == nil {
		t.Fatal("accepted")
	}
}

func TestServerNameOverride(t *testing.T) {
	ca := newCA(t)
	sc := serving(serverCert(t, ca, "inner.example"))
	var sni string
	sc.GetConfigForClient = func(h *stdtls.ClientHelloInfo) (*stdtls.Config, error) {
		sni = h.ServerName
		return nil, nil
	}
	m := mustClient(t, ClientOptions{CA: ca.PEM(), ServerName: "inner.example"})
	mustDial(t, sc, m.Config("127.0.0.1"))
	if sni != "inner.example" {
		t.Errorf("SNI %q", sni)
	}
	// A copy whose SNI somebody changes is still verified against the right name.
	cc := m.Config("127.0.0.1").Clone()
	cc.ServerName = "other.example"
	mustDial(t, sc, cc)
}

// TestHostileNames: what a server puts into its certificate reaches logs and
// terminals; it must be short and without control characters.
func TestHostileNames(t *testing.T) {
	ca := newCA(t)
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	template.DNSNames = []string{"a\x1b[31mred\r\n" + strings.Repeat("x", 5000)}
	cert, err := ca.issue(template)
	if err != nil {
		t.Fatal(err)
	}
	parsed := *cert.Leaf
	parsed.Issuer.CommonName = "evil\x1b[2J\n" + strings.Repeat("y", 5000)
	tr := &trust{roots: x509.NewCertPool()}
	for _, err := range []error{
		tr.verify([]*x509.Certificate{&parsed}, "localhost", time.Now()),
		tr.verify([]*x509.Certificate{cert.Leaf}, strings.Repeat("z", 5000)+"\x1b", time.Now()),
	} {
		text := err.Error()
		if strings.ContainsAny(text, "\x1b\r\n") || len(text) > 1500 {
			t.Errorf("%d bytes: %q", len(text), text)
		}
	}
}

func TestHintWithoutSystemCAs(t *testing.T) {
	cert := serverCert(t, newCA(t))
	err := (&trust{roots: x509.NewCertPool(), noSystemCAs: true}).verify([]*x509.Certificate{cert.Leaf}, "localhost", time.Now())
	if err == nil || !strings.Contains(err.Error(), "package ca-certificates") {
		t.Errorf("got %v", err)
	}
	if err := (&trust{}).verify(nil, "localhost", time.Now()); err == nil || !strings.Contains(err.Error(), "sent no certificate") {
		t.Errorf("got %v", err)
	}
}

// TestIssuerWithoutCommonName: something has to name it.
func TestIssuerWithoutCommonName(t *testing.T) {
	for want, name := range map[string]pkix.Name{
		"cn":          {CommonName: "cn", Organization: []string{"org"}},
		"org":         {Organization: []string{"org", "other"}},
		"OU=unit,C=X": {Country: []string{"X"}, OrganizationalUnit: []string{"unit"}},
	} {
		if got := commonName(name); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestReasonLabels(t *testing.T) {
	seen := make(map[string]bool)
	for r := ReasonOther; r <= ReasonPinMismatch; r++ {
		if s := r.String(); s == "" || seen[s] || strings.ContainsAny(s, " -") {
			t.Errorf("label %q of reason %d", s, r)
		} else {
			seen[s] = true
		}
	}
}

func TestClientOptions(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "none.pem")
	ca := newCA(t)
	certFile, keyFile := writeCert(t, dir, "server", serverCert(t, ca))
	for _, tc := range []struct {
		name string
		o    ClientOptions
		want string
	}{
		{"cert only", ClientOptions{CertFile: missing}, "without a key file"},
		{"key only", ClientOptions{KeyFile: missing}, "without a certificate file"},
		{"bad pin", ClientOptions{Pins: []string{"sha1/x"}}, "must begin with"},
		{"no CA file", ClientOptions{CAFile: missing}, "does not exist"},
		{"bad CA in memory", ClientOptions{CA: []byte("x")}, "CA in memory: holds no PEM block"},
		{"server's certificate", ClientOptions{CertFile: certFile, KeyFile: keyFile}, "not made for a TLS client"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Client(tc.o); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestSystemRootsStay: an extra CA comes beside the system's, not in their place.
func TestSystemRootsStay(t *testing.T) {
	system, err := x509.SystemCertPool()
	if err != nil {
		t.Fatal(err)
	}
	ca := newCA(t)
	m := mustClient(t, ClientOptions{CAFile: write(t, filepath.Join(t.TempDir(), "ca.pem"), ca.PEM())})
	system.AddCert(ca.cert)
	if !m.r.current.Load().trust.roots.Equal(system) {
		t.Error("the roots are not the system's and the extra one")
	}
	if m.Certificate() != nil {
		t.Error("a client certificate out of nothing")
	}
}
