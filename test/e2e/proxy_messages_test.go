//go:build linux

package e2e

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata/proxy_messages.golden")

// squidBumping starts a squid that takes TLS apart with a CA of its own, and returns its port and the CA's file.
func squidBumping(t testing.TB, certs *authority, lines string) (port int, ca string) {
	t.Helper()
	dir := tempDir(t)
	ca, key := filepath.Join(dir, "bump.pem"), filepath.Join(dir, "bump-key.pem")
	mustRun(t, nil, "", "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=Corporate Inspection CA",
		"-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign", "-keyout", key, "-out", ca)
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(dir, "certs")
	mustRun(t, nil, "", "security_file_certgen", "-c", "-s", db, "-M", "4MB")
	mustRun(t, nil, "", "chmod", "-R", "a+rwX", db)
	port = startSquidWith(t, fmt.Sprintf("http_port 127.0.0.1:%%d ssl-bump generate-host-certificates=on tls-cert=%s tls-key=%s", ca, key), fmt.Sprintf(`
sslcrtd_program %s -s %s -M 4MB
sslcrtd_children 2
acl step1 at_step SslBump1
ssl_bump peek step1
ssl_bump bump all
tls_outgoing_options cafile=%s
http_access allow localhost
http_access deny all
`, program(t, "security_file_certgen"), db, certs.ca)+lines)
	return port, ca
}

// squid's interception with and without what lets WebSockets pass.
func TestSquidBump(t *testing.T) {
	a := newAgents(t, sallyport(t))
	s := a.server()
	target := startEcho(t)
	port, ca := squidBumping(t, a.certs, "http_upgrade_request_protocols websocket allow all\n")
	c := proxyCase{args: proxyArgs(t, onLocalhost(port), "", "", "--ca-file", ca, "--server", byName(t, s))}
	r, legs := throughProxy(t, a, s, target, c)
	verdict := "through"
	if r.code != 0 || r.stdout != "hello" {
		verdict = "FAILED"
		t.Errorf("exit %d, %q\n%s", r.code, r.stdout, tail(r.stderr, 12))
	}
	tabulate("squid, ssl-bump, intercepting", "none", legs, verdict)
}

// byName is the server agent's URL with a name: squid's certificates hold no addresses.
func byName(t testing.TB, s *server) string {
	t.Helper()
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	return "wss://" + net.JoinHostPort(gateName, port) + "/tunnel"
}

// scriptedProxy answers each CONNECT with a text.
func scriptedProxy(t testing.TB, text string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, ln, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			io.WriteString(c, text)
		}
	})
	return "http://" + ln.Addr().String()
}

