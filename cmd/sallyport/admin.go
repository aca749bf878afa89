package main

import (
	"context"
	"log/slog"
	"net"
	"time"

	"sallyport/cmd/internal/admin"
	"sallyport/proxy"
	"sallyport/tunnel"
)

// listenTCP opens a listener; its error is a *proxy.ListenError, which has a hint.
func listenTCP(ctx context.Context, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, &proxy.ListenError{Address: addr, Err: err}
	}
	return l, nil
}

// watched is what the admin pages need of an agent.
type watched interface{ Status() proxy.Status }

// adminPages is an agent's admin listener and pages, if it is to have any. It is made before the agent, whose sessions
// report round trips to it.
type adminPages struct {
	addr  string // "" is none
	pages *admin.Admin
	agent watched
	ready func(context.Context) error
}

func newAdminPages(addr string, log *slog.Logger) *adminPages {
	a := &adminPages{addr: addr}
	a.pages = admin.New(admin.Options{
		Status:  func() proxy.Status { return a.agent.Status() },
		Ready:   func(ctx context.Context) error { return a.ready(ctx) },
		Version: release,
		Logger:  log,
	})
	return a
}

// trace makes sessions report their round trips; nil if nobody can ask for them.
func (a *adminPages) trace() *tunnel.Trace {
	if a.addr == "" {
		return nil
	}
	return &tunnel.Trace{RTT: func(d time.Duration) { a.pages.ObserveRTT(d) }}
}

// open opens the listener for an agent's pages, and returns what serves them; nil if there are to be none.
func (a *adminPages) open(ctx context.Context, log *slog.Logger, agent watched, ready func(context.Context) error) (func(context.Context) error, error) {
	if a.addr == "" {
		return nil, nil
	}
	a.agent, a.ready = agent, ready
	l, err := listenTCP(ctx, a.addr)
	if err != nil {
		return nil, err
	}
	log.Info("admin listening", "addr", l.Addr().String())
	return func(ctx context.Context) error { return a.pages.Serve(ctx, l) }, nil
}
