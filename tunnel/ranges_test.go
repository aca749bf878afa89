package tunnel

import (
	"testing"

	"pgregory.net/rapid"
)

// TestRangesAgainstMap compares a set of spans with a map of every offset.
func TestRangesAgainstMap(t *testing.T) {
	const top = 120
	rapid.Check(t, func(t *rapid.T) {
		var r ranges
		model := make(map[uint64]bool)
		offset := rapid.Uint64Range(0, top)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				from, to := offset.Draw(t, "from"), offset.Draw(t, "to")
				r.add(from, to)
				for o := from; o < to; o++ {
					model[o] = true
				}
			},
			"remove": func(t *rapid.T) {
				from, to := offset.Draw(t, "from"), offset.Draw(t, "to")
				r.remove(from, to)
				for o := from; o < to; o++ {
					delete(model, o)
				}
			},
			"": func(t *rapid.T) { checkRanges(t, r, model, top) },
		})
	})
}

func checkRanges(t *rapid.T, r ranges, model map[uint64]bool, top uint64) {
	if int(r.size()) != len(model) {
		t.Fatalf("size %d, model has %d: %v", r.size(), len(model), r)
	}
	for i, g := range r {
		if g.from >= g.to || i > 0 && r[i-1].to >= g.from {
			t.Fatalf("spans are empty, out of order or touch: %v", r)
		}
		for o := g.from; o < g.to; o++ {
			if !model[o] {
				t.Fatalf("%d is in %v, not in the model", o, r)
			}
		}
	}
	for o := range top {
		i := r.find(o)
		if i > 0 && r[i-1].to > o || i < len(r) && r[i].to <= o {
			t.Fatalf("find(%d) = %d in %v", o, i, r)
		}
	}
}
