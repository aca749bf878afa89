// Package frame is the wire codec of the session protocol: pure functions
// between bytes and values, no state and no I/O.
//
// A message is one or more frames. A frame is a type (one varint, RFC 9000
// §16) and a body whose layout stands beside its [Type] below. [Next] takes
// the first frame off a message; the Append functions write one. [Hello] has
// its own pair because it is the only frame with optional parts.
//
// The codec allocates nothing: [Frame.Data] points into the message.
package frame

import (
	"errors"
	"fmt"
)

// MaxMessage is the size in bytes of the largest message that the protocol allows.
const MaxMessage = 64 << 10

// MaxReason is the size in bytes of the longest reason text in a frame.
// A longer one is cut when written and refused when read.
const MaxReason = 256

// Type says what a frame is. In the layouts, every field is a varint unless a
// length in brackets or "bytes" says otherwise, and "text" is a length and
// that many bytes of UTF-8, at most [MaxReason].
type Type uint8

// The frame types. 0x10 to 0x13 are STREAM with two flag bits.
const (
	TypeHello       Type = 0x01 // length, body [Hello]
	TypePing        Type = 0x02 // count: any number, echoed
	TypePong        Type = 0x03 // count: that of the newest PING received
	TypeResetStream Type = 0x04 // stream id, code, final size, reason text
	TypeStopSending Type = 0x05 // stream id, code, reason text
	TypeCredit      Type = 0x06 // stream id, absolute limit
	TypeMaxStreams  Type = 0x07 // count: cumulative number of streams the receiver may open
	TypeCarrierAck  Type = 0x08 // count of messages, delay in µs
	TypeDatagram    Type = 0x09 // flow id, length, bytes
	TypeGoAway      Type = 0x0a // code, delay in ms, URL text, reason text
	TypeClose       Type = 0x0b // code, reason text
	TypeStream      Type = 0x10 // stream id, offset, (length,) bytes

	flagFin    = 0x01 // on TypeStream: the bytes end the stream's direction
	flagLength = 0x02 // on TypeStream: a length precedes the bytes; without it they end with the message
)

var typeNames = [...]string{
	TypeHello: "HELLO", TypePing: "PING", TypePong: "PONG", TypeResetStream: "RESET_STREAM",
	TypeStopSending: "STOP_SENDING", TypeCredit: "CREDIT", TypeMaxStreams: "MAX_STREAMS",
	TypeCarrierAck: "CARRIER_ACK", TypeDatagram: "DATAGRAM", TypeGoAway: "GOAWAY", TypeClose: "CLOSE",
	TypeStream: "STREAM",
}

// String returns the frame's name as PROTOCOL.md spells it.
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("type 0x%02x", uint8(t))
}

// Frame is one parsed frame. Which fields are set depends on its Type.
type Frame struct {
	Type   Type
	Fin    bool   // STREAM
	Stream uint64 // STREAM, RESET_STREAM, STOP_SENDING, CREDIT; the flow id of a DATAGRAM
	Offset uint64 // STREAM: of the first byte; RESET_STREAM: final size; CREDIT: limit
	Count  uint64 // PING, PONG, MAX_STREAMS, CARRIER_ACK
	Delay  uint64 // CARRIER_ACK: µs; GOAWAY: ms
	Code   uint64 // RESET_STREAM, STOP_SENDING, GOAWAY, CLOSE
	Data   []byte // STREAM and DATAGRAM: payload; HELLO: body; GOAWAY: URL
	Reason []byte // RESET_STREAM, STOP_SENDING, GOAWAY, CLOSE
}

// Errors of Next and ParseHello; both end the session that received the message.
var (
	ErrTruncated = errors.New("frame cut short")
	ErrMalformed = errors.New("malformed frame")
	ErrUnknown   = errors.New("unknown frame type")
)

// Next parses the first frame of msg into f and returns what follows it.
// f.Data and f.Reason point into msg.
func Next(f *Frame, msg []byte) (rest []byte, err error) {
	r := reader{b: msg}
	t := r.varint()
	*f = Frame{}
	switch {
	case r.err != nil:
		return nil, fmt.Errorf("frame type: %w", r.err)
	case t >= uint64(TypeStream) && t <= uint64(TypeStream|flagFin|flagLength):
		f.Type = TypeStream
		f.Fin = t&flagFin != 0
		f.Stream, f.Offset = r.varint(), r.varint()
		if t&flagLength != 0 {
			f.Data = r.bytes(r.varint())
		} else {
			f.Data = r.bytes(uint64(len(r.b)))
		}
		if f.Offset+uint64(len(f.Data)) > MaxVarint {
			r.fail(ErrMalformed)
		}
	case t > uint64(TypeClose):
		return nil, fmt.Errorf("%w 0x%x", ErrUnknown, t)
	default:
		f.Type = Type(t)
		r.body(f)
	}
	if r.err != nil {
		return nil, fmt.Errorf("%v: %w", f.Type, r.err)
	}
	return r.b, nil
}

