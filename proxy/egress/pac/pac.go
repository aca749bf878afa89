// Package pac evaluates proxy auto-configuration scripts, which are JavaScript from somewhere in the network, in a
// child process that cannot do harm: it is given the script and a question, has little time and memory, inherits no
// environment, and ends whatever happens.
//
// [Evaluator] is the parent's side: each [Evaluator.Find] starts a child, asks, and waits for its end. [Serve] is the
// child's: the program calls it when it was started with the arguments that Evaluator has. The two speak JSON, one
// message each way, over standard input and output.
//
// In the child, goja runs the script (engine.go) with the functions that scripts expect (functions.go, dates.go). Four
// nets catch what a script may try, the innermost first: an interrupt after [Evaluator.Timeout], a bound on the call
// depth, limits that the system enforces on memory (limit_*.go), and a watch on memory and time that ends the process.
// The parent's own timer, which kills it, is behind all of them.
//
// With the build tag nopac the engine stays out of the program, which then is about 9 MB smaller; [Available] tells, and
// every Find fails.
package pac

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Why a script gave no answer, for errors.Is.
var (
	// ErrScript: the script is wrong: a syntax error, an exception, no function FindProxyForURL, a result of no text.
	ErrScript = errors.New("the PAC script failed")
	// ErrLimit: the script was stopped because it took too much time or memory.
	ErrLimit = errors.New("the PAC script was stopped")
	// ErrHelper: the child could not be run.
	ErrHelper = errors.New("the PAC helper failed")
)

// Bounds, each far above what real scripts need.
const (
	// MaxScript is the size of a script, in bytes. The largest known have some 300 KB.
	MaxScript = 1 << 20
	// maxResult is the size of an answer.
	maxResult = 16 << 10
	// maxMemory is what the child may use. The engine takes about 15 MB.
	maxMemory = 128 << 20
	// maxDepth is how deep calls may be nested.
	maxDepth = 1000
	// defaultTimeout is the time for an evaluation, the name look-ups within it included.
	defaultTimeout = 5 * time.Second
	// grace is what is left to a script that was interrupted.
	grace = 500 * time.Millisecond
	// startup is what a child may take besides, on a busy machine.
	startup = 5 * time.Second
)

// Evaluator asks scripts. The zero value is ready for use.
type Evaluator struct {
	// Command starts a child that calls Serve. Nil means this program with the argument "pac-eval".
	Command []string
	// Timeout bounds an evaluation; 0 means 5 s.
	Timeout time.Duration
}

// question and answer are what parent and child send each other.
type question struct {
	Script  string        `json:"script"`
	URL     string        `json:"url"`
	Host    string        `json:"host"`
	Timeout time.Duration `json:"timeout"`
}

type answer struct {
	Result string `json:"result"`
	Error  string `json:"error,omitempty"`
	Limit  bool   `json:"limit,omitempty"`
}

// Find returns what the script says for a URL whose host is host: the text, such as "PROXY a:8080; DIRECT", unread.
// Its errors match one of this package's, or are ctx's.
func (e Evaluator) Find(ctx context.Context, script, url, host string) (string, error) {
	if len(script) > MaxScript {
		return "", fmt.Errorf("%w: it is larger than %d KiB", ErrScript, MaxScript>>10)
	}
	q := question{Script: script, URL: url, Host: host, Timeout: e.Timeout}
	if q.Timeout <= 0 {
		q.Timeout = defaultTimeout
	}
	in, err := json.Marshal(q)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrHelper, err)
	}
	command := e.Command
	if len(command) == 0 {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("%w: this program's file is not known: %w", ErrHelper, err)
		}
		command = []string{self, "pac-eval"}
	}
	limit := q.Timeout + startup
	childCtx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w: no answer within %v", ErrLimit, limit))
	defer cancel()
	cmd := exec.CommandContext(childCtx, command[0], command[1:]...)
	cmd.Env = childEnvironment()
	cmd.Stdin = bytes.NewReader(in)
	cmd.WaitDelay = time.Second
	out := &bounded{left: maxResult + 1024}
	cmd.Stdout = out
	err = cmd.Run()
	switch {
	case childCtx.Err() != nil:
		return "", context.Cause(childCtx)
	case err != nil:
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			// It was ended by one of the outer nets, or by the runtime for want of memory or stack.
			return "", fmt.Errorf("%w: it took too much time or memory, or nested too deep (the helper ended with %v)", ErrLimit, exit.ProcessState)
		}
		return "", fmt.Errorf("%w: %w", ErrHelper, err)
	}
	var a answer
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		return "", fmt.Errorf("%w: it did not answer", ErrHelper)
	}
	switch {
	case a.Limit:
		return "", fmt.Errorf("%w: %s", ErrLimit, a.Error)
	case a.Error != "":
		return "", fmt.Errorf("%w: %s", ErrScript, a.Error)
	}
	return a.Result, nil
}

// childEnvironment is empty but for what the system's own libraries need.
func childEnvironment() []string {
	env := []string{"GOMAXPROCS=2", "GOTRACEBACK=none"}
	for _, name := range []string{"SYSTEMROOT", "TZ", "ZONEINFO", "LOCALDOMAIN", "RES_OPTIONS", "GODEBUG", "GORACE"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// bounded keeps the first bytes that are written to it.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.left -= n
	b.Buffer.Write(p[:n])
	return len(p), nil
}

// Serve is the child: it reads one question from in, answers on out, and returns. It may end the process instead, with
// exit code 3, when a limit is hit. Nothing else should run in the process.
func Serve(in io.Reader, out io.Writer) error {
	limitSelf(maxMemory)
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { watch(done, maxMemory, 2*defaultTimeout+startup) })
	defer watching.Wait()
	defer close(done)
	var q question
	if err := json.NewDecoder(io.LimitReader(in, 8*MaxScript)).Decode(&q); err != nil {
		return fmt.Errorf("reading the question: %w", err)
	}
	// Some of what a script can start does not notice an interrupt, such as the search of a regular expression.
	hard := time.AfterFunc(q.Timeout+grace, func() { os.Exit(exitLimit) })
	defer hard.Stop()
	a := evaluate(q)
	if len(a.Result) > maxResult {
		a = answer{Error: "its result is longer than 16 KiB"}
	}
	a.Error = plain(a.Error)
	return json.NewEncoder(out).Encode(a)
}

// exitLimit is the child's exit code when it stopped itself.
const exitLimit = 3

// watch ends the process when it has lived too long or holds too much, which the system's limits may not notice.
func watch(done <-chan struct{}, memory uint64, life time.Duration) {
	end := time.After(life)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-end:
			os.Exit(exitLimit)
		case <-tick.C:
		}
		var m runtime.MemStats
		if runtime.ReadMemStats(&m); m.Sys-m.HeapReleased > memory {
			os.Exit(exitLimit)
		}
	}
}

// plain makes a script's words fit for one line.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r), unicode.IsControl(r):
			return ' '
		case !unicode.IsGraphic(r): // such as what reorders text
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return strings.Join(strings.Fields(s), " ")
}
