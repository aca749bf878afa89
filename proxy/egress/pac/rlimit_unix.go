//go:build unix && !freebsd && !dragonfly

package pac

// rlimit is a limit's type.
func rlimit(n uint64) uint64 { return n }
