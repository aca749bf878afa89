//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a program that a test has started.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; valid after done

	mu  sync.Mutex
	log bytes.Buffer // standard output and error
}

// Write implements io.Writer for the program's output.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

// output returns what the program has written so far.
func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// start runs a command until the test ends, and shows its output if the test fails. Standard output
// goes to the log too, unless the command has it set.
func start(t testing.TB, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: name, cmd: cmd, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = p
	}
	cmd.Stderr = p
	// A group of its own, so that a server's helpers end with it; and with this process, should it die.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// A helper which outlives its server must not keep Wait from returning.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("the log of %s:\n%s", name, tail(p.output(), 60))
		}
		if strings.Contains(p.output(), "DATA RACE") {
			t.Errorf("%s has a data race:\n%s", name, p.output())
		}
	})
	return p
}

// stop ends the program and its group: politely, then not.
func (p *process) stop() {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(3 * time.Second):
	}
	p.kill()
}

// kill ends the program and its group at once.
func (p *process) kill() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

func (p *process) signal(s os.Signal) {
	select {
	case <-p.done:
	default:
		p.cmd.Process.Signal(s)
	}
}

// running says whether the program has not ended yet.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// wait returns the exit code, or fails the test when the program has not ended within the limit.
func (p *process) wait(t testing.TB, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		t.Fatalf("%s has not ended within %v", p.name, limit)
		return -1
	}
}

// event is one line of an agent's JSON log.
type event map[string]any

func (e event) str(key string) string { return fmt.Sprint(e[key]) }

// events returns the log lines so far whose message begins so.
func (p *process) events(message string) []event {
	var found []event
	for line := range strings.Lines(p.output()) {
		var e event
		if json.Unmarshal([]byte(line), &e) == nil && strings.HasPrefix(e.str("msg"), message) {
			found = append(found, e)
		}
	}
	return found
}

// awaitEvent waits for the first log line whose message begins so and of which ok approves; nil
// approves of all.
func (p *process) awaitEvent(t testing.TB, limit time.Duration, message string, ok func(event) bool) event {
	t.Helper()
	var found event
	eventually(t, limit, fmt.Sprintf("%s logs %q", p.name, message), func() bool {
		for _, e := range p.events(message) {
			if ok == nil || ok(e) {
				found = e
				return true
			}
		}
		if !p.running() {
			t.Fatalf("%s ended (%v) without logging %q", p.name, p.err, message)
		}
		return false
	})
	return found
}

// memory returns the resident set of the program in bytes: now, and at its peak.
func (p *process) memory(t testing.TB) (now, peak int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch key {
		case "VmRSS":
			now = kib << 10
		case "VmHWM":
			peak = kib << 10
		}
	}
	if now == 0 {
		t.Fatalf("no memory of %s to see: it has ended?", p.name)
	}
	return now, peak
}

// tail returns the last n lines.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// freePort returns a port on 127.0.0.1 that nobody listens at, below the range from which the
// system takes the ports of outgoing connections.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(10000)
		ln, err := net.Listen("tcp", loopback(port))
		if err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// startServer starts a server that cannot choose its port itself, and waits until it listens. A
// port that was taken meanwhile is tried again with another.
func startServer(t testing.TB, name string, command func(port int) *exec.Cmd) (*process, int) {
	t.Helper()
	for range 3 {
		port := freePort(t)
		p := start(t, name, command(port))
		eventually(t, time.Minute, name+" listens", func() bool {
			c, err := net.DialTimeout("tcp", loopback(port), time.Second)
			if err == nil {
				c.Close()
			}
			return err == nil || !p.running()
		})
		if p.running() {
			return p, port
		}
		if !strings.Contains(strings.ToLower(p.output()), "in use") {
			t.Fatalf("%s ended: %v", name, p.err)
		}
	}
	t.Fatalf("%s found no free port", name)
	return nil, 0
}

// result is what a program that ran to its end has left.
type result struct {
	code           int
	stdout, stderr string
}

// runToEnd runs a command to its end, within the limit.
func runToEnd(t testing.TB, limit time.Duration, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd, err)
	}
	timer := time.AfterFunc(limit, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	if !timer.Stop() {
		t.Fatalf("%s did not end within %v; it said:\n%s%s", cmd, limit, &stdout, &stderr)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", cmd, err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// scanLines calls each for every line of r, until its end.
func scanLines(r io.Reader, each func(string)) {
	for s := bufio.NewScanner(r); s.Scan(); {
		each(s.Text())
	}
}
