package tls

import (
	"context"
	stdtls "crypto/tls"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestServerReload: new handshakes use the new certificate, a connection that
// is open goes on, and bad files change nothing.
func TestServerReload(t *testing.T) {
	ca := newCA(t)
	dir := t.TempDir()
	first, second := serverCert(t, ca), serverCert(t, ca)
	certFile, keyFile := writeCert(t, dir, "server", first)
	m := mustServer(t, ServerOptions{CertFile: certFile, KeyFile: keyFile})
	sc := m.Config() // taken once, as a listener does
	cc := mustClient(t, ClientOptions{CA: ca.PEM()}).Config("localhost")

	live := mustDial(t, sc, cc)
	served := func() string {
		return Fingerprint(mustDial(t, sc, cc).client.ConnectionState().PeerCertificates[0])
	}
	if served() != Fingerprint(first.Leaf) {
		t.Fatal("not the first certificate")
	}

	write(t, certFile, certText(second)) // its key is still the first's
	err := m.Reload()
	if _, ok := errors.AsType[*FileError](err); !ok || !strings.Contains(err.Error(), "does not belong") {
		t.Fatalf("mismatch: %v", err)
	}
	if served() != Fingerprint(first.Leaf) || m.Certificate() != m.r.current.Load().cert.Leaf {
		t.Fatal("a bad pair was put in force")
	}

	write(t, keyFile, keyText(t, second))
	if err := m.Reload(); err != nil {
		t.Fatal(err)
	}
	if served() != Fingerprint(second.Leaf) || Fingerprint(m.Certificate()) != Fingerprint(second.Leaf) {
		t.Fatal("not the second certificate")
	}

	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	if err := m.Reload(); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing file: %v", err)
	}
	if served() != Fingerprint(second.Leaf) {
		t.Fatal("a missing file took the certificate away")
	}

	done := make(chan error, 1)
	go func() { done <- copyByte(live.server) }()
	if err := live.ping(); err != nil {
		t.Errorf("the open connection was cut: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("the open connection was cut: %v", err)
	}
}

// TestClientCAReload: a CA that was taken out is refused at once, also for a
// client that would like to resume.
func TestClientCAReload(t *testing.T) {
	ca, oldCA, newerCA := newCA(t), newCA(t), newCA(t)
	dir := t.TempDir()
	certFile, keyFile := writeCert(t, dir, "server", serverCert(t, ca))
	caFile := write(t, filepath.Join(dir, "clients.pem"), oldCA.PEM())
	m := mustServer(t, ServerOptions{CertFile: certFile, KeyFile: keyFile, ClientCAFile: caFile})
	sc := m.Config()
	config := func(ca2 *DevCA, name string) *stdtls.Config {
		c, k := writeCert(t, dir, name, clientCert(t, ca2, name))
		cc := mustClient(t, ClientOptions{CA: ca.PEM(), CertFile: c, KeyFile: k}).Config("localhost")
		cc.ClientSessionCache = stdtls.NewLRUClientSessionCache(4)
		return cc
	}
	alice, bob := config(oldCA, "alice"), config(newerCA, "bob")

	mustDial(t, sc, alice)
	if _, cerr, serr := dial(t, sc, bob); cerr == nil || serr == nil {
		t.Fatal("bob came in before his CA")
	}
	write(t, caFile, newerCA.PEM())
	if err := m.Reload(); err != nil {
		t.Fatal(err)
	}
	mustDial(t, sc, bob)
	if _, cerr, serr := dial(t, sc, alice); cerr == nil || serr == nil {
		t.Fatal("alice came in after her CA was taken out")
	}
}

// TestClientReload: one config, handed out once, follows CAs, certificate and pins.
func TestClientReload(t *testing.T) {
	ca, ca2 := newCA(t), newCA(t)
	dir := t.TempDir()
	caFile := write(t, filepath.Join(dir, "ca.pem"), ca.PEM())
	certFile, keyFile := writeCert(t, dir, "me", clientCert(t, ca, "old"))
	o := ClientOptions{CAFile: caFile, CertFile: certFile, KeyFile: keyFile}
	m := mustClient(t, o)
	cc := m.Config("localhost")
	first, second := serverCert(t, ca), serverCert(t, ca2)
	asking := func(c stdtls.Certificate) *stdtls.Config {
		sc := serving(c)
		sc.ClientAuth = stdtls.RequireAnyClientCert
		return sc
	}
	shown := func(l link) string { return l.server.ConnectionState().PeerCertificates[0].Subject.CommonName }

	if got := shown(mustDial(t, asking(first), cc)); got != "old" {
		t.Fatalf("client %q", got)
	}
	if _, cerr, _ := dial(t, asking(second), cc); cerr == nil {
		t.Fatal("an unknown CA was accepted")
	}

	write(t, caFile, ca2.PEM())
	writeCert(t, dir, "me", clientCert(t, ca, "new"))
	if err := m.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := shown(mustDial(t, asking(second), cc)); got != "new" {
		t.Fatalf("client %q", got)
	}
	if _, cerr, _ := dial(t, asking(first), cc); cerr == nil {
		t.Fatal("the CA that was taken out is still trusted")
	}

	o.Pins = []string{Fingerprint(first.Leaf)}
	if err := m.Update(o); err != nil {
		t.Fatal(err)
	}
	mustDial(t, asking(first), cc)
	if _, cerr, _ := dial(t, asking(second), cc); cerr == nil {
		t.Fatal("the pin did not narrow")
	}
	bad := o
	bad.Pins = []string{"nonsense"}
	if err := m.Update(bad); err == nil {
		t.Fatal("a bad pin was taken")
	}
	bad = o
	bad.CAFile = filepath.Join(dir, "none.pem")
	if err := m.Update(bad); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing CA file: %v", err)
	}
	mustDial(t, asking(first), cc) // as before
	if err := m.Reload(); err != nil {
		t.Fatalf("the refused options stayed: %v", err)
	}
}