// body parses what follows the type of every frame but STREAM.
func (r *reader) body(f *Frame) {
	switch f.Type {
	case TypeHello:
		f.Data = r.bytes(r.varint())
	case TypePing, TypePong, TypeMaxStreams:
		f.Count = r.varint()
	case TypeResetStream:
		f.Stream, f.Code, f.Offset, f.Reason = r.varint(), r.varint(), r.varint(), r.text()
	case TypeStopSending:
		f.Stream, f.Code, f.Reason = r.varint(), r.varint(), r.text()
	case TypeCredit:
		f.Stream, f.Offset = r.varint(), r.varint()
	case TypeCarrierAck:
		f.Count, f.Delay = r.varint(), r.varint()
	case TypeDatagram:
		f.Stream = r.varint()
		f.Data = r.bytes(r.varint())
	case TypeGoAway:
		f.Code, f.Delay, f.Data, f.Reason = r.varint(), r.varint(), r.text(), r.text()
	case TypeClose:
		f.Code, f.Reason = r.varint(), r.text()
	default:
		r.fail(ErrUnknown)
	}
}

// StreamOverhead is the most bytes that a STREAM frame needs beside its payload.
const StreamOverhead = 1 + 8 + 8 + 4

// AppendStream appends a STREAM frame. last says that it ends the message, so
// that the length can be left out.
func AppendStream(b []byte, id, offset uint64, data []byte, fin, last bool) []byte {
	t := byte(TypeStream)
	if fin {
		t |= flagFin
	}
	if !last {
		t |= flagLength
	}
	b = append(b, t)
	b = AppendVarint(b, id)
	b = AppendVarint(b, offset)
	if !last {
		b = AppendVarint(b, uint64(len(data)))
	}
	return append(b, data...)
}

// AppendResetStream appends a RESET_STREAM frame.
func AppendResetStream(b []byte, id, code, finalSize uint64, reason string) []byte {
	b = append(b, byte(TypeResetStream))
	b = AppendVarint(b, id)
	b = AppendVarint(b, code)
	b = AppendVarint(b, finalSize)
	return appendText(b, reason)
}

// AppendStopSending appends a STOP_SENDING frame.
func AppendStopSending(b []byte, id, code uint64, reason string) []byte {
	b = append(b, byte(TypeStopSending))
	b = AppendVarint(b, id)
	b = AppendVarint(b, code)
	return appendText(b, reason)
}

// AppendCredit appends a CREDIT frame.
func AppendCredit(b []byte, id, limit uint64) []byte {
	b = append(b, byte(TypeCredit))
	b = AppendVarint(b, id)
	return AppendVarint(b, limit)
}

// AppendMaxStreams appends a MAX_STREAMS frame.
func AppendMaxStreams(b []byte, count uint64) []byte {
	return AppendVarint(append(b, byte(TypeMaxStreams)), count)
}

// AppendCarrierAck appends a CARRIER_ACK frame; delay is in µs.
func AppendCarrierAck(b []byte, count, delay uint64) []byte {
	b = append(b, byte(TypeCarrierAck))
	b = AppendVarint(b, count)
	return AppendVarint(b, delay)
}

// AppendPing appends a PING frame.
func AppendPing(b []byte, count uint64) []byte {
	return AppendVarint(append(b, byte(TypePing)), count)
}

// AppendPong appends a PONG frame.
func AppendPong(b []byte, count uint64) []byte {
	return AppendVarint(append(b, byte(TypePong)), count)
}

// AppendDatagram appends a DATAGRAM frame.
func AppendDatagram(b []byte, flow uint64, data []byte) []byte {
	b = append(b, byte(TypeDatagram))
	b = AppendVarint(b, flow)
	b = AppendVarint(b, uint64(len(data)))
	return append(b, data...)
}

// AppendGoAway appends a GOAWAY frame; delay is in ms.
func AppendGoAway(b []byte, code, delay uint64, url, reason string) []byte {
	b = append(b, byte(TypeGoAway))
	b = AppendVarint(b, code)
	b = AppendVarint(b, delay)
	b = appendText(b, url)
	return appendText(b, reason)
}

// AppendClose appends a CLOSE frame.
func AppendClose(b []byte, code uint64, reason string) []byte {
	b = append(b, byte(TypeClose))
	b = AppendVarint(b, code)
	return appendText(b, reason)
}
