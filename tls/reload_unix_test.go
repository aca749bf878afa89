//go:build unix

package tls

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestSymlinkSwap: files mounted as Kubernetes does it, where server.pem links
// to ..data/server.pem and ..data is swapped by a rename. The files themselves
// never change.
func TestSymlinkSwap(t *testing.T) {
	polled(t, func(t *testing.T, book *logBook, start func(func(context.Context) error), tick func()) {
		ca := newCA(t)
		dir := t.TempDir()
		version := func(name string) string {
			sub := filepath.Join(dir, name)
			if err := os.Mkdir(sub, 0o700); err != nil {
				t.Fatal(err)
			}
			cert := serverCert(t, ca)
			writeCert(t, sub, "server", cert)
			return Fingerprint(cert.Leaf)
		}
		point := func(name string) {
			tmp := filepath.Join(dir, "..tmp")
			if err := os.Symlink(name, tmp); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(tmp, filepath.Join(dir, "..data")); err != nil {
				t.Fatal(err)
			}
		}
		one, two := version("..1"), version("..2")
		point("..1")
		for _, f := range []string{"server.pem", "server-key.pem"} {
			if err := os.Symlink(filepath.Join("..data", f), filepath.Join(dir, f)); err != nil {
				t.Fatal(err)
			}
		}
		m := mustServer(t, ServerOptions{
			CertFile: filepath.Join(dir, "server.pem"), KeyFile: filepath.Join(dir, "server-key.pem"), Logger: book.logger(),
		})
		start(m.Run)
		if Fingerprint(m.Certificate()) != one {
			t.Fatal("not the first certificate")
		}
		point("..2")
		tick()
		if Fingerprint(m.Certificate()) != two || book.count("level=WARN") != 0 {
			t.Fatalf("not the second certificate; log:\n%s", book)
		}
	})
}

// TestNamedPipe: opening one would hang until somebody writes.
func TestNamedPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("got %v", err)
	}
}

func TestDevFileModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	f, err := Dev(DevOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{
		f.CAKey: 0o600, f.Key: 0o600, f.CA: 0o644, f.Cert: 0o644, dir: 0o700,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
	}
}
