package tls

import (
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDevEndToEnd: what Dev and DevClient wrote is all that a server agent and
// a client agent with mTLS need.
func TestDevEndToEnd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sub dir", "certs")
	f, err := Dev(DevOptions{Dir: dir})
	if err != nil || !f.NewCA {
		t.Fatalf("new CA: %+v, %v", f, err)
	}
	who, err := DevClient(DevClientOptions{Dir: dir, Name: "alice@example"})
	if err != nil || who.NewCA || who.Leaf.Subject.CommonName != "alice@example" {
		t.Fatalf("client: %+v, %v", who, err)
	}
	sc := mustServer(t, ServerOptions{CertFile: f.Cert, KeyFile: f.Key, ClientCAFile: f.CA}).Config()
	m := mustClient(t, ClientOptions{CAFile: f.CA, CertFile: who.Cert, KeyFile: who.Key})
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		l := mustDial(t, sc, m.Config(host))
		if got := l.server.ConnectionState().VerifiedChains[0][0].Subject.CommonName; got != "alice@example" {
			t.Errorf("%s: client %q", host, got)
		}
	}
	if m.Certificate().Subject.CommonName != "alice@example" {
		t.Error("another client certificate is in force")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 6 {
		t.Errorf("files left over: %v", entries)
	}
}

func TestDevKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	first, err := Dev(DevOptions{Dir: dir, Hosts: []string{"one.example"}})
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string) string {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	ca, cert := read(first.CA), read(first.Cert)
	if _, err := Dev(DevOptions{Dir: dir}); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "--force") {
		t.Fatalf("second time: %v", err)
	}
	if read(first.Cert) != cert {
		t.Fatal("overwritten without Force")
	}
	second, err := Dev(DevOptions{Dir: dir, Hosts: []string{"two.example"}, Force: true})
	if err != nil || second.NewCA {
		t.Fatalf("with Force: %+v, %v", second, err)
	}
	if read(first.CA) != ca || read(first.Cert) == cert {
		t.Fatal("Force must replace the certificate and keep the CA")
	}
	sc := mustServer(t, ServerOptions{CertFile: second.Cert, KeyFile: second.Key}).Config()
	mustDial(t, sc, mustClient(t, ClientOptions{CA: []byte(ca)}).Config("two.example"))

	if _, err := DevClient(DevClientOptions{Dir: dir, Name: "bob"}); err != nil {
		t.Fatal(err)
	}
	if _, err := DevClient(DevClientOptions{Dir: dir, Name: "bob"}); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("client for the second time: %v", err)
	}
	if _, err := DevClient(DevClientOptions{Dir: dir, Name: "bob", Force: true}); err != nil {
		t.Fatal(err)
	}
}

func TestDevRefusesBadCA(t *testing.T) {
	good := newCA(t)
	leaf := serverCert(t, good)
	goodKey, err := keyPEM(good.key)
	if err != nil {
		t.Fatal(err)
	}
	oldTemplate := &x509.Certificate{
		Subject: pkix.Name{CommonName: "old"}, NotBefore: time.Now().Add(-2 * day), NotAfter: time.Now().Add(-day),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	old, err := sign(oldTemplate, oldTemplate, good.key.Public(), good.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name      string
		cert, key []byte // nil: no file
		want      string
	}{
		{"no key", good.PEM(), nil, "ca-key.pem: does not exist, but"},
		{"no certificate", nil, goodKey, "ca.pem: does not exist, but"},
		{"mismatch", good.PEM(), keyText(t, leaf), "does not belong"},
		{"not a CA", certText(leaf), keyText(t, leaf), "not the certificate of a CA"},
		{"expired", certPEM(old.Raw), goodKey, "is valid from"},
		{"garbage", []byte("x"), goodKey, "no PEM block"},
		{"garbage key", good.PEM(), []byte("x"), "no PEM block"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.cert != nil {
				write(t, filepath.Join(dir, "ca.pem"), tc.cert)
			}
			if tc.key != nil {
				write(t, filepath.Join(dir, "ca-key.pem"), tc.key)
			}
			_, err := Dev(DevOptions{Dir: dir})
			if _, ok := errors.AsType[*FileError](err); !ok || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if exists(filepath.Join(dir, "server.pem")) {
				t.Error("something was written")
			}
		})
	}
	if _, err := DevClient(DevClientOptions{Dir: t.TempDir(), Name: "alice"}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "sallyport cert dev") {
		t.Errorf("client without a CA: %v", err)
	}
}

