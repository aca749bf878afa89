// Package egress is the client agent's way out: it opens a TCP path to the server agent's host and port, directly or
// through the corporate proxies that stand in between.
//
// # A tour
//
// [New] takes [Options] and starts nothing. [Dialer.DialContext] finds the way to an address, walks it leg by leg, and
// returns a connection on which the next byte read is the target's first. [Dialer.Route] tells the way without walking
// it.
//
// # Finding the way (route.go, environment.go, pacfinder.go, system.go)
//
// The first of these that is set decides:
//
//  1. [Options.Proxy] "none": direct. URLs: always through these proxies in a row, loopback targets and NO_PROXY
//     included, because the user named them for this tunnel.
//  2. [Options.PAC]: what the script says. It is evaluated in a child process of this program (package pac); its
//     answers are kept for a while.
//  3. The environment: HTTPS_PROXY for a wss target, HTTP_PROXY for a ws one; where that is unset, ALL_PROXY. The
//     lower-case name wins over the upper-case one. Loopback targets and those that NO_PROXY lists go direct. NO_PROXY
//     is read exactly as golang.org/x/net/http/httpproxy reads it (which does not know ALL_PROXY: that is ours). Unlike
//     there, a proxy variable that cannot be parsed is an error and not silence: going direct past a proxy that
//     somebody meant to set would fail in a more puzzling way, or leak.
//  4. The system's setting, on Windows and macOS: its exceptions, its script, its proxies.
//  5. Direct.
//
// Only a script gives several candidates. They are tried in its order; one that was not reached is tried last for a
// minute, and what a proxy answers is final.
//
// # Legs
//
// The legs are "resolve" and "connect" when direct; "resolve proxy", "connect proxy", "proxy TLS" (https:// proxies),
// "CONNECT" and "proxy authentication" otherwise, and "PAC script" before all. Each has its own deadline. Every failure
// is an [*Error] that names its leg, says what the proxy said in a short stripped form, has a hint, and never holds a
// secret. [Error.Permanent] tells what retrying cannot mend.
//
// # Proxies (hop.go, connect.go, http2.go, socks.go)
//
// http:// (port 80 by default) and https:// (443), as browsers and net/http have it, though nearly every proxy listens
// elsewhere (3128, 8080). For a bare host in --proxy no port is guessed: curl would take 1080; in the environment it is
// 80, as net/http has it. The tunnel is asked for with CONNECT (RFC 9110 §9.3.6) in HTTP/1.1, or in HTTP/2 if an
// https:// proxy prefers it. socks5:// and socks5h:// (1080) are RFC 1928. A proxy behind another is dialled through it.
// SOCKS5 is spoken here and not by golang.org/x/net/proxy, which tells a refused password, a forbidden target and a cut
// connection apart in texts only: whether to try again, and whether an account is at risk, hangs on that.
//
// Replies are read strictly and within bounds (limits.go): interim 1xx are skipped, bytes behind the 200 belong to the
// target and are kept, contradictory lengths and lines that are no header end the attempt.
//
// # Authentication (scheme.go and a file for each scheme)
//
// The first CONNECT carries no credentials: what the proxy accepts is not known yet, and a password is not shown to
// one that did not ask. After a 407 the strongest scheme that is both offered and usable answers, on the same
// connection where the proxy keeps it open: Negotiate with a Kerberos ticket, NTLM, Negotiate with NTLM inside, Digest,
// Basic; on Windows before these what the system knows of the user who is logged in. One that turns out not to be
// usable gives way to the next. A refused password is refused for all.
//
// What was accepted is remembered, so later connections send it at once and save the round trip: the scheme, Digest's
// nonce, Kerberos's ticket. Refused credentials are remembered too: accounts get locked by retries, so for a minute
// they are sent to no proxy again, when refused again for longer, up to an hour, and credentials not accepted lately are tried by one connection at a time while the
// others wait. A user without a password only says whose ticket to use: an empty password is never made up for him.
//
// A scheme makes an exchange for each connection, and the exchange turns challenges into Proxy-Authorization values
// until the proxy accepts or the exchange says it was refused. Proxies that a script names see credentials only if
// [Options.Trust] lists them.
package egress
