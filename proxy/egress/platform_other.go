//go:build !windows

package egress

// platformSchemes are those that the system provides, the strongest first: none here.
func platformSchemes() []scheme { return nil }
