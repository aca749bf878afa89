// Package access decides who a peer is and what it may do: request -> identity, identity + action -> decision.
//
// # Who
//
// A [Store] holds the [Entry] list of a tokens file (see [LoadFile]): each names an identity, the credential that proves it
// (the SHA-256 of a bearer token, the name in a client certificate, or both) and its [Policy] and [Limits].
// [Store.Authenticate] turns an HTTP request into an [Identity]; what it refuses is answered by [Refuse], always in the same
// words, while the error says to the log what was wrong. [NewToken] makes a token and its entry.
// [Store.Reload] swaps the whole list or, when the new file has a mistake, nothing; [Changes] tells whose sessions to close
// and whose streams to check again.
//
// # What
//
// A [Policy] has two lists of [Rule]: connect (targets that may be dialled) and listen (addresses that may be bound). What no
// rule covers is denied. A rule is
//
//	HOST:PORTS    HOST   db.example.com   that name
//	                     *.example.com    every name below it, not itself
//	                     10.1.2.3         that address; IPv6 in brackets: [2001:db8::1]
//	                     10.0.0.0/8       that network; IPv6 in brackets: [2001:db8::/32]
//	                     *                every name and address
//	              PORTS  22   8000-8100   22,443,8000-8100   *
//	unix:PATH     /run/app.sock           that socket
//	              /run/app/*              every socket directly in that directory
//
// # Names, addresses and what is special
//
// [Policy.ResolveConnect] looks at the name first, resolves it only if some rule could still admit it, and returns only
// addresses that the policy allows: dial those, never the name again. A target given by name is allowed by a rule for the name
// or by a rule for the address that it resolved to.
//
// Whoever owns a name decides where it points, so a rule for a name, and equally *, never covers a special address: loopback,
// link-local, unspecified, multicast, broadcast, a cloud's metadata service, or an IPv6 form (IPv4-mapped, NAT64, 6to4 ...) of
// one of those. A special address needs a rule that names it: the address itself, or a network that lies within the special
// range, so 127.0.0.0/8 covers loopback and 0.0.0.0/0 doesn't. The one exception is the name localhost, which is never
// looked up (RFC 6761 §6.3): it is 127.0.0.1 and ::1, and the rule localhost:5432 covers it and those two. A name which
// /etc/hosts maps to a loopback address needs the address's rule like any other. Private networks aren't special.
//
// For listen rules nothing is special, except that a name never binds all interfaces: that takes *, 0.0.0.0 or [::].
package access
