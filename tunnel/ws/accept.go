package ws

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/coder/websocket"
)

// AcceptOptions say what Accept agrees to.
type AcceptOptions struct {
	// Subprotocols are what the server speaks, the most wanted first; a request
	// that offers none of them is answered 400. Empty: none is needed.
	Subprotocols []string
}

// Accept answers a request for a WebSocket and takes its connection over as a
// carrier. The handler may return at once: the Conn lives on until closed, and
// neither the http.Server nor its Shutdown knows of it any more.
//
// If r is no proper request (RFC 6455 §4.2.1), or has an Origin header that is
// not this host (§10.2: browsers are not served), Accept answers 400, 403, 405
// or 426 with a text that says why, and returns an error; nothing else is to be
// written to w then.
func Accept(w http.ResponseWriter, r *http.Request, o AcceptOptions) (*Conn, error) {
	conn, err := accept(w, r, o)
	if err != nil {
		return nil, fmt.Errorf("carrier from %s not accepted: %w", r.RemoteAddr, err)
	}
	return conn, nil
}

func accept(w http.ResponseWriter, r *http.Request, o AcceptOptions) (*Conn, error) {
	if err := checkSubprotocol(r, o.Subprotocols); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, err
	}
	if !canHijack(w) {
		err := errors.New("the connection cannot be taken over: WebSockets need HTTP/1.1 without a buffering handler in between")
		http.Error(w, http.StatusText(http.StatusNotImplemented), http.StatusNotImplemented)
		return nil, err
	}
	conn := &Conn{max: corkSize - maxHeaderServer}
	hijacker := &hijacker{ResponseWriter: w}
	library, err := websocket.Accept(hijacker, r, &websocket.AcceptOptions{
		Subprotocols:   o.Subprotocols,
		OnPingReceived: conn.onPing,
	})
	if err != nil {
		return nil, err
	}
	conn.secured, _ = hijacker.cork.conn.(*tls.Conn)
	conn.start(library, hijacker.cork)
	return conn, nil
}

// checkSubprotocol fails for a WebSocket request that offers none of ours.
// Whether it is one at all is for the library to judge, and to answer.
func checkSubprotocol(r *http.Request, ours []string) error {
	if len(ours) == 0 || r.Method != http.MethodGet || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return nil
	}
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for offered := range strings.SplitSeq(line, ",") {
			offered = strings.TrimSpace(offered)
			if slices.ContainsFunc(ours, func(s string) bool { return strings.EqualFold(s, offered) }) {
				return nil
			}
		}
	}
	return fmt.Errorf("the request offers no subprotocol that is spoken here (%s)", strings.Join(ours, ", "))
}

// canHijack looks for an http.Hijacker as http.ResponseController does.
func canHijack(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case http.Hijacker:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}

// hijacker gives the library our stack in place of the http.Server's: the cork
// for the connection, and small buffers for the 4 KiB ones.
type hijacker struct {
	http.ResponseWriter
	cork *frameCork
}

// Hijack takes the connection over, with what was already read of it.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	tune(conn) // has happened below a NewListener, not below another one
	h.cork = newFrameCork(conn, bytes.Clone(early), false)
	return hijacked{conn, h.cork}, bufio.NewReadWriter(
		bufio.NewReaderSize(h.cork, hijackBuffer),
		bufio.NewWriterSize(h.cork, hijackBuffer)), nil
}

// hijacked is the cork as a net.Conn.
type hijacked struct {
	net.Conn
	cork *frameCork
}

func (h hijacked) Read(p []byte) (int, error)  { return h.cork.Read(p) }
func (h hijacked) Write(p []byte) (int, error) { return h.cork.Write(p) }
func (h hijacked) Close() error                { return h.cork.Close() }
