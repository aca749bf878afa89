package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"sallyport/cmd/internal/config"
	"sallyport/proxy/access"
)

// readToken reads a file that holds one token.
func readToken(path string) (string, error) {
	secret, err := config.ReadSecret(path)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	token, err := access.ParseToken([]byte(secret.Reveal()))
	if err != nil {
		return "", fmt.Errorf("token file %s: %w", path, err)
	}
	return token, nil
}

// tokenSource has the token for each new carrier. A file is read anew each time, because tokens are rotated by
// replacing it; while it cannot be read, the last token goes on.
type tokenSource struct {
	log  *slog.Logger
	path string // "" is a token that does not change

	mu   sync.Mutex
	last string
}

func newTokenSource(c config.ClientConfig, log *slog.Logger) (*tokenSource, error) {
	s := &tokenSource{log: log, path: c.TokenFile}
	var err error
	switch {
	case s.path != "":
		s.last, err = readToken(s.path)
	case !c.Token.IsZero():
		if s.last, err = access.ParseToken([]byte(c.Token.Reveal())); err != nil {
			err = fmt.Errorf("SALLYPORT_TOKEN: %w", err)
		}
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// token returns the token, "" if there is none. It never fails.
func (s *tokenSource) token() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" {
		return s.last, nil
	}
	if fresh, err := readToken(s.path); err == nil {
		s.last = fresh
	} else {
		s.log.Warn("the token file cannot be used: going on with the token that it had", "error", err)
	}
	return s.last, nil
}

// tokenCommand makes tokens.
func (p *program) tokenCommand() *cli.Command {
	return group(&cli.Command{
		Name:  "token",
		Usage: "make a token for a client agent",
		Subcommands: []*cli.Command{leaf(&cli.Command{
			Name:      "new",
			Usage:     "print a new token, and the entry that lets it in",
			ArgsUsage: "NAME",
			Description: "The token is shown this once: put it into a file that only the client agent can read (--token-file).\n" +
				"The entry has no secret in it: paste it into the server agent's tokens file and write rules into its policy.",
			Action: p.newToken,
		}, 1)},
	})
}

func (p *program) newToken(ctx *cli.Context) error {
	name := ctx.Args().First()
	if name == "" {
		return usagef(ctx, "name the identity that the token is for")
	}
	token, entry, err := access.NewToken(name)
	if err != nil {
		return setup(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# The token, for the client agent: keep it in a file of mode 0600 (--token-file). It is not shown again.\n%s\n\n", token)
	fmt.Fprintf(&b, "# The entry, for the server agent's tokens file (--tokens). Write into its policy what it may reach.\n%s", entry.YAML())
	_, err = io.WriteString(p.stdout, b.String())
	return err
}
