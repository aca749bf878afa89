package frame

import (
	"encoding/binary"
	"unicode/utf8"
)

// MaxVarint is the largest number that a varint holds (RFC 9000 §16).
const MaxVarint = 1<<62 - 1

// AppendVarint appends v in the shortest form of RFC 9000 §16. A v above
// [MaxVarint] is written as MaxVarint: every counter of ours would need
// centuries to get there, and a panic would cost the whole agent.
func AppendVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return binary.BigEndian.AppendUint16(b, uint16(v)|0x4000)
	case v < 1<<30:
		return binary.BigEndian.AppendUint32(b, uint32(v)|0x8000_0000)
	default:
		return binary.BigEndian.AppendUint64(b, min(v, MaxVarint)|0xc000_0000_0000_0000)
	}
}

// VarintLen returns how many bytes AppendVarint writes for v.
func VarintLen(v uint64) int {
	switch {
	case v < 1<<6:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<30:
		return 4
	default:
		return 8
	}
}

// appendText appends a length and s, cut to MaxReason at a rune's edge.
func appendText(b []byte, s string) []byte {
	if len(s) > MaxReason {
		end := MaxReason
		for end > 0 && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end]
	}
	b = AppendVarint(b, uint64(len(s)))
	return append(b, s...)
}

// reader takes values off the front of b. Its first error sticks, and every
// later value is zero, so that a layout reads as one line.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) varint() uint64 {
	if len(r.b) == 0 {
		r.fail(ErrTruncated)
		return 0
	}
	n := 1 << (r.b[0] >> 6)
	if len(r.b) < n {
		r.fail(ErrTruncated)
		return 0
	}
	v := uint64(r.b[0] & 0x3f)
	for _, c := range r.b[1:n] {
		v = v<<8 | uint64(c)
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if r.err != nil {
		return nil
	}
	if n > uint64(len(r.b)) {
		r.fail(ErrTruncated)
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) text() []byte {
	n := r.varint()
	if n > MaxReason {
		r.fail(ErrMalformed)
		return nil
	}
	return r.bytes(n)
}
