package egress

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http/httputil"
	"os"
	"slices"
	"strconv"
	"strings"
)

// reply is the final reply to a CONNECT, without its body.
type reply struct {
	status int
	reason string
	minor  int // of HTTP/1.x
	fields []param
	length int64 // Content-Length, -1 when absent

	// Over HTTP/2 only, with a final status other than 2xx: the body, and what ends its stream.
	body   io.ReadCloser
	cancel func()
}

// discard ends the stream of a reply that came over HTTP/2.
func (r *reply) discard() {
	if r.cancel != nil {
		r.body.Close()
		r.cancel()
	}
}

// errUsedUp: the proxy wants the handshake to go on, but not on this connection.
var errUsedUp = errors.New("the proxy does not keep the connection open after asking for authentication")

// errSilent: the connection ended before a byte of the reply.
var errSilent = errors.New("closed without an answer")

// readReply reads up to the end of the final reply's header and not beyond it, skipping 1xx. Errors match ErrBadReply,
// errSilent or the reader's own.
func readReply(br *bufio.Reader, secrets scrubber) (*reply, error) {
	h := headerReader{br: br, budget: maxHeader, secrets: secrets}
	for range maxInterim + 1 {
		r, err := h.reply()
		if err != nil {
			return nil, err
		}
		if r.status >= 200 {
			return r, nil
		}
		if r.status == 101 {
			return nil, reason(ErrBadReply, "the proxy switches protocols (101) instead of tunnelling")
		}
	}
	return nil, reason(ErrBadReply, "the proxy sent more than %d interim (1xx) replies", maxInterim)
}

type headerReader struct {
	br      *bufio.Reader
	budget  int
	started bool
	secrets scrubber
}

// line returns the next line without its end, CRLF or a bare LF (RFC 9112 §2.2).
func (h *headerReader) line() (string, error) {
	var line []byte
	for {
		part, err := h.br.ReadSlice('\n')
		h.started = h.started || len(part) > 0
		if h.budget -= len(part); h.budget < 0 {
			return "", reason(ErrBadReply, "the reply's header is larger than %d KiB", maxHeader>>10)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			line = bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
			if i := bytes.IndexFunc(line, func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f }); i >= 0 {
				return "", h.bad("the reply's header has control characters", line)
			}
			return string(line), nil
		case errors.Is(err, bufio.ErrBufferFull):
		default:
			return "", h.lost(err)
		}
	}
}

// lost says at which point the connection ended.
func (h *headerReader) lost(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case !h.started:
		return &textError{"the proxy closed the connection without an answer" + unlessEOF(err), &kindError{errSilent, err}}
	case errors.Is(err, io.EOF):
		return &textError{"the proxy closed the connection in the middle of its reply", io.ErrUnexpectedEOF}
	}
	return &textError{"the proxy cut the connection in the middle of its reply: " + root(err).Error(), err}
}

// notHTTP looks at the first byte, so that a peer of another trade is told at once, without waiting for a line's end.
func (h *headerReader) notHTTP() error {
	first, err := h.br.Peek(1)
	if err != nil {
		return h.lost(err) // bufio tells an error only once
	}
	if strings.IndexByte("H\r\n", first[0]) >= 0 {
		return nil
	}
	seen, _ := h.br.Peek(min(h.br.Buffered(), 4*maxReason))
	seen, _, _ = bytes.Cut(seen, []byte("\n"))
	return h.notReply(seen)
}

// errNotHTTP marks the malformed replies that come from something else than an HTTP proxy.
var errNotHTTP = errors.New("not HTTP")

// bad quotes what was received, as text.
func (h *headerReader) bad(what string, line []byte) error {
	if quote := h.secrets.text(string(line), maxReason); quote != "" {
		return reason(ErrBadReply, "%s: %q", what, quote)
	}
	return reason(ErrBadReply, "%s", what)
}

func (h *headerReader) notReply(line []byte) error {
	if len(line) > 2 && (line[0] == 0x15 || line[0] == 0x16) && line[1] == 3 {
		return &kindError{errNotHTTP, reason(ErrBadReply, "the proxy answers with TLS; its address must begin with https://")}
	}
	return &kindError{errNotHTTP, h.bad("this is not an HTTP reply", line)}
}

func (h *headerReader) reply() (*reply, error) {
	var line string
	for line == "" { // some proxies send an empty line first
		if err := h.notHTTP(); err != nil {
			return nil, err
		}
		var err error
		if line, err = h.line(); err != nil {
			return nil, err
		}
	}
	r := &reply{length: -1}
	if !r.parseStatus(line) {
		return nil, h.notReply([]byte(line))
	}
	for {
		line, err := h.line()
		if err != nil {
			return nil, err
		}
		if line == "" {
			break
		}
		if line[0] == ' ' || line[0] == '\t' { // obsolete folding, RFC 9112 §5.2
			if len(r.fields) == 0 {
				return nil, h.bad("the reply's first header line starts with a space", []byte(line))
			}
			last := &r.fields[len(r.fields)-1]
			last.value = strings.TrimSpace(last.value + " " + strings.TrimSpace(line))
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, h.bad("a line of the reply's header has no colon", []byte(line))
		}
		if name == "" || strings.ContainsFunc(name, func(c rune) bool { return c >= 0x80 || !isTokenByte(byte(c)) }) {
			return nil, h.bad("a line of the reply's header has an invalid name", []byte(line))
		}
		r.fields = append(r.fields, param{strings.ToLower(name), strings.Trim(value, " \t")})
	}
	return r, r.checkLength()
}

