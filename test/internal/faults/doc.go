// Package faults is the bad network that the tests put between two agents: a TCP relay in user
// space that cuts connections on demand or at chosen bytes, and that can emulate a long link.
//
// A [Relay] accepts on a listener and forwards each connection to one target. Left alone it is
// transparent: bytes, half-closes (FIN) and aborts (RST) pass both ways. What it can do to them:
//
//   - [Relay.Cut] cuts all that live now, in one of four [Mode]s: by reset, by a bare end of file,
//     by silence in which senders block, or by silence in which bytes vanish;
//   - [Options].Plan, see [Random], gives each new connection a [Fault]: how and after how many
//     bytes it will be cut;
//   - [Relay.Heal] ends the black holes that [Relay.Cut] or a plan made: what was held goes on;
//   - [Link] adds propagation delay, a shared bottleneck rate and the queue before it.
//
// Nothing starts before [Relay.Run], which owns every goroutine and returns when all have ended.
//
//	relay := faults.NewRelay(ln, faults.Options{Target: server})
//	go relay.Run(ctx)
//	… dial relay.Addr() …
//	relay.Cut(faults.RST)
package faults
