package tunnel

import (
	"sync"
	"sync/atomic"
)

// bufferSizes are the capacities of pooled buffers. The largest holds a whole
// message; the smaller ones keep what is held below twice what is used, down
// to pieces of which a stream may have only hundreds (maxGaps).
var bufferSizes = [...]int{128, 256, 512, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, MaxMessage}

// Memory is where sessions take their buffers from, and the count of what
// they hold. Sessions that share one share its bound. Use NewMemory.
type Memory struct {
	limit int64
	used  atomic.Int64
	pools [len(bufferSizes)]sync.Pool
}

// NewMemory returns a Memory that lets sessions take new streams from their
// peers while less than limit bytes of buffers are in use; 0 means no limit.
// It never refuses a buffer to a stream that exists: what those may hold is
// bounded by their own windows and budgets.
func NewMemory(limit int64) *Memory { return &Memory{limit: limit} }

// Used returns how many bytes of buffer capacity are in use.
func (m *Memory) Used() int64 { return m.used.Load() }

func (m *Memory) full() bool { return m.limit > 0 && m.used.Load() >= m.limit }

// get returns a buffer of at least n bytes capacity with one reference.
func (m *Memory) get(n int) *buffer {
	class := 0
	for class < len(bufferSizes)-1 && bufferSizes[class] < n {
		class++
	}
	b, _ := m.pools[class].Get().(*buffer)
	if b == nil {
		b = &buffer{b: make([]byte, bufferSizes[class]), class: class, from: m}
	}
	b.refs.Store(1)
	m.used.Add(int64(len(b.b)))
	return b
}

// buffer is a pooled slice that several holders share by counting references.
type buffer struct {
	b     []byte // the whole capacity
	refs  atomic.Int32
	class int
	from  *Memory
}

func (b *buffer) retain() { b.refs.Add(1) }

func (b *buffer) release() {
	if b.refs.Add(-1) == 0 {
		b.from.used.Add(-int64(len(b.b)))
		b.from.pools[b.class].Put(b)
	}
}

// segment is a run of a stream's bytes: data begins at offset off and lies in
// buf, of which the segment owns one reference. If data's capacity exceeds its
// length, the rest is the segment's own too and may be filled.
type segment struct {
	off  uint64
	data []byte
	buf  *buffer
	room bool // the headroom before data is there and unused
}

// headroom is what a buffer for outgoing bytes leaves free before them, so that
// the message that carries them first can be made around them without a copy:
// room for a STREAM frame's header, an ack and some credit.
const headroom = 128

// readSize is how many bytes are taken from a writer at a time: what fits into
// one message. What is left over would cost a frame of its own, and its
// receiver a write.
const readSize = MaxMessage - headroom

func (g *segment) end() uint64 { return g.off + uint64(len(g.data)) }

// fill appends as much of p as fits into the rest of the segment's buffer.
func (g *segment) fill(p []byte) int {
	n := copy(g.data[len(g.data):cap(g.data)], p)
	g.data = g.data[:len(g.data)+n]
	return n
}
