package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"sallyport/proxy"
)

// release is the version that this source is, or is on the way to.
const release = "0.1.0-dev"

// software names this program to the peer and to proxies.
const software = "sallyport/" + release

// revision returns which commit this was built from, "" if the build does not know.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	commit, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = ", modified"
		}
	}
	if commit == "" {
		return ""
	}
	return commit + modified
}

// versionCommand prints what there is to know for a report of a bug.
func (p *program) versionCommand() *cli.Command {
	return leaf(&cli.Command{
		Name:  "version",
		Usage: "print the version of the program, of Go and of the protocol",
		Action: func(*cli.Context) error {
			built := ""
			if r := revision(); r != "" {
				built = " (" + r + ")"
			}
			fmt.Fprintf(p.stdout, "sallyport %s%s\n%s %s/%s\nprotocol %s\n",
				release, built, runtime.Version(), runtime.GOOS, runtime.GOARCH, proxy.Subprotocol)
			return nil
		},
	}, 0)
}
