package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/urfave/cli/v2"

	"sallyport/cmd/internal/config"
)

// demoTimeout bounds the show; it takes a second or two.
const demoTimeout = 2 * time.Minute

// demoSize is how much goes each way, in MiB, and maxDemoSize the most that can be asked for.
const demoSize, maxDemoSize = 32, 1024

// demoCommand shows what this is about on a machine where nothing is set up.
func (p *program) demoCommand() *cli.Command {
	return leaf(&cli.Command{
		Name:  "demo",
		Usage: "show it all on this machine: two agents, a corporate proxy between them, a WebSocket that gets cut",
		Description: "Starts a web page and an echo service, a server agent that may reach them, a proxy that wants a password,\n" +
			"and a client agent behind it: on loopback, with ports, certificates and secrets made for the moment.\n" +
			"Real bytes go through, the proxy cuts the WebSocket in the middle, the streams survive. Exits 1 if one does not.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "once", Usage: "end after the show, rather than keep the forwarded page open", DisableDefaultText: true},
			&cli.IntFlag{Name: "size", Usage: "how much goes each way, in MiB", Value: demoSize},
		},
		Action: p.demo,
	}, 0)
}

func (p *program) demo(ctx *cli.Context) error {
	size := ctx.Int("size")
	if size < 1 || size > maxDemoSize {
		return usagef(ctx, "size %d: write 1 to %d (MiB)", size, maxDemoSize)
	}
	log, _ := newLogger(p.stderr, config.LogConfig{Level: slog.LevelWarn.String()})
	shown := false
	err := untilSignal(ctx.Context, func(sctx context.Context) error {
		w, err := newDemoWorld(log, int64(size)<<20)
		if err != nil {
			return err
		}
		defer w.close()
		s := &demoShow{world: w, out: p.stdout}
		if err := s.run(sctx); err != nil {
			return &demoError{err}
		}
		if shown = true; ctx.Bool("once") {
			return nil
		}
		fmt.Fprintf(p.stdout, "\nThe web page stays open, through all of that, at %s\nCtrl-C ends the demo.\n", w.page())
		select {
		case <-sctx.Done():
			return sctx.Err()
		case err := <-w.failed:
			return &demoError{err}
		}
	})
	if _, ok := errors.AsType[*interrupted](err); ok && shown {
		return nil // Ctrl-C is how it is meant to end
	}
	return err
}

// demoError says that the demo did not hold, whatever the cause: it has no exit code but exitOther.
type demoError struct{ err error }

func (e *demoError) Error() string { return "demo: " + e.err.Error() }
func (e *demoError) Unwrap() error { return e.err }
