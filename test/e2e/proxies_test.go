//go:build linux

package e2e

import (
	"encoding/base64"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// proxyCase is one proxy with one way to authenticate.
type proxyCase struct {
	proxy, scheme string
	args          []string // flags of the way out
	env           []string
	legs          int    // CONNECT requests of the first connection
	fail          string // what it says instead of getting through; the exit code is then 5
}

func (c proxyCase) String() string { return c.proxy + ", " + c.scheme }

// throughProxy sends a word to an echo and back, through a proxy, and tells the number of CONNECTs that it took.
func throughProxy(t *testing.T, a *agents, s *server, target string, c proxyCase) (result, int) {
	t.Helper()
	cmd := a.connect(s.url(), target, c.args...)
	if has(c.args, "--pac") { // which excludes --proxy
		cmd = a.command(slices.Concat([]string{"connect", "--server", s.url(), "--ca-file", a.certs.ca, "--token-file", a.token}, c.args, []string{target})...)
	}
	cmd.Env = append(cmd.Env, "KRB5CCNAME=FILE:/nonexistent", "KRB5_CONFIG=/nonexistent")
	cmd.Env = append(cmd.Env, c.env...)
	cmd.Stdin = strings.NewReader("hello")
	r := runToEnd(t, patience, cmd)
	return r, strings.Count(r.stderr, `"msg":"proxy answered CONNECT"`)
}

// checkProxies runs the cases, adds a line to the table for each, and searches the debug logs for secrets.
func checkProxies(t *testing.T, cases []proxyCase) {
	t.Helper()
	a := newAgents(t, sallyport(t))
	s := a.server()
	target := startEcho(t)
	for _, c := range cases {
		r, legs := throughProxy(t, a, s, target, c)
		verdict := "through"
		if c.fail != "" {
			verdict = "told: " + c.fail
			if r.code != 5 || !strings.Contains(r.stderr, c.fail) {
				verdict = "FAILED"
				t.Errorf("%s: exit %d, does not say %q\n%s", c, r.code, c.fail, tail(r.stderr, 12))
			}
		} else if r.code != 0 || r.stdout != "hello" {
			verdict = "FAILED"
			t.Errorf("%s: exit %d, %q\n%s", c, r.code, r.stdout, tail(r.stderr, 12))
		}
		if legs != c.legs {
			verdict = "FAILED"
			t.Errorf("%s: %d CONNECTs, want %d\n%s", c, legs, c.legs, tail(r.stderr, 12))
		}
		tabulate(c.proxy, c.scheme, legs, verdict)
		for _, secret := range []string{
			a.secret, proxyPassword, kerberosPassword, ntlmPassword,
			base64.StdEncoding.EncodeToString([]byte(proxyUser + ":" + proxyPassword)),
			"TlRMTVNTUAA", "YII", "response=", // how NTLM messages, Kerberos tokens and Digest's hashes begin
		} {
			if strings.Contains(r.stderr, secret) {
				t.Errorf("%s: the log holds a secret", c)
			}
		}
	}
}

// proxyArgs are the flags for a proxy and a user, whose password is in a file.
func proxyArgs(t *testing.T, url, user, password string, more ...string) []string {
	t.Helper()
	args := []string{"--log-level", "debug"}
	if url != "" {
		args = append(args, "--proxy", url)
	}
	if user != "" {
		args = append(args, "--proxy-user", user, "--proxy-password-file", writeFile(t, tempDir(t), "password", password, 0o600))
	}
	return append(args, more...)
}

const refused = "the proxy refused the credentials"

func onLocalhost(port int) string { return fmt.Sprintf("http://localhost:%d", port) }

// squid with each scheme, and with all of them on one port.
func TestSquidSchemes(t *testing.T) {
	k, d := startKDC(t), startDomain(t)
	const listen = "http_port 127.0.0.1:%d"
	basic, digest, negotiate, ntlm := squidBasic(t), squidDigest(t), k.squidNegotiate(t), d.squidNTLM(t)
	conf := "KRB5_CONFIG=" + k.conf
	onlyBasic := onLocalhost(startSquidWith(t, listen, basic+squidAuthenticated))
	onlyDigest := onLocalhost(startSquidWith(t, listen, digest+squidAuthenticated))
	onlyKerberos := onLocalhost(startSquidWith(t, listen, negotiate+squidAuthenticated, conf))
	onlyNTLM := onLocalhost(startSquidWith(t, listen, ntlm+squidAuthenticated))
	ntlmInside := onLocalhost(startSquidWith(t, listen, d.squidNegotiate(t)+squidAuthenticated))
	all := onLocalhost(startSquidWith(t, listen, negotiate+ntlm+digest+basic+squidAuthenticated, conf))
	ticket, server := k.ticket(t, "1h"), []string{conf}
	checkProxies(t, []proxyCase{
		{"squid", "Basic", proxyArgs(t, onlyBasic, proxyUser, proxyPassword), nil, 2, ""},
		{"squid", "Digest", proxyArgs(t, onlyDigest, proxyUser, proxyPassword), nil, 2, ""},
		{"squid", "Negotiate: Kerberos, ticket cache", proxyArgs(t, onlyKerberos, "", ""), ticket, 2, ""},
		{"squid", "Negotiate: Kerberos, password", proxyArgs(t, onlyKerberos, kerberosUser+"@sally.test", kerberosPassword), server, 2, ""},
		{"squid", "Negotiate: Kerberos, keytab", proxyArgs(t, onlyKerberos, "", "", "--proxy-keytab", k.userKeys), server, 2, ""},
		{"squid", "NTLMv2", proxyArgs(t, onlyNTLM, ntlmDomain+`\`+ntlmUser, ntlmPassword), nil, 3, ""},
		{"squid", "Negotiate: NTLM inside", proxyArgs(t, ntlmInside, ntlmDomain+`\`+ntlmUser, ntlmPassword), nil, 3, ""},
		{"squid, all schemes", "Negotiate: Kerberos, ticket cache", proxyArgs(t, all, "", ""), ticket, 2, ""},
		{"squid, all schemes", "NTLMv2, no ticket", proxyArgs(t, all, ntlmDomain+`\`+ntlmUser, ntlmPassword), nil, 3, ""},
		{"squid, all schemes", "Digest, by --proxy-auth", proxyArgs(t, all, proxyUser, proxyPassword, "--proxy-auth", "digest"), nil, 2, ""},
		{"squid, all schemes", "Basic, by --proxy-auth", proxyArgs(t, all, proxyUser, proxyPassword, "--proxy-auth", "basic"), nil, 2, ""},
		{"squid", "Digest, wrong password", proxyArgs(t, onlyDigest, proxyUser, "wrong"), nil, 2, refused},
		{"squid", "NTLMv2, wrong password", proxyArgs(t, onlyNTLM, ntlmDomain+`\`+ntlmUser, "wrong"), nil, 3, refused},
		{"squid", "Negotiate: NTLM inside, wrong password", proxyArgs(t, ntlmInside, ntlmDomain+`\`+ntlmUser, "wrong"), nil, 3, refused},
		{"squid, all schemes", "NTLMv2, wrong password", proxyArgs(t, all, ntlmDomain+`\`+ntlmUser, "wrong"), nil, 3, refused},
	})
	if out, err := exec.Command(program(t, "squid"), "--version").Output(); err == nil {
		line, _, _ := strings.Cut(string(out), "\n")
		t.Log(line)
	}
}
