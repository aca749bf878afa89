package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sallyport/cmd/internal/config"
	"sallyport/proxy/access"
	certs "sallyport/tls"
)

// world is what a script has besides its files: services to reach, agents that it started, connections that it holds.
type world struct {
	agents map[string]*scriptAgent
	conns  map[string]net.Conn
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// setupScript gives each script:
//
//	ca.pem, server.pem, server-key.pem   certificates for loopback
//	token, tokens.yaml                   the token of "alice", who may reach loopback and *.invalid, and listen on loopback
//	$ECHO, $CLOSED, $TAKEN               addresses: an echo service, one where nobody listens, one that is taken
//	SALLYPORT_...                        variables by which server and client find all that; the server's port is free
func setupScript(env *testscript.Env) error {
	w := &world{agents: make(map[string]*scriptAgent), conns: make(map[string]net.Conn)}
	env.Values[worldKey{}] = w
	env.Defer(w.end)
	if _, err := certs.Dev(certs.DevOptions{Dir: env.WorkDir}); err != nil {
		return err
	}
	token, entry, err := access.NewToken("alice")
	if err != nil {
		return err
	}
	if entry.Policy.Connect, err = access.ParseRules([]string{"127.0.0.0/8:*", "*.invalid:*"}); err != nil {
		return err
	}
	if entry.Policy.Listen, err = access.ParseRules([]string{"127.0.0.1:*"}); err != nil {
		return err
	}
	for name, text := range map[string]string{"token": token + "\n", "tokens.yaml": entry.YAML()} {
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	echo, closed, err := startServices(env)
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"ECHO": echo, "CLOSED": closed, "TAKEN": echo,
		"SALLYPORT_LISTEN": "127.0.0.1:0", "SALLYPORT_TOKENS": "tokens.yaml",
		"SALLYPORT_TLS_CERT": "server.pem", "SALLYPORT_TLS_KEY": "server-key.pem",
		"SALLYPORT_TOKEN": token, "SALLYPORT_CA_FILE": "ca.pem", "SALLYPORT_PROXY": "none",
		"HTTP_PROXY": "", "HTTPS_PROXY": "", "ALL_PROXY": "", "NO_PROXY": "",
		"GORACE": "atexit_sleep_ms=0", // a second each time, else
	} {
		env.Setenv(name, value)
	}
	return nil
}

// startServices starts an echo service, and holds a port at which nobody listens: that of an outgoing connection.
func startServices(env *testscript.Env) (echo, closed string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	held, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		l.Close()
		return "", "", err
	}
	env.Defer(func() {
		held.Close()
		l.Close()
		wg.Wait()
	})
	return l.Addr().String(), held.LocalAddr().String(), nil
}

// end stops all agents and drops all connections.
func (w *world) end() {
	for _, c := range w.conns {
		c.Close()
	}
	for _, a := range w.agents {
		_ = a.cmd.Process.Kill()
		<-a.ended
	}
}

// scriptCommands are what scripts can do besides testscript's own:
//
//	exits CODE PROGRAM ARGS...     like exec, for an exit code
//	agent NAME ARGS...             start sallyport in the background
//	await NAME PATTERN [VAR]       wait until its output has a match; the first submatch goes into VAR
//	signal NAME hup|term|int       send a signal
//	ended NAME CODE                wait for its end
//	hold NAME ADDR                 connect to ADDR, which must echo, and keep the connection
//	[!] talk NAME                  send a line over it and want it back; with !, until it is reset or closed
//	drop NAME                      close it
//	[!] dial ADDR                  connect and close
//	get CODE URL PATTERN           wait for a response: an agent's figures follow what happens, a moment later
//	replace FILE OLD NEW           change a text in a file, wherever it stands
func scriptCommands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"exits": scriptExits, "agent": scriptAgentStart, "await": scriptAwait, "signal": scriptSignal,
		"ended": scriptEnded, "hold": scriptHold, "talk": scriptTalk, "drop": scriptDrop, "dial": scriptDial,
		"get": scriptGet, "replace": scriptReplace,
	}
}

// want checks how a command is written.
func want(ts *testscript.TestScript, neg, mayNeg bool, args []string, least int, form string) {
	if neg && !mayNeg || len(args) < least {
		ts.Fatalf("usage: %s", form)
	}
}

func number(ts *testscript.TestScript, text string) int {
	n, err := strconv.Atoi(text)
	ts.Check(err)
	return n
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, args, 2, "exits CODE PROGRAM ARGS...")
	code, err := 0, ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != number(ts, args[0]) {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// scriptAgent is a sallyport in the background and what it has said.
type scriptAgent struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu     sync.Mutex
	said   bytes.Buffer
	more   *sync.Cond // broadcast when said grows and at the end
	closed bool
}

func (a *scriptAgent) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.more.Broadcast()
	return a.said.Write(b)
}

