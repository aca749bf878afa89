// Package tls turns certificates, keys and trust settings into
// *crypto/tls.Config values that stay right while files change on disk.
// Callers import it as certs, so that tls. keeps meaning crypto/tls.
//
// A short tour:
//
//   - [Server] reads a certificate, its key and optionally a CA for client
//     certificates; [ServerMaterial.Config] is what a listener needs.
//   - [Client] reads extra CAs (beside the system's), pins and a client
//     certificate; [ClientMaterial.Config] is what a dialler needs. A server
//     that is refused comes back as a [*VerifyError], which tells expired,
//     wrong host, unknown authority and wrong key apart and says what to try.
//   - Both configs are live: keep one for the life of the process. Reload
//     reads the files again at once, Update does so with other options, and
//     Run looks every few seconds for files that changed. New handshakes use
//     what was read last; open connections are never touched. Files that are
//     wrong change nothing: what was good stays in force, and the reason is
//     logged once.
//   - [ParsePin] and [Fingerprint] read and print pins, the SHA-256 of a
//     certificate's public key (RFC 7469, section 2.4).
//   - [Dev], [DevClient] and [NewDevCA] make certificates for local use, on
//     disk and in memory.
//
// # Versions and suites
//
// TLS 1.2 is the floor and TLS 1.3 is preferred. With TLS 1.2 only the ECDHE
// suites with an AEAD cipher are offered. ALPN is http/1.1 and nothing else:
// the WebSocket upgrade of RFC 6455 does not exist in HTTP/2.
//
// # Resumption of TLS sessions
//
// A server that asks for client certificates issues no session tickets, so
// every carrier proves its certificate anew, against the CA file that is in
// force at that moment: a CA that was taken out cannot come back by a ticket.
// Servers without client certificates use crypto/tls's rotating ticket keys.
// The client side keeps no tickets, so that a reload of CAs or pins holds for
// the next carrier. A carrier lives for minutes to days; a full handshake for
// each is no cost worth a risk.
//
// # Pins
//
// A pin names a public key. With at least one pin set, a server is accepted
// when either
//
//   - the key of its own certificate is pinned. Then the pin is the trust, as
//     with an ssh host key: neither the issuer nor the name nor the dates are
//     looked at (RFC 7671, section 5.1, rules so for the same case, DANE-EE).
//     The server has proved in the handshake that it holds that very key, so a
//     self-signed certificate is fine.
//   - or its chain verifies as usual (CA, name, dates) and a certificate of
//     that chain, a root included, has a pinned key. Such a pin narrows the
//     trust in the CAs to one of them; it never replaces their check. To trust
//     a private CA, give it as CA file.
//
// Without pins the usual verification alone decides.
package tls
