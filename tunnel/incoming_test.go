package tunnel

import (
	"bytes"
	"math/rand"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// newIncoming returns a receiving half as a new stream has it.
func newIncoming(m *Memory) *incoming {
	return &incoming{mem: m, limit: initialWindow, window: initialWindow}
}

// deliver inserts data as if it had come at offset off, in a message of its own.
func deliver(in *incoming, off uint64, data []byte) error {
	message := in.mem.get(MaxMessage)
	defer message.release()
	at := (MaxMessage - len(data)) / 2
	return in.insert(off, append(message.b[at:at], data...), message)
}

// checkIncoming compares what a half says it holds with what it does hold.
func checkIncoming(t interface{ Fatalf(string, ...any) }, in *incoming) {
	held, unique := 0, make(map[*buffer]bool)
	note := func(g segment) {
		held += len(g.buf.b)
		unique[g.buf] = true
		if len(g.data) == 0 {
			t.Fatalf("an empty segment at %d", g.off)
		}
	}
	at := in.read
	for i := range in.segs.len() {
		g := *in.segs.at(i)
		if note(g); g.off != at {
			t.Fatalf("a segment at %d, the one before ends at %d", g.off, at)
		}
		at = g.end()
	}
	if at != in.ready {
		t.Fatalf("readable up to %d, the segments end at %d", in.ready, at)
	}
	for i, g := range in.later {
		if note(g); i == 0 && g.off <= at || g.off < at {
			t.Fatalf("a later piece at %d, the one before ends at %d", g.off, at)
		}
		at = g.end()
	}
	used := int64(0)
	for b := range unique {
		used += int64(len(b.b))
	}
	if in.held != held || in.mem.Used() != used {
		t.Fatalf("counts %d bytes held, memory %d; %d are, %d of them once", in.held, in.mem.Used(), held, used)
	}
}

// readSome consumes up to n bytes as Stream.Read does.
func readSome(in *incoming, n int) (p []byte) {
	for len(p) < n && in.read < in.ready {
		g := in.segs.at(0)
		k := min(n-len(p), len(g.data))
		p = append(p, g.data[:k]...)
		in.advance(k)
	}
	return p
}

// TestIncomingPutsPiecesInOrder inserts random pieces, overlapping, repeated
// and out of order, and reads in between.
func TestIncomingPutsPiecesInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source := make([]byte, rapid.SampledFrom([]int{300, 20_000, initialWindow}).Draw(t, "size"))
		rand.New(rand.NewSource(int64(len(source)))).Read(source)
		in := newIncoming(NewMemory(0))
		var got []byte
		var arrived ranges
		t.Repeat(map[string]func(*rapid.T){
			"insert": func(t *rapid.T) {
				from := rapid.IntRange(0, len(source)-1).Draw(t, "from")
				to := min(len(source), from+rapid.SampledFrom([]int{1, 50, 1100, 17_000, 33_000}).Draw(t, "n"))
				if err := deliver(in, uint64(from), source[from:to]); err != nil {
					t.Fatal(err)
				}
				arrived.add(uint64(from), uint64(to))
			},
			"read": func(t *rapid.T) {
				got = append(got, readSome(in, rapid.IntRange(1, 40_000).Draw(t, "n"))...)
			},
			"": func(t *rapid.T) {
				checkIncoming(t, in)
				ready := uint64(0)
				if len(arrived) > 0 && arrived[0].from == 0 {
					ready = arrived[0].to
				}
				if in.ready != ready || in.read != uint64(len(got)) || !bytes.Equal(got, source[:len(got)]) {
					t.Fatalf("ready %d, want %d; read %d: equal %v", in.ready, ready, in.read, bytes.Equal(got, source[:len(got)]))
				}
			},
		})
		if rapid.Bool().Draw(t, "drop") {
			in.drop()
		} else if err := deliver(in, 0, source); err != nil {
			t.Fatal(err)
		} else if got = append(got, readSome(in, len(source))...); !bytes.Equal(got, source) {
			t.Fatal("the whole differs from its source")
		}
		if in.held != 0 || in.mem.Used() != 0 {
			t.Fatalf("%d and %d bytes are still held", in.held, in.mem.Used())
		}
	})
}

