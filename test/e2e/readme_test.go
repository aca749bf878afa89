//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// recipes are the shell blocks of the README that stand behind a line
// <!-- recipe: NAME -->, each run as it stands but for ports and names.
type recipes struct {
	t      testing.TB
	dir    string // where they run
	bin    string // the program, called sallyport
	blocks map[string]string
}

// docBlocks returns the code blocks of one of the project's pages that stand behind a line <!-- KIND: NAME -->, by name.
func docBlocks(t testing.TB, page, kind string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../" + page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := make(map[string]string)
	for _, m := range regexp.MustCompile("(?s)<!-- "+kind+": (.*?) -->\n```[a-z]+\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		blocks[m[1]] = m[2]
	}
	return blocks
}

// adapted returns a block with texts replaced, in pairs of old and new; every old one must stand in it.
func adapted(t testing.TB, blocks map[string]string, name string, replace ...string) string {
	t.Helper()
	text, ok := blocks[name]
	if !ok {
		t.Fatalf("the documentation has no block %q", name)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("block %q has no %q any more", name, replace[i])
		}
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	return text
}

func readRecipes(t testing.TB) *recipes {
	t.Helper()
	r := &recipes{t: t, dir: tempDir(t), blocks: docBlocks(t, "README.md", "recipe")}
	r.bin = filepath.Join(tempDir(t), "sallyport")
	if err := os.Symlink(sallyport(t), r.bin); err != nil {
		t.Fatal(err)
	}
	return r
}

// command returns the recipe with the README's names replaced; every one of them must stand in it.
func (r *recipes) command(name string, replace ...string) *exec.Cmd {
	r.t.Helper()
	script := adapted(r.t, r.blocks, name, replace...)
	// The last command of a recipe is the agent: it replaces the shell, so that signals reach it.
	lines := strings.Split(strings.TrimSpace(script), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.HasPrefix(lines[i], "sallyport ") || strings.HasPrefix(lines[i], "ssh ") {
			lines[i] = "exec " + lines[i]
			break
		}
	}
	cmd := exec.Command("bash", "-euc", strings.Join(lines, "\n"))
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(r.bin)+":"+os.Getenv("PATH"),
		"SALLYPORT_LOG_FORMAT=json", "NO_PROXY=*", "no_proxy=*")
	return cmd
}

// agent starts the recipe's agent.
func (r *recipes) agent(name string, replace ...string) *process {
	r.t.Helper()
	return start(r.t, "recipe "+name, r.command(name, replace...))
}

// ready waits until the agent's /readyz says so.
func ready(t testing.TB, p *process) {
	t.Helper()
	addr := p.awaitEvent(t, patience, "admin listening", nil).str("addr")
	eventually(t, patience, "the agent is ready", func() bool {
		res, err := http.Get("http://" + addr + "/readyz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

// port is that of an event's address.
func port(t testing.TB, e event) string {
	t.Helper()
	_, p, err := net.SplitHostPort(e.str("addr"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Out through a proxy that asks for Basic, and ssh and a reverse forward with the same server agent.
func TestReadmeFirewall(t *testing.T) {
	r := readRecipes(t)
	redis, sshd := fmt.Sprint(startRedis(t)), startSSHD(t)
	proxy, _ := startSquid(t)
	writeFile(t, r.dir, "proxy-password", proxyPassword, 0o600)
	server := r.agent("firewall server",
		"--host gate.example.com", "--host "+gateName+" --host localhost", "--listen :8443", "--listen 127.0.0.1:0",
		"--allow 'db.internal:5432'", fmt.Sprintf("--allow '127.0.0.1:%s,%d' --allow-listen 'localhost:*'", redis, sshd.port))
	gate := port(t, server.awaitEvent(t, patience, msgServerListening, nil))

	client := r.agent("firewall client",
		"gate.example.com:8443", gateName+":"+gate, "http://proxy.corp:3128", "http://"+proxy, "--proxy-user alice", "--proxy-user "+proxyUser,
		"-L 5432:db.internal:5432", "-L 0:127.0.0.1:"+redis)
	checkRedis(t, port(t, client.awaitEvent(t, patience, msgForwardListening, nil)))

	me := fmt.Sprintf("-F none -p %d -i %s -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=%s -o ProxyCommand=",
		sshd.port, sshd.key, sshd.knownHosts)
	login := r.command("ssh", "gate.example.com:8443", "localhost:"+gate, "-o ProxyCommand=", me, "host.internal uptime", sshd.user+"@127.0.0.1 uptime")
	if res := runToEnd(t, patience, login); res.code != 0 || !strings.Contains(res.stdout, "load average") {
		t.Fatalf("ssh: exit %d: %s%s", res.code, res.stdout, res.stderr)
	}

	web, page := startWeb(t)
	_, webPort, err := net.SplitHostPort(web)
	if err != nil {
		t.Fatal(err)
	}
	r.agent("reverse", "gate.example.com:8443", "localhost:"+gate, "-R 8000:localhost:3000", "-R 0:localhost:"+webPort)
	bound := server.awaitEvent(t, patience, "reverse forward listening", nil).str("addr")
	if got := curl(t, "http://"+bound+"/"); got.code != 0 || got.stdout != page {
		t.Fatalf("curl through the reverse forward: exit %d, %q", got.code, got.stdout)
	}
}

// A sidecar behind nginx, which terminates TLS, with a configuration file, readiness and a tokens file.
func TestReadmeSidecar(t *testing.T) {
	r := readRecipes(t)
	redis := fmt.Sprint(startRedis(t))
	server := r.agent("sidecar server",
		"--listen :8080", "--listen 127.0.0.1:0", "127.0.0.1:9090", "127.0.0.1:0", "cache.internal:6379", "127.0.0.1:"+redis)
	certs := newAuthority(t)
	nginx := startNginx(t, certs, balancing{agents: []string{server.awaitEvent(t, patience, msgServerListening, nil).str("addr")}})
	t.Setenv("SALLYPORT_CA_FILE", certs.ca)
	client := r.agent("sidecar client",
		"wss://gate.example.com", fmt.Sprintf("wss://localhost:%d", nginx.port), "127.0.0.1:9091", "127.0.0.1:0",
		"6379:cache.internal:6379", "127.0.0.1:0:127.0.0.1:"+redis)
	ready(t, client)
	ready(t, server)
	checkRedis(t, port(t, client.awaitEvent(t, patience, msgForwardListening, nil)))
}
