//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// patience is how long a process may take to say where it listens, or to answer.
const patience = 20 * time.Second

// process is a program that a measurement has started. It ends with the context it was started in,
// with its standard input, and with this process.
type process struct {
	name    string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	replies *bufio.Reader // its standard output, when that is ours; else nil
	out     *os.File      // what replies reads
	log     string        // path of the file that gets the rest
	done    chan struct{} // closed when it has ended
	err     error         // how; valid after done
}

// spawn starts a command whose output goes to a log file in dir; its standard output instead
// to replies, when talk is set.
func spawn(ctx context.Context, dir, name string, talk bool, bin string, args ...string) (*process, error) {
	log, err := os.CreateTemp(dir, name+"-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{name: name, log: log.Name(), done: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, bin, args...)
	p.cmd.Env = cleanEnvironment(os.Environ(), dir)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A group of its own, so that helpers end with it and a terminal's Ctrl-C reaches us first.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.Cancel = func() error { return syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if talk {
		read, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		defer write.Close()
		p.cmd.Stdout, p.out, p.replies = write, read, bufio.NewReader(read)
	}
	if err := p.cmd.Start(); err != nil {
		if p.out != nil {
			p.out.Close()
		}
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// cleanEnvironment drops what would configure an agent behind our back.
func cleanEnvironment(environ []string, home string) []string {
	var kept []string
	for _, entry := range environ {
		name, _, _ := strings.Cut(strings.ToUpper(entry), "=")
		if !strings.HasPrefix(name, "SALLYPORT_") && !strings.HasSuffix(name, "_PROXY") && name != "HOME" {
			kept = append(kept, entry)
		}
	}
	return append(kept, "HOME="+home)
}

// pid returns the process's id.
func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process and its group, and waits for the end.
func (p *process) stop() {
	select {
	case <-p.done: // its id may be another's by now
	default:
		syscall.Kill(-p.pid(), syscall.SIGKILL)
		<-p.done
	}
	if p.out != nil {
		p.out.Close()
	}
}

// failure returns an error that says how the process failed, with the end of its log.
func (p *process) failure(what string, err error) error {
	select {
	case <-p.done:
		err = fmt.Errorf("it ended (%v)", p.cmd.ProcessState)
	default:
	}
	return fmt.Errorf("%s: %s: %w; the end of %s:\n%s", p.name, what, err, filepath.Base(p.log), p.tail(10))
}

// tail returns the last lines of the log.
func (p *process) tail(lines int) string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// readLine returns the next line of the standard output.
func (p *process) readLine() (string, error) {
	if err := p.out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	line, err := p.replies.ReadString('\n')
	if err != nil {
		return "", p.failure("no answer", err)
	}
	return strings.TrimSpace(line), nil
}

// ask sends a request, a line of JSON, and reads the answer, another.
func (p *process) ask(request, reply any) error {
	line, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if _, err := p.stdin.Write(append(line, '\n')); err != nil {
		return p.failure("cannot be asked", err)
	}
	answer, err := p.readLine()
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(answer), reply)
}

// answer is the other side of ask: it calls do for each line of in and writes what it returns to
// out, until in ends.
func answer[request, reply any](in io.Reader, out io.Writer, do func(request) reply) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var req request
		if err := json.Unmarshal(lines.Bytes(), &req); err != nil {
			return err
		}
		line, err := json.Marshal(do(req))
		if err != nil {
			return err
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return lines.Err()
}

// awaitEvents waits for n lines of the JSON log with this message and returns the attribute attr of
// each.
func (p *process) awaitEvents(ctx context.Context, message, attr string, n int) ([]string, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; {
		data, err := os.ReadFile(p.log)
		if err != nil {
			return nil, err
		}
		if found := attributes(data, message, attr); len(found) >= n {
			return found[:n], nil
		}
		if time.Now().After(deadline) {
			return nil, p.failure("does not log "+message, errors.New("time is up"))
		}
		select {
		case <-tick.C:
		case <-p.done:
			return nil, p.failure("does not log "+message, p.err)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// attributes returns the attribute attr of every line of a JSON log with this message.
func attributes(log []byte, message, attr string) []string {
	var found []string
	for line := range bytes.Lines(log) {
		var event map[string]any
		if json.Unmarshal(line, &event) == nil && event["msg"] == message {
			found = append(found, fmt.Sprint(event[attr]))
		}
	}
	return found
}
