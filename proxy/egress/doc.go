// Package egress is the client agent's way out: it opens a TCP path to the server agent's host and port, directly or
// through the corporate proxy that stands in between.
//
// # A tour
//
// [New] takes [Options] and starts nothing. [Dialer.DialContext] chooses the way for an address, walks it leg by leg,
// and returns a connection on which the next byte read is the target's first. [Dialer.Route] tells the choice without
// walking it.
//
// The choice, in order:
//
//  1. [Options.Proxy] "none": direct. A URL (or a bare host:port, which means http://): always through that proxy,
//     loopback targets and NO_PROXY included, because the user named it for this tunnel.
//  2. The environment: HTTPS_PROXY for a wss target, HTTP_PROXY for a ws one; where that is unset, ALL_PROXY. The
//     lower-case name wins over the upper-case one. Loopback targets and those that NO_PROXY lists go direct. NO_PROXY
//     is read exactly as golang.org/x/net/http/httpproxy reads it (which does not know ALL_PROXY: that is ours). Unlike
//     there, a proxy variable that cannot be parsed is an error and not silence: going direct past a proxy that
//     somebody meant to set would fail in a more puzzling way, or leak.
//  3. Direct.
//
// The legs are "resolve" and "connect" when direct; "resolve proxy", "connect proxy", "proxy TLS" (https:// proxies),
// "CONNECT" and "proxy authentication" otherwise. Each has its own deadline. Every failure is an [*Error] that names
// its leg, says what the proxy said in a short stripped form, has a hint, and never holds a secret. [Error.Permanent]
// tells what retrying cannot mend.
//
// # Proxies
//
// http:// (port 80 by default) and https:// (443), as browsers and net/http have it, though nearly every proxy listens
// elsewhere (3128, 8080). The tunnel is asked for with CONNECT (RFC 9110 §9.3.6) in HTTP/1.1. User and password come
// from the URL, percent-decoded, or from [Options.Username] and [Options.Password], which win.
//
// Replies are read strictly and within bounds (limits.go): interim 1xx are skipped, bytes behind the 200 belong to the
// target and are kept, contradictory lengths and lines that are no header end the attempt.
//
// # Authentication
//
// The first CONNECT carries no credentials: what the proxy accepts is not known yet, and a password is not shown to
// one that did not ask. After a 407 the strongest scheme that is both offered and usable answers, on the same
// connection where the proxy keeps it open. What was accepted is remembered, so later connections send it at once and
// save the round trip. Refused credentials are remembered too: accounts get locked by retries, so for a minute nothing
// is sent again, and credentials not accepted lately are tried by one connection at a time while the others wait.
//
// A scheme is an entry in a table (scheme.go): it makes an exchange for each connection, and the exchange turns
// challenges into Proxy-Authorization values until the proxy accepts or the exchange says it was refused. Basic (RFC
// 7617) is the one that this version knows.
package egress
