package faults

import (
	"fmt"
	"math/rand/v2"
	"sync"
)

// Mode is a way to cut a connection.
type Mode uint8

// The modes. None is the zero value: the connection lives on.
const (
	None Mode = iota
	// RST resets both sides at once. What was on its way is lost.
	RST
	// FIN sends a bare end of file both ways and throws away what still arrives.
	FIN
	// BlackHole neither reads nor writes any more, and closes nothing: senders fill their buffers
	// and then block, as when packets vanish. It ends by Relay.Heal, or by another cut.
	BlackHole
	// Swallow reads on and throws everything away, and closes nothing: senders never block, and
	// nobody hears anything, as behind a middle box that acknowledges and forgets.
	Swallow

	modes // how many there are
)

// Modes returns every mode that cuts, in a fixed order.
func Modes() []Mode { return []Mode{RST, FIN, BlackHole, Swallow} }

// String returns the mode's name as used in test output.
func (m Mode) String() string {
	switch m {
	case None:
		return "none"
	case RST:
		return "rst"
	case FIN:
		return "fin"
	case BlackHole:
		return "black-hole"
	case Swallow:
		return "swallow"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// Direction is one of the two ways through a relay.
type Direction uint8

// The directions. Either is the zero value and counts both together.
const (
	Either Direction = iota
	// Up is from the one who connected to the target.
	Up
	// Down is from the target to the one who connected.
	Down
)

// Fault says how and when one connection will be cut. The zero value never cuts.
type Fault struct {
	// Mode is how. None: never.
	Mode Mode
	// Dir is whose bytes After counts. Either: the sum of both.
	Dir Direction
	// After is how many bytes pass before the cut; exactly so many without a Link. 0 cuts as soon
	// as the connection is accepted, before the target is dialled.
	After int64
}

// Random returns a plan for Options.Plan that cuts every connection after between 0 and 2*mean
// bytes of either direction, in one of the modes given (all of them if none is). Equal seeds give
// equal plans: print the seed. The plan is safe for use by several relays at once.
func Random(seed uint64, mean int64, modes ...Mode) func(n int) Fault {
	if len(modes) == 0 {
		modes = Modes()
	}
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 0x5a11))
	return func(int) Fault {
		mu.Lock()
		defer mu.Unlock()
		return Fault{
			Mode:  modes[rng.IntN(len(modes))],
			After: rng.Int64N(2*max(mean, 1) + 1),
		}
	}
}
