package tls

import (
	stdtls "crypto/tls"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestServerHandshake(t *testing.T) {
	ca := newCA(t)
	certFile, keyFile := writeCert(t, t.TempDir(), "server", serverCert(t, ca))
	sc := mustServer(t, ServerOptions{CertFile: certFile, KeyFile: keyFile}).Config()
	cc := mustClient(t, ClientOptions{CA: ca.PEM()}).Config("localhost")

	cs := mustDial(t, sc, cc).client.ConnectionState()
	if cs.Version != stdtls.VersionTLS13 || cs.NegotiatedProtocol != "http/1.1" {
		t.Errorf("version %x, ALPN %q", cs.Version, cs.NegotiatedProtocol)
	}
	old := cc.Clone()
	old.MaxVersion = stdtls.VersionTLS12
	cs = mustDial(t, sc, old).client.ConnectionState()
	if cs.Version != stdtls.VersionTLS12 || !slices.Contains(sc.CipherSuites, cs.CipherSuite) {
		t.Errorf("version %x, suite %s", cs.Version, stdtls.CipherSuiteName(cs.CipherSuite))
	}
}

func TestServerRefusesOldAndOther(t *testing.T) {
	ca := newCA(t)
	cert := serverCert(t, ca)
	sc := mustServer(t, ServerOptions{Certificate: &cert}).Config()
	good := mustClient(t, ClientOptions{CA: ca.PEM()}).Config("localhost")
	for name, change := range map[string]func(*stdtls.Config){
		"TLS 1.1": func(c *stdtls.Config) { c.MinVersion, c.MaxVersion = stdtls.VersionTLS10, stdtls.VersionTLS11 },
		"CBC only": func(c *stdtls.Config) {
			c.MaxVersion = stdtls.VersionTLS12
			c.CipherSuites = []uint16{stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, stdtls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}
		},
		"h2 only": func(c *stdtls.Config) { c.NextProtos = []string{"h2"} },
	} {
		t.Run(name, func(t *testing.T) {
			cc := good.Clone()
			change(cc)
			if _, cerr, serr := dial(t, sc, cc); cerr == nil || serr == nil {
				t.Fatalf("client: %v; server: %v; want both to fail", cerr, serr)
			}
		})
	}
	t.Run("client refuses TLS 1.1", func(t *testing.T) {
		old := &stdtls.Config{
			Certificates: []stdtls.Certificate{cert}, MinVersion: stdtls.VersionTLS10, MaxVersion: stdtls.VersionTLS11,
		}
		if _, cerr, serr := dial(t, old, good); cerr == nil || serr == nil {
			t.Fatalf("client: %v; server: %v; want both to fail", cerr, serr)
		}
	})
}

func TestClientCertificates(t *testing.T) {
	ca, clientCA, wrongCA := newCA(t), newCA(t), newCA(t)
	dir := t.TempDir()
	certFile, keyFile := writeCert(t, dir, "server", serverCert(t, ca))
	caFile := write(t, filepath.Join(dir, "clients.pem"), clientCA.PEM())
	aliceCert, aliceKey := writeCert(t, dir, "alice", clientCert(t, clientCA, "alice"))
	malloryCert, malloryKey := writeCert(t, dir, "mallory", clientCert(t, wrongCA, "mallory"))

	for _, tc := range []struct {
		name      string
		optional  bool
		cert, key string
		ok        bool
		identity  string
	}{
		{"required, given", false, aliceCert, aliceKey, true, "alice"},
		{"required, absent", false, "", "", false, ""},
		{"required, wrong CA", false, malloryCert, malloryKey, false, ""},
		{"optional, given", true, aliceCert, aliceKey, true, "alice"},
		{"optional, absent", true, "", "", true, ""},
		{"optional, wrong CA", true, malloryCert, malloryKey, false, ""},
	} {
		for _, version := range []uint16{stdtls.VersionTLS12, stdtls.VersionTLS13} {
			t.Run(tc.name+", "+stdtls.VersionName(version), func(t *testing.T) {
				sc := mustServer(t, ServerOptions{CertFile: certFile, KeyFile: keyFile, ClientCAFile: caFile, ClientCertOptional: tc.optional}).Config()
				cc := mustClient(t, ClientOptions{CA: ca.PEM(), CertFile: tc.cert, KeyFile: tc.key}).Config("127.0.0.1")
				cc.MaxVersion = version
				l, cerr, serr := dial(t, sc, cc)
				if (cerr == nil) != tc.ok || (serr == nil) != tc.ok {
					t.Fatalf("client: %v; server: %v; want success %v", cerr, serr, tc.ok)
				}
				if !tc.ok {
					return
				}
				chains := l.server.ConnectionState().VerifiedChains
				switch {
				case tc.identity == "" && len(chains) != 0:
					t.Errorf("an identity without a certificate: %v", chains[0][0].Subject)
				case tc.identity != "" && (len(chains) == 0 || chains[0][0].Subject.CommonName != tc.identity):
					t.Errorf("no verified chain of %s", tc.identity)
				}
			})
		}
	}
}

// TestTickets: resumption works where it proves nothing about the client, and
// never stands for a client certificate.
func TestTickets(t *testing.T) {
	ca := newCA(t)
	dir := t.TempDir()
	certFile, keyFile := writeCert(t, dir, "server", serverCert(t, ca))
	caFile := write(t, filepath.Join(dir, "ca.pem"), ca.PEM())
	clientFile, clientKey := writeCert(t, dir, "alice", clientCert(t, ca, "alice"))

	for _, tc := range []struct {
		name    string
		o       ServerOptions
		resumes bool
	}{
		{"without client certificates", ServerOptions{}, true},
		{"required", ServerOptions{ClientCAFile: caFile}, false},
		{"optional", ServerOptions{ClientCAFile: caFile, ClientCertOptional: true}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.o.CertFile, tc.o.KeyFile = certFile, keyFile
			sc := mustServer(t, tc.o).Config()
			cc := mustClient(t, ClientOptions{CA: ca.PEM(), CertFile: clientFile, KeyFile: clientKey}).Config("localhost")
			cc.ClientSessionCache = stdtls.NewLRUClientSessionCache(1)
			mustDial(t, sc, cc)
			if got := mustDial(t, sc, cc).server.ConnectionState().DidResume; got != tc.resumes {
				t.Errorf("resumed: %v, want %v", got, tc.resumes)
			}
		})
	}
}

