package faults

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"
)

// The cut comes after exactly as many bytes as the plan says.
func TestFaultAtByte(t *testing.T) {
	for _, after := range []int64{0, 1, 1000, 65536, 65537, 1_000_003} {
		for _, dir := range []Direction{Up, Down} {
			fault := Fault{Mode: FIN, Dir: dir, After: after}
			r, target := start(t, Options{Plan: func(int) Fault { return fault }})
			from, to := pair(t, r, target)
			if dir == Down {
				from, to = to, from
			}
			go from.Write(make([]byte, 2<<20)) // ends when from is closed
			n, err := io.Copy(io.Discard, to)
			if err != nil || n != after {
				t.Errorf("dir %d: %d bytes passed (%v), want %d", dir, n, err, after)
			}
			from.Close()
		}
	}
}

func TestFaultEitherCountsBoth(t *testing.T) {
	r, target := start(t, Options{Plan: func(int) Fault { return Fault{Mode: FIN, After: 10} }})
	client, server := pair(t, r, target)
	for range 4 {
		echo(t, client, server)
	}
	client.Write([]byte("xyz"))
	if got, err := io.ReadAll(server); err != nil || string(got) != "xy" {
		t.Fatalf("got %q, %v; want the 9th and 10th byte", got, err)
	}
}

func TestFaultAtBirth(t *testing.T) {
	for _, mode := range Modes() {
		t.Run(mode.String(), func(t *testing.T) {
			r, target := start(t, Options{Plan: func(n int) Fault {
				if n == 0 {
					return Fault{Mode: mode}
				}
				return Fault{}
			}})
			// A reset may be so quick that already the dial reports it.
			client, err := net.Dial("tcp", r.Addr())
			eventually(t, "cut", func() bool { return r.Stats().Cuts[mode] == 1 })
			if err == nil {
				defer client.Close()
				if mode != RST { // a write would use up the error that the read is to see
					client.Write([]byte("x"))
				}
				client.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				_, err = client.Read(make([]byte, 1))
			}
			want := map[Mode]error{
				RST: syscall.ECONNRESET, FIN: io.EOF,
				BlackHole: os.ErrDeadlineExceeded, Swallow: os.ErrDeadlineExceeded,
			}[mode]
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			// The next connection is another one.
			echo(t, dial(t, r), accept(t, target))
			if mode == BlackHole {
				r.Heal()
				server := accept(t, target)
				if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
					t.Errorf("after Heal: %v", err)
				}
			}
		})
	}
}

func TestMaxCuts(t *testing.T) {
	r, target := start(t, Options{
		Plan: func(int) Fault { return Fault{Mode: RST, After: 1} }, MaxCuts: 3,
	})
	for range 3 {
		client, server := pair(t, r, target)
		client.Write([]byte("x"))
		if _, err := io.Copy(io.Discard, client); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("got %v, want a reset", err)
		}
		server.Close()
	}
	client, server := pair(t, r, target)
	echo(t, client, server)
	if s := r.Stats(); s.Total() != 3 || s.Cuts[RST] != 3 {
		t.Errorf("stats: %+v", s)
	}
}

// Without mode or bytes nothing is cut, however much passes.
func TestZeroFault(t *testing.T) {
	r, target := start(t, Options{Plan: func(int) Fault { return Fault{} }})
	client, server := pair(t, r, target)
	for range 100 {
		echo(t, client, server)
	}
	if s := r.Stats(); s.Total() != 0 {
		t.Errorf("stats: %+v", s)
	}
}

func TestRandom(t *testing.T) {
	draw := func(seed uint64) (faults []Fault) {
		plan := Random(seed, 1000, RST, FIN)
		for n := range 200 {
			faults = append(faults, plan(n))
		}
		return faults
	}
	a, b, c := draw(1), draw(1), draw(2)
	if !slices.Equal(a, b) || slices.Equal(a, c) {
		t.Error("a plan must depend on its seed, and on nothing else")
	}
	var sum int64
	for _, f := range a {
		if f.Mode != RST && f.Mode != FIN || f.After < 0 || f.After > 2000 {
			t.Fatalf("out of range: %+v", f)
		}
		sum += f.After
	}
	if mean := sum / 200; mean < 800 || mean > 1200 {
		t.Errorf("mean %d, want about 1000", mean)
	}
	seen := map[Mode]bool{}
	for plan, n := Random(3, 10), 0; n < 100; n++ {
		seen[plan(n).Mode] = true
	}
	if len(seen) != len(Modes()) {
		t.Errorf("modes drawn by default: %v", seen)
	}
}
