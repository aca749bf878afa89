// Package proxy is the two agents: [Client] and [Server], and what they do with a session's streams.
//
// # The path of one connection
//
// An origin connects to a forward's listener at the client agent (listener.go). The client agent waits for an attached
// session (gate.go), opens a stream and writes a request that names the target (record.go); the origin's bytes follow
// at once (relay.go). The server agent reads the request, asks the identity's policy, resolves the name, dials the very
// address that was allowed (dial.go) and answers with a reply: ok, or a [Code] and a reason. From then on both agents
// only copy, each end's half-close and abort passed on as what it was.
//
// A reverse forward (reverse.go) is the mirror image: the client agent opens a stream with the action "listen", which
// holds the listener at the server agent open for as long as it lives; each connection accepted there comes back on a
// stream that the server agent opens, and the client agent dials the target.
//
// # Lifetimes
//
// [NewClient] and [NewServer] start nothing. Run owns every goroutine: the client's listeners, its connector
// (connector.go: carriers with backoff, a new session when the old one is lost or goes away; hedge.go: one beside silent ones; grow.go: more
// carriers while it is crowded), every relay. It returns when all have ended. Drain lets streams finish first; SetForwards and Reload change what is allowed
// while the rest goes on.
//
// PROTOCOL.md has the byte layouts of requests and replies, with test vectors; package tunnel has everything below.
package proxy
