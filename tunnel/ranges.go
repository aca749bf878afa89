package tunnel

import "slices"

// span is the offsets from <= o < to.
type span struct{ from, to uint64 }

// ranges is a set of offsets: spans in order that neither overlap nor touch.
type ranges []span

// add puts the offsets from <= o < to into the set.
func (r *ranges) add(from, to uint64) {
	if from >= to {
		return
	}
	i := r.find(from)
	if i > 0 && (*r)[i-1].to == from { // touches the one before
		i--
	}
	j := i
	for j < len(*r) && (*r)[j].from <= to {
		from, to = min(from, (*r)[j].from), max(to, (*r)[j].to)
		j++
	}
	*r = slices.Replace(*r, i, j, span{from, to})
}

// remove takes the offsets from <= o < to out of the set.
func (r *ranges) remove(from, to uint64) {
	if from >= to {
		return
	}
	i := r.find(from)
	j := i
	var left [2]span
	keep := left[:0]
	for j < len(*r) && (*r)[j].from < to {
		if g := (*r)[j]; g.from < from {
			keep = append(keep, span{g.from, from})
		}
		if g := (*r)[j]; g.to > to {
			keep = append(keep, span{to, g.to})
		}
		j++
	}
	if i < j {
		*r = slices.Replace(*r, i, j, keep...)
	}
}

// find returns the index of the first span that ends above o.
func (r ranges) find(o uint64) int {
	i, _ := slices.BinarySearchFunc(r, o, func(g span, o uint64) int {
		if g.to <= o {
			return -1
		}
		return 1
	})
	return i
}

// size returns how many offsets the set holds.
func (r ranges) size() (n uint64) {
	for _, g := range r {
		n += g.to - g.from
	}
	return n
}
