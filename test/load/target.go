//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
)

// The target is a process of its own at the far end of every contender. The first byte of a
// connection says what it is for.
const (
	serviceEcho  = 'e' // every byte comes back, this one too
	serviceSink  = 'u' // then 2 bytes of stream number; the target checks the pattern that follows
	serviceFlood = 'd' // then 2 bytes of stream number; the target sends the pattern without end
)

// targetAddrs is how many addresses of loopback the target listens at. An agent that dials one
// address over and over has half of the range of ports for it, some 14,000; beyond, the kernel
// searches for milliseconds at each connect (Linux tries ports of one parity first).
const targetAddrs = 4

// portsEach is how many streams may go to one address at a time, so that this is not measured.
const portsEach = 12_000

// chunk is the size of our own reads and writes of bulk: large, so that they cost little.
const chunk = 256 << 10

// bulkHeader returns what opens a bulk connection.
func bulkHeader(service byte, stream uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{service}, stream)
}

// sinkReport is what the target's sinks have received so far.
type sinkReport struct {
	progress
	Fault string // the first wrong byte, if any
}

// farEnd is the state of the target process.
type farEnd struct {
	bytes atomic.Int64
	fault atomic.Pointer[string]
}

// serveTarget is the target's process: it prints where it listens, and reports what its sinks got
// whenever it is asked, until in ends.
func serveTarget(in io.Reader, out io.Writer) error {
	listeners, err := listenAll(targetAddrs)
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	f := new(farEnd)
	var addrs []string
	for _, ln := range listeners {
		addrs = append(addrs, ln.Addr().String())
		go f.accept(ln) // ends with the process
	}
	if _, err := fmt.Fprintln(out, strings.Join(addrs, " ")); err != nil {
		return err
	}
	return answer(in, out, func(struct{}) sinkReport {
		r := sinkReport{progress: progress{f.bytes.Load(), time.Now()}}
		if fault := f.fault.Load(); fault != nil {
			r.Fault = *fault
		}
		return r
	})
}

// listenAll listens at n addresses of loopback.
func listenAll(n int) ([]net.Listener, error) {
	var all []net.Listener
	for i := range n {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.%d:0", 1+i))
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, ln)
	}
	return all, nil
}

func (f *farEnd) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "target:", err) // out of descriptors: some will be free again
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go func() {
			defer c.Close()
			f.serve(c)
		}()
	}
}

func (f *farEnd) serve(c net.Conn) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(c, first); err != nil {
		return
	}
	if first[0] == serviceEcho {
		echo(c, first)
		return
	}
	stream := make([]byte, 2)
	if _, err := io.ReadFull(c, stream); err != nil {
		return
	}
	p := newPattern(binary.BigEndian.Uint16(stream))
	switch first[0] {
	case serviceSink:
		if err := drain(c, p, &f.bytes); isFault(err) {
			text := err.Error()
			f.fault.CompareAndSwap(nil, &text)
		}
	case serviceFlood:
		flood(c, p)
	}
}

// echo sends everything back, b[0] first. The buffer is one byte, as are the messages: an idle
// stream must cost our own end little.
func echo(c net.Conn, b []byte) {
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
	}
}

// flood writes the pattern until the connection fails, and returns why.
func flood(c net.Conn, p *pattern) error {
	buf := make([]byte, chunk)
	for {
		p.fill(buf)
		if _, err := c.Write(buf); err != nil {
			return err
		}
		// A stream whose writes never block must not hold up the others, or who measures.
		runtime.Gosched()
	}
}

// faultError is a byte that is not what was sent.
type faultError struct{ error }

func isFault(err error) bool {
	var fault faultError
	return errors.As(err, &fault)
}

// drain reads, checks and counts the pattern until the connection ends, and returns why: a
// [faultError] if it was for a wrong byte.
func drain(c net.Conn, p *pattern, count *atomic.Int64) error {
	buf := make([]byte, chunk)
	for {
		n, err := c.Read(buf)
		if err := p.check(buf[:n]); err != nil {
			return faultError{err}
		}
		count.Add(int64(n))
		if err != nil {
			return err
		}
		runtime.Gosched() // as in flood
	}
}

// target is the target's process as the measurements see it.
type target struct {
	*process
	addrs []string
}

// startTarget starts this program again as a target.
func startTarget(ctx context.Context, dir string) (*target, error) {
	p, addr, err := spawnSelf(ctx, dir, subTarget)
	if err != nil {
		return nil, err
	}
	return &target{p, strings.Fields(addr)}, nil
}

// spawnSelf starts this program again in a hidden role and returns the line that it prints: where it
// listens.
func spawnSelf(ctx context.Context, dir, role string, args ...string) (*process, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	return spawnPrinting(ctx, dir, role, self, append([]string{role}, args...)...)
}

// spawnPrinting starts a program that prints a line, where it listens, and returns that too.
func spawnPrinting(ctx context.Context, dir, name, bin string, args ...string) (*process, string, error) {
	p, err := spawn(ctx, dir, name, true, bin, args...)
	if err != nil {
		return nil, "", err
	}
	addr, err := p.readLine()
	if err != nil {
		p.stop()
		return nil, "", err
	}
	return p, addr, nil
}

// received returns how far the target's sinks are.
func (t *target) received() (progress, error) {
	var r sinkReport
	if err := t.ask(struct{}{}, &r); err != nil {
		return progress{}, err
	}
	if r.Fault != "" {
		return progress{}, faultError{errors.New("at the target: " + r.Fault)}
	}
	return r.progress, nil
}
