//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport/test/internal/faults"
)

// The test binary plays the hidden roles too, so that tests run them as processes of their own.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == subTarget || os.Args[1] == subLink) {
		if err := dispatch(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// newBench returns a bench with windows as short as can be.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir(), files: 1400, window: 60 * time.Millisecond}
	var err error
	if b.certs, err = newCert(b.dir); err != nil {
		t.Fatal(err)
	}
	return b
}

// try runs one scenario with one contender.
func (b *bench) try(t *testing.T, s *scenario, who contender) measures {
	t.Helper()
	s.limit = 30 * time.Second
	m, note, err := b.run(t.Context(), s, who)
	if err != nil {
		t.Fatalf("%s, %s: %v", s.name, who.name, err)
	}
	t.Logf("%s, %s: %v %s", s.name, who.name, m, note)
	return m
}

// Every kind of measurement works where nothing is in between, and yields the rows that it says.
func TestScenariosDirect(t *testing.T) {
	b := newBench(t)
	l := faults.Link{Delay: 5 * time.Millisecond, Rate: 20 * megabyte}
	for _, s := range []*scenario{
		bulkScenario(true, 1),
		bulkScenario(false, 2),
		waitScenarios()[0],
		waitScenarios()[1],
		waitScenarios()[2],
		{name: "link", link: l, run: overLink(l, false), rows: linkScenarios()[0].rows},
		{name: "rival", link: l, run: rival(l), rows: changeScenarios()[1].rows},
		stalledScenario(2),
		idleScenario(1000),
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			m := b.try(t, s, direct())
			for _, row := range s.rows {
				if row.id == "cpu" || row.id == "work" || row.id == "held" || row.id == "client" || row.id == "server" {
					continue // there are no agents
				}
				if m[row.id] <= 0 {
					t.Errorf("%s = %v", row.id, m[row.id])
				}
			}
		})
	}
}

// The link does what its setting says, also after a change.
func TestLinkProcess(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	far, err := startTarget(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer far.stop()
	const rtt = 60 * time.Millisecond
	l, err := startLink(ctx, dir, far.addrs[0], faults.Link{Delay: rtt / 2})
	if err != nil {
		t.Fatal(err)
	}
	defer l.stop()
	one := &trial{target: far, tunnel: &tunnel{addrs: []string{l.addr}}, deadline: time.Now().Add(20 * time.Second)}
	took, err := one.openBy(ctx, 1, 0)
	if err != nil || took[0] < 2*rtt {
		t.Errorf("open and echo: %v, %v; two round trips are %v", took, err, 2*rtt)
	}
	if err := l.set(linkSetting{}); err != nil {
		t.Fatal(err)
	}
	took, err = one.openBy(ctx, 1, 0)
	if err != nil || took[0] >= rtt {
		t.Errorf("without delay: %v, %v", took, err)
	}
}

// The relay pair is measured from end to end: processor time and memory of its processes.
func TestBareRelay(t *testing.T) {
	b := newBench(t)
	bin := filepath.Join(b.dir, "barerelay")
	if _, err := command(t.Context(), "go", "build", "-o", bin, "sallyport/test/internal/barerelay"); err != nil {
		t.Fatal(err)
	}
	b.window = 200 * time.Millisecond
	m := b.try(t, bulkScenario(true, 2), bareRelay(nameRelay, bin))
	if m["rate"] <= 0 || m["work"] <= 0 {
		t.Errorf("bulk: %v", m)
	}
	m = b.try(t, &scenario{name: "idle", run: idle(20)}, bareRelay(nameRelay, bin))
	if _, ok := m["client"]; !ok {
		t.Errorf("idle: %v", m)
	}
}

// Wrong bytes fail a measurement, at either end.
func TestDamageIsNoticed(t *testing.T) {
	far, err := startTarget(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer far.stop()
	for name, up := range map[string]bool{"upload": true, "download": false} {
		t.Run(name, func(t *testing.T) {
			addr := damaging(t, far.addrs[0])
			one := &trial{target: far, tunnel: &tunnel{addrs: []string{addr}}, deadline: time.Now().Add(20 * time.Second)}
			b, err := one.startBulk(up, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer b.stop()
			// Up, the sender may see the connection fail before the target's report is read.
			for deadline := time.Now().Add(10 * time.Second); !isFault(err) && time.Now().Before(deadline); {
				if up {
					_, err = far.received()
				} else {
					_, err = b.progress()
				}
			}
			if !isFault(err) || !strings.Contains(err.Error(), "want 0x") {
				t.Errorf("a wrong byte went unnoticed: %v", err)
			}
		})
	}
}

// damaging relays to a target and changes a byte each way, a megabyte in.
func damaging(t *testing.T, target string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		near, err := ln.Accept()
		if err != nil {
			return
		}
		defer near.Close()
		far, err := net.Dial("tcp", target)
		if err != nil {
			t.Error(err)
			return
		}
		defer far.Close()
		var pumps sync.WaitGroup
		pump := func(dst, src net.Conn) {
			defer dst.Close()
			buf, passed := make([]byte, 32<<10), 0
			for {
				n, err := src.Read(buf)
				if passed < 1<<20 && passed+n >= 1<<20 {
					buf[n/2] ^= 0x40
				}
				passed += n
				if _, werr := dst.Write(buf[:n]); err != nil || werr != nil {
					return
				}
			}
		}
		pumps.Go(func() { pump(far, near) })
		pumps.Go(func() { pump(near, far) })
		pumps.Wait()
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// A contender that does not work is reported, not waited for; what was measured is kept.
func TestFailuresAreReported(t *testing.T) {
	b := newBench(t)
	broken, err := foreign("broken=false || false {listen}")
	if err != nil {
		t.Fatal(err)
	}
	s := waitScenarios()[0]
	s.limit = 30 * time.Second
	o := &options{rounds: 1, scenarios: []*scenario{s}}
	who := []contender{broken, direct()}
	r := newResults(who, o.scenarios, false)
	if err := b.measure(t.Context(), o, who, r, io.Discard); err != nil {
		t.Fatal(err)
	}
	if len(r.fails) != 1 || !strings.Contains(r.fails[0], "broken") || !strings.Contains(r.fails[0], "does not listen") {
		t.Errorf("failures: %q", r.fails)
	}
	var md, js bytes.Buffer
	r.markdown(&md, about{})
	if !strings.Contains(md.String(), "FAILED") || r.lines[0].result(nameDirect) == nil {
		t.Errorf("the report lacks something:\n%s", &md)
	}
	if err := r.json(&js, about{}); err != nil || !json.Valid(js.Bytes()) {
		t.Errorf("JSON: %v\n%s", err, &js)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if err := b.measure(ctx, o, who, r, io.Discard); !errors.Is(err, cause) {
		t.Errorf("after the context's end: %v", err)
	}
}
