package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxRecord bounds what follows a record's length. Reading one never allocates more.
const maxRecord = 4096

// action is what a request asks the acceptor of its stream to do. The numbers are part of the protocol.
type action byte

const (
	actionConnect action = 1 // dial the address, then relay
	actionListen  action = 2 // listen at the address for as long as the stream lives
)

// The networks' numbers in a record.
const (
	wireTCP  = 1
	wireUnix = 2
)

// Metadata types in requests. Unknown ones are skipped.
const metaForward = 1 // the reverse forward's id: chosen by the client in "listen", repeated by the server in "connect"

// request is the first thing on a stream, from its opener. Layout (PROTOCOL.md): length varint, action byte, network
// byte, address string, origin string, metadata…, where a string is a varint length and its bytes, and each piece of
// metadata a varint type and a string.
type request struct {
	action  action
	address Endpoint
	origin  string // who connected to the opener's listener; "" if nobody did
	forward string // metaForward; "" if absent
}

// reply is the first thing in the other direction. Layout: length varint, code varint, text string, metadata….
type reply struct {
	code Code
	text string // code 0: the bound address for listen, empty for connect; otherwise the reason
}

// errRecord is what every malformed record unwraps to.
var errRecord = errors.New("malformed record")

func recordError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errRecord}, args...)...)
}

// append adds the encoded request to b. An over-long origin is cut, for it only informs.
func (r *request) append(b []byte) []byte {
	body := make([]byte, 0, 128)
	body = append(body, byte(r.action))
	if r.address.Network() == networkUnix {
		body = append(body, wireUnix)
	} else {
		body = append(body, wireTCP)
	}
	body = appendString(body, r.address.String())
	body = appendString(body, clip(r.origin, 512))
	if r.forward != "" {
		body = appendVarint(body, metaForward)
		body = appendString(body, r.forward)
	}
	return append(appendVarint(b, uint64(len(body))), body...)
}

// readRequest reads one request and not a byte more.
func readRequest(r io.Reader) (*request, error) {
	body, err := readRecord(r)
	if err != nil {
		return nil, err
	}
	return parseRequest(body)
}

func parseRequest(body []byte) (*request, error) {
	if len(body) < 2 {
		return nil, recordError("a request has at least an action and a network")
	}
	req := &request{action: action(body[0])}
	network := ""
	switch body[1] {
	case wireTCP:
		network = networkTCP
	case wireUnix:
		network = networkUnix
	default:
		return nil, recordError("unknown network %d", body[1])
	}
	if req.action != actionConnect && req.action != actionListen {
		return nil, recordError("unknown action %d", body[0])
	}
	address, rest, err := cutString(body[2:])
	if err != nil {
		return nil, err
	}
	if req.address, err = parseEndpoint(network, address); err != nil {
		return nil, recordError("%w", err)
	}
	if req.origin, rest, err = cutString(rest); err != nil {
		return nil, err
	}
	req.origin = printable(req.origin)
	err = eachMeta(rest, func(kind uint64, value string) {
		if kind == metaForward {
			req.forward = value
		}
	})
	return req, err
}

// append adds the encoded reply to b.
func (r *reply) append(b []byte) []byte {
	body := appendVarint(make([]byte, 0, 64), uint64(r.code))
	body = appendString(body, clip(r.text, 1024))
	return append(appendVarint(b, uint64(len(body))), body...)
}

// readReply reads one reply and not a byte more.
func readReply(r io.Reader) (*reply, error) {
	body, err := readRecord(r)
	if err != nil {
		return nil, err
	}
	return parseReply(body)
}

func parseReply(body []byte) (*reply, error) {
	code, n, err := cutVarint(body)
	if err != nil {
		return nil, err
	}
	text, rest, err := cutString(body[n:])
	if err != nil {
		return nil, err
	}
	err = eachMeta(rest, func(uint64, string) {})
	return &reply{code: Code(code), text: printable(text)}, err
}

// readRecord reads a record's length and its body. A stream that ends before its first byte gives io.EOF.
func readRecord(r io.Reader) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return nil, err
	}
	n := 1 << (head[0] >> 6)
	if _, err := io.ReadFull(r, head[1:n]); err != nil {
		return nil, cutShort(err)
	}
	length, _, err := cutVarint(head[:n])
	if err != nil {
		return nil, err
	}
	if length > maxRecord {
		return nil, recordError("%d bytes long, at most %d are allowed", length, maxRecord)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, cutShort(err)
	}
	return body, nil
}

// cutShort names what the end of a stream within a record is: never a clean EOF.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return recordError("%w", io.ErrUnexpectedEOF)
	}
	return err
}

// eachMeta calls f for each type-length-value in b.
func eachMeta(b []byte, f func(kind uint64, value string)) error {
	for len(b) > 0 {
		kind, n, err := cutVarint(b)
		if err != nil {
			return err
		}
		value, rest, err := cutString(b[n:])
		if err != nil {
			return err
		}
		f(kind, value)
		b = rest
	}
	return nil
}

func appendString(b []byte, s string) []byte {
	return append(appendVarint(b, uint64(len(s))), s...)
}

func cutString(b []byte) (s string, rest []byte, err error) {
	length, n, err := cutVarint(b)
	if err != nil {
		return "", nil, err
	}
	b = b[n:]
	if length > uint64(len(b)) {
		return "", nil, recordError("a string of %d bytes where %d are left", length, len(b))
	}
	return string(b[:length]), b[length:], nil
}

// appendVarint encodes v as RFC 9000 §16 says. Values of 2^62 and more do not occur.
func appendVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return binary.BigEndian.AppendUint16(b, uint16(v)|1<<14)
	case v < 1<<30:
		return binary.BigEndian.AppendUint32(b, uint32(v)|2<<30)
	}
	return binary.BigEndian.AppendUint64(b, v|3<<62)
}

// cutVarint decodes the varint at the start of b, and says how many bytes it took.
func cutVarint(b []byte) (v uint64, n int, err error) {
	if len(b) == 0 {
		return 0, 0, recordError("ends where a number should be")
	}
	n = 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, 0, recordError("ends within a number")
	}
	v = uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	return v, n, nil
}

// clip shortens s to at most n bytes, at a character's boundary.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// printable replaces what a peer could use to forge lines in a log or to drive a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
