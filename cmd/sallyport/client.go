package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/urfave/cli/v2"

	"sallyport/cmd/internal/config"
	"sallyport/proxy"
	"sallyport/proxy/egress"
	certs "sallyport/tls"
	"sallyport/tunnel"
)

// clientCommand runs the client agent.
func (p *program) clientCommand() *cli.Command {
	return leaf(&cli.Command{
		Name:  "client",
		Usage: "run the client agent: listen here, carry what connects to the server agent",
		Description: "Forwards have ssh's syntax: -L listens here and dials there, -R listens there and dials here.\n\n" +
			"   sallyport client --server wss://gate.example.com --token-file token -L 5432:db.internal:5432\n\n" +
			"SIGTERM drains: nothing new is taken, streams finish within --drain-timeout; a second one ends at once.\n" +
			"SIGHUP reads configuration, certificates, token and forwards again; with a mistake in them, the old ones stay.\n\n" +
			describeCodes(agentCodes()),
		Flags:  roleFlags(config.Client),
		Action: p.client,
	}, 0)
}

// clientFiles is what a client agent's settings name, read, and what is made of it.
type clientFiles struct {
	url     *url.URL
	options certs.ClientOptions
	token   *tokenSource
	header  http.Header
	out     *egress.Dialer
	route   egress.Route
	// material is for the server agent; nil for ws. proxyMaterial is for https:// proxies: CAs without pins.
	material, proxyMaterial *certs.ClientMaterial
}

func readClientFiles(c config.ClientConfig, log *slog.Logger) (*clientFiles, error) {
	f := &clientFiles{header: make(http.Header)}
	var err error
	if f.url, err = c.ServerURL(); err != nil {
		return nil, setup(err)
	}
	if f.token, err = newTokenSource(c, log); err != nil {
		return nil, setup(err)
	}
	for _, h := range c.Header {
		f.header.Add(h.Name, h.Value.Reveal())
	}
	f.header.Set("User-Agent", software)
	if f.url.Scheme == "wss" {
		f.options = certs.ClientOptions{
			CAFile: c.CAFile, Pins: c.Pin, CertFile: c.ClientCert, KeyFile: c.ClientKey, Logger: log,
		}
		if f.material, err = certs.Client(f.options); err != nil {
			return nil, setup(err)
		}
	}
	if err := f.wayOut(c, log); err != nil {
		return nil, setup(err)
	}
	return f, nil
}

// wayOut makes the dialler through the proxy, if there is one, and tells the route.
func (f *clientFiles) wayOut(c config.ClientConfig, log *slog.Logger) error {
	password, err := c.ReadProxyPassword()
	if err != nil {
		return err
	}
	o := egress.Options{
		Proxy: c.RevealProxy(), PAC: c.PAC, Trust: c.ProxyTrust,
		Username: c.ProxyUser, Password: password.Reveal(), Schemes: c.ProxyAuth,
		Kerberos: egress.Kerberos{Keytab: c.ProxyKeytab, Service: c.ProxyService},
		Scheme:   f.url.Scheme, UserAgent: software, Logger: log,
	}
	if f.out, err = egress.New(o); err != nil {
		return err
	}
	if f.route, err = f.out.Route(hostPort(f.url)); err != nil {
		return err
	}
	if !f.route.Script && !strings.Contains(f.route.Proxy, "https://") {
		return nil
	}
	if f.proxyMaterial, err = certs.Client(certs.ClientOptions{CAFile: cmp.Or(c.ProxyCAFile, c.CAFile)}); err != nil {
		return err
	}
	o.TLS = f.proxyMaterial.Config
	f.out, err = egress.New(o)
	return err
}

