//go:build linux

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Acceptance 1: the demo shows the proxy leg, the cut, the survival and equal hashes.
func TestDemo(t *testing.T) {
	a := newAgents(t, sallyport(t))
	r := runToEnd(t, 2*time.Minute, a.command("demo", "--once"))
	if r.code != 0 {
		t.Fatalf("exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	t.Logf("\n%s", r.stdout)
	said := strings.ToLower(r.stdout)
	for _, word := range []string{"proxy", "cut", "survived", "sha-256"} {
		if !strings.Contains(said, word) {
			t.Errorf("the output does not say %q", word)
		}
	}
	sums := regexp.MustCompile(`\b[0-9a-f]{64}\b`).FindAllString(said, -1)
	if len(sums) < 2 || len(slices.Compact(slices.Clone(sums))) != 1 {
		t.Errorf("hashes shown: %q, want at least two, all equal", sums)
	}
}

// `cert dev` and `token new` make what two agents need to know each other.
func TestDevelopersMaterial(t *testing.T) {
	a := newAgents(t, sallyport(t))
	dir := tempDir(t)
	cmd := a.command("cert", "dev")
	cmd.Dir = dir
	if r := runToEnd(t, patience, cmd); r.code != 0 {
		t.Fatalf("cert dev: exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	r := runToEnd(t, patience, a.command("token", "new", "alice"))
	if r.code != 0 {
		t.Fatalf("token new: exit %d: %s", r.code, r.stderr)
	}
	secret := regexp.MustCompile(`\bspt_[A-Za-z0-9_-]+`).FindString(r.stdout + r.stderr)
	sum := sha256.Sum256([]byte(secret))
	if secret == "" || !strings.Contains(r.stdout+r.stderr, hex.EncodeToString(sum[:])) {
		t.Fatalf("token new shows no secret with its SHA-256:\n%s%s", r.stdout, r.stderr)
	}

	target := startEcho(t)
	token := writeFile(t, dir, "token", secret, 0o600)
	s := start(t, "server agent", a.command("server", "--listen", "127.0.0.1:0",
		"--tls-cert", filepath.Join(dir, "server.pem"), "--tls-key", filepath.Join(dir, "server-key.pem"),
		"--token-file", token, "--allow", target))
	addr := s.awaitEvent(t, patience, msgServerListening, nil).str("addr")
	connect := a.command("connect", "--server", "wss://"+addr+"/tunnel", "--token-file", token,
		"--ca-file", filepath.Join(dir, "ca.pem"), "--proxy", "none", target)
	connect.Stdin = strings.NewReader("known to each other")
	if r := runToEnd(t, patience, connect); r.code != 0 || r.stdout != "known to each other" {
		t.Errorf("connect: exit %d, %q, %s", r.code, r.stdout, r.stderr)
	}
	for _, name := range []string{"server-key.pem", "ca-key.pem"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %v, want 0600", name, mode)
		}
	}
}
