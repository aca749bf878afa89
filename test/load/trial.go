//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"sallyport/test/internal/faults"
)

// bench is what all measurements of a run share.
type bench struct {
	dir    string // for logs and files; each trial has a directory of its own in it
	certs  certFiles
	files  int           // file descriptors that a process may have
	window time.Duration // how long a measurement looks
	quick  bool
}

// trial is one contender in one round of one scenario: agents, target and link of its own.
type trial struct {
	bench    *bench
	who      contender
	target   *target
	link     *link // nil without
	tunnel   *tunnel
	window   time.Duration
	deadline time.Time // of everything in it

	dialled atomic.Uint32
	streams uint16 // bulk streams numbered so far
	note    string // what the reader must know, for the table
}

// measures are the values that one trial yields, by row id.
type measures map[string]float64

// run starts a contender for a scenario, measures it and stops everything.
func (b *bench) run(ctx context.Context, s *scenario, who contender) (m measures, note string, err error) {
	dir, err := os.MkdirTemp(b.dir, s.name+"-")
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.limit, errors.New("this took longer than it may"))
	defer cancel()
	t := &trial{bench: b, who: who, window: b.window}
	t.deadline, _ = ctx.Deadline()
	if t.target, err = startTarget(ctx, dir); err != nil {
		return nil, "", err
	}
	defer t.target.stop()

	where := &place{dir: dir, targets: t.target.addrs, certs: b.certs}
	var started func() *link
	if s.link != (faults.Link{}) {
		where.link, started = linkStarter(ctx, dir, s.link)
		defer func() {
			if l := started(); l != nil {
				l.stop()
			}
		}()
	}
	if t.tunnel, err = who.start(ctx, where); err != nil {
		return nil, "", err
	}
	defer t.tunnel.stop()
	if started != nil {
		t.link = started()
	}
	if err := t.awaitReady(ctx); err != nil {
		return nil, "", err
	}
	m, err = s.run(ctx, t)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = fmt.Errorf("%w (%w)", cause, err)
	}
	return m, t.note, err
}

// bindAddressNoPort is IP_BIND_ADDRESS_NO_PORT of <linux/in.h>.
const bindAddressNoPort = 24

// dial opens a stream through the tunnel. Origins take turns with addresses of loopback, so that
// ports which linger after a close do not run out.
func (t *trial) dial() (*net.TCPConn, error) {
	n := t.dialled.Add(1)
	d := net.Dialer{
		Deadline:  t.deadline,
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+n%100), 1)},
		// A port is chosen when the peer is known: otherwise it is kept from the agents' own dials.
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			failed := c.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_IP, bindAddressNoPort, 1)
			})
			return errors.Join(failed, err)
		},
	}
	c, err := d.Dial("tcp", t.tunnel.addrs[int(n)%len(t.tunnel.addrs)])
	if err != nil {
		return nil, fmt.Errorf("open a stream: %w", err)
	}
	c.SetDeadline(t.deadline)
	return c.(*net.TCPConn), nil
}

// nextStream returns the number of one more bulk stream.
func (t *trial) nextStream() uint16 {
	t.streams++
	return t.streams
}

// measured says whether there are agents whose processor time and memory can be read.
func (t *trial) measured() bool { return len(t.tunnel.agents) > 0 }

// sample is what a measurement compares at its begin and end.
type sample struct {
	at  time.Time
	cpu time.Duration
}

func (t *trial) sample() (sample, error) {
	cpu, err := t.tunnel.cpu()
	return sample{time.Now(), cpu}, err
}

// microseconds and its sisters turn a duration into a table's number.
func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
