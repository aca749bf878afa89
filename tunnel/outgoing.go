package tunnel

import "sort"

// outgoing is the sending half of a stream: the bytes from base to written,
// each either unsent, in flight, to be sent again, or acked out of order.
//
//	0 ── acked, released ── base ── in flight / lost / acked ── sent ── unsent ── written
type outgoing struct {
	segs    deque[segment] // base to written, without gaps
	base    uint64         // everything below is acked
	sent    uint64         // everything below was sent at least once
	written uint64         // everything below was given to us by the writer
	limit   uint64         // the peer's credit
	acked   ranges         // above base
	lost    ranges         // sent on a carrier that was lost, not acked since
	held    int            // bytes of buffer capacity in segs

	closed   bool // written is final: a FIN follows
	finSent  bool // and is in flight or acked
	finAcked bool

	reset      *StreamError // aborted: nothing but the RESET_STREAM is sent any more
	resetAcked bool
}

// outFrame is a STREAM frame about to be written. It owns a reference to buf.
type outFrame struct {
	stream *Stream
	off    uint64
	data   []byte
	buf    *buffer // nil if data is empty
	room   bool    // the headroom before data is this frame's to use
	fin    bool
}

// fill copies as much of p as the last segment's buffer has room for.
func (o *outgoing) fill(p []byte) int {
	if o.segs.len() == 0 {
		return 0
	}
	n := o.segs.at(o.segs.len() - 1).fill(p)
	o.written += uint64(n)
	return n
}

// push appends a segment, whose reference to buf it takes over. room says that
// data lies behind the buffer's headroom.
func (o *outgoing) push(buf *buffer, data []byte, room bool) {
	o.segs.push(segment{o.written, data, buf, room})
	o.written += uint64(len(data))
	o.held += len(buf.b)
}

func (o *outgoing) unsent() uint64 { return o.written - o.sent }

// sendable reports whether next has something to send.
func (o *outgoing) sendable() bool {
	return o.reset == nil && (len(o.lost) > 0 || o.sent < min(o.written, o.limit) || o.finDue())
}

func (o *outgoing) finDue() bool { return o.closed && !o.finSent && o.sent == o.written }

// pending returns how many bytes next could send at once.
func (o *outgoing) pending() uint64 {
	n := o.lost.size()
	if end := min(o.written, o.limit); end > o.sent {
		n += end - o.sent
	}
	return n
}

// next takes the next frame of at most room bytes of payload: what was lost,
// lowest offset first, then what was never sent. It takes none if that would
// cut what there is to less than least: whatever is cut costs the peer another
// frame, and a write to its target.
func (o *outgoing) next(s *Stream, room, least int) (f outFrame, ok bool) {
	if !o.sendable() {
		return f, false
	}
	f.stream, f.off = s, o.sent
	end := min(o.written, o.limit)
	if len(o.lost) > 0 {
		f.off, end = o.lost[0].from, o.lost[0].to
	}
	if f.off < end {
		g := o.segment(f.off)
		f.data = g.data[f.off-g.off:]
		f.data = f.data[:min(uint64(len(f.data)), end-f.off)]
		if len(f.data) > room {
			if room < max(least, 1) {
				return f, false
			}
			f.data = f.data[:room]
		}
		f.buf = g.buf
		f.buf.retain()
		if f.off == g.off {
			f.room, g.room = g.room, false
		}
		end = f.off + uint64(len(f.data))
		o.lost.remove(f.off, end)
		o.sent = max(o.sent, end)
	}
	if o.finDue() && len(o.lost) == 0 && f.off+uint64(len(f.data)) == o.written {
		f.fin, o.finSent = true, true
	}
	return f, true
}

// segment returns the one that holds offset off.
func (o *outgoing) segment(off uint64) *segment {
	i := sort.Search(o.segs.len(), func(i int) bool { return o.segs.at(i).end() > off })
	return o.segs.at(i)
}

// onAck takes note that the peer has a range, and perhaps the FIN.
func (o *outgoing) onAck(from, to uint64, fin bool) {
	o.finAcked = o.finAcked || fin
	if o.reset != nil {
		return
	}
	if fin {
		o.finSent = true // a repeat that was due is not any more
	}
	if to <= o.base {
		return
	}
	o.lost.remove(from, to)
	if from > o.base {
		o.acked.add(from, to)
		return
	}
	o.base = to
	for len(o.acked) > 0 && o.acked[0].from <= o.base {
		o.base = max(o.base, o.acked[0].to)
		o.acked = o.acked[1:]
	}
	if len(o.acked) == 0 {
		o.acked = nil
	}
	for o.segs.len() > 0 && o.segs.at(0).end() <= o.base {
		o.releaseFirst()
	}
}

// onLoss queues again what is still current of a range, and perhaps the FIN.
func (o *outgoing) onLoss(from, to uint64, fin bool) {
	if o.reset != nil {
		return
	}
	if fin && !o.finAcked {
		o.finSent = false
	}
	if from = max(from, o.base); from >= to {
		return
	}
	o.lost.add(from, to)
	for _, g := range o.acked {
		o.lost.remove(g.from, g.to)
	}
}

// abort drops everything: a RESET_STREAM takes its place.
func (o *outgoing) abort(why *StreamError) {
	o.reset = why
	o.drop()
}

// drop releases every buffer.
func (o *outgoing) drop() {
	for o.segs.len() > 0 {
		o.releaseFirst()
	}
	o.acked, o.lost = nil, nil
	o.base = o.written
}

func (o *outgoing) releaseFirst() {
	g := o.segs.pop()
	o.held -= len(g.buf.b)
	g.buf.release()
}

// done reports whether the peer has everything that this half will ever say.
func (o *outgoing) done() bool {
	return o.resetAcked || o.reset == nil && o.finAcked && o.base == o.written
}