// hostPort returns what to dial for a server agent's URL.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
		if u.Scheme == "ws" {
			port = "80"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// webSocket dials carriers with what was read; material is what keeps the certificates.
func (f *clientFiles) webSocket(material *certs.ClientMaterial) *proxy.WebSocket {
	w := &proxy.WebSocket{
		URL: f.url.String(), Header: f.header, Token: f.token.token, DialContext: f.out.DialContext,
		SmallHello: new(atomic.Bool),
	}
	if material != nil {
		w.TLS = func() *tls.Config { return material.Config(f.url.Hostname()) }
	}
	return w
}

// sessionOptions are what client and connect have in common.
func sessionOptions(c config.ClientConfig, trace *tunnel.Trace) tunnel.Options {
	return tunnel.Options{
		Software: software, KeepAlive: c.KeepAlive,
		ReceiveBudget: c.SessionMemory, SendBudget: c.SessionMemory, Trace: trace,
	}
}

// clientAgent is a running client agent with what a reload changes.
type clientAgent struct {
	log    *slog.Logger
	level  *slog.LevelVar
	load   func() (*config.Config, error)
	config *config.Config
	files  *clientFiles
	dialer atomic.Pointer[proxy.WebSocket]
	client *proxy.Client
}

func (p *program) client(ctx *cli.Context) error {
	a := &clientAgent{load: func() (*config.Config, error) { return p.load(ctx, config.Client) }}
	var err error
	if a.config, err = a.load(); err != nil {
		return err
	}
	a.log, a.level = newLogger(p.stderr, a.config.Log)
	if a.files, err = readClientFiles(a.config.Client, a.log); err != nil {
		return err
	}
	return a.serve(ctx.Context)
}

func (a *clientAgent) serve(ctx context.Context) error {
	c := a.config.Client
	forwards, reverse, err := bothForwards(c)
	if err != nil {
		return err
	}
	if len(forwards)+len(reverse) == 0 {
		a.log.Warn("no forwards: nothing will be carried; set -L or -R")
	}
	a.dialer.Store(a.files.webSocket(a.files.material))
	pages := newAdminPages(c.Admin, a.log)
	a.client, err = proxy.NewClient(proxy.ClientOptions{
		Dial: func(ctx context.Context, resume bool) (tunnel.Carrier, error) {
			return a.dialer.Load().Dial(ctx, resume)
		},
		Forwards: forwards, Reverse: reverse, Carriers: c.Carriers, MaxCarriers: c.MaxCarriers,
		Session: sessionOptions(c, pages.trace()), Logger: a.log,
	})
	if err != nil {
		return setup(err)
	}
	life := &lifecycle{
		log: a.log, run: a.client.Run, drain: a.client.Drain, drainTimeout: c.DrainTimeout, reload: a.reload,
	}
	if a.files.material != nil {
		life.beside = append(life.beside, a.files.material.Run)
	}
	serve, err := pages.open(ctx, a.log, a.client, a.client.Ready)
	if err != nil {
		return err
	}
	if serve != nil {
		life.beside = append(life.beside, serve)
	}
	a.log.Info("connecting", "server", a.files.url.Scheme+"://"+a.files.url.Host+a.files.url.Path, "route", a.files.route.String())
	return life.serve(ctx)
}

func bothForwards(c config.ClientConfig) (forwards, reverse []proxy.Forward, err error) {
	if forwards, err = parseForwards(c.Forward); err != nil {
		return nil, nil, err
	}
	reverse, err = parseForwards(c.Reverse)
	return forwards, reverse, err
}

// clientReloads are the settings that a reload applies.
func clientReloads() []string {
	return []string{
		"log.level", "client.token_file", "client.ca_file", "client.pin", "client.client_cert", "client.client_key",
		"client.proxy", "client.pac", "client.proxy_user", "client.proxy_password_file", "client.proxy_auth",
		"client.proxy_trust", "client.proxy_ca_file", "client.proxy_keytab", "client.proxy_service", "client.header",
		"client.forward", "client.reverse",
	}
}

// reload reads everything again before it changes anything. The server agent stays the same: sessions belong to it.
func (a *clientAgent) reload() error {
	c, err := a.load()
	if err != nil {
		return err
	}
	forwards, reverse, err := bothForwards(c.Client)
	if err != nil {
		return err
	}
	same := c.Client
	same.Server = a.config.Client.Server
	files, err := readClientFiles(same, a.log)
	if err != nil {
		return err
	}
	if err := a.client.SetForwards(forwards, reverse); err != nil {
		return err
	}
	if a.files.material != nil {
		if err := a.files.material.Update(files.options); err != nil { // it was read a moment ago: very unlikely
			return fmt.Errorf("the forwards are in force, the certificates are not: %w", err)
		}
	}
	a.dialer.Store(files.webSocket(a.files.material))
	a.level.Set(c.Log.SlogLevel())
	warnUnapplied(a.log, config.Client, a.config, c, clientReloads())
	a.config = c
	return nil
}
