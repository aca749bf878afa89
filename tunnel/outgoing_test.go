package tunnel

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// sentFrame is what the model remembers of a frame under way.
type sentFrame struct {
	from, to uint64
	fin      bool
}

// outgoingModel drives an outgoing as a stream and its carriers would, with a
// receiver that only counts what it has.
type outgoingModel struct {
	mem    *Memory
	out    outgoing
	source []byte      // everything written
	flying []sentFrame // neither acked nor lost
	lost   []sentFrame // declared lost: may still be acked late
	got    ranges      // acked
	gotFin bool
}

func (m *outgoingModel) write(data []byte) {
	m.source = append(m.source, data...)
	data = data[m.out.fill(data):]
	if len(data) > 0 {
		buf := m.mem.get(len(data))
		m.out.push(buf, append(buf.b[:0], data...), false)
	}
}

// send takes one frame and checks it.
func (m *outgoingModel) send(t *rapid.T, room int) bool {
	sendable, pending := m.out.sendable(), m.out.pending()
	f, ok := m.out.next(nil, room, 1)
	if ok && !sendable || !ok && sendable && room > 0 {
		t.Fatalf("sendable %v, next %v (%d pending)", sendable, ok, pending)
	}
	if !ok {
		return false
	}
	end := f.off + uint64(len(f.data))
	switch {
	case len(f.data) > room:
		t.Fatalf("%d bytes in a room of %d", len(f.data), room)
	case len(f.data) > 0 && end > m.out.limit:
		t.Fatalf("sent up to %d, credit is %d", end, m.out.limit)
	case !bytes.Equal(f.data, m.source[f.off:end]):
		t.Fatalf("bytes %d to %d differ from what was written", f.off, end)
	case f.fin && (end != uint64(len(m.source)) || !m.out.closed):
		t.Fatalf("FIN at %d of %d, closed %v", end, len(m.source), m.out.closed)
	case !f.fin && len(f.data) == 0:
		t.Fatal("an empty frame")
	}
	for _, g := range m.got {
		if max(g.from, f.off) < min(g.to, end) {
			t.Fatalf("bytes %d to %d were acked already: %v", f.off, end, m.got)
		}
	}
	if f.buf != nil {
		f.buf.release()
	}
	m.flying = append(m.flying, sentFrame{f.off, end, f.fin})
	return true
}

func (m *outgoingModel) ack(f sentFrame) {
	m.out.onAck(f.from, f.to, f.fin)
	m.got.add(f.from, f.to)
	m.gotFin = m.gotFin || f.fin
}

func (m *outgoingModel) check(t *rapid.T) {
	base := uint64(0)
	if len(m.got) > 0 && m.got[0].from == 0 {
		base = m.got[0].to
	}
	held := 0
	for i := range m.out.segs.len() {
		held += len(m.out.segs.at(i).buf.b)
	}
	switch {
	case m.out.base != base:
		t.Fatalf("base %d, acked %v", m.out.base, m.got)
	case m.out.held != held || m.mem.Used() != int64(held):
		t.Fatalf("counts %d bytes held, memory %d, the segments have %d", m.out.held, m.mem.Used(), held)
	case m.out.segs.len() > 0 && m.out.segs.at(0).end() <= base:
		t.Fatalf("a segment below %d is still held", base)
	case m.out.done() != (m.gotFin && base == uint64(len(m.source))):
		t.Fatalf("done %v, FIN acked %v, base %d of %d", m.out.done(), m.gotFin, base, len(m.source))
	}
}

// takeAt removes and returns an element.
func takeAt[T any](list *[]T, i int) T {
	v := (*list)[i]
	*list = append((*list)[:i:i], (*list)[i+1:]...)
	return v
}

// TestOutgoingCoversEverything acks, loses and acks late at random: in the end
// every byte and the FIN must have been acked, and every buffer released.
func TestOutgoingCoversEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &outgoingModel{mem: NewMemory(0)}
		m.out.limit = rapid.Uint64Range(0, 3000).Draw(t, "credit")
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				if !m.out.closed {
					n := rapid.IntRange(1, 5000).Draw(t, "n")
					data := make([]byte, n)
					for i := range data {
						data[i] = byte(len(m.source) + i*7)
					}
					m.write(data)
				}
			},
			"close":  func(t *rapid.T) { m.out.closed = m.out.closed || len(m.source) > 10000 },
			"credit": func(t *rapid.T) { m.out.limit += rapid.Uint64Range(0, 5000).Draw(t, "more") },
			"send":   func(t *rapid.T) { m.send(t, rapid.IntRange(0, 3000).Draw(t, "room")) },
			"ack": func(t *rapid.T) {
				if len(m.flying) > 0 {
					m.ack(takeAt(&m.flying, rapid.IntRange(0, len(m.flying)-1).Draw(t, "which")))
				}
			},
			"lose": func(t *rapid.T) {
				if len(m.flying) > 0 {
					f := takeAt(&m.flying, rapid.IntRange(0, len(m.flying)-1).Draw(t, "which"))
					m.out.onLoss(f.from, f.to, f.fin)
					m.lost = append(m.lost, f)
				}
			},
			"ack late": func(t *rapid.T) {
				if len(m.lost) > 0 {
					m.ack(takeAt(&m.lost, rapid.IntRange(0, len(m.lost)-1).Draw(t, "which")))
				}
			},
			"": m.check,
		})
		m.finish(t)
	})
}

// finish sends and acks all that is left.
func (m *outgoingModel) finish(t *rapid.T) {
	m.out.closed, m.out.limit = true, uint64(len(m.source))
	for len(m.flying) > 0 || m.out.sendable() {
		for m.send(t, 1500) {
		}
		for len(m.flying) > 0 {
			m.ack(takeAt(&m.flying, len(m.flying)-1))
		}
		m.check(t)
	}
	if !m.out.done() || m.mem.Used() != 0 {
		t.Fatalf("done %v, %d bytes in use: %+v", m.out.done(), m.mem.Used(), m.out)
	}
}

// TestOutgoingAbort checks that a reset drops everything and survives what
// comes late.
func TestOutgoingAbort(t *testing.T) {
	m := &outgoingModel{mem: NewMemory(0)}
	m.write(bytes.Repeat([]byte("x"), 5000))
	m.out.limit = 4000
	f, _ := m.out.next(nil, 3000, 1)
	f.buf.release()
	why := &StreamError{Code: 7}
	m.out.abort(why)
	if m.mem.Used() != 0 || m.out.held != 0 || m.out.sendable() {
		t.Fatalf("after the abort: %d bytes in use, sendable %v", m.mem.Used(), m.out.sendable())
	}
	m.out.onLoss(0, 3000, false)
	m.out.onAck(0, 3000, false)
	if m.out.sendable() || m.out.done() {
		t.Fatalf("sendable %v, done %v before the RESET_STREAM is acked", m.out.sendable(), m.out.done())
	}
	m.out.resetAcked = true
	if !m.out.done() {
		t.Fatal("not done after the RESET_STREAM was acked")
	}
}
