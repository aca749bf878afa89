package tunnel

import (
	"slices"
	"time"
)

// incoming is the receiving half of a stream: the bytes from read to ready can
// be read, and pieces beyond a gap wait in later.
//
//	0 ── consumed ── read ── readable ── ready ── gaps and later ── limit
type incoming struct {
	mem   *Memory
	segs  deque[segment] // read to ready, without gaps
	later []segment      // beyond ready, in order, not overlapping
	read  uint64
	ready uint64
	limit uint64 // the credit that we gave
	held  int    // bytes of buffer capacity in segs and later

	final    uint64 // the final size, once known
	hasFinal bool
	discard  bool         // nobody reads any more
	reset    *StreamError // the peer aborted

	window    uint64    // how far beyond read the next credit goes
	epoch     time.Time // since when consumption is being measured
	epochRead uint64    // read at that time
	consumed  uint64    // read in a round trip, as last measured
	compactAt int       // pieces in later at which to count and merge them
}

// insert takes in data at off, which lies in message (or part of it). What was
// there already is ignored. It fails only on too many gaps.
func (in *incoming) insert(off uint64, data []byte, message *buffer) error {
	if in.discard || in.reset != nil {
		return nil
	}
	if off < in.ready {
		skip := min(in.ready-off, uint64(len(data)))
		off, data = off+skip, data[skip:]
	}
	if len(data) == 0 {
		return nil
	}
	if off == in.ready && len(in.later) == 0 { // the usual case
		in.append(off, data, message)
		return nil
	}
	in.fillGaps(off, data, message)
	in.joinLater()
	return in.compact()
}

// fillGaps stores the parts of data that are not there yet.
func (in *incoming) fillGaps(off uint64, data []byte, message *buffer) {
	i, _ := slices.BinarySearchFunc(in.later, off, func(g segment, off uint64) int {
		if g.end() <= off {
			return -1
		}
		return 1
	})
	for len(data) > 0 {
		piece := data
		if i < len(in.later) {
			piece = data[:min(uint64(len(data)), max(in.later[i].off, off)-off)]
		}
		if len(piece) > 0 && off == in.ready {
			in.append(off, piece, message)
		} else if len(piece) > 0 {
			i += in.store(i, off, piece, message)
		}
		off, data = off+uint64(len(piece)), data[len(piece):]
		if len(data) > 0 { // the rest begins inside later[i]
			skip := min(in.later[i].end()-off, uint64(len(data)))
			off, data = off+skip, data[skip:]
			i++
		}
	}
}

// store puts a piece into later at index i and returns how many elements that added.
func (in *incoming) store(i int, off uint64, data []byte, message *buffer) (added int) {
	if !worthKeeping(data, message) && i > 0 && in.later[i-1].end() == off {
		n := in.later[i-1].fill(data)
		off, data = off+uint64(n), data[n:]
	}
	if len(data) > 0 {
		in.later = slices.Insert(in.later, i, in.newSegment(off, data, message, 0))
		added = 1
	}
	return added
}

// append puts data at the end of what is readable.
func (in *incoming) append(off uint64, data []byte, message *buffer) {
	in.ready = off + uint64(len(data))
	if !worthKeeping(data, message) && in.segs.len() > 0 {
		n := in.segs.at(in.segs.len() - 1).fill(data)
		off, data = off+uint64(n), data[n:]
	}
	if len(data) > 0 {
		// The more a stalled stream holds, the larger its next buffer.
		in.segs.push(in.newSegment(off, data, message, min(in.held/2, MaxMessage/4)))
	}
}

// worthKeeping says whether to keep a whole message's buffer for the data in
// it. A payload under half of its buffer is copied, so that memory held stays
// below twice the bytes held.
func worthKeeping(data []byte, message *buffer) bool { return 2*len(data) >= len(message.b) }

// newSegment keeps data: in its message, or else in a buffer of at least room
// bytes, which what follows may fill.
func (in *incoming) newSegment(off uint64, data []byte, message *buffer, room int) segment {
	g := segment{off: off, data: data[:len(data):len(data)], buf: message}
	if worthKeeping(data, message) {
		message.retain()
	} else {
		g.buf = in.mem.get(max(len(data), room))
		g.data = g.buf.b[:copy(g.buf.b, data)]
	}
	in.held += len(g.buf.b)
	return g
}

// joinLater moves what has become readable from later to segs.
func (in *incoming) joinLater() {
	n := 0
	for n < len(in.later) && in.later[n].off == in.ready {
		in.ready = in.later[n].end()
		in.segs.push(in.later[n])
		n++
	}
	in.later = slices.Delete(in.later, 0, n)
	if len(in.later) == 0 {
		in.later = nil
	}
}

