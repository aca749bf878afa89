//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// mustRun runs a command of a fixture to its end.
func mustRun(t testing.TB, env []string, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program(t, name), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	r := runToEnd(t, patience, cmd)
	if r.code != 0 {
		t.Fatalf("%s %v: exit %d: %s%s", name, args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// startSquidWith starts a squid that listens by a line of its configuration, where %d is the port, and has the other
// lines besides. env is for its helpers.
func startSquidWith(t testing.TB, listen, lines string, env ...string) int {
	t.Helper()
	dir := tempDir(t)
	_, port := startServer(t, "squid", func(port int) *exec.Cmd {
		config := writeFile(t, dir, "squid.conf", fmt.Sprintf(listen, port)+"\n"+lines+fmt.Sprintf(`
cache deny all
cache_mem 0 MB
memory_pools off
access_log stdio:%[1]s/access.log
logfile_rotate 0
cache_log %[1]s/cache.log
pid_filename none
coredump_dir %[1]s
visible_hostname localhost
shutdown_lifetime 0 seconds
via off
hosts_file %[2]s
`, dir, writeFile(t, dir, "hosts", "127.0.0.1 "+gateName+"\n", 0o644)), 0o644)
		cmd := exec.Command(program(t, "squid"), "-N", "-d", "1", "-f", config)
		cmd.Env = append(os.Environ(), env...)
		return cmd
	})
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "cache.log"))
			t.Logf("squid's cache.log:\n%s", tail(string(log), 40))
		}
	})
	return port
}

const squidAuthenticated = `
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
`

// squidBasic and squidDigest are schemes of squid's that know proxyUser.
func squidBasic(t testing.TB) string {
	t.Helper()
	path := filepath.Join(tempDir(t), "passwords")
	mustRun(t, nil, proxyPassword, "htpasswd", "-ic", path, proxyUser)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("auth_param basic program %s %s\nauth_param basic realm corridor\n", program(t, "basic_ncsa_auth"), path)
}

func squidDigest(t testing.TB) string {
	t.Helper()
	path := writeFile(t, tempDir(t), "passwords", proxyUser+":"+proxyPassword+"\n", 0o644)
	return fmt.Sprintf("auth_param digest program %s %s\nauth_param digest realm corridor\nauth_param digest nonce_max_count 3\n",
		program(t, "digest_file_auth"), path)
}

// kdc is a running Kerberos server of the realm SALLY.TEST, which knows the user "jane" and the service HTTP/localhost.
type kdc struct {
	dir, conf string // conf is krb5.conf
	keytab    string // of the service
	userKeys  string // of jane
}

const (
	kerberosUser     = "jane"
	kerberosPassword = "jane-pw-9917"
)

func startKDC(t testing.TB) *kdc {
	t.Helper()
	k := &kdc{dir: tempDir(t)}
	k.keytab, k.userKeys = filepath.Join(k.dir, "http.keytab"), filepath.Join(k.dir, "jane.keytab")
	env := func() []string {
		return []string{"KRB5_CONFIG=" + k.conf, "KRB5_KDC_PROFILE=" + filepath.Join(k.dir, "kdc.conf")}
	}
	configure := func(port int) {
		// The realm is in a file that is included, as distributions have it.
		if err := os.MkdirAll(filepath.Join(k.dir, "krb5.conf.d"), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(k.dir, "krb5.conf.d"), "realm.conf", fmt.Sprintf("[realms]\nSALLY.TEST = {\n kdc = 127.0.0.1:%d\n}\n", port), 0o644)
		k.conf = writeFile(t, k.dir, "krb5.conf", fmt.Sprintf("includedir %s/krb5.conf.d/\n[libdefaults]\ndefault_realm = SALLY.TEST\ndns_lookup_kdc = false\ndns_canonicalize_hostname = false\nrdns = false\n", k.dir), 0o644)
		writeFile(t, k.dir, "kdc.conf", fmt.Sprintf(`[realms]
SALLY.TEST = {
 database_name = %[1]s/principal
 key_stash_file = %[1]s/stash
 acl_file = %[1]s/acl
 kdc_listen = 127.0.0.1:%[2]d
 kdc_tcp_listen = 127.0.0.1:%[2]d
}
[logging]
 kdc = FILE:%[1]s/kdc.log
 default = STDERR
`, k.dir, port), 0o644)
	}
	configure(1)
	mustRun(t, env(), "", "kdb5_util", "create", "-s", "-r", "SALLY.TEST", "-P", "master")
	for _, q := range []string{
		"addprinc -pw " + kerberosPassword + " +requires_preauth " + kerberosUser, "addprinc -randkey HTTP/localhost",
		"ktadd -k " + k.keytab + " HTTP/localhost", "ktadd -norandkey -k " + k.userKeys + " " + kerberosUser,
	} {
		mustRun(t, env(), "", "kadmin.local", "-r", "SALLY.TEST", "-q", q)
	}
	if err := os.Chmod(k.keytab, 0o644); err != nil {
		t.Fatal(err)
	}
	startServer(t, "krb5kdc", func(port int) *exec.Cmd {
		configure(port)
		cmd := exec.Command(program(t, "krb5kdc"), "-n", "-r", "SALLY.TEST")
		cmd.Env = append(os.Environ(), env()...)
		return cmd
	})
	return k
}

