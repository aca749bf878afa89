// Command load measures Sallyport against a bare TLS relay pair and against direct TCP, on loopback
// and over emulated long links. Its -help is the reference; docs/PERFORMANCE.md has the tables.
//
// How it is put together:
//
//   - main.go reads the flags and runs the [scenario]s of scenarios.go: for each, round by round, one
//     [contender] after the other, every measurement with agents started for it alone;
//   - contenders.go and foreign.go start the agents, link.go the long link between them (a process
//     that runs [faults.Relay]), target.go the process at the far end;
//   - bulk.go, pingpong.go, opens.go, longlink.go, changes.go, idle.go, stalled.go and burst.go
//     measure; they read processor time and memory through proc.go, and check every byte with
//     pattern.go;
//   - stats.go, results.go and report.go turn the measurements into medians, ratios, goals and tables.
//
// It runs on Linux only: processor time and memory come from /proc.
package main
