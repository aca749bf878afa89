//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sallyport/test/internal/faults"
)

// The names of the built-in contenders, as they stand in the tables.
const (
	nameSallyport = "Sallyport"
	nameRelay     = "relay"
	nameAgain     = "relay again"
	nameDirect    = "direct"
)

// contender is one way to get from an origin to the target.
type contender struct {
	name string
	// files is how many file descriptors its busiest agent needs for a stream.
	files int
	// start starts its agents in place, whose target and link it must use.
	start func(ctx context.Context, p *place) (*tunnel, error)
}

// place is where a contender is started: what it needs to know.
type place struct {
	dir   string // for logs and files
	certs certFiles
	// targets are addresses of the same target, host:port. A contender that can have only one uses
	// the first.
	targets []string
	// link, if there is to be one, starts it before addr.
	link func(addr string) (string, error)
}

// through returns the address of a link to addr; addr itself when there is none.
func (p *place) through(addr string) (string, error) {
	if p.link == nil {
		return addr, nil
	}
	return p.link(addr)
}

// tunnel is a contender that runs.
type tunnel struct {
	addrs  []string   // where origins connect; all lead to the target
	agents []*process // the client agent first; none for direct
}

// stop ends the agents.
func (t *tunnel) stop() {
	for _, p := range t.agents {
		p.stop()
	}
}

// cpu returns the processor time that the agents have used so far, together.
func (t *tunnel) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, p := range t.agents {
		d, err := cpuTime(p.pid())
		if err != nil {
			return 0, p.failure("processor time", err)
		}
		sum += d
	}
	return sum, nil
}

// memory returns the bytes that each agent has resident.
func (t *tunnel) memory() (usage, error) { return t.rss(func(now, _ int64) int64 { return now }) }

// peak returns the most that each agent ever had resident.
func (t *tunnel) peak() (usage, error) { return t.rss(func(_, peak int64) int64 { return peak }) }

func (t *tunnel) rss(pick func(now, peak int64) int64) (usage, error) {
	var u usage
	for _, p := range t.agents {
		now, peak, err := rss(p.pid())
		if err != nil {
			return nil, p.failure("memory", err)
		}
		u = append(u, pick(now, peak))
	}
	return u, nil
}

// direct is no tunnel at all.
func direct() contender {
	return contender{nameDirect, 0, func(_ context.Context, p *place) (*tunnel, error) {
		addr, err := p.through(p.targets[0])
		return &tunnel{addrs: []string{addr}}, err
	}}
}

// bareRelay is the reference: the two halves of test/internal/barerelay, built as bin.
func bareRelay(name, bin string) contender {
	return contender{name, 2, func(ctx context.Context, p *place) (*tunnel, error) {
		return startPair(
			func() (*process, string, error) {
				return spawnPrinting(ctx, p.dir, "relay-server", bin, "server", p.certs.cert, p.certs.key, p.targets[0])
			},
			func(server string) (*process, string, error) {
				return spawnPrinting(ctx, p.dir, "relay-client", bin, "client", p.certs.cert, server)
			}, p)
	}}
}

// startPair starts a server agent, then the link, then a client agent that goes through it. Both
// return where they listen; a client agent may listen at several addresses, with spaces between.
func startPair(server func() (*process, string, error), client func(server string) (*process, string, error), p *place) (*tunnel, error) {
	far, addr, err := server()
	if err != nil {
		return nil, err
	}
	t := &tunnel{agents: []*process{far}}
	if addr, err = p.through(addr); err != nil {
		t.stop()
		return nil, err
	}
	near, addrs, err := client(addr)
	if err != nil {
		t.stop()
		return nil, err
	}
	t.addrs, t.agents = strings.Fields(addrs), []*process{near, far}
	return t, nil
}

// sallyport is the program bin with the settings that it has by default, over wss.
func sallyport(bin string) contender {
	return contender{nameSallyport, 1, func(ctx context.Context, p *place) (*tunnel, error) {
		token := filepath.Join(p.dir, "token")
		if err := os.WriteFile(token, []byte("spt_load-secret-of-nobody-51c8\n"), 0o600); err != nil {
			return nil, err
		}
		serve := []string{
			"server", "--listen", "127.0.0.1:0", "--tls-cert", p.certs.cert, "--tls-key", p.certs.key,
			"--token-file", token, "--log-format", "json",
		}
		connect := []string{
			"client", "--ca-file", p.certs.cert, "--proxy", "none", "--token-file", token, "--log-format", "json",
		}
		for _, target := range p.targets {
			serve = append(serve, "--allow", target)
			connect = append(connect, "-L", "127.0.0.1:0:"+target)
		}
		return startPair(
			func() (*process, string, error) {
				return spawnLogging(ctx, p.dir, "server", "listening", 1, bin, serve)
			},
			func(server string) (*process, string, error) {
				connect = append(connect, "--server", "wss://"+server+"/tunnel")
				return spawnLogging(ctx, p.dir, "client", "forward listening", len(p.targets), bin, connect)
			}, p)
	}}
}

// spawnLogging starts an agent that logs the n addresses where it listens under a message, and
// returns those too.
func spawnLogging(ctx context.Context, dir, name, message string, n int, bin string, args []string) (*process, string, error) {
	p, err := spawn(ctx, dir, "sallyport-"+name, false, bin, args...)
	if err != nil {
		return nil, "", err
	}
	addrs, err := p.awaitEvents(ctx, message, "addr", n)
	if err != nil {
		p.stop()
		return nil, "", err
	}
	return p, strings.Join(addrs, " "), nil
}

// linkStarter returns a place's link, and how to get hold of it once it is started.
func linkStarter(ctx context.Context, dir string, l faults.Link) (start func(string) (string, error), get func() *link) {
	var started *link
	start = func(addr string) (string, error) {
		var err error
		if started, err = startLink(ctx, dir, addr, l); err != nil {
			return "", fmt.Errorf("start the link: %w", err)
		}
		return started.addr, nil
	}
	return start, func() *link { return started }
}

// awaitReady waits until a byte comes back from the target through the tunnel.
func (t *trial) awaitReady(ctx context.Context) error {
	deadline := time.Now().Add(patience)
	for {
		took, err := t.echoOnce()
		if err == nil && took > 0 {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("no byte comes through: %w", errors.Join(err, context.Cause(ctx)))
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// echoOnce opens a stream, has one byte echoed, closes it and returns how long all that took.
func (t *trial) echoOnce() (time.Duration, error) {
	begin := time.Now()
	c, err := t.dial()
	if err != nil {
		return 0, err
	}
	err = ping(c, make([]byte, 1))
	c.Close()
	return time.Since(begin), err
}

// ping sends a byte and waits for it.
func ping(c net.Conn, b []byte) error {
	b[0] = serviceEcho
	if _, err := c.Write(b); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if b[0] != serviceEcho {
		return faultError{fmt.Errorf("the echo of %q is %q", serviceEcho, b[0])}
	}
	return nil
}
