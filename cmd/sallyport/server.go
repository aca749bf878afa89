package main

import (
	"context"
	"log/slog"

	"github.com/urfave/cli/v2"

	"sallyport/cmd/internal/config"
	"sallyport/proxy"
	"sallyport/proxy/access"
	certs "sallyport/tls"
	"sallyport/tunnel"
)

// serverCommand runs the server agent.
func (p *program) serverCommand() *cli.Command {
	return leaf(&cli.Command{
		Name:  "server",
		Usage: "run the server agent: take client agents' WebSockets, dial targets for them",
		Description: "Whom it lets in comes from --tokens (a file with names, token hashes and policies), or from --token-file with\n" +
			"--allow for a single token. Nothing may be dialled unless a rule allows it.\n\n" +
			"SIGTERM drains: nothing new is taken, streams finish within --drain-timeout; a second one ends at once.\n" +
			"SIGHUP reads configuration, certificates and tokens again; with a mistake in them, the old ones stay.\n\n" +
			describeCodes(agentCodes()),
		Flags:  roleFlags(config.Server),
		Action: p.server,
	}, 0)
}

// serverFiles is what a server agent's settings name, read.
type serverFiles struct {
	entries  []access.Entry
	options  certs.ServerOptions
	material *certs.ServerMaterial // nil: plaintext
}

func readServerFiles(c config.ServerConfig, log *slog.Logger) (*serverFiles, error) {
	f := &serverFiles{options: certs.ServerOptions{
		CertFile: c.TLSCert, KeyFile: c.TLSKey, ClientCAFile: c.ClientCA, Logger: log,
	}}
	var err error
	if f.entries, err = identities(c); err != nil {
		return nil, setup(err)
	}
	if _, err = access.NewStore(f.entries); err != nil {
		return nil, setup(err)
	}
	if !c.Plaintext {
		if f.material, err = certs.Server(f.options); err != nil {
			return nil, setup(err)
		}
	}
	for _, e := range f.entries {
		if e.Certificate != "" && c.ClientCA == "" {
			log.Warn("an identity needs a client certificate, but clients are not asked for one: set client_ca", "identity", e.Name)
		}
	}
	return f, nil
}

// The names of identities that stand for a setting rather than for an entry in a tokens file.
const (
	tokenIdentity       = "token"
	certificateIdentity = "certificate"
	anyoneIdentity      = "anyone"
)

// identities returns who is let in: the entries of the tokens file, or the one identity that the settings describe.
func identities(c config.ServerConfig) ([]access.Entry, error) {
	if c.Tokens != "" {
		return access.LoadFile(c.Tokens)
	}
	connect, err := access.ParseRules(c.Allow)
	if err != nil {
		return nil, err
	}
	listen, err := access.ParseRules(c.AllowListen)
	if err != nil {
		return nil, err
	}
	e := access.Entry{Policy: access.Policy{Connect: connect, Listen: listen}}
	if c.InsecureNoAuth {
		e.Name, e.Anyone = anyoneIdentity, true
		return []access.Entry{e}, nil
	}
	if c.ClientCA != "" {
		e.Name, e.Certificate = certificateIdentity, "*"
	}
	if c.TokenFile != "" {
		token, err := readToken(c.TokenFile)
		if err != nil {
			return nil, err
		}
		e.Name, e.SHA256 = tokenIdentity, access.HashToken(token)
	}
	return []access.Entry{e}, nil
}

// serverAgent is a running server agent with what a reload changes.
type serverAgent struct {
	log    *slog.Logger
	level  *slog.LevelVar
	load   func() (*config.Config, error)
	config *config.Config
	files  *serverFiles
	store  *access.Store
	server *proxy.Server
}

func (p *program) server(ctx *cli.Context) error {
	s := &serverAgent{load: func() (*config.Config, error) { return p.load(ctx, config.Server) }}
	var err error
	if s.config, err = s.load(); err != nil {
		return err
	}
	s.log, s.level = newLogger(p.stderr, s.config.Log)
	c := s.config.Server
	if s.files, err = readServerFiles(c, s.log); err != nil {
		return err
	}
	if s.store, err = access.NewStore(s.files.entries); err != nil {
		return setup(err)
	}
	if c.InsecureNoAuth {
		s.log.Warn("everybody is let in without authentication, as told by insecure_no_auth")
	}
	return s.serve(ctx.Context)
}

func (s *serverAgent) serve(ctx context.Context) error {
	c := s.config.Server
	pages := newAdminPages(c.Admin, s.log)
	o := proxy.ServerOptions{
		Access: s.store, Path: c.Path, DialTimeout: c.DialTimeout, MaxSessions: c.MaxSessions, Logger: s.log,
		Session: tunnel.Options{
			Software: software, ResumeTimeout: c.ResumeTimeout, MaxStreams: uint64(c.MaxStreams),
			ReceiveBudget: c.SessionMemory, SendBudget: c.SessionMemory, Trace: pages.trace(),
		},
	}
	life := &lifecycle{log: s.log, drainTimeout: c.DrainTimeout, reload: s.reload}
	if s.files.material != nil {
		o.TLS = s.files.material.Config()
		life.beside = append(life.beside, s.files.material.Run)
	}
	var err error
	if s.server, err = proxy.NewServer(o); err != nil {
		return setup(err)
	}
	listener, err := listenTCP(ctx, c.Listen)
	if err != nil {
		return err
	}
	serve, err := pages.open(ctx, s.log, s.server, func(context.Context) error { return s.server.Ready() })
	if err != nil {
		listener.Close()
		return err
	}
	if serve != nil {
		life.beside = append(life.beside, serve)
	}
	life.run = func(ctx context.Context) error { return s.server.Run(ctx, listener) }
	life.drain = s.server.Drain
	return life.serve(ctx)
}

// serverReloads are the settings that a reload applies.
func serverReloads() []string {
	return []string{
		"log.level", "server.tls_cert", "server.tls_key", "server.client_ca",
		"server.tokens", "server.token_file", "server.allow", "server.allow_listen",
	}
}

// reload reads everything again before it changes anything.
func (s *serverAgent) reload() error {
	c, err := s.load()
	if err != nil {
		return err
	}
	files, err := readServerFiles(c.Server, s.log)
	if err != nil {
		return err
	}
	if s.files.material != nil && files.material != nil {
		if err := s.files.material.Update(files.options); err != nil {
			return setup(err)
		}
	}
	var changes access.Changes
	if c.Server.InsecureNoAuth == s.config.Server.InsecureNoAuth {
		if changes, err = s.store.Replace(files.entries); err != nil {
			return setup(err)
		}
	}
	s.level.Set(c.Log.SlogLevel())
	warnUnapplied(s.log, config.Server, s.config, c, serverReloads())
	s.config = c
	s.server.Reload()
	if !changes.Empty() {
		s.log.Info("identities changed", "changes", changes.String())
	}
	return nil
}
