package faults

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestTransparent(t *testing.T) {
	for name, link := range map[string]Link{
		"plain": {},
		"link":  {Delay: 5 * time.Millisecond, Rate: 200 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			r, target := start(t, Options{Link: link})
			client, server := pair(t, r, target)
			up, down := random(3<<20), random(2<<20)
			var wg sync.WaitGroup
			send := func(c *net.TCPConn, p []byte) {
				if _, err := c.Write(p); err != nil {
					t.Error(err)
				}
				c.CloseWrite()
			}
			check := func(c *net.TCPConn, want []byte) {
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("read %d bytes (%v), want the %d sent", len(got), err, len(want))
				}
			}
			wg.Go(func() { send(client, up) })
			wg.Go(func() { send(server, down) })
			wg.Go(func() { check(server, up) })
			wg.Go(func() { check(client, down) })
			wg.Wait()
			eventually(t, "connection forgotten", func() bool { return r.Stats().Live == 0 })
			if s := r.Stats(); s.Up != 3<<20 || s.Down != 2<<20 || s.Accepted != 1 || s.Total() != 0 {
				t.Errorf("stats: %+v", s)
			}
		})
	}
}

func TestHalfClose(t *testing.T) {
	r, target := start(t, Options{})
	for _, swap := range []bool{false, true} {
		a, b := pair(t, r, target)
		if swap {
			a, b = b, a
		}
		a.CloseWrite()
		if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatalf("swap %v: read %d, %v; want a clean EOF", swap, n, err)
		}
		b.Write([]byte("late"))
		b.CloseWrite()
		if got, err := io.ReadAll(a); err != nil || string(got) != "late" {
			t.Fatalf("swap %v: after half-close got %q, %v", swap, got, err)
		}
	}
}

// A reader that starts long after both sides have ended still gets every byte.
func TestSlowReaderGetsAll(t *testing.T) {
	r, target := start(t, Options{})
	client, server := pair(t, r, target)
	want := random(256 << 10)
	client.CloseWrite()
	server.Write(want)
	server.Close()
	eventually(t, "relay done", func() bool { return r.Stats().Live == 0 })
	if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d of %d bytes, %v", len(got), len(want), err)
	}
}

func TestResetPassesOn(t *testing.T) {
	for name, link := range map[string]Link{"plain": {}, "link": {Delay: time.Millisecond}} {
		for _, swap := range []bool{false, true} {
			r, target := start(t, Options{Link: link})
			a, b := pair(t, r, target)
			echo(t, a, b)
			if swap {
				a, b = b, a
			}
			a.SetLinger(0)
			a.Close()
			if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s, swap %v: got %v, want a reset", name, swap, err)
			}
		}
	}
}

func TestCutRST(t *testing.T) {
	r, target := start(t, Options{})
	client, server := pair(t, r, target)
	echo(t, client, server)
	if n := r.Cut(RST); n != 1 {
		t.Fatalf("cut %d connections", n)
	}
	for _, c := range []net.Conn{client, server} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want a reset", err)
		}
	}
	if s := r.Stats(); s.Cuts[RST] != 1 {
		t.Errorf("stats: %+v", s)
	}
}

func TestCutFIN(t *testing.T) {
	r, target := start(t, Options{})
	client, server := pair(t, r, target)
	echo(t, client, server)
	r.Cut(FIN)
	for _, c := range []net.Conn{client, server} {
		// What is still written is thrown away and breaks nothing.
		if _, err := c.Write([]byte("late")); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
			t.Errorf("got %q, %v; want a bare EOF", got, err)
		}
		c.Close()
	}
	eventually(t, "closed", func() bool { return r.Stats().Live == 0 })
}

func TestSilences(t *testing.T) {
	for _, mode := range []Mode{BlackHole, Swallow} {
		t.Run(mode.String(), func(t *testing.T) {
			r, target := start(t, Options{})
			client, server := pair(t, r, target)
			echo(t, client, server)
			r.Cut(mode)
			client.Write([]byte("x"))
			server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("read %d, %v; want silence", n, err)
			}
			// Even a reset of one side stays unheard.
			client.SetLinger(0)
			client.Close()
			server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("read %d, %v; want silence", n, err)
			}
			if s := r.Stats(); s.Live != 1 {
				t.Errorf("stats: %+v", s)
			}
		})
	}
}

// A black hole blocks its writers; what bytes vanish in does not.
func TestSilenceAndWriters(t *testing.T) {
	for _, c := range []struct {
		mode   Mode
		blocks bool
	}{{BlackHole, true}, {Swallow, false}} {
		r, target := start(t, Options{})
		client, server := pair(t, r, target)
		echo(t, client, server)
		r.Cut(c.mode)
		client.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		var err error
		for sent := 0; sent < 32<<20 && err == nil; sent += 1 << 20 {
			if !c.blocks {
				client.SetWriteDeadline(time.Now().Add(20 * time.Second))
			}
			_, err = client.Write(make([]byte, 1<<20))
		}
		if blocked := errors.Is(err, os.ErrDeadlineExceeded); blocked != c.blocks {
			t.Errorf("%v: writing 32 MiB: %v", c.mode, err)
		}
	}
}

func TestHeal(t *testing.T) {
	for name, link := range map[string]Link{"plain": {}, "link": {Delay: 2 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			r, target := start(t, Options{Link: link})
			client, server := pair(t, r, target)
			echo(t, client, server)
			r.Cut(BlackHole)
			client.Write([]byte("held"))
			client.CloseWrite()
			server.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
			if n, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("read %d, %v; want silence", n, err)
			}
			if n := r.Heal(); n != 1 {
				t.Fatalf("healed %d", n)
			}
			server.SetReadDeadline(time.Now().Add(20 * time.Second))
			if got, err := io.ReadAll(server); err != nil || string(got) != "held" {
				t.Fatalf("got %q, %v", got, err)
			}
		})
	}
}

func TestTargetDown(t *testing.T) {
	r, target := start(t, Options{})
	target.Close()
	// The reset may be so quick that already the dial reports it.
	client, err := net.Dial("tcp", r.Addr())
	if err == nil {
		defer client.Close()
		_, err = client.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("got %v, want a reset", err)
	}
}

func TestSetTarget(t *testing.T) {
	r, _ := start(t, Options{})
	other := listen(t)
	r.SetTarget(other.Addr().String())
	client, server := pair(t, r, other)
	echo(t, client, server)
}
