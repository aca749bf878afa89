//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// options are what the flags say.
type options struct {
	args      []string // as given
	quick     bool
	rounds    int
	window    time.Duration
	scenarios []*scenario
	who       *regexp.Regexp
	json      string
	sallyport string
	keep      bool
	foreign   []contender
}

// What -quick and a full run use when -rounds and -seconds are not given.
const (
	quickRounds, fullRounds = 3, 5
	quickWindow, fullWindow = 700 * time.Millisecond, 3 * time.Second
)

const helpTop = `Usage: go run ./test/load [flags]

Measures Sallyport against a bare TLS relay pair (two small agents, one TLS connection a stream, no
WebSocket, no multiplexing, no acknowledgements: the limit of a two-hop TLS tunnel in Go) and against
direct TCP. Prints markdown tables to standard output and progress to standard error. Linux only; all
traffic stays on loopback; run it from within the repository, on a machine that does nothing else.

How it measures:
  - It builds sallyport and the relay. Every measurement starts agents of its own, as processes, with
    Sallyport's default settings over wss. A second copy of the relay shows the noise.
  - Contenders take turns within a round, in an order that turns each round. A ratio is a contender's
    value by the relay's of the same round; tables show medians over the rounds.
  - Processor time (user and system) and resident memory are those of the two agents alone, from /proc.
  - Every byte is checked at its receiver. A wrong or missing one fails the measurement.
  - Long links are played by a relay between the agents: delay, rate each way, a queue before it that
    connections share first come, first served. The first bytes of a new connection wait a round trip.
    Rates are taken after the first second (or ten round trips, if that is more).
  - MB = 1,000,000 bytes, KB of memory = 1,000 bytes, queues in 1,024s.
  - Where the system's limit on file descriptors is too low for a row, the row is measured with fewer
    streams, and a note below the tables says so.

Exit code 0: all was measured (goals may be missed); 1: a measurement failed, or a flag is wrong.

Flags:
`

// parseFlags reads the arguments. It returns nil when help is all that was asked for.
func parseFlags(args []string, help io.Writer) (*options, error) {
	o := &options{args: args}
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&o.quick, "quick", false, "the rows of the main table only, short and coarse: under 5 minutes")
	fs.IntVar(&o.rounds, "rounds", 0, fmt.Sprintf("rounds to take medians over (default %d, with -quick %d; slow scenarios take fewer)", fullRounds, quickRounds))
	seconds := fs.Float64("seconds", 0, fmt.Sprintf("`SECONDS` that one measurement looks (default %v, with -quick %v)", fullWindow.Seconds(), quickWindow.Seconds()))
	only := fs.String("only", "", "measure only scenarios whose name matches this `REGEX`, also ones that -quick leaves out")
	who := fs.String("who", "", "only contenders whose name matches this `REGEX`; without the relay there are no ratios")
	fs.StringVar(&o.json, "json", "", "write every value of every round to this `FILE`, too")
	fs.StringVar(&o.sallyport, "sallyport", "", "measure the program at this `PATH` instead of building ./cmd/sallyport")
	fs.BoolVar(&o.keep, "keep", false, "keep the directory with the agents' logs, and say where it is")
	fs.Func("contender", "add another tunnel: `NAME=SERVER COMMAND || CLIENT COMMAND`; repeatable.\n"+
		"Placeholders: {server} where the server agent is to listen, {connect} where the client agent is to\n"+
		"connect (the long link, if there is one), {listen} where origins will connect, {target}; each also\n"+
		"as {name.host} and {name.port}; {cert}, {key}: PEM files for 127.0.0.1; {dir}: a scratch directory", func(v string) error {
		c, err := foreign(v)
		o.foreign = append(o.foreign, c)
		return err
	})
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		printHelp(help, fs)
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%w (see -help)", err)
	case fs.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q (see -help)", fs.Arg(0))
	}
	return o, o.complete(*seconds, *only, *who)
}

// complete fills in defaults and checks what the flags' types do not.
func (o *options) complete(seconds float64, only, who string) error {
	rounds, window := fullRounds, fullWindow
	if o.quick {
		rounds, window = quickRounds, quickWindow
	}
	switch {
	case o.rounds < 0 || seconds < 0 || seconds > 600:
		return errors.New("-rounds and -seconds must be positive, and at most 600 s")
	case o.rounds == 0:
		o.rounds = rounds
	}
	o.window = window
	if seconds > 0 {
		o.window = time.Duration(seconds * float64(time.Second))
	}
	var err error
	if o.who, err = regexp.Compile(who); err != nil {
		return fmt.Errorf("-who: %w", err)
	}
	chosen, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	for _, s := range scenarios() {
		s.limit += 20 * o.window
		if chosen.MatchString(s.name) && (!o.quick || only != "" || s.quick > 0) {
			o.scenarios = append(o.scenarios, s)
		}
	}
	if len(o.scenarios) == 0 {
		return fmt.Errorf("-only %s: no scenario has such a name (see -help)", only)
	}
	return nil
}

// printHelp prints what the program does, its flags and its scenarios.
func printHelp(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprint(w, helpTop)
	fs.SetOutput(w)
	fs.PrintDefaults()
	fmt.Fprint(w, "\nScenarios, for -only (* those of -quick):\n")
	for _, s := range scenarios() {
		mark := " "
		if s.quick > 0 {
			mark = "*"
		}
		fmt.Fprintf(w, "%s %-28s %s\n", mark, s.name, s.about)
	}
	fmt.Fprint(w, "\n", strings.TrimSpace(`
Examples:
  go run ./test/load -quick
  go run ./test/load -json result.json
  go run ./test/load -only '^upload-1$' -rounds 9 -who 'Sallyport|relay$'
  go run ./test/load -only link-40 -sallyport ./sallyport -keep
`), "\n")
}