// TestIncomingHoldsLittleMoreThanItsWindow lets a hostile sender choose how to
// cut a full window into pieces: whatever it does, the capacity held stays
// below twice the window.
func TestIncomingHoldsLittleMoreThanItsWindow(t *testing.T) {
	data := make([]byte, MaxMessage)
	for name, send := range map[string]func(in *incoming) error{
		"byte by byte": func(in *incoming) (err error) {
			for o := range uint64(10_000) {
				if err = deliver(in, o, data[:1]); err != nil {
					break
				}
			}
			return err
		},
		"every second byte up to the most gaps": func(in *incoming) (err error) {
			for o := uint64(1); o < 2*maxGaps && err == nil; o += 2 {
				err = deliver(in, o, data[:1])
			}
			return err
		},
		"backwards": func(in *incoming) (err error) {
			for o := uint64(10_000); o > 0 && err == nil; o-- {
				err = deliver(in, o-1, data[:1])
			}
			return err
		},
		"pieces of 17 KiB with gaps": func(in *incoming) (err error) {
			for o := uint64(1); o+17<<10 <= initialWindow && err == nil; o += 17<<10 + 1 {
				err = deliver(in, o, data[:17<<10])
			}
			return err
		},
		"pieces of 1.1 KiB with gaps": func(in *incoming) (err error) {
			for o := uint64(1); o+1100 <= initialWindow && err == nil; o += 1101 {
				err = deliver(in, o, data[:1100])
			}
			return err
		},
		"a byte read between large pieces": func(in *incoming) (err error) {
			for o := uint64(0); o+16001 <= initialWindow && err == nil; o += 16001 {
				if err = deliver(in, o, data[:1]); err == nil {
					err = deliver(in, o+1, data[:16000])
				}
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := newIncoming(NewMemory(0))
			if err := send(in); err != nil {
				t.Fatal(err)
			}
			checkIncoming(t, in)
			if in.held > 2*initialWindow {
				t.Errorf("holds %d bytes, twice the window is %d", in.held, 2*initialWindow)
			}
			in.drop()
			if in.mem.Used() != 0 {
				t.Errorf("%d bytes in use after drop", in.mem.Used())
			}
		})
	}
}

