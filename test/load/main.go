//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The hidden roles in which this program starts itself.
const (
	subTarget = "target-process"
	subLink   = "link-process"
)

func main() {
	if err := dispatch(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func dispatch(args []string) error {
	switch {
	case len(args) == 1 && args[0] == subTarget:
		return serveTarget(os.Stdin, os.Stdout)
	case len(args) == 2 && args[0] == subLink:
		return serveLink(os.Stdin, os.Stdout, args[1])
	}
	o, err := parseFlags(args, os.Stdout)
	if err != nil || o == nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return measureAll(ctx, o, os.Stdout, os.Stderr)
}

// measureAll prepares, measures and reports. Progress goes to progress.
func measureAll(ctx context.Context, o *options, out, progress io.Writer) (err error) {
	a := about{
		Command: commandLine(o.args), Begun: time.Now(),
		Rounds: o.rounds, Window: o.window.String(), Machine: machine(), LoadNow: loadAverage(),
	}
	b := &bench{window: o.window, quick: o.quick}
	if b.files, err = raiseFiles(); err != nil {
		return fmt.Errorf("limit on file descriptors: %w", err)
	}
	a.Files = b.files
	if b.dir, err = os.MkdirTemp("", "load-"); err != nil {
		return err
	}
	if o.keep {
		fmt.Fprintln(progress, "logs stay in", b.dir)
	} else {
		defer os.RemoveAll(b.dir)
	}
	if b.certs, err = newCert(b.dir); err != nil {
		return err
	}
	bins, err := build(ctx, b.dir, o.sallyport, progress)
	if err != nil {
		return err
	}
	a.Version, a.Go = bins.version, bins.goVersion
	who := chosenContenders(o, bins)
	if len(who) == 0 {
		return fmt.Errorf("-who %s: no contender has such a name", o.who)
	}
	r := newResults(who, o.scenarios, o.quick)
	stopped := b.measure(ctx, o, who, r, progress)
	a.Took = time.Since(a.Begun).Round(time.Second).String()
	if err := r.write(o, a, out); err != nil {
		return err
	}
	if stopped != nil {
		return fmt.Errorf("stopped early: %w", stopped)
	}
	if len(r.fails) > 0 {
		return fmt.Errorf("%d measurements failed", len(r.fails))
	}
	return nil
}

// commandLine returns what to type for these arguments.
func commandLine(args []string) string {
	line := "go run ./test/load"
	for _, arg := range args {
		if strings.ContainsAny(arg, " \t$^()|*?[]{}&;<>'\"\\") {
			arg = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		line += " " + arg
	}
	return line
}

// chosenContenders returns who takes part, in the order of the columns.
func chosenContenders(o *options, bins programs) []contender {
	all := append([]contender{sallyport(bins.sallyport), bareRelay(nameRelay, bins.relay), bareRelay(nameAgain, bins.relay), direct()},
		o.foreign...)
	var chosen []contender
	for _, c := range all {
		if o.who.MatchString(c.name) {
			chosen = append(chosen, c)
		}
	}
	return chosen
}

// measure runs every scenario: contenders in turn, in an order that turns each round. A failure
// goes into the results; only the context's end stops early.
func (b *bench) measure(ctx context.Context, o *options, who []contender, r *results, progress io.Writer) error {
	for i, s := range o.scenarios {
		rounds := s.roundsOf(o.rounds, b.quick)
		for round := range rounds {
			for _, c := range rotated(who, round) {
				if s.agentsOnly && c.name == nameDirect {
					continue
				}
				begin := time.Now()
				m, note, err := b.run(ctx, s, c)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				outcome := m.String()
				if err == nil {
					r.add(s, c.name, round, m, note)
				} else {
					r.failed(s, c.name, round, err)
					outcome = "FAILED: " + err.Error()
				}
				fmt.Fprintf(progress, "%d/%d %s, round %d/%d, %s: %s (%.1fs)\n", i+1, len(o.scenarios), s.name,
					round+1, rounds, c.name, outcome, time.Since(begin).Seconds())
			}
		}
	}
	return nil
}

// write prints the tables, and writes the JSON file if there is to be one.
func (r *results) write(o *options, a about, out io.Writer) error {
	r.markdown(out, a)
	if o.json == "" {
		return nil
	}
	f, err := os.Create(o.json)
	if err != nil {
		return err
	}
	return errors.Join(r.json(f, a), f.Close())
}

// programs are the paths of what is measured, and what it calls itself.
type programs struct {
	sallyport, relay   string
	version, goVersion string
}

// build builds what is measured: sallyport unless it is given, and the bare relay.
func build(ctx context.Context, dir, given string, progress io.Writer) (programs, error) {
	p := programs{sallyport: given, relay: filepath.Join(dir, "barerelay")}
	fmt.Fprintln(progress, "building")
	if given == "" {
		p.sallyport = filepath.Join(dir, "sallyport")
		if _, err := command(ctx, "go", "build", "-o", p.sallyport, "sallyport/cmd/sallyport"); err != nil {
			return p, err
		}
	}
	if _, err := command(ctx, "go", "build", "-o", p.relay, "sallyport/test/internal/barerelay"); err != nil {
		return p, err
	}
	goVersion, err := command(ctx, "go", "version", p.relay)
	if err != nil {
		return p, err
	}
	if _, v, ok := strings.Cut(goVersion, ": "); ok {
		p.goVersion = v
	}
	version, err := command(ctx, p.sallyport, "version")
	first, _, _ := strings.Cut(version, "\n")
	p.version = strings.TrimPrefix(first, "sallyport ")
	return p, err
}

// command runs a command to its end and returns what it printed.
func command(ctx context.Context, name string, args ...string) (string, error) {
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out)), nil
}