func scriptAgentStart(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, args, 2, "agent NAME ARGS...")
	path, err := exec.LookPath("sallyport")
	ts.Check(err)
	a := &scriptAgent{cmd: exec.Command(path, args[1:]...), ended: make(chan struct{})}
	a.more = sync.NewCond(&a.mu)
	a.cmd.Dir = ts.MkAbs(".")
	a.cmd.Env = scriptEnviron(ts)
	a.cmd.Stdout, a.cmd.Stderr = a, a
	_, err = a.cmd.StdinPipe() // open until it ends
	ts.Check(err)
	ts.Check(a.cmd.Start())
	go func() {
		_ = a.cmd.Wait()
		a.mu.Lock()
		a.closed = true
		a.more.Broadcast()
		a.mu.Unlock()
		close(a.ended)
	}()
	worldOf(ts).agents[args[0]] = a
}

// scriptEnviron is the script's environment, as far as it matters to the command.
func scriptEnviron(ts *testscript.TestScript) []string {
	names := []string{"PATH", "HOME", "TMPDIR", "GORACE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", configVariable}
	for _, role := range []config.Role{config.Server, config.Client, config.Connect} {
		for _, s := range config.Settings(role) {
			names = append(names, s.Env)
		}
	}
	var environ []string
	for _, name := range names {
		environ = append(environ, name+"="+ts.Getenv(name))
	}
	return append(environ, "GOCOVERDIR="+os.Getenv("GOCOVERDIR"))
}

func agentOf(ts *testscript.TestScript, name string) *scriptAgent {
	a := worldOf(ts).agents[name]
	if a == nil {
		ts.Fatalf("there is no agent %q", name)
	}
	return a
}

// await returns the first match of pattern in what the agent says, nil if it ends or the time is up before.
func (a *scriptAgent) await(pattern *regexp.Regexp, limit time.Duration) [][]byte {
	expired := false
	timer := time.AfterFunc(limit, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		expired = true
		a.more.Broadcast()
	})
	defer timer.Stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		if m := pattern.FindSubmatch(a.said.Bytes()); m != nil {
			return m
		}
		if expired || a.closed {
			return nil
		}
		a.more.Wait()
	}
}

func (a *scriptAgent) output() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.said.String()
}

func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, args, 2, "await NAME PATTERN [VAR]")
	a := agentOf(ts, args[0])
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	m := a.await(pattern, patience)
	if m == nil {
		ts.Fatalf("%s did not say %q, but:\n%s", args[0], args[1], a.output())
	}
	if len(args) > 2 {
		ts.Setenv(args[2], string(m[1]))
	}
}

func scriptSignal(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, args, 2, "signal NAME hup|term|int")
	sig, ok := map[string]os.Signal{"hup": syscall.SIGHUP, "term": syscall.SIGTERM, "int": os.Interrupt}[args[1]]
	if !ok {
		ts.Fatalf("unknown signal %q", args[1])
	}
	ts.Check(agentOf(ts, args[0]).cmd.Process.Signal(sig))
}

func scriptEnded(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, args, 2, "ended NAME CODE")
	a := agentOf(ts, args[0])
	select {
	case <-a.ended:
	case <-time.After(patience):
		ts.Fatalf("%s has not ended; it said:\n%s", args[0], a.output())
	}
	if code := a.cmd.ProcessState.ExitCode(); code != number(ts, args[1]) {
		ts.Fatalf("%s: exit code %d, want %s; it said:\n%s", args[0], code, args[1], a.output())
	}
}

func scriptHold(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, args, 2, "hold NAME ADDR")
	c, err := net.DialTimeout("tcp", args[1], patience)
	ts.Check(err)
	worldOf(ts).conns[args[0]] = c
	scriptTalk(ts, false, args[:1])
}

func scriptTalk(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, true, args, 1, "[!] talk NAME")
	c := worldOf(ts).conns[args[0]]
	if c == nil {
		ts.Fatalf("there is no connection %q", args[0])
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	err := echoed(c)
	for neg && err == nil { // what ends a stream takes a moment to arrive
		err = echoed(c)
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() || !neg && err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
}

// echoed sends a line and wants it back.
func echoed(c net.Conn) error {
	const line = "is anybody there?\n"
	if _, err := io.WriteString(c, line); err != nil {
		return err
	}
	back := make([]byte, len(line))
	if _, err := io.ReadFull(c, back); err != nil {
		return err
	}
	if string(back) != line {
		return fmt.Errorf("got %q back", back)
	}
	return nil
}

func scriptDrop(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, args, 1, "drop NAME")
	w := worldOf(ts)
	if c := w.conns[args[0]]; c != nil {
		c.Close()
	}
	delete(w.conns, args[0])
}

func scriptDial(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, true, args, 1, "[!] dial ADDR")
	c, err := net.DialTimeout("tcp", args[0], patience)
	if err == nil {
		c.Close()
	}
	if neg != (err != nil) {
		ts.Fatalf("dial %s: %v", args[0], err)
	}
}

func scriptGet(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, args, 3, "get CODE URL PATTERN")
	code, pattern := number(ts, args[0]), regexp.MustCompile("(?m)"+args[2])
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		resp, err := client.Get(args[1])
		ts.Check(err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		ts.Check(err)
		if resp.StatusCode == code && pattern.Match(body) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("got %d:\n%s", resp.StatusCode, body)
		}
	}
}

func scriptReplace(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, args, 3, "replace FILE OLD NEW")
	old := ts.ReadFile(args[0])
	if !strings.Contains(old, args[1]) {
		ts.Fatalf("%s has no %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(old, args[1], args[2])), 0o600))
}
