package main

import (
	"github.com/urfave/cli/v2"

	"sallyport/proxy/egress/pac"
)

// pacCommand is the second process in which a client agent evaluates proxy auto-configuration scripts. Nobody types it.
func (p *program) pacCommand() *cli.Command {
	return leaf(&cli.Command{
		Name:   "pac-eval",
		Usage:  "evaluate a PAC script for a client agent",
		Hidden: true,
		Action: func(*cli.Context) error { return pac.Serve(p.stdin, p.stdout) },
	}, 0)
}
