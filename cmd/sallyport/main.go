// Command sallyport is both agents of the tunnel, and what goes with them.
//
//	sallyport server     the server agent: takes carriers from client agents, dials targets for them
//	sallyport client     the client agent: listens here, carries what connects to the server agent
//	sallyport connect    one stream between standard input and output and a target: ssh's ProxyCommand
//	sallyport demo       all of it on this machine, with a corporate proxy in between, explaining itself
//	sallyport token      tokens for client agents
//	sallyport cert       certificates for local use, and pins
//	sallyport config     checks a configuration file
//	sallyport version    what this is
//
// This package is the wiring and nothing else: it turns flags, environment and file into values (settings.go), values
// into the parts that the other packages make (server.go, client.go, connect.go), and runs these until a signal or
// their own end (lifecycle.go). What a person meets when something fails is in exit.go: one line that says what failed
// at which leg, a hint, and an exit code by cause.
package main

import (
	"io"
	"os"
)

func main() {
	p := &program{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, lookup: os.LookupEnv}
	os.Exit(p.run(os.Args))
}

// program is one run of the command and the world that it sees.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookup         func(string) (string, bool) // environment variables
}

// run does what the arguments, the program's name first, say and returns the exit code.
func (p *program) run(args []string) int {
	return p.report(p.app().Run(args))
}
