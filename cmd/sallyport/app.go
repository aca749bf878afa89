package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"sallyport/cmd/internal/config"
)

// app is the tree of commands.
func (p *program) app() *cli.App {
	return &cli.App{
		Name:     "sallyport",
		HelpName: "sallyport",
		Usage:    "TCP streams through a WebSocket, past corporate proxies, that outlive the WebSocket",
		Description: "Start with \"sallyport demo\": it shows on this machine what the agents do.\n" +
			"Then: \"sallyport cert dev\", \"sallyport token new NAME\", \"sallyport server --help\", \"sallyport client --help\".",
		Reader:    p.stdin,
		Writer:    p.stdout,
		ErrWriter: p.stderr,
		Commands: []*cli.Command{
			p.serverCommand(), p.clientCommand(), p.connectCommand(), p.demoCommand(),
			p.tokenCommand(), p.certCommand(), p.configCommand(), p.versionCommand(), p.pacCommand(),
		},
		HideVersion: true, // there is a command
		// A comma is part of a rule ("host:22,443") and of a header's value: one flag, one element.
		DisableSliceFlagSeparator: true,
		Action:                    unknownCommand,
		OnUsageError:              usage,
		ExitErrHandler:            func(*cli.Context, error) {}, // run reports
	}
}

// leaf finishes a command that has no commands of its own. An argument beyond most is an error, because flags behind
// the first argument would be taken for arguments silently.
func leaf(c *cli.Command, most int) *cli.Command {
	act := c.Action
	c.HideHelpCommand = true
	c.OnUsageError = usage
	c.Action = func(ctx *cli.Context) error {
		if args := ctx.Args().Slice(); len(args) > most {
			extra := args[most]
			if strings.HasPrefix(extra, "-") && most > 0 {
				return usagef(ctx, "flag %s stands behind the argument; write flags first", extra)
			}
			return usagef(ctx, "unexpected argument %q", extra)
		}
		return act(ctx)
	}
	return c
}

// group finishes a command that only holds others.
func group(c *cli.Command) *cli.Command {
	c.HideHelpCommand = true
	c.ArgsUsage = "COMMAND"
	c.OnUsageError = usage
	c.Action = unknownCommand
	return c
}

// unknownCommand shows the help, or says that there is no such command.
func unknownCommand(ctx *cli.Context) error {
	name := ctx.Args().First()
	if name == "" {
		if ctx.Command != nil && len(ctx.Lineage()) > 2 {
			return cli.ShowSubcommandHelp(ctx)
		}
		return cli.ShowAppHelp(ctx)
	}
	return usagef(ctx, "unknown command %q", name)
}

// usage takes over the flag parser's errors, which would print the whole help.
func usage(ctx *cli.Context, err error, _ bool) error {
	return usagef(ctx, "%w", err)
}

func usagef(ctx *cli.Context, format string, args ...any) error {
	name := "sallyport"
	if ctx.Command != nil && ctx.Command.HelpName != "" {
		name = ctx.Command.HelpName
	}
	return &usageError{command: name, err: fmt.Errorf(format, args...)}
}

// roleFlags makes the flags of a role from the table of settings. The flags read neither environment nor file: package
// config does that, for all of them in one way.
func roleFlags(role config.Role) []cli.Flag {
	flags := []cli.Flag{&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "YAML file with settings [$" + configVariable + "]"}}
	for _, s := range config.Settings(role) {
		if s.Flag == "" {
			continue
		}
		var aliases []string
		if s.Alias != "" {
			aliases = []string{s.Alias}
		}
		usage := fmt.Sprintf("%s [$%s]", s.Usage, s.Env)
		switch s.Kind {
		case config.Bool:
			flags = append(flags, &cli.BoolFlag{Name: s.Flag, Aliases: aliases, Usage: usage, DisableDefaultText: true})
		case config.List:
			flags = append(flags, &cli.StringSliceFlag{Name: s.Flag, Aliases: aliases, Usage: usage})
		default:
			flags = append(flags, &cli.StringFlag{Name: s.Flag, Aliases: aliases, Usage: usage, DefaultText: s.Default})
		}
	}
	return flags
}
