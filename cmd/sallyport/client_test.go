package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/cmd/internal/config"
	"sallyport/proxy"
	certs "sallyport/tls"
)

// clientConfig reads a file's section "client" and a few variables.
func clientConfig(t *testing.T, yaml string, env map[string]string) config.ClientConfig {
	t.Helper()
	c, err := config.Parse("client.yaml", []byte("client:\n"+yaml))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ApplyEnv(config.Client, func(name string) (string, bool) { v, ok := env[name]; return v, ok }); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(config.Client, checks()); err != nil {
		t.Fatal(err)
	}
	return c.Client
}

// serve runs f with a listener until the test ends.
func serve(t *testing.T, wrap func(net.Listener) net.Listener, f func(context.Context, net.Listener) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx, wrap(l)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%v", err)
		}
	})
	return l.Addr().String()
}

// plain is no wrapping.
func plain(l net.Listener) net.Listener { return l }

// An https:// proxy is trusted by the CA file, whatever pins the server agent has.
func TestProxyOverTLS(t *testing.T) {
	dir := t.TempDir()
	files, err := certs.Dev(certs.DevOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	echo := serve(t, plain, demoEcho)
	said := make(chan string, 1)
	gate := serve(t, func(l net.Listener) net.Listener {
		return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}})
	}, func(ctx context.Context, l net.Listener) error {
		stop := context.AfterFunc(ctx, func() { l.Close() })
		defer stop()
		for {
			c, err := l.Accept()
			if err != nil {
				return nil
			}
			head := make([]byte, 4096)
			if n, err := c.Read(head); err == nil { // the second one ends in the handshake
				said <- string(head[:n])
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhello")
			}
			c.Close()
		}
	})

	const pin = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	c := clientConfig(t, fmt.Sprintf("  server: \"wss://%s\"\n  proxy: \"https://%s\"\n  ca_file: %q\n  pin: [%q]\n", echo, gate, files.CA, pin), nil)
	f, err := readClientFiles(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := f.out.DialContext(t.Context(), "tcp", hostPort(f.url))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hello := make([]byte, 5)
	if _, err := io.ReadFull(conn, hello); err != nil || string(hello) != "hello" {
		t.Errorf("through the proxy: %q, %v", hello, err)
	}
	if head := <-said; !strings.HasPrefix(head, "CONNECT "+echo+" ") {
		t.Errorf("the proxy was told %q", head)
	}

	// Without the CA it is not.
	c.CAFile = ""
	if f, err = readClientFiles(c, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.out.DialContext(t.Context(), "tcp", hostPort(f.url)); err == nil {
		t.Error("a proxy that nobody vouches for was accepted")
	} else if code := codeOf(carrier(proxy.CauseTLS, err)); code != exitTLS {
		t.Errorf("exit code %d for %v", code, err)
	}
}

// A token is read anew for each carrier; while its file is unusable, the last one goes on.
func TestTokenRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const first, second = "spt_the-first-of-two-tokens", "spt_the-second-of-two-tokens"
	write(first + "\n")
	c := clientConfig(t, fmt.Sprintf("  server: \"wss://gate.example.com\"\n  token_file: %q\n", path), nil)
	s, err := newTokenSource(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		change func()
		want   string
	}{
		{func() {}, first},
		{func() { write(second) }, second},
		{func() { write("") }, second},
		{func() { os.Remove(path) }, second},
		{func() { write(first) }, first},
	} {
		step.change()
		if got, err := s.token(); err != nil || got != step.want {
			t.Errorf("step %d: %q, %v; want %q", i, got, err, step.want)
		}
	}
	os.Remove(path)
	if _, err := newTokenSource(c, slog.New(slog.DiscardHandler)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	// In the environment, and none at all: a client certificate may do.
	none := clientConfig(t, "  server: \"wss://gate.example.com\"\n", nil)
	if s, err = newTokenSource(none, nil); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.token(); got != "" {
		t.Errorf("got a token from nowhere: %q", got)
	}
	env := clientConfig(t, "  server: \"wss://gate.example.com\"\n", map[string]string{"SALLYPORT_TOKEN": first})
	if s, err = newTokenSource(env, nil); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.token(); got != first {
		t.Errorf("from the environment: %q", got)
	}
}

func TestHostPort(t *testing.T) {
	for server, want := range map[string]string{
		"wss://gate.example.com":      "gate.example.com:443",
		"wss://gate.example.com:8443": "gate.example.com:8443",
		"wss://[2001:db8::1]":         "[2001:db8::1]:443",
		"ws://127.0.0.1/x":            "127.0.0.1:80",
	} {
		u, err := clientConfig(t, fmt.Sprintf("  server: %q\n", server), nil).ServerURL()
		if err != nil {
			t.Fatal(err)
		}
		if got := hostPort(u); got != want {
			t.Errorf("%s: %s, want %s", server, got, want)
		}
	}
}
