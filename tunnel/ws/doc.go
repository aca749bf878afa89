// Package ws makes a WebSocket (RFC 6455) a carrier of tunnel messages.
//
// A carrier's job is to move whole binary messages at the speed of bare
// crypto/tls. A WebSocket library left to itself does not: it writes through a
// small buffer, so that one message becomes a dozen TLS records and as many
// system calls. This package therefore stacks, from the bottom up:
//
//  1. TCP with NODELAY, keepalive and, on Linux, TCP_NOTSENT_LOWAT (tcp.go);
//  2. recordCork below TLS: while corked it gathers TLS records, so that many
//     records leave in one system call (cork_record.go);
//  3. crypto/tls, ALPN http/1.1 only;
//  4. frameCork above TLS: it gathers WebSocket frames, so that TLS makes full
//     records of them; its flush corks the one below, writes once and uncorks
//     (cork_frame.go);
//  5. the WebSocket library, which only ever writes into memory, so that its
//     reader, which answers pings, never waits behind a blocked data write.
//
// A message of [Conn.MaxMessage] bytes fills, with its frame header, exactly
// four TLS records and costs one system call. Buffers are pooled and held only
// while something is being written: an idle carrier holds none.
//
// The client calls [Dial]. Its HTTP round tripper is our own: it dials through
// what the caller plugs in, sees 407, redirects and captive portals as they
// are, and tells by [HandshakeError] at which leg it stopped. The server puts a
// [NewListener] below its http.Server and calls [Accept] in a handler, which may
// then return: whoever owns the [Conn] reads it from its own goroutine.
//
// Conn satisfies the Carrier interface of sallyport/tunnel structurally;
// neither package imports the other.
package ws