func TestServerUpdate(t *testing.T) {
	ca := newCA(t)
	dir := t.TempDir()
	first, second := serverCert(t, ca), serverCert(t, ca)
	c1, k1 := writeCert(t, dir, "one", first)
	c2, k2 := writeCert(t, dir, "two", second)
	m := mustServer(t, ServerOptions{CertFile: c1, KeyFile: k1})
	if err := m.Update(ServerOptions{CertFile: c2, KeyFile: k1}); err == nil {
		t.Fatal("a mismatch was taken")
	}
	if err := m.Update(ServerOptions{}); err == nil {
		t.Fatal("no certificate at all was taken")
	}
	if Fingerprint(m.Certificate()) != Fingerprint(first.Leaf) {
		t.Fatal("a refused update changed something")
	}
	if err := m.Update(ServerOptions{CertFile: c2, KeyFile: k2}); err != nil {
		t.Fatal(err)
	}
	if Fingerprint(m.Certificate()) != Fingerprint(second.Leaf) {
		t.Fatal("the update changed nothing")
	}
}

// polled runs test in a bubble of virtual time with m's Run beside it; tick
// lets one poll happen.
func polled(t *testing.T, test func(t *testing.T, book *logBook, start func(run func(context.Context) error), tick func())) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		start := func(run func(context.Context) error) {
			wg.Go(func() {
				if err := run(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("Run returned %v", err)
				}
			})
			synctest.Wait()
		}
		tick := func() {
			time.Sleep(defaultPoll) // virtual
			synctest.Wait()
		}
		test(t, &logBook{}, start, tick)
		cancel()
		wg.Wait()
	})
}

func TestPolling(t *testing.T) {
	polled(t, func(t *testing.T, book *logBook, start func(func(context.Context) error), tick func()) {
		ca := newCA(t)
		dir := t.TempDir()
		first, second := serverCert(t, ca), serverCert(t, ca)
		certFile, keyFile := writeCert(t, dir, "server", first)
		m := mustServer(t, ServerOptions{CertFile: certFile, KeyFile: keyFile, Logger: book.logger()})
		start(m.Run)
		in := func(want stdtls.Certificate) {
			t.Helper()
			if Fingerprint(m.Certificate()) != Fingerprint(want.Leaf) {
				t.Fatalf("another certificate is in force; log:\n%s", book)
			}
		}

		tick()
		in(first)
		if book.String() != "" {
			t.Fatalf("nothing changed, but:\n%s", book)
		}

		// Certificate first, key after the next poll: no reason to warn.
		write(t, certFile, certText(second))
		tick()
		in(first)
		write(t, keyFile, keyText(t, second))
		tick()
		in(second)
		if book.count("level=WARN") != 0 || book.count("certificates reloaded", Fingerprint(second.Leaf)) != 1 {
			t.Fatalf("log:\n%s", book)
		}

		// Bad for long: one warning for each distinct failure.
		write(t, certFile, certText(first))
		for range 5 {
			tick()
		}
		in(second)
		write(t, keyFile, []byte("garbage"))
		for range 5 {
			tick()
		}
		in(second)
		if book.count("level=WARN") != 2 || book.count("level=WARN", "does not belong") != 1 || book.count("level=WARN", "no PEM block") != 1 {
			t.Fatalf("log:\n%s", book)
		}

		// Back to what is in force, then bad in the same way: news again.
		writeCert(t, dir, "server", second)
		tick()
		if book.count("good again") != 1 {
			t.Fatalf("log:\n%s", book)
		}
		write(t, keyFile, []byte("garbage"))
		for range 3 {
			tick()
		}
		if book.count("level=WARN", "no PEM block") != 2 {
			t.Fatalf("log:\n%s", book)
		}
	})
}

