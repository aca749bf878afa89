package pac

// rlimit is a limit's type.
func rlimit(n uint64) int64 { return int64(n) }
