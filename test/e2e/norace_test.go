//go:build linux && !race

package e2e

// raceEnabled says whether the tests run under the race detector.
const raceEnabled = false
