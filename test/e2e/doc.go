//go:build linux

// Package e2e tests the built command among real servers: squid, nginx, haproxy, sshd, redis and curl, on
// loopback, with [sallyport/test/internal/faults] as the bad network in between. It has tests only;
// test/run.sh installs what they run.
//
// The tests build the command themselves, with the race detector when they run under it; those that
// measure time or memory always use a plain build. Every program is started with a free port and
// ended by its process id, and its log is shown when the test that started it fails. With
// SALLYPORT_LONG=1 in the environment, transfers, waits and counts are as large as the acceptance
// list of the project says; without it they are a few seconds each.
package e2e
