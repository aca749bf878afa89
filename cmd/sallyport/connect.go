package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"

	"github.com/urfave/cli/v2"

	"sallyport/cmd/internal/config"
	"sallyport/proxy"
)

// connectCommand carries one stream.
func (p *program) connectCommand() *cli.Command {
	return leaf(&cli.Command{
		Name:      "connect",
		Usage:     "carry one stream between standard input and output and a target (ssh's ProxyCommand)",
		ArgsUsage: "HOST:PORT",
		Description: "   ssh -o ProxyCommand='sallyport connect --server wss://gate.example.com --token-file ~/.gate %h:%p' host\n\n" +
			"The target is host:port, [IPv6]:port or unix:/path, as the server agent sees it. Ends of file are passed on, each way.\n" +
			"Only warnings are logged unless --log-level says otherwise.\n\n" +
			describeCodes(append(agentCodes(), targetCodes()...)),
		Flags:  roleFlags(config.Connect),
		Action: p.connect,
	}, 1)
}

func (p *program) connect(ctx *cli.Context) error {
	if ctx.Args().First() == "" {
		return usagef(ctx, "name the target: host:port or unix:/path")
	}
	target, err := proxy.ParseTarget(ctx.Args().First())
	if err != nil {
		return usagef(ctx, "%w", err)
	}
	c, err := p.load(ctx, config.Connect)
	if err != nil {
		return err
	}
	log, level := newLogger(p.stderr, c.Log)
	for _, e := range c.Effective(config.Connect) {
		if e.Name == "log.level" && e.Origin == "default" {
			level.Set(slog.LevelWarn) // standard error is the terminal of whoever runs ssh
		}
	}
	files, err := readClientFiles(c.Client, log)
	if err != nil {
		return err
	}
	client, err := proxy.NewClient(proxy.ClientOptions{
		Dial: files.webSocket(files.material).Dial, Carriers: c.Client.Carriers, MaxCarriers: c.Client.MaxCarriers,
		Session: sessionOptions(c.Client, nil), Logger: log,
	})
	if err != nil {
		return setup(err)
	}
	return untilSignal(ctx.Context, func(ctx context.Context) error {
		return client.Connect(ctx, target, p.stdin, p.stdout)
	})
}

// untilSignal runs f until it is done, or a signal ends it: then the error is an *interrupted.
func untilSignal(ctx context.Context, f func(context.Context) error) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, hangupSignals()...)
	defer signal.Stop(signals)
	ctx, end := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case sig := <-signals:
			end(&interrupted{sig})
		case <-ctx.Done():
		}
	}()
	err := f(ctx)
	end(nil)
	<-watched
	if cut, ok := errors.AsType[*interrupted](context.Cause(ctx)); ok && err != nil {
		return cut
	}
	return err
}
