package tls

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBadFiles has every way in which a certificate file or key file can be
// wrong: the error must name the file and say what to do, and hold no key.
func TestBadFiles(t *testing.T) {
	ca := newCA(t)
	good, other := serverCert(t, ca, "localhost"), serverCert(t, ca, "localhost")
	certPEM1, keyPEM1 := certText(good), keyText(t, good)
	keyDER, err := x509.MarshalPKCS8PrivateKey(good.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	legacy := pem.EncodeToMemory(&pem.Block{
		Type: "EC PRIVATE KEY", Bytes: keyDER,
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"},
	})
	now := time.Now()
	expired := datedCert(t, ca, now.Add(-2*day), now.Add(-day))
	early := datedCert(t, ca, now.Add(day), now.Add(2*day))
	forClients := clientCert(t, ca, "alice")

	for _, tc := range []struct {
		name      string
		cert, key []byte
		file      string // which one the error names
		want      string
	}{
		{"empty cert", nil, keyPEM1, "cert", "is empty"},
		{"empty key", certPEM1, []byte("\n \n"), "key", "is empty"},
		{"garbage cert", []byte("hello"), keyPEM1, "cert", "no PEM block"},
		{"garbage key", certPEM1, []byte("hello"), "key", "no PEM block"},
		{"swapped", keyPEM1, certPEM1, "cert", "swapped"},
		{"cert as key", certPEM1, certPEM1, "key", "swapped"},
		{"key as cert", keyPEM1, keyPEM1, "cert", "swapped"},
		{"DER cert", good.Leaf.Raw, keyPEM1, "cert", "openssl x509 -inform der"},
		{"DER key", certPEM1, keyDER, "key", "openssl pkey -inform der"},
		{"UTF-16", []byte("\xff\xfe-\x00-\x00"), keyPEM1, "cert", "UTF-16"},
		{"PKCS#12", []byte{0x30, 0x82, 1, 2, 3}, keyPEM1, "cert", "openssl pkcs12"},
		{"truncated cert", certPEM1[:len(certPEM1)/2], keyPEM1, "cert", "cut short"},
		{"truncated chain", append(certText(good), certPEM1[:len(certPEM1)/2]...), keyPEM1, "cert", "cut short"},
		{"truncated key", certPEM1, keyPEM1[:len(keyPEM1)/2], "key", "cut short"},
		{"damaged base64", []byte("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"), keyPEM1, "cert", "damaged"},
		{"bad DER in cert", block("CERTIFICATE", []byte("nonsense")), keyPEM1, "cert", "cannot be parsed"},
		{"bad DER in key", certPEM1, block("PRIVATE KEY", []byte("nonsense")), "key", "cannot be used"},
		{"encrypted PKCS#8", certPEM1, block("ENCRYPTED PRIVATE KEY", keyDER), "key", "passphrase"},
		{"encrypted legacy", certPEM1, legacy, "key", "passphrase"},
		{"ssh key", certPEM1, block("OPENSSH PRIVATE KEY", keyDER), "key", "ssh's own format"},
		{"other block", certPEM1, block("EC PARAMETERS", []byte{1}), "key", `no private key but "EC PARAMETERS"`},
		{"request as cert", block("CERTIFICATE REQUEST", []byte{1}), keyPEM1, "cert", `no certificate but "CERTIFICATE REQUEST"`},
		{"mismatch", certPEM1, keyText(t, other), "cert", "does not belong"},
		{"wrong order", append(certText(other), certPEM1...), keyPEM1, "cert", "belongs to certificate 2"},
		{"expired", certText(expired), keyText(t, expired), "cert", "has expired on"},
		{"not yet valid", certText(early), keyText(t, early), "cert", "not valid before"},
		{"wrong use", certText(forClients), keyText(t, forClients), "cert", "not made for a TLS server"},
		{"too large", make([]byte, maxFileSize+1), keyPEM1, "cert", "larger than"},
		{"X25519 key", certPEM1, block("PRIVATE KEY", x25519Key(t)), "key", "cannot sign"},
		{"P-224 key", certPEM1, block("PRIVATE KEY", p224Key(t)), "key", "unsupported kind of key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			paths := map[string]string{
				"cert": write(t, filepath.Join(dir, "the cert.pem"), tc.cert),
				"key":  write(t, filepath.Join(dir, "the key.pem"), tc.key),
			}
			_, err := Server(ServerOptions{CertFile: paths["cert"], KeyFile: paths["key"]})
			fe, ok := errors.AsType[*FileError](err)
			if !ok {
				t.Fatalf("got %v, want a FileError", err)
			}
			if fe.Path != paths[tc.file] {
				t.Errorf("the error names %s, want %s", fe.Path, paths[tc.file])
			}
			if !strings.Contains(err.Error(), tc.want) || fe.Hint == "" && !strings.Contains(tc.want, " but ") {
				t.Errorf("got %q, want %q and a hint", err, tc.want)
			}
			if secret := base64.StdEncoding.EncodeToString(keyDER)[:40]; strings.Contains(err.Error(), secret) {
				t.Errorf("the error holds the key: %v", err)
			}
		})
	}
}

func x25519Key(t *testing.T) []byte {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pkcs8(t, key)
}

func p224Key(t *testing.T) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pkcs8(t, key)
}

