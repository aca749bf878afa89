//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// asRoot returns a line of configuration for servers that give up root, "" for a plain user.
func asRoot(line string) string {
	if os.Geteuid() == 0 {
		return line
	}
	return ""
}

func startTinyproxy(t testing.TB) int {
	t.Helper()
	dir := tempDir(t)
	_, port := startServer(t, "tinyproxy", func(port int) *exec.Cmd {
		config := writeFile(t, dir, "tinyproxy.conf", fmt.Sprintf(`
Port %d
Listen 127.0.0.1
Timeout 600
LogLevel Connect
BasicAuth %s %s
`, port, proxyUser, proxyPassword), 0o644)
		return exec.Command(program(t, "tinyproxy"), "-d", "-c", config)
	})
	return port
}

// startApache starts Apache as a forward proxy that asks for Digest.
func startApache(t testing.TB) int {
	t.Helper()
	dir := tempDir(t)
	const realm = "corridor"
	// What htdigest writes: user, realm, and the hash of both with the password.
	sum := mustRun(t, nil, proxyUser+":"+realm+":"+proxyPassword, "openssl", "dgst", "-md5", "-r")
	passwords := writeFile(t, dir, "passwords", proxyUser+":"+realm+":"+strings.Fields(sum)[0]+"\n", 0o644)
	_, port := startServer(t, "apache2", func(port int) *exec.Cmd {
		const modules = "/usr/lib/apache2/modules/mod_"
		config := writeFile(t, dir, "apache.conf", fmt.Sprintf(`
ServerRoot %[1]s
DefaultRuntimeDir %[1]s
PidFile %[1]s/pid
ServerName localhost
Listen 127.0.0.1:%[2]d
ErrorLog %[1]s/error.log
%[3]s
LoadModule mpm_event_module %[4]smpm_event.so
LoadModule authn_core_module %[4]sauthn_core.so
LoadModule authn_file_module %[4]sauthn_file.so
LoadModule authz_core_module %[4]sauthz_core.so
LoadModule authz_user_module %[4]sauthz_user.so
LoadModule auth_digest_module %[4]sauth_digest.so
LoadModule proxy_module %[4]sproxy.so
LoadModule proxy_connect_module %[4]sproxy_connect.so
ProxyRequests On
ProxyVia Off
AllowCONNECT 1-65535
<Proxy "*">
	AuthType Digest
	AuthName %[5]s
	AuthDigestProvider file
	AuthUserFile %[6]s
	Require valid-user
</Proxy>
`, dir, port, asRoot("User www-data\nGroup www-data"), modules, realm, passwords), 0o644)
		return exec.Command(program(t, "apache2"), "-D", "FOREGROUND", "-f", config)
	})
	return port
}

// startNghttpx starts an HTTP/2 proxy with TLS, in front of an HTTP/1.1 proxy.
func startNghttpx(t testing.TB, certs *authority, behind int) int {
	t.Helper()
	_, port := startServer(t, "nghttpx", func(port int) *exec.Cmd {
		return exec.Command(program(t, "nghttpx"), "--conf=/dev/null", "--http2-proxy", "--workers=1", "--errorlog-file=/dev/stderr",
			fmt.Sprintf("--frontend=127.0.0.1,%d", port), fmt.Sprintf("--backend=127.0.0.1,%d", behind), certs.key, certs.cert)
	})
	return port
}

// startMitmproxy starts an intercepting proxy, which trusts certs, and returns the file with its own CA besides.
func startMitmproxy(t testing.TB, certs *authority, mode string) (port int, ca string) {
	t.Helper()
	dir := tempDir(t)
	_, port = startServer(t, "mitmproxy", func(port int) *exec.Cmd {
		cmd := exec.Command(program(t, "mitmdump"), "--mode", mode, "--listen-host", "127.0.0.1", "--listen-port", fmt.Sprint(port),
			"--set", "confdir="+dir, "--set", "proxyauth="+proxyUser+":"+proxyPassword,
			"--set", "ssl_verify_upstream_trusted_ca="+certs.ca)
		cmd.Env = append(os.Environ(), "HOME="+dir)
		return cmd
	})
	return port, filepath.Join(dir, "mitmproxy-ca-cert.pem")
}

func startMicrosocks(t testing.TB) int {
	t.Helper()
	_, port := startServer(t, "microsocks", func(port int) *exec.Cmd {
		return exec.Command(program(t, "microsocks"), "-i", "127.0.0.1", "-p", fmt.Sprint(port), "-u", proxyUser, "-P", proxyPassword)
	})
	return port
}

func startDante(t testing.TB) int {
	t.Helper()
	dir := tempDir(t)
	_, port := startServer(t, "danted", func(port int) *exec.Cmd {
		config := writeFile(t, dir, "danted.conf", fmt.Sprintf(`
logoutput: stderr
internal: 127.0.0.1 port = %d
external: lo
socksmethod: none
clientmethod: none
user.privileged: root
user.unprivileged: nobody
client pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }
socks pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }
`, port), 0o644)
		return exec.Command(program(t, "danted"), "-f", config, "-p", filepath.Join(dir, "pid"))
	})
	return port
}

// startCntlm starts the helper that people use today, in front of a proxy that asks for NTLM.
func startCntlm(t testing.TB, behind int) int {
	t.Helper()
	dir := tempDir(t)
	_, port := startServer(t, "cntlm", func(port int) *exec.Cmd {
		config := writeFile(t, dir, "cntlm.conf", fmt.Sprintf(`
Username %s
Domain %s
Password %s
Auth NTLMv2
Proxy 127.0.0.1:%d
Listen 127.0.0.1:%d
`, ntlmUser, ntlmDomain, ntlmPassword, behind, port), 0o600)
		return exec.Command(program(t, "cntlm"), "-f", "-c", config)
	})
	return port
}

