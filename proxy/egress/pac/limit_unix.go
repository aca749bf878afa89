//go:build unix

package pac

import (
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// limitSelf has the system refuse memory beyond a bound to this process, which ends it. The bound is on what can be
// written: the runtime reserves much more address space than it uses.
func limitSelf(memory uint64) {
	debug.SetMemoryLimit(int64(memory) / 2) // collect in time; the rest is for what cannot be
	limit := unix.Rlimit{}
	if underRace || unix.Getrlimit(unix.RLIMIT_DATA, &limit) != nil {
		return
	}
	limit.Cur = min(limit.Cur, rlimit(2*memory))
	_ = unix.Setrlimit(unix.RLIMIT_DATA, &limit) // the watch is there too
}