func pkcs8(t *testing.T, key any) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestKeyKinds: RSA, ECDSA and Ed25519 in each encoding that they have.
func TestKeyKinds(t *testing.T) {
	ca := newCA(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, kind string
		pub        any
		der        []byte
	}{
		{"RSA PKCS#8", "PRIVATE KEY", &rsaKey.PublicKey, pkcs8(t, rsaKey)},
		{"RSA PKCS#1", "RSA PRIVATE KEY", &rsaKey.PublicKey, x509.MarshalPKCS1PrivateKey(rsaKey)},
		{"ECDSA PKCS#8", "PRIVATE KEY", &ecKey.PublicKey, pkcs8(t, ecKey)},
		{"ECDSA SEC 1", "EC PRIVATE KEY", &ecKey.PublicKey, sec1},
		{"Ed25519", "PRIVATE KEY", edKey.Public(), pkcs8(t, edKey)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaf, err := sign(&x509.Certificate{
				DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-day), NotAfter: time.Now().Add(day),
			}, ca.cert, tc.pub, ca.key)
			if err != nil {
				t.Fatal(err)
			}
			// Certificate and key in one file, parameters before the key, as openssl writes them.
			text := append(certPEM(leaf.Raw), pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 0}})...)
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: tc.kind, Bytes: tc.der})...)
			both := write(t, filepath.Join(t.TempDir(), "both.pem"), text)
			m := mustServer(t, ServerOptions{CertFile: both, KeyFile: both})
			c := mustClient(t, ClientOptions{CA: ca.PEM()})
			mustDial(t, m.Config(), c.Config("localhost"))
		})
	}
}

func TestUnreadableFiles(t *testing.T) {
	dir := t.TempDir()
	_, err := readFile(dir)
	if err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("directory: %v", err)
	}
	missing := filepath.Join(dir, "none.pem")
	_, err = readFile(missing)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing+": does not exist") {
		t.Errorf("missing file: %v", err)
	}
	// By hand: a test that runs as root may read everything.
	err = readError("key.pem", &fs.PathError{Op: "open", Path: "key.pem", Err: os.ErrPermission})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "key.pem: cannot be read: no permission; the user") {
		t.Errorf("no permission: %v", err)
	}
	err = readError("key.pem", &fs.PathError{Op: "read", Path: "key.pem", Err: errors.New("input/output error")})
	if err.Error() != "key.pem: cannot be read: input/output error" {
		t.Errorf("other: %v", err)
	}
}

func TestCAFiles(t *testing.T) {
	ca := newCA(t)
	odd := certPEM([]byte("nonsense"))
	for _, tc := range []struct {
		name     string
		data     []byte
		warnings int
		want     string // of the error; empty: none
	}{
		{"one", ca.PEM(), 0, ""},
		{"mark of an editor", append([]byte("\xef\xbb\xbf"), ca.PEM()...), 0, ""},
		{"CRLF", bytes.ReplaceAll(ca.PEM(), []byte("\n"), []byte("\r\n")), 0, ""},
		{"text around", append(append([]byte("# our CA\n"), ca.PEM()...), "bye\n"...), 0, ""},
		{"one odd, one good", append(odd, ca.PEM()...), 1, ""},
		{"only odd", odd, 0, "can be parsed"},
		{"truncated after a good one", append(ca.PEM(), ca.PEM()[:200]...), 0, "cut short"},
		{"key", keyText(t, serverCert(t, ca)), 0, "swapped"},
		{"DER", ca.cert.Raw, 0, "DER"},
		{"empty", nil, 0, "is empty"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pool := x509.NewCertPool()
			warnings, err := addCAs(pool, "ca.pem", tc.data)
			if tc.want == "" {
				want := x509.NewCertPool()
				want.AddCert(ca.cert)
				if err != nil || len(warnings) != tc.warnings || !pool.Equal(want) {
					t.Fatalf("warnings %q, error %v", warnings, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "ca.pem: ") || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// FuzzPEM: no input makes the readers panic, and what they accept works.
func FuzzPEM(f *testing.F) {
	ca := newCA(f)
	cert := serverCert(f, ca, "localhost")
	f.Add(certText(cert), keyText(f, cert))
	f.Add(keyText(f, cert), certText(cert))
	f.Add(cert.Leaf.Raw, []byte{0x30})
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"), []byte("-----BEGIN PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END PRIVATE KEY-----\n"))
	src := sources{cert: "cert.pem", key: "key.pem"}
	f.Fuzz(func(t *testing.T, certData, keyData []byte) {
		got, err := parseKeyPair(src, &contents{cert: certData, key: keyData}, x509.ExtKeyUsageServerAuth)
		if (got == nil) == (err == nil) {
			t.Fatalf("certificate %v beside error %v", got, err)
		}
		if err == nil {
			if _, err := stdtls.X509KeyPair(bytes.TrimPrefix(certData, utf8Mark), bytes.TrimPrefix(keyData, utf8Mark)); err != nil {
				t.Fatalf("accepted what crypto/tls refuses: %v", err)
			}
		} else if _, ok := errors.AsType[*FileError](err); !ok {
			t.Fatalf("not a FileError: %v", err)
		}
		if _, err := addCAs(x509.NewCertPool(), "ca.pem", certData); err != nil && err.Error() == "" {
			t.Fatal("an error without text")
		}
	})
}
