package tunnel

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestDequeAgainstSlice compares a deque with a slice.
func TestDequeAgainstSlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d deque[int]
		var model []int
		next := 0
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				for range rapid.IntRange(1, 200).Draw(t, "n") {
					d.push(next)
					model = append(model, next)
					next++
				}
			},
			"pop": func(t *rapid.T) {
				for range min(rapid.IntRange(1, 200).Draw(t, "n"), len(model)) {
					if v := d.pop(); v != model[0] {
						t.Fatalf("popped %d, want %d", v, model[0])
					}
					model = model[1:]
				}
			},
			"": func(t *rapid.T) {
				got := make([]int, 0, d.len())
				for i := range d.len() {
					got = append(got, *d.at(i))
				}
				if !slices.Equal(got, model) {
					t.Fatalf("holds %v, want %v", got, model)
				}
				if d.len() == 0 && len(d.ring) > dequeKeep {
					t.Fatalf("an empty deque keeps %d places", len(d.ring))
				}
			},
		})
	})
}

// TestDequeForgetsWhatItPopped keeps a deque from holding on to memory.
func TestDequeForgetsWhatItPopped(t *testing.T) {
	var d deque[*int]
	for range 20 {
		d.push(new(int))
	}
	for d.len() > 0 {
		d.pop()
	}
	for i, p := range d.ring {
		if p != nil {
			t.Fatalf("place %d still refers to a popped element", i)
		}
	}
}

// TestMemoryCountsCapacity checks classes, references and the count.
func TestMemoryCountsCapacity(t *testing.T) {
	m := NewMemory(100 << 10)
	for _, n := range []int{0, 1, 100, 1 << 10, 1<<10 + 1, 4 << 10, 16<<10 + 1, MaxMessage} {
		b := m.get(n)
		if len(b.b) < n {
			t.Fatalf("get(%d) has %d bytes", n, len(b.b))
		}
		if m.Used() != int64(len(b.b)) {
			t.Fatalf("get(%d): %d bytes in use, the buffer has %d", n, m.Used(), len(b.b))
		}
		b.retain()
		b.release()
		if m.Used() != int64(len(b.b)) {
			t.Fatal("released with a reference left")
		}
		b.release()
		if m.Used() != 0 {
			t.Fatalf("%d bytes in use after the last release", m.Used())
		}
	}
	a, b := m.get(MaxMessage), m.get(1)
	if m.full() {
		t.Fatal("full below its limit")
	}
	c := m.get(MaxMessage)
	if !m.full() {
		t.Fatal("not full above its limit")
	}
	for _, x := range []*buffer{a, b, c} {
		x.release()
	}
	if m.full() || m.Used() != 0 {
		t.Fatalf("%d bytes in use", m.Used())
	}
	if NewMemory(0).full() {
		t.Fatal("a Memory without a limit is full")
	}
}

// TestMemoryBuffersFit checks that a pooled buffer wastes less than the
// payload it is for, so that a stream cannot be made to hold several times
// what it received.
func TestMemoryBuffersFit(t *testing.T) {
	m := NewMemory(0)
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, MaxMessage).Draw(t, "n")
		b := m.get(n)
		defer b.release()
		if len(b.b) >= max(2*n, 129) {
			t.Fatalf("%d bytes take a buffer of %d", n, len(b.b))
		}
	})
}

// TestSegmentFill checks that a segment grows into its own capacity only.
func TestSegmentFill(t *testing.T) {
	backing := []byte("abcdefgh")
	g := segment{off: 10, data: backing[:2:4]}
	if n := g.fill([]byte("XYZ")); n != 2 || string(backing) != "abXYefgh" || g.end() != 14 {
		t.Fatalf("filled %d: %q, end %d", n, backing, g.end())
	}
	if n := g.fill([]byte("more")); n != 0 {
		t.Fatalf("filled %d bytes beyond the capacity", n)
	}
}