// Proxies of all kinds other than plain squid.
func TestKindsOfProxy(t *testing.T) {
	certs := newAuthority(t)
	const plain = "http_port 127.0.0.1:%d"
	open := startSquidWith(t, plain, "http_access allow localhost\nhttp_access deny all\n")
	basic := squidBasic(t) + squidAuthenticated
	secured := startSquidWith(t, "https_port 127.0.0.1:%d tls-cert="+certs.cert+" tls-key="+readableKey(t, certs), basic)
	ntlm := startSquidWith(t, plain, startDomain(t).squidNTLM(t)+squidAuthenticated)
	h2 := startNghttpx(t, certs, startSquidWith(t, plain, basic))
	socks := fmt.Sprintf("socks5h://127.0.0.1:%d", startMicrosocks(t))
	dante := fmt.Sprintf("127.0.0.1:%d", startDante(t))
	ca := []string{"--proxy-ca-file", certs.ca}
	script := writeFile(t, tempDir(t), "proxy.pac", fmt.Sprintf(`
function FindProxyForURL(url, host) {
	if (isInNet(host, "127.0.0.0", "255.0.0.0") && shExpMatch(url, "https:*"))
		return "PROXY 127.0.0.1:1; HTTPS localhost:%d; DIRECT";
	return "PROXY 127.0.0.1:1";
}`, secured), 0o644)
	pac := append(slices.Clone(ca), "--pac", script, "--proxy-trust", "localhost")
	checkProxies(t, []proxyCase{
		{"squid", "none", proxyArgs(t, onLocalhost(open), "", ""), nil, 1, ""},
		{"squid with TLS", "Basic", proxyArgs(t, fmt.Sprintf("https://localhost:%d", secured), proxyUser, proxyPassword, ca...), nil, 2, ""},
		{"squid with TLS, by PAC after a dead one", "Basic", append(proxyArgs(t, "", proxyUser, proxyPassword), pac...), nil, 2, ""},
		{"tinyproxy", "Basic", proxyArgs(t, onLocalhost(startTinyproxy(t)), proxyUser, proxyPassword), nil, 2, ""},
		{"tinyproxy (answers 401)", "Basic, wrong password", proxyArgs(t, onLocalhost(startTinyproxy(t)), proxyUser, "wrong"), nil, 2, refused},
		{"Apache", "Digest, wrong password", proxyArgs(t, onLocalhost(startApache(t)), proxyUser, "wrong"), nil, 2, refused},
		{"microsocks, SOCKS5", "user and password, wrong", proxyArgs(t, socks, proxyUser, "wrong"), nil, 0, refused},
		{"Apache", "Digest", proxyArgs(t, onLocalhost(startApache(t)), proxyUser, proxyPassword), nil, 2, ""},
		{"nghttpx, HTTP/2, before squid", "Basic", proxyArgs(t, fmt.Sprintf("https://localhost:%d", h2), proxyUser, proxyPassword, ca...), nil, 2, ""},
		{"microsocks, SOCKS5", "user and password", proxyArgs(t, socks, proxyUser, proxyPassword), nil, 0, ""},
		{"dante, SOCKS5", "none", proxyArgs(t, "socks5://"+dante, "", ""), nil, 0, ""},
		{"cntlm before squid", "NTLMv2, by cntlm", proxyArgs(t, onLocalhost(startCntlm(t, ntlm)), "", ""), nil, 1, ""},
		{"squid, then dante, then squid with TLS", "none, none, Basic", proxyArgs(t, onLocalhost(open), "", "", append(slices.Clone(ca), "--proxy", "socks5h://"+dante,
			"--proxy", fmt.Sprintf("https://%s:%s@localhost:%d", proxyUser, proxyPassword, secured))...), nil, 3, ""},
	})
}

// readableKey is the certificate's key where squid, which has given up root, can read it.
func readableKey(t testing.TB, certs *authority) string {
	t.Helper()
	key, err := os.ReadFile(certs.key)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, tempDir(t), "key.pem", string(key), 0o644)
}

// mitmproxy takes TLS apart: with its CA the tunnel stands all the same.
func TestMitmproxy(t *testing.T) {
	a := newAgents(t, sallyport(t))
	s := a.server()
	target := startEcho(t)
	for _, mode := range []string{"regular", "socks5"} {
		port, ca := startMitmproxy(t, a.certs, mode)
		url := onLocalhost(port)
		if mode == "socks5" {
			url = fmt.Sprintf("socks5h://localhost:%d", port)
		}
		c := proxyCase{args: proxyArgs(t, url, proxyUser, proxyPassword, "--ca-file", ca)}
		r, legs := throughProxy(t, a, s, target, c)
		verdict := "through"
		if r.code != 0 || r.stdout != "hello" {
			verdict = "FAILED"
			t.Errorf("%s: exit %d, %q\n%s", mode, r.code, r.stdout, tail(r.stderr, 12))
		}
		tabulate("mitmproxy, "+mode+", intercepting", "user and password", legs, verdict)
		c.args = proxyArgs(t, url, proxyUser, proxyPassword)
		r, _ = throughProxy(t, a, s, target, c)
		if r.code != 6 || !strings.Contains(r.stderr, "mitmproxy") || !strings.Contains(r.stderr, "--ca-file") {
			t.Errorf("%s without its CA: exit %d, %s", mode, r.code, tail(r.stderr, 12))
		}
	}
}