func TestServerOptions(t *testing.T) {
	cert := serverCert(t, newCA(t))
	unparsed := stdtls.Certificate{Certificate: cert.Certificate, PrivateKey: cert.PrivateKey}
	for _, tc := range []struct {
		name string
		o    ServerOptions
		want string
	}{
		{"nothing", ServerOptions{}, "no server certificate"},
		{"cert only", ServerOptions{CertFile: "a"}, "without a key file"},
		{"key only", ServerOptions{KeyFile: "a"}, "without a certificate file"},
		{"twice", ServerOptions{Certificate: &cert, CertFile: "a", KeyFile: "b"}, "given twice"},
		{"optional without CA", ServerOptions{Certificate: &cert, ClientCertOptional: true}, "client CA file"},
		{"unparsed", ServerOptions{Certificate: &unparsed}, "parsed form"},
		{"no such CA file", ServerOptions{Certificate: &cert, ClientCAFile: filepath.Join(t.TempDir(), "none")}, "does not exist"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Server(tc.o); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestServerInMemoryWithClientCA(t *testing.T) {
	ca := newCA(t)
	cert := serverCert(t, ca)
	m := mustServer(t, ServerOptions{Certificate: &cert, ClientCAFile: write(t, filepath.Join(t.TempDir(), "ca.pem"), ca.PEM())})
	if m.Certificate() != cert.Leaf {
		t.Error("another certificate than given")
	}
	if _, cerr, serr := dial(t, m.Config(), mustClient(t, ClientOptions{CA: ca.PEM()}).Config("localhost")); cerr == nil || serr == nil {
		t.Errorf("client: %v; server: %v; want both to fail", cerr, serr)
	}
}