// compact keeps the pieces in later few: it fails on too many gaps, and
// otherwise merges neighbours that lie in small buffers.
func (in *incoming) compact() error {
	in.compactAt = max(in.compactAt, 2*maxGaps)
	if len(in.later) < in.compactAt {
		if len(in.later) > maxGaps && in.gaps() > maxGaps {
			return protocolError("more than %d gaps in a stream", maxGaps)
		}
		return nil
	}
	kept := in.later[:0]
	for _, g := range in.later {
		last := len(kept) - 1
		if last < 0 || kept[last].end() != g.off || len(kept[last].data)+len(g.data) > MaxMessage/2 {
			kept = append(kept, g)
			continue
		}
		if cap(kept[last].data)-len(kept[last].data) < len(g.data) {
			buf := in.mem.get(max(2*len(kept[last].data), len(kept[last].data)+len(g.data)))
			in.held += len(buf.b)
			data := buf.b[:copy(buf.b, kept[last].data)]
			in.release(kept[last])
			kept[last] = segment{off: kept[last].off, data: data, buf: buf}
		}
		kept[last].fill(g.data)
		in.release(g)
	}
	clear(in.later[len(kept):])
	in.later = kept
	in.compactAt = 2 * len(kept)
	if in.gaps() > maxGaps {
		return protocolError("more than %d gaps in a stream", maxGaps)
	}
	return nil
}

func (in *incoming) gaps() (n int) {
	at := in.ready
	for _, g := range in.later {
		if g.off != at {
			n++
		}
		at = g.end()
	}
	return n
}

func (in *incoming) release(g segment) {
	in.held -= len(g.buf.b)
	g.buf.release()
}

// advance consumes n readable bytes.
func (in *incoming) advance(n int) {
	in.read += uint64(n)
	for n > 0 {
		g := in.segs.at(0)
		if n < len(g.data) {
			g.off, g.data = g.off+uint64(n), g.data[n:]
			return
		}
		n -= len(g.data)
		in.release(in.segs.pop())
	}
}

// drop releases every buffer; nothing is readable any more.
func (in *incoming) drop() {
	in.read = in.ready
	for in.segs.len() > 0 {
		in.release(in.segs.pop())
	}
	for _, g := range in.later {
		in.release(g)
	}
	in.later = nil
}

// done reports whether nothing more can come.
func (in *incoming) done() bool {
	return in.reset != nil || in.hasFinal && (in.discard || in.ready == in.final)
}

// creditDue returns the limit to tell the peer, and whether it is worth
// telling: once a quarter of the window has been read. It lets the window grow
// to twice what the reader consumes in a round trip, as far as budget allows,
// and shrink when the reader has become slow.
func (in *incoming) creditDue(now time.Time, rtt time.Duration, budget *int) (uint64, bool) {
	if in.hasFinal || in.discard || in.reset != nil || in.limit-in.read > in.window/4*3 {
		return in.limit, false
	}
	in.tune(now, rtt, budget)
	if limit := in.read + in.window; limit > in.limit {
		in.limit = limit
		return limit, true
	}
	return in.limit, false
}

// observe starts measuring what is read when the first bytes after a pause come.
func (in *incoming) observe(now time.Time, rtt time.Duration) {
	if in.read == in.ready && now.Sub(in.epoch) > 4*max(rtt, minTuneRTT) {
		in.epoch, in.epochRead, in.consumed = now, in.read, 0
	}
}

// tune sizes the window by what was read since the last time, at least a round
// trip ago: to twice that, so that credit is never the limit; to four times
// while it grows on a long path, so that credit does not slow the sender's start.
func (in *incoming) tune(now time.Time, rtt time.Duration, budget *int) {
	rtt = max(rtt, minTuneRTT)
	elapsed := now.Sub(in.epoch)
	if elapsed < rtt {
		return
	}
	consumed := uint64(float64(in.read-in.epochRead) * float64(rtt) / float64(elapsed))
	target := 2 * consumed
	if consumed > in.consumed+in.consumed/4 && rtt > shortRTT {
		target = 4 * consumed
	}
	in.epoch, in.epochRead, in.consumed = now, in.read, consumed
	switch {
	case target > in.window:
		grown := min(target, maxWindow, in.window+uint64(max(*budget, 0))/4)
		*budget -= int(grown - in.window)
		in.window = grown
	case target < in.window/8 && in.window > initialWindow:
		shrunk := max(in.window/2, initialWindow)
		*budget += int(in.window - shrunk)
		in.window = shrunk
	}
}

// minTuneRTT is the least round trip that windows are sized for. On loopback
// the real one is shorter than a scheduler's hiccup, and a window of two of
// those would stall.
const minTuneRTT = 250 * time.Microsecond

// shortRTT is a round trip that costs less to wait for, at the start, than what
// a window held for good when its reader stops.
const shortRTT = time.Millisecond

// highest returns the end of the furthest byte that has come.
func (in *incoming) highest() uint64 {
	if n := len(in.later); n > 0 {
		return in.later[n-1].end()
	}
	return in.ready
}