// TestIncomingLimitsGaps checks that 256 gaps pass and 257 do not, and that
// many pieces without gaps do not count.
func TestIncomingLimitsGaps(t *testing.T) {
	in := newIncoming(NewMemory(0))
	for i := range uint64(maxGaps) {
		if err := deliver(in, 2*i+1, []byte{1}); err != nil {
			t.Fatalf("gap %d: %v", i+1, err)
		}
	}
	if n := in.gaps(); n != maxGaps {
		t.Fatalf("%d gaps, want %d", n, maxGaps)
	}
	for i := range uint64(2000) { // right behind the last piece: no more gaps
		if err := deliver(in, 2*maxGaps+i, []byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := deliver(in, 60_000, []byte{1}); err == nil {
		t.Fatal("a gap too many was accepted")
	}
	in.drop()
	if in.mem.Used() != 0 {
		t.Fatalf("%d bytes in use", in.mem.Used())
	}
}

// TestIncomingDiscards checks that nothing is kept that nobody will read.
func TestIncomingDiscards(t *testing.T) {
	for name, in := range map[string]*incoming{
		"discard": {mem: NewMemory(0), discard: true},
		"reset":   {mem: NewMemory(0), reset: &StreamError{}},
	} {
		if err := deliver(in, 0, make([]byte, 60_000)); err != nil || in.held != 0 || in.mem.Used() != 0 {
			t.Errorf("%s: %v, %d and %d bytes held", name, err, in.held, in.mem.Used())
		}
	}
}

// consume plays a reader and a sender that uses all its credit: rate bytes a
// second over d, looked at every step.
func consume(in *incoming, now *time.Time, rtt, d time.Duration, rate float64, budget *int) {
	const step = time.Millisecond
	for end := now.Add(d); now.Before(end); *now = now.Add(step) {
		n := min(uint64(rate*step.Seconds()), in.limit-in.read)
		in.read += n
		in.ready = in.read
		in.creditDue(*now, rtt, budget)
	}
}

// TestWindowFollowsReader checks that the window grows to twice what is read in
// a round trip, shrinks for a reader that became slow, and gives back what it
// had of the budget.
func TestWindowFollowsReader(t *testing.T) {
	const rtt, whole = 40 * time.Millisecond, 64 << 20
	in, now, budget := newIncoming(nil), time.Now(), whole
	consume(in, &now, rtt, 2*time.Second, 20e6, &budget)
	want := uint64(2 * 20e6 * rtt.Seconds())
	if in.window < want*9/10 || in.window > want*2 {
		t.Errorf("window %d at 20 MB/s and 40 ms, want about %d", in.window, want)
	}
	if taken := whole - budget; taken != int(in.window-initialWindow) {
		t.Errorf("%d taken from the budget for a window of %d", taken, in.window)
	}
	consume(in, &now, rtt, 60*time.Second, 100e3, &budget)
	if in.window > 4*initialWindow {
		t.Errorf("window %d for a reader of 100 kB/s", in.window)
	}
	if taken := whole - budget; taken != int(in.window-initialWindow) {
		t.Errorf("%d taken from the budget for a window of %d", taken, in.window)
	}
}

// TestWindowLimits checks the ceiling of one window, its share of what is
// left of the budget, and that an exhausted budget leaves the first 64 KiB.
func TestWindowLimits(t *testing.T) {
	for _, c := range []struct {
		name   string
		budget int
		most   uint64
	}{
		{"ceiling", 1 << 30, maxWindow},
		{"a quarter of what is free", 4 << 20, initialWindow + 4<<20},
		{"nothing left", 0, initialWindow},
		{"overdrawn", -1, initialWindow},
	} {
		t.Run(c.name, func(t *testing.T) {
			in, now, budget := newIncoming(nil), time.Now(), c.budget
			for range 20 {
				free := max(budget, 0)
				consume(in, &now, 200*time.Millisecond, 300*time.Millisecond, 500e6, &budget)
				if in.window > c.most || budget < min(c.budget, 0) {
					t.Fatalf("window %d, at most %d; %d left of %d", in.window, c.most, budget, free)
				}
			}
			if c.budget >= 1<<30 && in.window != maxWindow {
				t.Errorf("window %d did not reach %d", in.window, maxWindow)
			}
		})
	}
}

// TestWindowTakesAQuarter checks one step of growth.
func TestWindowTakesAQuarter(t *testing.T) {
	in, now, budget := newIncoming(nil), time.Now(), 40_000
	in.epoch = now.Add(-10 * time.Millisecond)
	in.read, in.ready = 60_000, 60_000
	in.creditDue(now, 10*time.Millisecond, &budget)
	if in.window != initialWindow+10_000 || budget != 30_000 {
		t.Fatalf("window %d, %d left: it may take a quarter of 40,000", in.window, budget)
	}
}

// TestNoCreditWithoutNeed checks that credit is given in quarters of a window and
// never for what cannot come.
func TestNoCreditWithoutNeed(t *testing.T) {
	budget := 0
	in := newIncoming(nil)
	in.read = initialWindow/4 - 1
	if _, due := in.creditDue(time.Now(), 0, &budget); due {
		t.Error("credit before a quarter of the window was read")
	}
	in.read++
	if limit, due := in.creditDue(time.Now(), 0, &budget); !due || limit != initialWindow*5/4 {
		t.Errorf("credit %d, due %v after a quarter of the window", limit, due)
	}
	for name, in := range map[string]*incoming{
		"FIN":     {window: initialWindow, hasFinal: true},
		"discard": {window: initialWindow, discard: true},
		"reset":   {window: initialWindow, reset: &StreamError{}},
	} {
		if _, due := in.creditDue(time.Now(), 0, &budget); due {
			t.Errorf("credit after %s", name)
		}
	}
}