// What `sallyport client` says for each way in which a proxy fails is in testdata/proxy_messages.golden: read it as a
// user would.
func TestProxyMessages(t *testing.T) {
	a := newAgents(t, sallyport(t))
	s := a.server()
	k := startKDC(t)
	conf := "KRB5_CONFIG=" + k.conf
	expired := k.ticket(t, "1s")
	const plain = "http_port 127.0.0.1:%d"
	basic := onLocalhost(startSquidWith(t, plain, squidBasic(t)+squidAuthenticated))
	negotiate := onLocalhost(startSquidWith(t, plain, k.squidNegotiate(t)+squidAuthenticated, conf))
	strict := onLocalhost(startSquidWith(t, plain, "acl ssl port 443\nhttp_access deny CONNECT !ssl\nhttp_access allow localhost\n"))
	bumping, ca := squidBumping(t, a.certs, "")
	awaitExpiry(t, expired)
	closed := loopback(freePort(t))
	portal := scriptedProxy(t, "HTTP/1.1 302 Found\r\nLocation: https://portal.hotel.example/login?mac=00:11\r\nContent-Length: 0\r\n\r\n")
	page := scriptedProxy(t, "HTTP/1.1 511 Network Authentication Required\r\nContent-Type: text/html\r\n\r\n<html><title>Hotel</title><h1>Please log in</h1></html>")

	var golden strings.Builder
	for _, c := range []struct {
		name string
		url  string
		args []string
		env  []string
	}{
		{"wrong password", "", proxyArgs(t, basic, proxyUser, "not-"+proxyPassword), nil},
		{"no password", "", proxyArgs(t, basic, "", ""), nil},
		{"wrong Kerberos password", "", proxyArgs(t, negotiate, kerberosUser+"@SALLY.TEST", "not-"+kerberosPassword), []string{conf}},
		{"missing ticket", "", proxyArgs(t, negotiate, "", ""), []string{conf}},
		{"expired ticket", "", proxyArgs(t, negotiate, "", ""), expired},
		{"no common scheme", "", proxyArgs(t, basic, proxyUser, proxyPassword, "--proxy-auth", "ntlm"), nil},
		{"proxy down", "", proxyArgs(t, "http://"+closed, "", ""), nil},
		{"proxy's name unknown", "", proxyArgs(t, "http://proxy.invalid:3128", "", ""), nil},
		{"server's name unknown to the proxy", "wss://nowhere.invalid/tunnel", proxyArgs(t, strict, "", ""), nil},
		{"CONNECT forbidden", "", proxyArgs(t, strict, "", ""), nil},
		{"Upgrade stripped", byName(t, s), proxyArgs(t, onLocalhost(bumping), "", "", "--ca-file", ca), nil},
		{"interception without the CA", byName(t, s), proxyArgs(t, onLocalhost(bumping), "", ""), nil},
		{"captive portal that redirects", "", proxyArgs(t, portal, "", ""), nil},
		{"captive portal by its status", "", proxyArgs(t, page, "", ""), nil},
	} {
		if c.url == "" {
			c.url = s.url()
		}
		cmd := a.command(append([]string{"client", "-L", "127.0.0.1:0:127.0.0.1:9"}, a.clientArgs(c.url, c.args)...)...)
		cmd.Env = append(cmd.Env, "KRB5CCNAME=FILE:/nonexistent/cache", "KRB5_CONFIG=/nonexistent/krb5.conf", "SALLYPORT_LOG_FORMAT=json")
		cmd.Env = append(cmd.Env, c.env...)
		fmt.Fprintf(&golden, "%s\n%s\n", c.name, said(t, c.name, cmd))
	}
	text := normal(golden.String(), s.addr)
	const file = "testdata/proxy_messages.golden"
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("the messages differ from %s (go test -update rewrites it); they are:\n%s", file, text)
	}
}

// said runs the client until it ends or has said why it goes on trying.
func said(t *testing.T, name string, cmd *exec.Cmd) string {
	t.Helper()
	p := start(t, "client: "+name, cmd)
	var text string
	eventually(t, patience, name+": the client says something", func() bool {
		for _, e := range p.events("server agent not reached") {
			text = fmt.Sprintf("    %s: %s\n    hint: %s\n", e.str("msg"), e.str("error"), e.str("hint"))
			return true
		}
		return !p.running()
	})
	p.stop()
	if text != "" {
		return text
	}
	for line := range strings.Lines(p.output()) {
		if strings.HasPrefix(line, "sallyport: ") || strings.HasPrefix(line, "hint: ") {
			text += "    " + line
		}
	}
	return text + fmt.Sprintf("    exit %d\n", p.cmd.ProcessState.ExitCode())
}

// normal takes out what differs from run to run.
func normal(text, server string) string {
	text = strings.ReplaceAll(text, server, "SERVER")
	for pattern, instead := range map[string]string{
		`(127\.0\.0\.1|localhost|gate\.test):\d+`:   "$1:PORT",
		`expired at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d`: "expired at DATE TIME",
		`sha256/[A-Za-z0-9+/=]+`:                    "sha256/PIN",
		` on [0-9.:\[\]a-f]+:53`:                    "",
	} {
		text = regexp.MustCompile(pattern).ReplaceAllString(text, instead)
	}
	return text
}
