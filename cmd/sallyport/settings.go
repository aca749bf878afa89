package main

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"

	"github.com/urfave/cli/v2"

	"sallyport/cmd/internal/config"
	"sallyport/proxy"
	"sallyport/proxy/access"
	"sallyport/proxy/egress"
	certs "sallyport/tls"
)

// configVariable names the configuration file when no flag does.
const configVariable = "SALLYPORT_CONFIG"

// load reads a role's settings: defaults, then the file, the environment and the flags, each over the one before.
func (p *program) load(ctx *cli.Context, role config.Role) (*config.Config, error) {
	path := ctx.String("config")
	if !ctx.IsSet("config") {
		path, _ = p.lookup(configVariable)
	}
	c, err := config.Load(path)
	if err != nil {
		return nil, setup(err)
	}
	if err := c.ApplyEnv(role, p.lookup); err != nil {
		return nil, setup(err)
	}
	if err := c.ApplyFlags(role, func(s config.Setting) ([]string, bool) { return flagValues(ctx, s) }); err != nil {
		return nil, setup(err)
	}
	if err := c.Check(role, checks()); err != nil {
		return nil, setup(err)
	}
	return c, nil
}

// flagValues returns what the command line has for a setting, and whether it has anything.
func flagValues(ctx *cli.Context, s config.Setting) ([]string, bool) {
	if !ctx.IsSet(s.Flag) {
		return nil, false
	}
	switch s.Kind {
	case config.Bool:
		return []string{strconv.FormatBool(ctx.Bool(s.Flag))}, true
	case config.List:
		return ctx.StringSlice(s.Flag), true
	}
	return []string{ctx.String(s.Flag)}, true
}

// checks are the grammars that other packages own.
func checks() config.Checks {
	rule := func(s string) error { _, err := access.ParseRule(s); return err }
	forward := func(s string) error { _, err := proxy.ParseForward(s); return err }
	return config.Checks{
		"server.allow":        rule,
		"server.allow_listen": rule,
		"client.forward":      forward,
		"client.reverse":      forward,
		"client.pin":          func(s string) error { _, err := certs.ParsePin(s); return err },
		"client.proxy":        wayOut(func(o *egress.Options, s string) { o.Proxy = []string{s} }),
		"client.pac":          wayOut(func(o *egress.Options, s string) { o.PAC = s }),
		"client.proxy_trust":  wayOut(func(o *egress.Options, s string) { o.Trust = []string{s} }),
	}
}

// wayOut checks one setting of the way out.
func wayOut(set func(*egress.Options, string)) func(string) error {
	return func(s string) error {
		var o egress.Options
		set(&o, s)
		_, err := egress.New(o)
		return err
	}
}

// parseForwards reads what Check has seen to be right.
func parseForwards(texts []string) ([]proxy.Forward, error) {
	var list []proxy.Forward
	for _, text := range texts {
		f, err := proxy.ParseForward(text)
		if err != nil {
			return nil, setup(err)
		}
		list = append(list, f)
	}
	return list, nil
}

// warnUnapplied names the settings that differ between two configurations but are only read at the start.
func warnUnapplied(log *slog.Logger, role config.Role, old, now *config.Config, applied []string) {
	before := make(map[string]string)
	for _, e := range old.Effective(role) {
		before[e.Name] = e.Value
	}
	var names []string
	for _, e := range now.Effective(role) {
		if e.Value != before[e.Name] && !slices.Contains(applied, e.Name) {
			names = append(names, e.Name)
		}
	}
	if len(names) > 0 {
		log.Warn("some changed settings take effect at the next start only", "settings", names)
	}
}

// configCommand checks files before an agent is told to use them.
func (p *program) configCommand() *cli.Command {
	return group(&cli.Command{
		Name:  "config",
		Usage: "check a configuration file",
		Subcommands: []*cli.Command{leaf(&cli.Command{
			Name:      "check",
			Usage:     "check a configuration file and the files that it names, and print what is in force",
			ArgsUsage: "[FILE]",
			Description: "Reads FILE as the agents would, environment variables included: every mistake is told with its line.\n" +
				"A file with a section \"server\" is checked for a server agent, one with \"client\" for a client agent.",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "the file, in place of the argument [$" + configVariable + "]"},
			},
			Action: p.checkConfig,
		}, 1)},
	})
}

func (p *program) checkConfig(ctx *cli.Context) error {
	path := ctx.Args().First()
	if ctx.IsSet("config") {
		if path != "" {
			return usagef(ctx, "the file is named twice: %s and --config", path)
		}
		path = ctx.String("config")
	}
	if path == "" {
		path, _ = p.lookup(configVariable)
	}
	if path == "" {
		return usagef(ctx, "name the file to check")
	}
	c, err := config.Load(path)
	if err != nil {
		return setup(err)
	}
	checked := false
	for _, role := range []config.Role{config.Server, config.Client} {
		if !slices.Contains(c.Sections(), string(role)) {
			continue
		}
		checked = true
		if err := p.checkRole(path, role); err != nil {
			return err
		}
	}
	if !checked {
		return setup(fmt.Errorf("%s: neither a section server nor client: there is nothing to check", path))
	}
	return nil
}

// checkRole reads the file for one role, opens what it names, and prints the outcome. Each role gets a Config of its
// own: Check may be called once.
func (p *program) checkRole(path string, role config.Role) error {
	c, err := config.Load(path)
	if err != nil {
		return setup(err)
	}
	if err := c.ApplyEnv(role, p.lookup); err != nil {
		return setup(err)
	}
	if err := c.Check(role, checks()); err != nil {
		return setup(err)
	}
	log := slog.New(slog.DiscardHandler)
	if role == config.Server {
		_, err = readServerFiles(c.Server, log)
	} else {
		_, err = readClientFiles(c.Client, log)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "%s: %s: ok\n", path, role)
	for _, e := range c.Effective(role) {
		if e.Value != "" {
			fmt.Fprintf(p.stdout, "  %s = %s  (%s)\n", e.Name, e.Value, e.Origin)
		}
	}
	return nil
}
