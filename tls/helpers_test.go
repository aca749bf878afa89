package tls

import (
	"bytes"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const day = 24 * time.Hour

func newCA(t testing.TB) *DevCA {
	t.Helper()
	ca, err := NewDevCA()
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func serverCert(t testing.TB, ca *DevCA, hosts ...string) stdtls.Certificate {
	t.Helper()
	cert, err := ca.Server(hosts...)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func clientCert(t testing.TB, ca *DevCA, name string) stdtls.Certificate {
	t.Helper()
	cert, err := ca.Client(name)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// datedCert is a server certificate for localhost that is valid for a time of choice.
func datedCert(t testing.TB, ca *DevCA, from, to time.Time) stdtls.Certificate {
	t.Helper()
	cert, err := ca.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore:   from, NotAfter: to,
	})
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// selfSigned is a server certificate without a CA, for hosts, perhaps none.
func selfSigned(t testing.TB, hosts ...string) stdtls.Certificate {
	t.Helper()
	key := newCA(t).key
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "self"}, DNSNames: hosts,
		NotBefore: time.Now().Add(-day), NotAfter: time.Now().Add(day),
	}
	leaf, err := sign(template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return stdtls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func write(t testing.TB, path string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func certText(cert stdtls.Certificate) []byte {
	var b bytes.Buffer
	for _, der := range cert.Certificate {
		b.Write(certPEM(der))
	}
	return b.Bytes()
}

func keyText(t testing.TB, cert stdtls.Certificate) []byte {
	t.Helper()
	text, err := keyPEM(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// writeCert writes base.pem and base-key.pem and returns their paths.
func writeCert(t testing.TB, dir, base string, cert stdtls.Certificate) (certFile, keyFile string) {
	t.Helper()
	certFile = write(t, filepath.Join(dir, base+".pem"), certText(cert))
	keyFile = write(t, filepath.Join(dir, base+"-key.pem"), keyText(t, cert))
	return certFile, keyFile
}

func mustServer(t testing.TB, o ServerOptions) *ServerMaterial {
	t.Helper()
	m, err := Server(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustClient(t testing.TB, o ClientOptions) *ClientMaterial {
	t.Helper()
	m, err := Client(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// link is a TLS connection over loopback TCP with both its ends.
type link struct {
	client, server *stdtls.Conn
}

// dial connects, completes both handshakes and sends a byte each way; with TLS
// 1.3 a client learns only from its first read that its certificate was refused.
func dial(t testing.TB, sc, cc *stdtls.Config) (l link, clientErr, serverErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	raw.SetDeadline(deadline)
	accepted.SetDeadline(deadline)
	l = link{stdtls.Client(raw, cc), stdtls.Server(accepted, sc)}
	t.Cleanup(func() { l.close() })
	var wg sync.WaitGroup
	wg.Go(func() {
		if serverErr = l.server.Handshake(); serverErr == nil {
			serverErr = copyByte(l.server)
		}
		if serverErr != nil {
			accepted.(*net.TCPConn).CloseWrite() // the alert is out; unread input must not turn it into a reset
		}
	})
	if clientErr = l.client.Handshake(); clientErr == nil {
		clientErr = l.ping()
	}
	if clientErr != nil {
		raw.Close()
	}
	wg.Wait()
	return l, clientErr, serverErr
}

func copyByte(c io.ReadWriter) error {
	_, err := io.CopyN(c, c, 1)
	return err
}

// ping sends a byte to the server, which must send it back.
func (l link) ping() error {
	if _, err := l.client.Write([]byte{42}); err != nil {
		return err
	}
	_, err := io.ReadFull(l.client, make([]byte, 1))
	return err
}

func (l link) close() {
	l.client.NetConn().Close()
	l.server.NetConn().Close()
}

// mustDial is dial for connections that have to work.
func mustDial(t testing.TB, sc, cc *stdtls.Config) link {
	t.Helper()
	l, cerr, serr := dial(t, sc, cc)
	if cerr != nil || serr != nil {
		t.Fatalf("client: %v; server: %v", cerr, serr)
	}
	return l
}

// logBook is a logger whose lines can be counted.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func (b *logBook) count(parts ...string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for line := range strings.Lines(b.buf.String()) {
		all := true
		for _, part := range parts {
			all = all && strings.Contains(line, part)
		}
		if all {
			n++
		}
	}
	return n
}

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
