//go:build linux

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Who may use the squid of startSquid.
const (
	proxyUser     = "carol"
	proxyPassword = "corridor-pw-5531"
)

// gateName is a name for loopback that only squid can resolve: a client that reaches it went through.
const gateName = "gate.test"

// program finds a server's program, also where a plain user's PATH does not lead.
func program(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/squid"} {
		if path := filepath.Join(dir, name); exec.Command("test", "-x", path).Run() == nil {
			return path
		}
	}
	t.Fatalf("no %s on this machine: test/run.sh install brings it", name)
	return ""
}

// startSquid starts a forward proxy that asks for Basic, and returns its address and the file where
// it writes what it proxied.
func startSquid(t testing.TB) (addr, accessLog string) {
	t.Helper()
	dir := tempDir(t)
	passwords := filepath.Join(dir, "passwords")
	cmd := exec.Command(program(t, "htpasswd"), "-ic", passwords, proxyUser)
	cmd.Stdin = strings.NewReader(proxyPassword)
	if r := runToEnd(t, 10*time.Second, cmd); r.code != 0 {
		t.Fatalf("htpasswd: %s", r.stderr)
	}
	if err := os.Chmod(passwords, 0o644); err != nil {
		t.Fatal(err)
	}
	accessLog = filepath.Join(dir, "access.log")
	hosts := writeFile(t, dir, "hosts", "127.0.0.1 "+gateName+"\n", 0o644)
	_, port := startServer(t, "squid", func(port int) *exec.Cmd {
		config := writeFile(t, dir, "squid.conf", fmt.Sprintf(`
http_port 127.0.0.1:%d
auth_param basic program %s %s
auth_param basic realm corridor
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
cache deny all
cache_mem 0 MB
memory_pools off
access_log stdio:%s
logfile_rotate 0
cache_log %s/cache.log
pid_filename none
coredump_dir %s
max_filedescriptors 4096
visible_hostname localhost
shutdown_lifetime 0 seconds
via off
hosts_file %s
`, port, program(t, "basic_ncsa_auth"), passwords, accessLog, dir, dir, hosts), 0o644)
		return exec.Command(program(t, "squid"), "-N", "-d", "1", "-f", config)
	})
	return loopback(port), accessLog
}

// sshServer is a running sshd, and what a client needs for it.
type sshServer struct {
	port                  int
	user, key, knownHosts string
	dir                   string
}

// startSSHD starts an sshd that lets the user of the tests in by key.
func startSSHD(t testing.TB) *sshServer {
	t.Helper()
	dir := tempDir(t)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &sshServer{user: me.Username, key: filepath.Join(dir, "key"), knownHosts: filepath.Join(dir, "known_hosts"), dir: dir}
	hostKey := filepath.Join(dir, "host_key")
	for _, path := range []string{s.key, hostKey} {
		if r := runToEnd(t, 10*time.Second, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)); r.code != 0 {
			t.Fatalf("ssh-keygen: %s", r.stderr)
		}
	}
	if me.Uid == "0" {
		// Where sshd separates its privileges; Debian's service makes it at boot.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, s.port = startServer(t, "sshd", func(port int) *exec.Cmd {
		config := writeFile(t, dir, "sshd_config", fmt.Sprintf(`
Port %d
ListenAddress 127.0.0.1
HostKey %s
AuthorizedKeysFile %s.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
PrintMotd no
MaxStartups 100
`, port, hostKey, s.key), 0o600)
		return exec.Command(program(t, "sshd"), "-D", "-e", "-f", config)
	})
	return s
}

// command returns an ssh command for the server, with options before and a remote command after.
func (s *sshServer) command(options []string, remote ...string) *exec.Cmd {
	args := []string{
		"-F", "none", "-i", s.key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile=" + s.knownHosts,
		"-o", "ConnectTimeout=15", "-o", "LogLevel=ERROR",
	}
	args = append(append(args, options...), s.user+"@127.0.0.1")
	return exec.Command("ssh", append(args, remote...)...)
}

// startRedis starts a redis server and returns its port.
func startRedis(t testing.TB) int {
	t.Helper()
	dir := tempDir(t)
	_, port := startServer(t, "redis", func(port int) *exec.Cmd {
		return exec.Command(program(t, "redis-server"), "--port", fmt.Sprint(port), "--bind", "127.0.0.1",
			"--save", "", "--appendonly", "no", "--dir", dir)
	})
	return port
}

// redisCLI runs one redis command at a port and returns what it printed.
func redisCLI(t testing.TB, port int, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program(t, "redis-cli"), append([]string{"-h", "127.0.0.1", "-p", fmt.Sprint(port)}, args...)...)
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	r := runToEnd(t, time.Minute, cmd)
	if r.code != 0 {
		t.Fatalf("redis-cli %v: exit %d: %s%s", args, r.code, r.stdout, r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

// authority is a throw-away CA and the server certificate that it made for loopback.
type authority struct {
	ca, cert, key string // files
	pool          *x509.CertPool
	pair          tls.Certificate
}

// newAuthority makes one.
func newAuthority(t testing.TB) *authority {
	t.Helper()
	dir := tempDir(t)
	caKey, caTemplate := newKey(t), template(1, "e2e CA")
	caTemplate.IsCA, caTemplate.BasicConstraintsValid = true, true
	caTemplate.KeyUsage = x509.KeyUsageCertSign
	caDER := sign(t, caTemplate, caTemplate, caKey, caKey)

	key, leaf := newKey(t), template(2, "localhost")
	leaf.DNSNames = []string{"localhost", gateName}
	leaf.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der := sign(t, leaf, caTemplate, key, caKey)

	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	a := &authority{
		ca:   writeFile(t, dir, "ca.pem", block("CERTIFICATE", caDER), 0o644),
		cert: writeFile(t, dir, "server.pem", block("CERTIFICATE", der), 0o644),
		key:  writeFile(t, dir, "server-key.pem", block("PRIVATE KEY", keyDER), 0o600),
		pool: x509.NewCertPool(),
		pair: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
	}
	a.pool.AppendCertsFromPEM([]byte(block("CERTIFICATE", caDER)))
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func template(serial int64, name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

func sign(t testing.TB, cert, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
