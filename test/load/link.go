//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"sallyport/test/internal/faults"
)

// megabyte is a million bytes: the unit of all rates here.
const megabyte = 1_000_000

// linkSetting tells the link's process what to be.
type linkSetting struct {
	Link   faults.Link
	Target string // where new connections go; "" leaves it
}

// serveLink is the link's process: a relay that prints where it listens and obeys settings until in
// ends. A process of its own, so that its timers do not wait for the load's goroutines.
func serveLink(in io.Reader, out io.Writer, target string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	relay := faults.NewRelay(ln, faults.Options{Target: target})
	if _, err := fmt.Fprintln(out, relay.Addr()); err != nil {
		ln.Close()
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { err = relay.Run(ctx) })
	failed := answer(in, out, func(s linkSetting) linkSetting {
		relay.SetLink(s.Link)
		if s.Target != "" {
			relay.SetTarget(s.Target)
		}
		return s
	})
	cancel()
	wg.Wait()
	if err == nil {
		err = failed
	}
	return err
}

// link is the link's process as the measurements see it.
type link struct {
	*process
	addr string
}

// startLink puts a link before a target.
func startLink(ctx context.Context, dir, target string, l faults.Link) (*link, error) {
	p, addr, err := spawnSelf(ctx, dir, subLink, target)
	if err != nil {
		return nil, err
	}
	made := &link{p, addr}
	if err := made.set(linkSetting{Link: l}); err != nil {
		p.stop()
		return nil, err
	}
	return made, nil
}

// set changes the link. It returns when the change holds.
func (l *link) set(s linkSetting) error { return l.ask(s, &linkSetting{}) }
