//go:build race

package pac

// underRace: the race detector maps more than any limit on memory allows, so only the watch is left.
const underRace = true