// parseStatus reads "HTTP/1.x NNN[ reason]".
func (r *reply) parseStatus(line string) bool {
	rest, ok := strings.CutPrefix(line, "HTTP/1.")
	if !ok || len(rest) < 5 || rest[0] < '0' || rest[0] > '9' || rest[1] != ' ' {
		return false
	}
	r.minor = int(rest[0] - '0')
	rest = strings.TrimLeft(rest[2:], " ")
	code, text, _ := strings.Cut(rest, " ")
	status, err := strconv.ParseUint(code, 10, 16)
	if err != nil || len(code) != 3 || status < 100 || status > 599 {
		return false
	}
	r.status, r.reason = int(status), text
	return true
}

// checkLength refuses a reply that contradicts itself: where it ends would be a matter of opinion (RFC 9112 §6.3).
func (r *reply) checkLength() error {
	for _, v := range r.list("content-length") {
		n, err := strconv.ParseUint(v, 10, 63)
		switch {
		case err != nil:
			return reason(ErrBadReply, "the reply's Content-Length is not a number")
		case r.length >= 0 && int64(n) != r.length:
			return reason(ErrBadReply, "the reply has conflicting Content-Length values")
		}
		r.length = int64(n)
	}
	// In a 2xx to CONNECT both must be ignored (RFC 9110 §9.3.6).
	if r.status >= 300 && r.length >= 0 && r.get("transfer-encoding") != "" {
		return reason(ErrBadReply, "the reply has both Content-Length and Transfer-Encoding")
	}
	return nil
}

// values returns the values of all fields of a (lower-case) name.
func (r *reply) values(name string) []string {
	var all []string
	for _, f := range r.fields {
		if f.name == name {
			all = append(all, f.value)
		}
	}
	return all
}

// get returns the first value of a field, "" when absent.
func (r *reply) get(name string) string {
	if all := r.values(name); len(all) > 0 {
		return all[0]
	}
	return ""
}

// list returns the elements of a comma-separated field, all of its lines together.
func (r *reply) list(name string) []string {
	var all []string
	for _, v := range r.values(name) {
		for item := range strings.SplitSeq(v, ",") {
			all = append(all, strings.Trim(item, " \t"))
		}
	}
	return all
}

func (r *reply) has(name, item string) bool {
	return slices.ContainsFunc(r.list(name), func(s string) bool { return strings.EqualFold(s, item) })
}

// chunked is false for anything but the one coding that everybody knows: with another, or behind another, where the body
// ends is a matter of opinion.
func (r *reply) chunked() bool {
	codings := r.list("transfer-encoding")
	return r.status >= 300 && len(codings) == 1 && strings.EqualFold(codings[0], "chunked")
}

// keepAlive reports whether the proxy says that the connection can take another request after this reply's body.
func (r *reply) keepAlive() bool {
	if r.has("connection", "close") || r.has("proxy-connection", "close") {
		return false
	}
	if r.minor == 0 && !r.has("connection", "keep-alive") && !r.has("proxy-connection", "keep-alive") {
		return false
	}
	return r.chunked() || r.length >= 0
}

// drain reads the body of a reply with keepAlive to its end, if that is near, and reports whether the next reply can
// follow.
func (r *reply) drain(br *bufio.Reader) bool {
	if !r.chunked() {
		if r.length > maxDrain {
			return false
		}
		n, err := io.CopyN(io.Discard, br, max(r.length, 0))
		return err == nil && n == max(r.length, 0)
	}
	n, err := io.CopyN(io.Discard, httputil.NewChunkedReader(br), maxDrain+1)
	if !errors.Is(err, io.EOF) || n > maxDrain {
		return false
	}
	trailer := headerReader{br: br, budget: maxHeader}
	for {
		line, err := trailer.line()
		if err != nil {
			return false
		}
		if line == "" {
			return true
		}
	}
}

// excerpt reads the start of the body and returns the sentence in it, if there is one. The caller sets the deadline;
// what has arrived by then counts.
func (r *reply) excerpt(br *bufio.Reader, secrets scrubber) string {
	if enc := r.get("content-encoding"); enc != "" && !strings.EqualFold(enc, "identity") || r.get("transfer-encoding") != "" && !r.chunked() && r.status >= 300 {
		return ""
	}
	var body io.Reader = br
	switch {
	case r.body != nil:
		body = r.body
	case r.chunked():
		body = httputil.NewChunkedReader(br)
	case r.length >= 0:
		body = io.LimitReader(br, r.length)
	}
	b, _ := io.ReadAll(io.LimitReader(body, maxExcerptBody))
	if bytes.IndexByte(b, 0) >= 0 {
		return "" // no text
	}
	if secrets.in(string(b)) {
		return ""
	}
	if text := secrets.text(stripTags(string(b), "title"), maxExcerpt); text != "" {
		return text // the title only says it twice
	}
	return secrets.text(stripTags(string(b)), maxExcerpt)
}
