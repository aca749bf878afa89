package tunnel

// MaxMessage is the size in bytes of the largest message that a carrier must take.
const MaxMessage = 64 << 10

// Carrier is one ordered, reliable message pipe between the agents; today one
// WebSocket (package tunnel/ws). It is mortal: any call may fail at any time,
// and the session then goes on over another.
//
// One goroutine reads, and one at a time writes.
type Carrier interface {
	// ReadMessage waits for the next message. Only when one has begun does it
	// call take for a buffer of at least MaxMessage bytes, so that an idle
	// carrier holds none. It returns the message's length.
	ReadMessage(take func() []byte) (int, error)

	// WriteMessages writes each element as one message and flushes once,
	// after the last. It neither keeps nor changes them.
	WriteMessages(msgs [][]byte) error

	// MaxMessage is the size in bytes of the largest message that the carrier
	// carries most cheaply: 16 KiB at least, at most the constant MaxMessage.
	MaxMessage() int

	// Close ends the carrier at once and unblocks both directions. It may be
	// called at any time, from any goroutine, more than once. A nil cause
	// means that the session is done with it.
	Close(cause error) error
}
