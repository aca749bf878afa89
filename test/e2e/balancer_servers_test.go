//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// balancing is what a test wants of a load balancer, beside what docs/BALANCERS.md has.
type balancing struct {
	agents     []string      // where the server agents listen: one or two
	idle       time.Duration // a connection that is silent for so long is cut; 0: what the page says
	roundRobin bool          // in turn, whoever asks: not what the page says
}

// oldWorkers is how long the workers of before a reload may live on.
const oldWorkers = time.Second

// balancer is a running load balancer that terminates TLS in front of server agents.
type balancer struct {
	*process
	port         int
	reloadSignal syscall.Signal
}

// url returns where clients connect.
func (b *balancer) url() string { return fmt.Sprintf("wss://127.0.0.1:%d/tunnel", b.port) }

// workers returns the process ids of those that serve connections.
func (b *balancer) workers(t testing.TB) []string {
	t.Helper()
	pid := b.cmd.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(children))
}

// reload has the configuration read again, by new workers, and returns once the old ones are gone.
func (b *balancer) reload(t testing.TB) {
	t.Helper()
	old := b.workers(t)
	if len(old) == 0 {
		t.Fatalf("%s has no workers to replace", b.name)
	}
	b.signal(b.reloadSignal)
	eventually(t, patience, b.name+" has new workers only", func() bool {
		now := b.workers(t)
		return len(now) > 0 && !slices.ContainsFunc(now, func(pid string) bool { return slices.Contains(old, pid) })
	})
}

// startBalancer starts one of those on the page, by the name of its configuration there.
type startBalancer func(t testing.TB, certs *authority, o balancing) *balancer

// eachBalancer runs a test with each of the page's load balancers.
func eachBalancer(t *testing.T, test func(t *testing.T, start startBalancer)) {
	for name, start := range map[string]startBalancer{"nginx": startNginx, "haproxy": startHAProxy} {
		t.Run(name, func(t *testing.T) { test(t, start) })
	}
}

// replacements returns what to change of a configuration on the page, where second is the line of the second server agent
// and sticky what makes a client find the same one again.
func (o balancing) replacements(second, sticky string) []string {
	var replace []string
	if len(o.agents) == 1 {
		replace = append(replace, second, "")
	} else {
		replace = append(replace, "10.0.0.12:8080", o.agents[1])
	}
	replace = append(replace, "10.0.0.11:8080", o.agents[0])
	if o.idle != 0 {
		replace = append(replace, " 60s", fmt.Sprintf(" %dms", o.idle.Milliseconds()))
	}
	if o.roundRobin {
		replace = append(replace, sticky, "")
	}
	return replace
}

// startNginx starts nginx; its reload is that of "nginx -s reload".
func startNginx(t testing.TB, certs *authority, o balancing) *balancer {
	t.Helper()
	dir := tempDir(t)
	p, port := startServer(t, "nginx", func(port int) *exec.Cmd {
		servers := adapted(t, docBlocks(t, "docs/BALANCERS.md", "config"), "nginx",
			append(o.replacements("server 10.0.0.12:8080;", "hash $http_authorization consistent;"),
				"listen 443 ssl", fmt.Sprintf("listen 127.0.0.1:%d ssl", port),
				"/etc/ssl/gate.pem", certs.cert, "/etc/ssl/gate-key.pem", certs.key)...)
		config := writeFile(t, dir, "nginx.conf", fmt.Sprintf(`
%[1]s
daemon off;
worker_processes 1;
worker_shutdown_timeout %[2]dms;
pid %[3]s/nginx.pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path %[3]s/body;
	proxy_temp_path %[3]s/proxy;
	fastcgi_temp_path %[3]s/fastcgi;
	uwsgi_temp_path %[3]s/uwsgi;
	scgi_temp_path %[3]s/scgi;
%[4]s
}
`, asRoot("user root;"), oldWorkers.Milliseconds(), dir, servers), 0o644)
		return exec.Command(program(t, "nginx"), "-p", dir, "-c", config, "-e", "stderr")
	})
	return &balancer{p, port, syscall.SIGHUP}
}

// startHAProxy starts HAProxy in master-worker mode; its reload is that of "systemctl reload".
func startHAProxy(t testing.TB, certs *authority, o balancing) *balancer {
	t.Helper()
	dir := tempDir(t)
	var pem strings.Builder
	for _, file := range []string{certs.cert, certs.key} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pem.Write(content)
	}
	both := writeFile(t, dir, "gate.pem", pem.String(), 0o600)
	p, port := startServer(t, "haproxy", func(port int) *exec.Cmd {
		config := writeFile(t, dir, "haproxy.cfg", adapted(t, docBlocks(t, "docs/BALANCERS.md", "config"), "haproxy",
			append(o.replacements("server b 10.0.0.12:8080 check", "balance hdr(Authorization)\n\thash-type consistent"),
				"bind :443", fmt.Sprintf("bind 127.0.0.1:%d", port), "/etc/haproxy/gate.pem", both,
				"hard-stop-after 10s", fmt.Sprintf("hard-stop-after %dms", oldWorkers.Milliseconds()))...), 0o644)
		return exec.Command(program(t, "haproxy"), "-W", "-f", config)
	})
	return &balancer{p, port, syscall.SIGUSR2}
}