// TestDevCannotWrite: an error that names the place, and nothing left behind.
func TestDevCannotWrite(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "file"), nil)
	if _, err := Dev(DevOptions{Dir: filepath.Join(file, "sub")}); err == nil || !strings.Contains(err.Error(), "make the directory") {
		t.Errorf("below a file: %v", err)
	}
	blocked := filepath.Join(dir, "server.pem")
	if err := os.MkdirAll(filepath.Join(blocked, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Dev(DevOptions{Dir: dir, Force: true}); err == nil || !strings.Contains(err.Error(), "write "+blocked) {
		t.Errorf("over a directory: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDevRefusesBadNames(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "never")
	for _, host := range []string{
		"", "https://a.example", "a.example:443", "a b", "-a", "a-", "a..b", "*", "a.*.b", "münchen.example",
		strings.Repeat("a", 64), strings.Repeat("a.", 127) + "b", "127.0.0.1:443", "[::1]:443",
	} {
		if _, err := Dev(DevOptions{Dir: dir, Hosts: []string{host}}); err == nil || !strings.Contains(err.Error(), "host ") {
			t.Errorf("host %q: %v", host, err)
		}
	}
	for _, name := range []string{"", "../up", "a/b", `a\b`, ".hidden", "-flag", "end.", "a b", "nul\x00", strings.Repeat("a", 65), "a:b"} {
		if _, err := DevClient(DevClientOptions{Dir: dir, Name: name}); err == nil || !strings.Contains(err.Error(), "client name") {
			t.Errorf("client %q: %v", name, err)
		}
	}
	if exists(dir) {
		t.Error("a refused request made the directory")
	}
}

func TestDevCALimits(t *testing.T) {
	ca := newCA(t)
	if !ca.cert.IsCA || !ca.cert.MaxPathLenZero || ca.cert.MaxPathLen != 0 {
		t.Error("the CA may have CAs below it")
	}
	leaf := serverCert(t, ca, "localhost").Leaf
	if life := time.Until(leaf.NotAfter); life > 825*day || life < 824*day {
		t.Errorf("server certificate lives %v", life)
	}
	ca.cert.NotAfter = time.Now().Add(30 * day)
	if got := serverCert(t, ca, "localhost").Leaf.NotAfter; got.After(ca.cert.NotAfter) {
		t.Errorf("the certificate outlives its CA: %v", got)
	}
	if _, err := ca.Client(strings.Repeat("a", 65)); err == nil {
		t.Error("a common name that is too long")
	}
	long := strings.Repeat("a", 60) + ".example"
	if cn := serverCert(t, ca, long).Leaf.Subject.CommonName; cn != "" {
		t.Errorf("common name %q", cn)
	}
}

// TestDevClientIsNoServer: each certificate serves its own purpose only.
func TestDevClientIsNoServer(t *testing.T) {
	ca := newCA(t)
	cert := clientCert(t, ca, "alice")
	if _, err := Server(ServerOptions{Certificate: &cert}); err != nil {
		t.Fatal(err) // in memory: the caller's own business
	}
	_, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: poolOf(ca), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err == nil {
		t.Error("a client certificate passes as a server's")
	}
	server := serverCert(t, ca)
	sc := serving(server)
	sc.ClientAuth, sc.ClientCAs = stdtls.RequireAndVerifyClientCert, poolOf(ca)
	cc := mustClient(t, ClientOptions{CA: ca.PEM()}).Config("localhost")
	cc.GetClientCertificate = func(*stdtls.CertificateRequestInfo) (*stdtls.Certificate, error) { return &server, nil }
	if _, cerr, serr := dial(t, sc, cc); cerr == nil || serr == nil {
		t.Error("a server certificate passes as a client's")
	}
}

func poolOf(ca *DevCA) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}
