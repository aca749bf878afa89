// Package tunnel is the session protocol: streams that outlive the carriers
// that their bytes travel on. PROTOCOL.md beside this file has it in writing.
//
// A [Session] is what two agents share. The client side comes from
// [NewSession], the server side from a [Host], which reads a carrier's first
// message and finds or makes the session. [Session.Run] keeps the clock, and
// [Session.Attach] (client) or [Host.Serve] (server) serves one carrier until
// it is lost. Carriers come and go at any byte, several at once; a [Stream] is
// a net.Conn that notices nothing.
//
// The way of one byte, sending:
//
//   - [Stream.Write] or [Stream.ReadFrom] (write.go, source.go) puts it into a
//     pooled buffer (buffer.go) of the stream's sending half (outgoing.go),
//     where it stays until acked;
//   - the stream is queued at its carrier, interactive or bulk; of several
//     carriers one is kept clear of bulk beside interactive streams (schedule.go);
//   - the writer itself, if the carrier is idle, or else the carrier's writer
//     goroutine builds a message (send.go) within the in-flight limit
//     (flight.go), in place around the bytes if it can, remembers what it holds
//     (attachment.go), and writes it.
//
// Receiving:
//
//   - the carrier's reader goroutine parses the message (receive.go) and puts
//     the bytes in order (incoming.go), without ever waiting;
//   - it hands them to the socket that [Stream.WriteTo] writes to, if that takes
//     them at once (deliver.go); otherwise WriteTo or [Stream.Read] (stream.go)
//     takes them. Either gives the peer new credit.
//
// When a carrier is lost, what is still current of its unacked messages is
// queued again for any other (attachment.go); the HELLO of the next carrier
// (handshake.go) tells how much of it had arrived. timers.go finds carriers
// that went silent, crowd.go when another would help.
//
// One mutex guards a session with all its streams and carriers. Nothing is
// read, written or copied at length while it is held.
package tunnel
