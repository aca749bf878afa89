//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseStat(t *testing.T) {
	const line = "4711 (a ) b (c) S 1 4711 4711 0 -1 4194560 123 0 0 0 250 50 9 9 20 0 8 0 100 1 1"
	got, err := parseStat(line)
	if want := 3 * time.Second; err != nil || got != want {
		t.Errorf("parseStat = %v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"", "1 (x) S", "1 (x) S 1 2 3 4 5 6 7 8 9 10 eleven 12"} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("parseStat(%q) = %v, want an error", bad, got)
		}
	}
}

func TestParseSchedstat(t *testing.T) {
	got, err := parseSchedstat("1234567 89 10\n")
	if err != nil || got != 1234567 {
		t.Errorf("parseSchedstat = %v, %v", got, err)
	}
	if _, err := parseSchedstat("\n"); err == nil {
		t.Error("an empty line is no error")
	}
}

func TestParseStatus(t *testing.T) {
	now, peak, err := parseStatus("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t1\n")
	if err != nil || now != 1<<20 || peak != 2<<20 {
		t.Errorf("parseStatus = %d, %d, %v", now, peak, err)
	}
	for _, bad := range []string{"", "Name:\tzombie\n", "VmRSS:\tmany kB\nVmHWM:\t1 kB\n"} {
		if _, _, err := parseStatus(bad); err == nil {
			t.Errorf("parseStatus(%q): no error", bad)
		}
	}
}

// This process's own figures are there and grow as they must.
func TestOwnProcess(t *testing.T) {
	pid := os.Getpid()
	before, err := cpuTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Millisecond); time.Now().Before(deadline); {
	}
	after, err := cpuTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	if used := after - before; used <= 0 || used > 10*time.Second {
		t.Errorf("a busy loop of 30 ms used %v", used)
	}
	now, peak, err := rss(pid)
	if err != nil || now < 1<<20 || peak < now/2 {
		t.Errorf("rss = %d, %d, %v", now, peak, err)
	}
}

func TestSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		readings := []usage{{100 << 20, 50 << 20}, {120 << 20, 50 << 20}, {130 << 20, 60 << 20}, {130<<20 + 1000, 60 << 20}}
		n := 0
		got, err := settled(t.Context(), func() (usage, error) {
			u := readings[n]
			n++
			return u, nil
		})
		if err != nil || n != len(readings) || got.sum() != 190<<20+1000 {
			t.Errorf("settled = %v, %v after %d readings", got, err, n)
		}

		// What never settles is read for 10 s.
		begin, v := time.Now(), int64(0)
		if _, err := settled(t.Context(), func() (usage, error) { v += 10 << 20; return usage{v}, nil }); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("gave up after %v", took)
		}

		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("enough")
		cancel(cause)
		if _, err := settled(ctx, func() (usage, error) { return usage{1}, nil }); !errors.Is(err, cause) {
			t.Errorf("after the context's end: %v", err)
		}
	})
}