// TestReloadErrorIsToldOnce: what Reload returned is not logged again by a poll.
func TestReloadErrorIsToldOnce(t *testing.T) {
	polled(t, func(t *testing.T, book *logBook, start func(func(context.Context) error), tick func()) {
		caFile := write(t, filepath.Join(t.TempDir(), "ca.pem"), newCA(t).PEM())
		m := mustClient(t, ClientOptions{CAFile: caFile, Logger: book.logger()})
		start(m.Run)
		write(t, caFile, nil)
		if err := m.Reload(); err == nil || !strings.Contains(err.Error(), "stay in force") {
			t.Fatalf("Reload: %v", err)
		}
		tick()
		tick()
		if book.String() != "" {
			t.Fatalf("log:\n%s", book)
		}
		write(t, caFile, newCA(t).PEM())
		tick()
		if book.count("certificates reloaded", "side=client") != 1 {
			t.Fatalf("log:\n%s", book)
		}
	})
}

// TestNotYetValidBecomesValid: the file stays as it is, only time goes on.
func TestNotYetValidBecomesValid(t *testing.T) {
	polled(t, func(t *testing.T, book *logBook, start func(func(context.Context) error), tick func()) {
		ca := newCA(t)
		dir := t.TempDir()
		certFile, keyFile := writeCert(t, dir, "server", serverCert(t, ca))
		m := mustServer(t, ServerOptions{CertFile: certFile, KeyFile: keyFile, Logger: book.logger()})
		start(m.Run)
		next := datedCert(t, ca, time.Now().Add(time.Minute), time.Now().Add(90*day))
		writeCert(t, dir, "server", next)
		for range 5 {
			tick()
		}
		if Fingerprint(m.Certificate()) == Fingerprint(next.Leaf) || book.count("not valid before") != 1 {
			t.Fatalf("in force too early; log:\n%s", book)
		}
		tick()
		tick()
		if Fingerprint(m.Certificate()) != Fingerprint(next.Leaf) {
			t.Fatalf("not in force in time; log:\n%s", book)
		}
	})
}

func TestExpiryNotice(t *testing.T) {
	for name, life := range map[string]time.Duration{"long": 300 * day, "short": 20 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			polled(t, func(t *testing.T, book *logBook, start func(func(context.Context) error), _ func()) {
				ca := newCA(t)
				dir := t.TempDir()
				begin := time.Now()
				certFile, keyFile := writeCert(t, dir, "server", datedCert(t, ca, begin, begin.Add(life)))
				m := mustServer(t, ServerOptions{CertFile: certFile, KeyFile: keyFile, PollInterval: time.Hour, Logger: book.logger()})
				start(m.Run)
				ahead := min(14*day, life/10)
				time.Sleep(life - ahead - time.Hour)
				synctest.Wait()
				if book.String() != "" {
					t.Fatalf("too early:\n%s", book)
				}
				time.Sleep(ahead + 5*time.Hour)
				synctest.Wait()
				if book.count("level=WARN", "about to expire") != 1 {
					t.Fatalf("log:\n%s", book)
				}
			})
		})
	}
}

// TestReloadUnderLoad: handshakes, reloads and updates at once, for -race.
func TestReloadUnderLoad(t *testing.T) {
	ca := newCA(t)
	dir := t.TempDir()
	certs := []stdtls.Certificate{serverCert(t, ca), serverCert(t, ca)}
	c0, k0 := writeCert(t, dir, "a", certs[0])
	c1, k1 := writeCert(t, dir, "b", certs[1])
	m := mustServer(t, ServerOptions{CertFile: c0, KeyFile: k0})
	client := mustClient(t, ClientOptions{CA: ca.PEM()})
	sc, cc := m.Config(), client.Config("localhost")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			o := ServerOptions{CertFile: c0, KeyFile: k0}
			if i%2 == 0 {
				o = ServerOptions{CertFile: c1, KeyFile: k1}
			}
			if err := errors.Join(m.Update(o), m.Reload(), client.Reload()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 50 {
		l := mustDial(t, sc, cc)
		l.close()
	}
	close(stop)
	wg.Wait()
}
