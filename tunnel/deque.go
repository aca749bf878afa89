package tunnel

// deque is a first-in, first-out queue in a ring that grows as needed and is
// dropped when it empties after having been large.
type deque[T any] struct {
	ring []T // its length is a power of two
	head int
	n    int
}

const dequeKeep = 64 // elements: a ring up to this size is kept when empty

func (d *deque[T]) len() int { return d.n }

func (d *deque[T]) push(v T) {
	if d.n == len(d.ring) {
		ring := make([]T, max(2, 2*d.n)) // an idle stream keeps two of these
		for i := range d.n {
			ring[i] = *d.at(i)
		}
		d.ring, d.head = ring, 0
	}
	d.n++
	*d.at(d.n - 1) = v
}

// at returns the i-th element from the front; it stays valid until the next push or pop.
func (d *deque[T]) at(i int) *T { return &d.ring[(d.head+i)&(len(d.ring)-1)] }

func (d *deque[T]) pop() T {
	var zero T
	p := d.at(0)
	v := *p
	*p = zero
	d.head = (d.head + 1) & (len(d.ring) - 1)
	d.n--
	if d.n == 0 && len(d.ring) > dequeKeep {
		d.ring, d.head = nil, 0
	}
	return v
}