// ticket gets jane a ticket and returns the variables by which it is found.
func (k *kdc) ticket(t testing.TB, lifetime string) []string {
	t.Helper()
	env := []string{"KRB5_CONFIG=" + k.conf, "KRB5CCNAME=FILE:" + filepath.Join(tempDir(t), "cache")}
	mustRun(t, env, kerberosPassword+"\n", "kinit", "-l", lifetime, kerberosUser)
	return env
}

// awaitExpiry waits until Kerberos' own tool finds no ticket that is still good. Lifetimes are in whole seconds of the
// clock, so when that is depends on when in its second the ticket was made.
func awaitExpiry(t testing.TB, env []string) {
	t.Helper()
	eventually(t, patience, "the ticket expires", func() bool {
		cmd := exec.Command(program(t, "klist"), "-s")
		cmd.Env = append(os.Environ(), env...)
		return cmd.Run() != nil
	})
}

func (k *kdc) squidNegotiate(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("auth_param negotiate program %s -k %s -s HTTP/localhost@SALLY.TEST -t none\nauth_param negotiate children 2\n",
		program(t, "negotiate_kerberos_auth"), k.keytab)
}

// domain is a stand-alone winbindd, which knows an account by NTLM.
type domain struct{ config string }

// The account must be one of the system's too; this one is on every Debian.
const (
	ntlmUser     = "games"
	ntlmPassword = "games-pw-4471"
	ntlmDomain   = "LABBOX"
)

func startDomain(t testing.TB) *domain {
	t.Helper()
	dir := tempDir(t)
	for _, sub := range []string{"private", "lock", "state", "cache", "pid", "log", "ncalrpc"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d := &domain{config: writeFile(t, dir, "smb.conf", fmt.Sprintf(`[global]
workgroup = LAB
netbios name = %[2]s
security = user
interfaces = lo
bind interfaces only = yes
private dir = %[1]s/private
lock directory = %[1]s/lock
state directory = %[1]s/state
cache directory = %[1]s/cache
pid directory = %[1]s/pid
ncalrpc dir = %[1]s/ncalrpc
rpc start on demand helpers = false
log file = %[1]s/log/%%m
ntlm auth = ntlmv2-only
disable netbios = yes
load printers = no
`, dir, ntlmDomain), 0o644)}
	mustRun(t, nil, ntlmPassword+"\n"+ntlmPassword+"\n", "smbpasswd", "-c", d.config, "-a", "-s", ntlmUser)
	// The privileged pipe's directory is root's, and open to the group that squid's helpers have.
	proxy, err := user.LookupGroup("proxy")
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(proxy.Gid)
	if err != nil {
		t.Fatal(err)
	}
	pipes := filepath.Join(dir, "state", "winbindd_privileged")
	if err := os.MkdirAll(pipes, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(pipes, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(pipes, 0, gid); err != nil {
		t.Fatal(err)
	}
	// Where clients find it is built into Samba; Debian's service makes the directory at boot.
	if err := os.MkdirAll("/run/samba", 0o755); err != nil {
		t.Fatal(err)
	}
	// Left to winbindd, its helper would outlive the test.
	start(t, "samba-dcerpcd", exec.Command("/usr/libexec/samba/samba-dcerpcd", "-F", "--no-process-group", "--libexec-rpcds", "-s", d.config))
	p := start(t, "winbindd", exec.Command(program(t, "winbindd"), "-F", "--no-process-group", "--debug-stdout", "-s", d.config))
	eventually(t, patience, "winbindd answers", func() bool {
		if !p.running() {
			t.Fatal("winbindd ended")
		}
		_, err := os.Stat(filepath.Join(pipes, "pipe"))
		return err == nil && exec.Command("ntlm_auth", "--configfile="+d.config, "--domain="+ntlmDomain, "--username="+ntlmUser, "--password="+ntlmPassword).Run() == nil
	})
	return d
}

func (d *domain) squidNTLM(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("auth_param ntlm program %s --configfile=%s --helper-protocol=squid-2.5-ntlmssp\nauth_param ntlm children 2\nauth_param ntlm keep_alive on\n",
		program(t, "ntlm_auth"), d.config)
}

func (d *domain) squidNegotiate(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("auth_param negotiate program %s --configfile=%s --helper-protocol=gss-spnego\nauth_param negotiate children 2\nauth_param negotiate keep_alive on\n",
		program(t, "ntlm_auth"), d.config)
}
